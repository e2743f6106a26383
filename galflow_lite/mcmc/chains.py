"""What the methods share: where chains start, what they cost, what they return."""

from __future__ import annotations

import time
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_whole
from ..targets import Target
from ..targets.target import as_target


@dataclass(frozen=True, eq=False)
class Chains:
    """Where the chains ended and what it took.

    Attributes:
        samples: last point of each chain, shape (n, dim), of the type and device of the start;
            NaN where the chain diverged.
        steps: steps of each chain, those of warm-up left out.
        gradient_evaluations: points at which the score was computed, over all chains, the warm-up
            and the search for a step size included.
        seconds: wall time.
        step_size: the last one.
        diverged: shape (n,), True where a chain left the finite numbers. Metropolis steps reject
            such points, so that only unadjusted methods diverge.
        path: positions after every so many steps, shape (kept, n, dim), on request.
        acceptance_by_chain: share of proposals accepted, warm-up left out, shape (n,): 0 marks a
            chain that stood still; None where nothing is rejected.
        rejected_as_divergent: proposals of HMC whose energy was off by more than 1000 or not
            finite, warm-up left out; None elsewhere.
    """

    samples: Tensor
    steps: int
    gradient_evaluations: int
    seconds: float
    step_size: float
    diverged: Tensor
    path: Tensor | None = None
    acceptance_by_chain: Tensor | None = None
    rejected_as_divergent: int | None = None

    @property
    def acceptance(self) -> float | None:
        """Share of proposals accepted, over all chains."""
        by_chain = self.acceptance_by_chain
        return None if by_chain is None else float(by_chain.mean())

    @property
    def gradient_evaluations_per_sample(self) -> float:
        """Gradient evaluations divided by the number of chains."""
        return self.gradient_evaluations / len(self.samples)

    def __str__(self) -> str:
        each = self.gradient_evaluations_per_sample
        accepted = "" if self.acceptance is None else f", {100 * self.acceptance:.0f} % accepted"
        lost = int(self.diverged.sum())
        return (
            f"{len(self.samples)} chains of {self.steps} steps, {each:.0f} gradients a sample, "
            f"{self.seconds:.2f} s{accepted}" + (f", {lost} diverged" if lost else "")
        )


def split_r_hat(path: Tensor) -> Tensor:
    r"""Potential scale reduction of chains cut into halves (Gelman et al., Bayesian Data Analysis).

    With W the mean variance within the m half chains of n steps and B / n the variance of their
    means, :math:`\hat R = \sqrt{(n - 1) / n + (B / n) / W}`. It is 1 up to noise where all of them
    have seen the same law, and above where some have not, or drift.

    Args:
        path: positions, shape (steps, chains, dim), at least 4 steps; of an odd number of steps
            the first is left out.

    Returns:
        Shape (dim,); infinite or NaN for a coordinate that never moves.
    """
    n = len(path) // 2
    halves = torch.cat([path[-2 * n : -n], path[-n:]], dim=1)
    within = halves.var(0).mean(0)
    return ((n - 1) / n + halves.mean(0).var(0) / within).sqrt()


class Run:
    """What the methods share: start, random numbers, counted evaluations, kept positions.

    Points that are not finite get NaN in place of an error, so that one lost chain does not end
    the others.
    """

    def __init__(
        self, target: Target, start: Any, steps: int, seed: int | None, keep_every: int | None
    ) -> None:
        self.began, self.evaluations, self.path = time.perf_counter(), 0, []
        self.target, self.steps = as_target(target), as_whole(steps, "steps", least=1)
        self.every = keep_every and as_whole(keep_every, "keep_every", least=1)
        seed = int(torch.randint(2**62, ())) if seed is None else as_whole(seed, "seed")
        if isinstance(start, Integral):
            shape = as_whole(start, "start", least=1), target.dim
            self.generator = torch.Generator().manual_seed(seed)
            self.start = torch.randn(shape, dtype=torch.float64, generator=self.generator)
        else:
            self.start = target._points(start, "start").detach().clone()
            self.generator = torch.Generator(self.start.device).manual_seed(seed)

    def normal(self) -> Tensor:
        """Shape (n, dim)."""
        return torch.empty_like(self.start).normal_(generator=self.generator)

    def uniform(self) -> Tensor:
        """Shape (n,)."""
        return self.start.new_empty(len(self.start)).uniform_(generator=self.generator)

    def score(self, x: Tensor) -> Tensor:
        """Shape (n, dim), NaN where x or the score is not finite."""
        self.evaluations += len(x)
        finite = x.isfinite().all(1, keepdim=True)
        score = self.target._score(torch.where(finite, x, self.start))
        return torch.where(finite & score.isfinite(), score, torch.nan)

    def log_density(self, x: Tensor) -> Tensor:
        """Shape (n,), NaN where x is not finite or the density infinite: no chain stays there."""
        finite = x.isfinite().all(1)
        log_f = self.target._log_density(torch.where(finite[:, None], x, self.start))
        self.target._require_shape("log density", log_f, finite.shape)
        return torch.where(finite & (log_f < torch.inf), log_f, torch.nan)

    def first_score(self) -> Tensor:
        score = self.score(self.start)
        _require_finite("score", score.isfinite().all(1))
        return score

    def first_log_density(self) -> Tensor:
        if self.target.stochastic:
            raise ValueError(
                f"{type(self.target).__name__} gives a fresh estimate of its score on each call, "
                "expected the score itself to accept and reject by: use all data, or "
                "langevin(adjust=False)"
            )
        log_f = self.log_density(self.start)
        _require_finite("log density", log_f.isfinite())
        return log_f

    def keep(self, x: Tensor, step: int) -> None:
        """Keep x after the step (counted from 0) where it is due."""
        if self.every and (step + 1) % self.every == 0:
            self.path.append(x)

    def chains(self, x: Tensor, step_size: float, **more: Any) -> Chains:
        diverged = ~x.isfinite().all(1)
        return Chains(
            samples=torch.where(diverged[:, None], torch.nan, x),
            steps=self.steps,
            gradient_evaluations=self.evaluations,
            seconds=time.perf_counter() - self.began,
            step_size=step_size,
            diverged=diverged,
            path=torch.stack(self.path) if self.path else None,
            **more,
        )


def _require_finite(name: str, finite: Tensor) -> None:
    if not finite.all():
        raise ValueError(
            f"the {name} of the target is not finite at {int((~finite).sum())} of {len(finite)} "
            "starting points: start elsewhere, or look at the target with targets.check_score"
        )
