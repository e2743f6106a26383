"""Short trainings of implicit samplers, and targets that fail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galflow_lite.neural_samplers import ImplicitSampler, train_sampler
from galflow_lite.targets import BENCHMARKS, Target

GAUSSIAN = BENCHMARKS["gaussian"]()
# Enough to see that something runs, too few to learn much.
SHORT = {"steps": 6, "pretrain": 3, "batch": 16, "hidden": (8,), "progress": False}


def train(target: Target = GAUSSIAN, **options) -> ImplicitSampler:
    return train_sampler(target, **{**SHORT, **options})


def weights(sampler: ImplicitSampler) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sampler.network.parameters()])


class Cliff(Target):
    """A Gaussian whose score becomes NaN after some calls."""

    dim = 2

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        self.calls -= 1
        return -x if self.calls >= 0 else x * math.nan


class Fenced(Target):
    """A Gaussian whose score is NaN beyond |x| = 1."""

    dim = 2

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        return torch.where(x.norm(dim=1, keepdim=True) > 1, math.nan, -x)


class Detached(Target):
    dim = 2

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        return -x.detach()


class Noisy(Target):
    """A Gaussian with another estimate of its score in each call."""

    dim, stochastic = 2, True

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        return -x + torch.randn(x.shape)
