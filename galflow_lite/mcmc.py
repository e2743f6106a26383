"""Markov chains and particles: the baselines of one-step samplers, with their cost counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .inputs import as_number, as_whole
from .targets import Target
from .targets.target import as_target

__all__ = ["Chains", "hmc", "langevin", "split_r_hat", "svgd"]

# Range of the random factor of each step size, so that no trajectory is a whole period.
_JITTER = 0.1
# The median over pairs of so many particles is near enough to that over all.
_MEDIAN_OF = 1000
# Of the running mean of squares, as in the authors' code.
_DECAY = 0.9


@dataclass(frozen=True, eq=False)
class Chains:
    """Where the chains ended and what it took.

    Attributes:
        samples: last point of each chain, shape (n, dim), of the type and device of the start;
            NaN where the chain diverged.
        gradient_evaluations: points at which the score was computed, over all chains, the warm-up
            and the search for a step size included.
        seconds: wall time.
        step_size: the last one.
        diverged: shape (n,), True where a chain left the finite numbers. Metropolis steps reject
            such points, so that only unadjusted methods diverge.
        path: positions after every so many steps, shape (kept, n, dim), on request.
        acceptance: share of proposals accepted, over all chains, warm-up left out; None where
            nothing is rejected.
    """

    samples: Tensor
    gradient_evaluations: int
    seconds: float
    step_size: float
    diverged: Tensor
    path: Tensor | None = None
    acceptance: float | None = None

    @property
    def gradient_evaluations_per_sample(self) -> float:
        """Gradient evaluations divided by the number of chains."""
        return self.gradient_evaluations / len(self.samples)


def split_r_hat(path: Tensor) -> Tensor:
    r"""Potential scale reduction of chains cut into halves (Gelman et al., Bayesian Data Analysis).

    With W the mean variance within the m half chains of n steps and B / n the variance of their
    means, :math:`\hat R = \sqrt{(n - 1) / n + (B / n) / W}`. It is 1 up to noise where all of them
    have seen the same distribution, and above where some have not, or drift.

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
        self.score_of = self.target._score
        self.every = None if keep_every is None else as_whole(keep_every, "keep_every", least=1)
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
        """Shape (n, dim), NaN where x is not finite."""
        self.evaluations += len(x)
        # One number tells that all are finite; on a GPU the look at it would hold up the queue.
        if x.device.type == "cpu" and math.isfinite(x.sum()):
            return self.score_of(x)
        finite = x.isfinite().all(1, keepdim=True)
        return torch.where(finite, self.score_of(torch.where(finite, x, self.start)), torch.nan)

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


