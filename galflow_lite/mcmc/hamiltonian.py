"""Hamiltonian Monte Carlo with a step size found in a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_whole
from ..targets import Target
from .chains import Chains, Run

# Beyond this error of the energy a trajectory has left the region where leapfrog steps are stable.
_DIVERGENT = 1000.0
# Range of the random factor of each step size, so that no trajectory is a whole period.
_JITTER = 0.1


@torch.no_grad()
def hmc(
    target: Target,
    start: Any,
    *,
    steps: int,
    warmup: int = 100,
    leapfrog_steps: int = 10,
    step_size: float | None = None,
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
        warmup: steps in which the step size is found; 0 keeps `step_size`.
        leapfrog_steps: of each trajectory.
        step_size: of the leapfrog integrator, to begin with; None searches for one.
        target_acceptance: mean acceptance that the warm-up aims at. A short warm-up ends above it
            where acceptance drops steeply at the edge of stability: on the safe side.
        seed: of start, momenta and choices; None continues torch's global generator.
        keep_every: keep the positions after every so many steps, warm-up left out.

    Returns:
        `Chains`; trajectories that leave the finite numbers are rejected and counted.

    Raises:
        ValueError: a stochastic target; a score or log density that is not finite at the start.
    """
    warmup = as_whole(warmup, "warmup")
    leapfrog_steps = as_whole(leapfrog_steps, "leapfrog_steps", least=1)
    wanted = as_number(target_acceptance, "target_acceptance", above=0, below=1)
    run = Run(target, start, steps, seed, keep_every)
    x, log_f, score = run.start, run.first_log_density(), run.first_score()
    if step_size is None:
        step_size = _first_step_size(run, x, log_f, score)
    tuning = _DualAveraging(as_number(step_size, "step_size", above=0), wanted)
    accepted, divergent = torch.zeros(len(x), device=x.device), 0
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
            divergent += int((gain < -_DIVERGENT).sum())
            run.keep(x, step)
    return run.chains(
        x,
        tuning.final,
        acceptance_by_chain=accepted / run.steps,
        rejected_as_divergent=divergent,
    )


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
