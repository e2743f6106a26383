"""Stein variational gradient descent: particles that move together."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from ..targets import Target
from ..targets.base import positive_number, whole_number
from .chains import Chains, Oracle, Path, begin, require_shape_of

__all__ = ["stein_direction", "svgd"]

# The median over pairs of so many particles is near enough to that over all.
_MEDIAN_OF = 1000


@torch.no_grad()
def svgd(
    target: Target,
    start: Any,
    *,
    steps: int,
    step_size: float = 0.05,
    bandwidth: float | None = None,
    decay: float | None = 0.9,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    r"""Stein variational gradient descent (arXiv:1608.04471, algorithm 1).

    Each particle moves along

    .. math::
        \phi(x_i) = \frac1n \sum_j \big[k(x_j, x_i)\, s(x_j) + \nabla_{x_j} k(x_j, x_i)\big],
        \qquad k(x, y) = e^{-|x - y|^2 / h}

    towards high density and away from the others. The move is deterministic; one particle alone
    climbs to a mode. Memory and time a step grow as n^2.

    Args:
        target: where the particles go; a stochastic one is welcome.
        start: a number of particles, which start from N(0, I), or their points, shape (n, dim).
        steps: updates of all particles.
        step_size: of a step, before the scaling by `decay`.
        bandwidth: h; None takes median^2 / log n, the median of the distances at each step (over
            1000 of the particles where there are more).
        decay: of the running mean of squares by whose root each component is divided, as in the
            authors' code (with its default 0.9); None moves by step_size * phi.
        seed: of the start.
        keep_every: keep the positions after every so many steps.

    Returns:
        `Chains`; particles act on each other, so that where one diverges all do.

    Raises:
        ValueError: an argument out of range, particles that all coincide, a score that is not
            finite at the start or has another shape.
    """
    began = time.perf_counter()
    steps = whole_number("steps", steps, least=1)
    step_size = positive_number("step_size", step_size)
    if bandwidth is not None:
        bandwidth = positive_number("bandwidth", bandwidth)
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"decay is {decay!r}, expected None or a number from 0 to 1: change it")
    x, _ = begin(target, start, seed)
    if bandwidth is None and len(x) > 1 and bool((x == x[0]).all()):
        raise ValueError(
            f"all {len(x)} particles start at one point, expected different points: they would "
            "move as one"
        )
    path, oracle = Path(keep_every), Oracle(target, x)
    score, squares = oracle.first_score(x), None
    for step in range(steps):
        direction = stein_direction(x, score, bandwidth=bandwidth)
        if decay is not None:
            square = direction.square()
            squares = square if squares is None else decay * squares + (1 - decay) * square
            direction = direction / (1e-6 + squares.sqrt())
        x = x + step_size * direction
        path.add(x, step)
        if step + 1 < steps:
            score = oracle.score(x)
    diverged = ~x.isfinite().all(1)
    return Chains(
        samples=torch.where(diverged[:, None], torch.nan, x),
        steps=steps,
        warmup=0,
        gradient_evaluations=oracle.evaluations,
        seconds=time.perf_counter() - began,
        step_size=step_size,
        diverged=diverged,
        path=path.stacked(x),
    )


def stein_direction(x: Tensor, score: Tensor, *, bandwidth: float | None = None) -> Tensor:
    """The direction phi of `svgd` at each particle, shape (n, dim).

    Args:
        x: particles, shape (n, dim).
        score: of the target at the particles, shape (n, dim).
        bandwidth: h; None takes median^2 / log n.

    Raises:
        ValueError: `score` of another shape than `x`, no particle, a bandwidth that is not
            positive.
    """
    if not len(x):
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected at least one particle: give one a row"
        )
    require_shape_of(x, score=score)
    if bandwidth is not None:
        bandwidth = positive_number("bandwidth", bandwidth)
    # About the mean: distances by a matrix product and the difference below keep their digits.
    x = x - x.mean(0)
    square = torch.cdist(x, x).square()
    h = _median_bandwidth(x) if bandwidth is None else bandwidth
    kernel = (-square / h).exp()
    # The sum over j of the gradient of k(x_j, x_i) in x_j is 2 / h sum_j k_ij (x_i - x_j).
    away = 2 / h * (x * kernel.sum(1, keepdim=True) - kernel @ x)
    return (kernel @ score + away) / len(x)


def _median_bandwidth(x: Tensor) -> Tensor | float:
    if len(x) == 1:
        return 1.0
    every = math.ceil(len(x) / _MEDIAN_OF)
    median = torch.pdist(x[::every]).median()
    # For two particles log n is small but positive, as the authors have it.
    return (median.square() / math.log(len(x))).clamp(min=torch.finfo(x.dtype).tiny)
