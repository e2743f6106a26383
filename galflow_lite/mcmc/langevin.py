"""Langevin dynamics, with and without the Metropolis correction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number
from ..targets import Target
from .chains import Chains, Run


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
        ValueError: a score or log density that is not finite at the start; `adjust` with a
            stochastic target.
    """
    run = Run(target, start, steps, seed, keep_every)
    x, score = run.start, run.first_score()
    log_f = run.first_log_density() if adjust else None
    accepted = torch.zeros(len(x), device=x.device)
    for step in range(run.steps):
        epsilon = step_size(step) if callable(step_size) else step_size
        epsilon = as_number(epsilon, "step_size", above=0)
        proposal = x + epsilon * score + math.sqrt(2 * epsilon) * run.normal()
        if adjust:
            new_log_f, new_score = run.log_density(proposal), run.score(proposal)
            log_ratio = (
                new_log_f
                - log_f
                + log_transition(proposal, x, new_score, epsilon)
                - log_transition(x, proposal, score, epsilon)
            )
            # A ratio that is NaN, as it is for a proposal out of range, compares as False.
            take = run.uniform().log() < log_ratio
            x = torch.where(take[:, None], proposal, x)
            score = torch.where(take[:, None], new_score, score)
            log_f = torch.where(take, new_log_f, log_f)
            accepted += take
        else:
            x = proposal
            if step + 1 < run.steps:
                score = run.score(x)
        run.keep(x, step)
    return run.chains(x, epsilon, acceptance_by_chain=accepted / run.steps if adjust else None)


def log_transition(x: Tensor, y: Tensor, score: Tensor, epsilon: float) -> Tensor:
    """Log density of the Langevin proposal y from x, less a constant that epsilon alone sets."""
    return -(y - x - epsilon * score).square().sum(1) / (4 * epsilon)
