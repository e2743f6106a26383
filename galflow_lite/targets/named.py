"""The planar targets of the fourth paper's part, easy and hard, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .base import Target
from .gaussians import CorrelatedGaussian, RingOfGaussians, TwoGaussians
from .planar import Donut, Funnel, Rosenbrock, Squiggle

__all__ = ["NAMED"]

# The densities of arXiv:2411.01453 are not known: names, shapes and parameters are ours. The hard
# donut and squiggle have the shapes of the interactive MCMC gallery of C. Feng.
NAMED: dict[str, Callable[[], Target]] = {
    "gaussian": CorrelatedGaussian,
    "mog2": TwoGaussians,
    "mog2_hard": partial(TwoGaussians, std=0.5),
    "rosenbrock": Rosenbrock,
    "rosen_hard": partial(Rosenbrock, curvature=10.0),
    "donut": Donut,
    "donut_hard": partial(Donut, spread=0.033),
    "funnel": Funnel,
    "funnel_hard": partial(Funnel, std=3.0),
    "squiggle": Squiggle,
    "squiggle_hard": partial(Squiggle, frequency=5.0),
    "ring8": RingOfGaussians,
    "ring8_hard": partial(RingOfGaussians, std=0.3),
}
