"""What the samplers share: where chains start, what they cost, what they return."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..targets import Target
from ..targets.base import whole_number

__all__ = ["Chains", "Oracle", "Path", "begin", "require_shape_of"]


@dataclass(frozen=True, eq=False)
class Chains:
    """Where the chains ended and what it took.

    Attributes:
        samples: last point of each chain, shape (n, dim), of the type and device of the start;
            NaN where the chain diverged.
        steps: steps of each chain, those of warm-up left out.
        warmup: steps of warm-up before them.
        gradient_evaluations: points at which the score was computed, over all chains, the warm-up
            and the search for a step size included.
        seconds: wall time.
        step_size: the last one.
        diverged: shape (n,), True where a chain left the finite numbers. Metropolis steps reject
            such points, so that only unadjusted methods diverge.
        acceptance: share of proposals accepted, warm-up left out; None where nothing is rejected.
        acceptance_by_chain: the same for each chain, shape (n,): 0 marks a chain that stood still.
        rejected_as_divergent: proposals of HMC whose energy was off by more than 1000 or not
            finite, warm-up left out; None elsewhere.
        path: positions after every so many steps, shape (kept, n, dim), on request.
    """

    samples: Tensor
    steps: int
    warmup: int
    gradient_evaluations: int
    seconds: float
    step_size: float
    diverged: Tensor
    acceptance: float | None = None
    acceptance_by_chain: Tensor | None = None
    rejected_as_divergent: int | None = None
    path: Tensor | None = None

    @property
    def gradient_evaluations_per_sample(self) -> float:
        """Gradient evaluations divided by the number of chains."""
        return self.gradient_evaluations / len(self.samples)

    @property
    def finite(self) -> Tensor:
        """Samples of the chains that did not diverge."""
        return self.samples[~self.diverged]

    def __str__(self) -> str:
        parts = [
            f"{len(self.samples)} chains of {self.steps} steps",
            f"{self.gradient_evaluations_per_sample:.0f} gradients a sample",
            f"{self.seconds:.2f} s",
        ]
        if self.acceptance is not None:
            parts.append(f"{100 * self.acceptance:.0f} % accepted")
        lost = int(self.diverged.sum())
        if lost:
            parts.append(f"{lost} diverged")
        return ", ".join(parts)


class Oracle:
    """Score and log density of a target at any points, counted.

    Points that are not finite get NaN in place of an error, so that one lost chain does not end
    the others.
    """

    def __init__(self, target: Target, start: Tensor) -> None:
        self.target, self.evaluations = target, 0
        self._inside = start.clone()

    def score(self, x: Tensor) -> Tensor:
        """Shape (n, dim), NaN where x or the score is not finite.

        Raises:
            ValueError: the score has another shape.
        """
        self.evaluations += len(x)
        finite = x.isfinite().all(1, keepdim=True)
        score = self.target.score(torch.where(finite, x, self._inside)).to(x)
        # Again, for a target that writes `score` and not `_closed_score`.
        self.target._require_like_points(score, x)
        return torch.where(finite & score.isfinite(), score, torch.nan)

    def log_density(self, x: Tensor) -> Tensor:
        """Shape (n,), NaN where x is not finite or the density infinite: no chain stays there.

        Raises:
            ValueError: the log density has another shape.
        """
        finite = x.isfinite().all(1)
        log_f = self.target.log_density(torch.where(finite[:, None], x, self._inside)).to(x)
        self.target._require_one_a_point(log_f, x)
        return torch.where(finite & (log_f < torch.inf), log_f, torch.nan)

    def first_score(self, x: Tensor) -> Tensor:
        """Score at the start.

        Raises:
            ValueError: it is not finite somewhere, or has another shape.
        """
        score = self.score(x)
        _require_finite("score", score.isfinite().all(1))
        return score

    def first_log_density(self, x: Tensor) -> Tensor:
        """Log density at the start.

        Raises:
            ValueError: it is not finite somewhere or has another shape, or the score is a fresh
                estimate on each call.
        """
        if self.target.stochastic:
            raise ValueError(
                f"{type(self.target).__name__} gives a fresh estimate of its score on each call, "
                "expected the score itself to accept and reject by: use all data, or "
                "langevin(adjust=False)"
            )
        log_f = self.log_density(x)
        _require_finite("log density", log_f.isfinite())
        return log_f


class Path:
    """Positions after every so many steps; nothing where none are asked for."""

    def __init__(self, every: int | None) -> None:
        self._every = every if every is None else whole_number("keep_every", every, least=1)
        self._kept: list[Tensor] = []

    def add(self, x: Tensor, step: int) -> None:
        """Keep x after the step (counted from 0) where it is due."""
        if self._every is not None and (step + 1) % self._every == 0:
            self._kept.append(x.clone())

    def stacked(self, like: Tensor) -> Tensor | None:
        """Shape (kept, n, dim), or None."""
        if self._every is None:
            return None
        return torch.stack(self._kept) if self._kept else like.new_empty(0, *like.shape)


def begin(target: Target, start: Any, seed: int | None) -> tuple[Tensor, torch.Generator]:
    """Starting points, a copy of shape (n, dim), and the generator of the run.

    Args:
        target: gives the number of columns.
        start: a number of chains, which start from N(0, I) in float64 on the CPU; or the points
            themselves, whose type and device are kept.
        seed: None continues torch's global generator.

    Raises:
        ValueError: fewer than 1 chain, wrong shape, NaN or infinite points, a wrong seed.
    """
    try:
        count = None if isinstance(start, bool) else operator.index(start)
    except TypeError:
        count = None
    if isinstance(start, Tensor) and start.ndim:
        count = None
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    seed = whole_number("seed", seed, least=0)
    if count is not None:
        count = whole_number("start", count, least=1)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, target.dim, dtype=torch.float64, generator=generator), generator
    x = target._finite_points(start, "start").detach().clone()
    if not len(x):
        raise ValueError(
            f"start has shape {tuple(x.shape)}, expected at least one point: give one a chain"
        )
    return x, torch.Generator(x.device).manual_seed(seed)


def require_shape_of(x: Tensor, **others: Tensor) -> None:
    """Nothing, for tensors of the shape of the points x.

    Raises:
        ValueError: another shape, which broadcasting would not tell.
    """
    for name, value in others.items():
        if value.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for points of shape {tuple(x.shape)}, "
                "expected the same: give one row a point"
            )


def _require_finite(name: str, finite: Tensor) -> None:
    bad = int((~finite).sum())
    if bad:
        raise ValueError(
            f"the {name} of the target is not finite at {bad} of {len(finite)} starting points, "
            "expected finite values: start elsewhere, or look at the target with "
            "targets.check_score"
        )
