"""Short trainings of implicit samplers, and targets that fail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galflow_lite.samplers import ImplicitSampler, train_sampler
from galflow_lite.targets import BENCHMARKS, Target

GAUSSIAN = BENCHMARKS["gaussian"]()
# Enough to see that something runs, too few to learn much.
SHORT = {"steps": 6, "batch": 16, "hidden": (8,), "progress": False}


def train(target: Target = GAUSSIAN, **options) -> ImplicitSampler:
    return train_sampler(target, **{**SHORT, **options})


def weights(sampler: ImplicitSampler) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sampler.network.parameters()])


class Scored(Target):
    """A Gaussian whose score is written by a subclass; counts the points it is asked for."""

    dim, points = 2, 0

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        self.points += len(x)
        return self._scored(x)

    def _scored(self, x: Tensor) -> Tensor:
        return -x


class Cliff(Scored):
    """Its score becomes NaN after some points."""

    def __init__(self, points: int) -> None:
        self.last = points

    def _scored(self, x: Tensor) -> Tensor:
        return -x if self.points <= self.last else x * math.nan


class Fenced(Scored):
    """Its score is NaN beyond |x| = 1."""

    def _scored(self, x: Tensor) -> Tensor:
        return torch.where(x.norm(dim=1, keepdim=True) > 1, math.nan, -x)


class Detached(Scored):
    def _scored(self, x: Tensor) -> Tensor:
        return -x.detach()


class Noisy(Scored):
    """Another estimate of its score in each call."""

    stochastic = True

    def _scored(self, x: Tensor) -> Tensor:
        return -x + torch.randn(x.shape)
