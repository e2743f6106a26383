"""Langevin dynamics, with and without the Metropolis correction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..targets import Target
from ..targets.base import positive_number, whole_number
from .chains import Chains, Oracle, Path, begin, require_shape_of

__all__ = ["langevin", "log_transition"]


@torch.no_grad()
def langevin(
    target: Target,
    start: Any,
    *,
    steps: int,
    step_size: float | Callable[[int], float],
    adjust: bool = False,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    r"""Langevin chains, all in one tensor.

    Proposal: :math:`x' = x + \epsilon\, s(x) + \sqrt{2 \epsilon}\, \xi`. Unadjusted, it is always
    taken, at one gradient a step; the law of the chain is then off by O(epsilon): a unit Gaussian
    gets the variance 1 / (1 - epsilon / 2). Adjusted (MALA: Roberts and Tweedie, 1996), it is
    accepted or rejected so that the target is kept exactly, at one gradient a step and one for the
    start. With a stochastic target the unadjusted chain is stochastic-gradient Langevin dynamics
    (Welling and Teh, 2011); `step_size` may then fall with the step.

    Args:
        target: where the chains go.
        start: a number of chains, which start from N(0, I), or their points, shape (n, dim). A
            start at the centre of symmetry of several modes flatters their weights: try others.
        steps: of each chain.
        step_size: epsilon, positive: a number, or a function of the step from 0 up.
        adjust: accept and reject.
        seed: of start and noise; None continues torch's global generator.
        keep_every: keep the positions after every so many steps.

    Returns:
        `Chains`; those that diverged are marked and hold NaN, nothing is clamped.

    Raises:
        ValueError: a wrong start, steps or step size; a score or log density that is not finite at
            the start or has another shape; `adjust` with a stochastic target.
    """
    began = time.perf_counter()
    steps = whole_number("steps", steps, least=1)
    size = step_size if callable(step_size) else lambda step: step_size
    x, generator = begin(target, start, seed)
    path, oracle = Path(keep_every), Oracle(target, x)
    log_f = oracle.first_log_density(x) if adjust else None
    score = oracle.first_score(x)
    accepted = torch.zeros(len(x), device=x.device)
    for step in range(steps):
        epsilon = positive_number("step_size", size(step))
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        proposal = x + epsilon * score + math.sqrt(2 * epsilon) * noise
        if adjust:
            new_log_f, new_score = oracle.log_density(proposal), oracle.score(proposal)
            log_ratio = (
                new_log_f
                - log_f
                + log_transition(proposal, x, new_score, epsilon)
                - log_transition(x, proposal, score, epsilon)
            )
            uniform = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
            # A ratio that is NaN, as it is for a proposal out of range, compares as False.
            take = uniform.log() < log_ratio
            x = torch.where(take[:, None], proposal, x)
            score = torch.where(take[:, None], new_score, score)
            log_f = torch.where(take, new_log_f, log_f)
            accepted += take
        else:
            x = proposal
            if step + 1 < steps:
                score = oracle.score(x)
        path.add(x, step)
    diverged = ~x.isfinite().all(1)
    return Chains(
        samples=torch.where(diverged[:, None], torch.nan, x),
        steps=steps,
        warmup=0,
        gradient_evaluations=oracle.evaluations,
        seconds=time.perf_counter() - began,
        step_size=epsilon,
        diverged=diverged,
        acceptance=float(accepted.mean()) / steps if adjust else None,
        acceptance_by_chain=accepted / steps if adjust else None,
        path=path.stacked(x),
    )


def log_transition(x: Tensor, y: Tensor, score: Tensor, epsilon: float) -> Tensor:
    """Log density of the proposal y from x, up to a constant that depends on epsilon alone.

    Args:
        x: where the chains are, shape (n, dim).
        y: where they would go, shape (n, dim).
        score: of the target at x, shape (n, dim).
        epsilon: the step size.

    Returns:
        Shape (n,).

    Raises:
        ValueError: `y` or `score` of another shape than `x`.
    """
    require_shape_of(x, y=y, score=score)
    return -(y - x - epsilon * score).square().sum(1) / (4 * epsilon)
