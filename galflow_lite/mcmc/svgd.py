"""Stein variational gradient descent: particles that move together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number
from ..targets import Target
from .chains import Chains, Run

# The median over pairs of so many particles is near enough to that over all.
_MEDIAN_OF = 1000
# Of the running mean of squares, as in the authors' code.
_DECAY = 0.9


@torch.no_grad()
def svgd(
    target: Target,
    start: Any,
    *,
    steps: int,
    step_size: float = 0.05,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    r"""Stein variational gradient descent (arXiv:1608.04471, algorithm 1).

    Each particle moves along

    .. math::
        \phi(x_i) = \frac1n \sum_j \big[k(x_j, x_i)\, s(x_j) + \nabla_{x_j} k(x_j, x_i)\big],
        \qquad k(x, y) = e^{-|x - y|^2 / h}, \qquad h = \mathrm{median}^2 / \log n

    towards high density and away from the others, with the median of the distances at each step.
    Each component is divided by the root of a running mean of its squares, as in the authors'
    code. The move is deterministic; one particle alone climbs to a mode. Memory and time a step
    grow as n^2.

    Args:
        target: where the particles go; a stochastic one is welcome.
        start: a number of particles, which start from N(0, I), or their points, shape (n, dim).
        steps: updates of all particles.
        step_size: of a step, before the division.
        seed: of the start.
        keep_every: keep the positions after every so many steps.

    Returns:
        `Chains`; particles act on each other, so that where one diverges all do.

    Raises:
        ValueError: a score that is not finite at the start.
    """
    step_size = as_number(step_size, "step_size", above=0)
    run = Run(target, start, steps, seed, keep_every)
    x, score, squares = run.start, run.first_score(), None
    for step in range(run.steps):
        direction = stein_direction(x, score)
        square = direction.square()
        squares = square if squares is None else _DECAY * squares + (1 - _DECAY) * square
        x = x + step_size * (direction / (1e-6 + squares.sqrt()))
        run.keep(x, step)
        if step + 1 < run.steps:
            score = run.score(x)
    return run.chains(x, step_size)


def stein_direction(x: Tensor, score: Tensor) -> Tensor:
    """The direction phi of `svgd` at each particle x, shape (n, dim), for the score there."""
    # About the mean: distances by a matrix product and the difference below keep their digits.
    x = x - x.mean(0)
    h = 1.0
    if len(x) > 1:
        every = math.ceil(len(x) / _MEDIAN_OF)
        median = torch.pdist(x[::every]).median()
        # For two particles log n is small but positive, as the authors have it.
        h = (median.square() / math.log(len(x))).clamp(min=torch.finfo(x.dtype).tiny)
    kernel = (-torch.cdist(x, x).square() / h).exp()
    # The sum over j of the gradient of k(x_j, x_i) in x_j is 2 / h sum_j k_ij (x_i - x_j).
    away = 2 / h * (x * kernel.sum(1, keepdim=True) - kernel @ x)
    return (kernel @ score + away) / len(x)