@torch.no_grad()
def langevin(
    target: Target,
    start: Any,
    *,
    steps: int,
    step_size: float,
    adjust: bool = False,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    r"""Langevin chains, all in one tensor.

    Proposal: :math:`x' = x + \epsilon\, s(x) + \sqrt{2 \epsilon}\, \xi`. Unadjusted, it is always
    taken, at one gradient a step; the distribution of the chain is then off by O(epsilon): a unit
    Gaussian gets the variance 1 / (1 - epsilon / 2). Adjusted (MALA: Roberts and Tweedie, 1996), it
    is accepted or rejected so that the target is kept exactly, at one gradient a step and one for
    the start. With a stochastic target the unadjusted chain is stochastic-gradient Langevin
    dynamics (Welling and Teh, 2011).

    Args:
        target: where the chains go.
        start: a number of chains, which start from N(0, I), or their points, shape (n, dim). A
            start at the centre of symmetry of several modes flatters their weights: try others.
        steps: of each chain.
        step_size: epsilon, positive.
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
    # Not so in hmc and svgd: rounding, which they amplify, would make other draws of a stored run.
    run.score_of = run.target._loop_score
    x, score = run.start, run.first_score()
    epsilon = as_number(step_size, "step_size", above=0)
    log_f = run.first_log_density() if adjust else None
    accepted = torch.zeros(len(x), device=x.device)
    for step in range(run.steps):
        proposal = (epsilon * score).add_(x).add_(run.normal().mul_(math.sqrt(2 * epsilon)))
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
    acceptance = float((accepted / run.steps).mean()) if adjust else None
    return run.chains(x, epsilon, acceptance=acceptance)


def log_transition(x: Tensor, y: Tensor, score: Tensor, epsilon: float) -> Tensor:
    """Log density of the Langevin proposal y from x, less a constant that epsilon alone sets."""
    return -(y - x - epsilon * score).square().sum(1) / (4 * epsilon)


@torch.no_grad()
def hmc(
    target: Target,
    start: Any,
    *,
    steps: int,
    warmup: int = 100,
    leapfrog_steps: int = 10,
    target_acceptance: float = 0.8,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    """Hamiltonian chains, all in one tensor, with unit masses.

    The step size is shared by the chains. In the warm-up it follows dual averaging (Hoffman and
    Gelman, arXiv:1111.4246, section 3.2) towards the wanted mean acceptance over the chains, and
    is then fixed, but for a random factor between 0.9 and 1.1 in each step. Each step costs
    `leapfrog_steps` gradients, the start one, and the search for a first step size one for each
    trial.

    Args:
        target: where the chains go; not a stochastic one.
        start: a number of chains, which start from N(0, I), or their points, shape (n, dim).
        steps: after the warm-up.
        warmup: steps in which the step size is found.
        leapfrog_steps: of each trajectory.
        target_acceptance: mean acceptance that the warm-up aims at. A short warm-up ends above it
            where acceptance drops steeply at the edge of stability: on the safe side.
        seed: of start, momenta and choices; None continues torch's global generator.
        keep_every: keep the positions after every so many steps, warm-up left out.

    Returns:
        `Chains`; trajectories that leave the finite numbers are rejected.

    Raises:
        ValueError: a stochastic target; a score or log density that is not finite at the start.
    """
    warmup = as_whole(warmup, "warmup")
    leapfrog_steps = as_whole(leapfrog_steps, "leapfrog_steps", least=1)
    wanted = as_number(target_acceptance, "target_acceptance", above=0, below=1)
    run = Run(target, start, steps, seed, keep_every)
    x, log_f, score = run.start, run.first_log_density(), run.first_score()
    tuning = _DualAveraging(_first_step_size(run, x, log_f, score), wanted)
    accepted = torch.zeros(len(x), device=x.device)
    for step in range(-warmup, run.steps):
        epsilon = tuning.current if step < 0 else tuning.final
        uniform = torch.rand((), device=x.device, generator=run.generator)
        epsilon *= 1 + _JITTER * (2 * float(uniform) - 1)
        momentum = run.normal()
        end, end_momentum, end_score = leapfrog(
            run.score, x, momentum, score, step_size=epsilon, steps=leapfrog_steps
        )
        end_log_f = run.log_density(end)
        gain = _gain(log_f, momentum, end_log_f, end_momentum)
        take = run.uniform().log() < gain
        x = torch.where(take[:, None], end, x)
        score = torch.where(take[:, None], end_score, score)
        log_f = torch.where(take, end_log_f, log_f)
        if step < 0:
            tuning.update(float(gain.clamp(max=0).exp().mean()))
        else:
            accepted += take
            run.keep(x, step)
    acceptance = float((accepted / run.steps).mean())
    return run.chains(x, tuning.final, acceptance=acceptance)


def leapfrog(
    score_of: Callable[[Tensor], Tensor],
    x: Tensor,
    momentum: Tensor,
    score: Tensor,
    *,
    step_size: float,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Leapfrog steps for the energy |momentum|^2 / 2 - log f, at one gradient a step.

    Args:
        score_of: the score at points, shape (n, dim) to (n, dim).
        x: positions, shape (n, dim).
        momentum: shape (n, dim).
        score: the score at x.
        step_size: of a step.
        steps: how many, at least 1.

    Returns:
        Positions, momenta and scores at the end, NaN or infinite where a trajectory left the finite
        numbers.
    """
    momentum = momentum + step_size / 2 * score
    for step in range(steps):
        x = x + step_size * momentum
        score = score_of(x)
        momentum = momentum + (step_size if step + 1 < steps else step_size / 2) * score
    return x, momentum, score


def _gain(log_f: Tensor, momentum: Tensor, end_log_f: Tensor, end_momentum: Tensor) -> Tensor:
    """Energy lost on the way, shape (n,): the log ratio of acceptance; -inf where it is NaN."""
    before = log_f - momentum.square().sum(1) / 2
    after = end_log_f - end_momentum.square().sum(1) / 2
    return (after - before).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _first_step_size(run: Run, x: Tensor, log_f: Tensor, score: Tensor) -> float:
    """A step size whose single step is accepted about half the time (arXiv:1111.4246, alg. 4)."""
    momentum = run.normal()

    def high(epsilon: float) -> bool:
        end, end_momentum, _ = leapfrog(run.score, x, momentum, score, step_size=epsilon, steps=1)
        gain = _gain(log_f, momentum, run.log_density(end), end_momentum)
        return float(gain.clamp(max=0).exp().mean()) > 0.5

    epsilon, rising = 1.0, high(1.0)
    # Bounded: a flat target accepts every step size, a broken one none.
    for _ in range(40):
        following = epsilon * (2.0 if rising else 0.5)
        if high(following) != rising:
            return epsilon if rising else following
        epsilon = following
    return epsilon


class _DualAveraging:
    """Step size that makes an observed acceptance approach the wanted one (arXiv:1111.4246)."""

    _shrinkage, _offset, _power = 0.05, 10.0, 0.75

    def __init__(self, step_size: float, wanted: float) -> None:
        self._wanted, self._centre = wanted, math.log(10 * step_size)
        self._error, self._count = 0.0, 0
        self.current = self.final = step_size

    def update(self, acceptance: float) -> None:
        self._count += 1
        share = 1 / (self._count + self._offset)
        self._error += share * (self._wanted - acceptance - self._error)
        log_step = self._centre - math.sqrt(self._count) / self._shrinkage * self._error
        weight = self._count**-self._power
        self.current = math.exp(log_step)
        self.final = math.exp(weight * log_step + (1 - weight) * math.log(self.final))


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
