"""Densities that samplers are measured against: closed forms, posteriors and an energy model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .from_data import BayesianLogisticRegression, EnergyModel
from .gaussians import GaussianMixture, Noised
from .planar import CircleOfGaussians, Donut, Funnel, Rosenbrock, Squiggle, TwoMoons, TwoRings
from .target import FromLogDensity, Target, check_score

__all__ = [
    "BENCHMARKS",
    "BayesianLogisticRegression",
    "CircleOfGaussians",
    "EnergyModel",
    "FromLogDensity",
    "GaussianMixture",
    "Noised",
    "Target",
    "TwoMoons",
    "TwoRings",
    "check_score",
]

_two_gaussians = partial(GaussianMixture, [[-2.0, 0.0], [2.0, 0.0]])
_angle = 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8
_ring = partial(GaussianMixture, 4 * torch.stack([_angle.cos(), _angle.sin()], dim=1))

# The densities of arXiv:2411.01453 are not known: names, shapes and parameters are ours. The hard
# donut and squiggle have the shapes of the interactive MCMC gallery of C. Feng.
BENCHMARKS: dict[str, Callable[[], Target]] = {
    "gaussian": partial(GaussianMixture, [[0.0, 0.0]], [[1.0, 0.8], [0.8, 1.0]]),
    "mog2": partial(_two_gaussians, 1.0),
    "mog2_hard": partial(_two_gaussians, 0.25),
    "rosenbrock": Rosenbrock,
    "rosen_hard": partial(Rosenbrock, curvature=10.0),
    "donut": Donut,
    "donut_hard": partial(Donut, spread=0.033),
    "funnel": Funnel,
    "funnel_hard": partial(Funnel, std=3.0),
    "squiggle": Squiggle,
    "squiggle_hard": partial(Squiggle, frequency=5.0),
    "ring8": partial(_ring, 0.5**2),
    "ring8_hard": partial(_ring, 0.3**2),
}
"""Targets in the plane by name, easy and hard: Gaussians, banana, ring, funnel, wave."""
