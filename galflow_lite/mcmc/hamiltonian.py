"""Hamiltonian Monte Carlo with a step size found in a warm-up."""

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

__all__ = ["hmc", "leapfrog"]

# Beyond this error of the energy a trajectory has left the region where leapfrog steps are stable.
_DIVERGENT = 1000.0


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
    jitter: float = 0.1,
    seed: int | None = None,
    keep_every: int | None = None,
) -> Chains:
    """Hamiltonian chains, all in one tensor, with unit masses.

    The step size is shared by the chains. In the warm-up it follows dual averaging (Hoffman and
    Gelman, arXiv:1111.4246, section 3.2) towards the wanted mean acceptance over the chains, and
    is then fixed. Each step costs `leapfrog_steps` gradients, the start one, and the search for a
    first step size one for each trial.

    Args:
        target: where the chains go; not a stochastic one.
        start: a number of chains, which start from N(0, I), or their points, shape (n, dim).
        steps: after the warm-up.
        warmup: steps in which the step size is found; 0 keeps `step_size`.
        leapfrog_steps: of each trajectory.
        step_size: of the leapfrog integrator, to begin with; None searches for one.
        target_acceptance: mean acceptance that the warm-up aims at. A short warm-up ends above it
            where acceptance drops steeply at the edge of stability: on the safe side.
        jitter: each step multiplies the step size by a random factor between 1 - jitter and
            1 + jitter, so that no trajectory is a whole period of an oscillation.
        seed: of start, momenta and choices; None continues torch's global generator.
        keep_every: keep the positions after every so many steps, warm-up left out.

    Returns:
        `Chains`; trajectories that leave the finite numbers are rejected and counted.

    Raises:
        ValueError: an argument out of range; a stochastic target; a score or log density that is
            not finite at the start or has another shape; no step size given and no warm-up.
    """
    began = time.perf_counter()
    steps = whole_number("steps", steps, least=1)
    warmup = whole_number("warmup", warmup, least=0)
    leapfrog_steps = whole_number("leapfrog_steps", leapfrog_steps, least=1)
    _require_between("target_acceptance", target_acceptance, low=0, inclusive=False)
    _require_between("jitter", jitter, low=0, inclusive=True)
    if step_size is None and not warmup:
        raise ValueError(
            "step_size is None and warmup 0, expected one of them: give a step size or a warm-up"
        )
    x, generator = begin(target, start, seed)
    path, oracle = Path(keep_every), Oracle(target, x)
    log_f, score = oracle.first_log_density(x), oracle.first_score(x)
    if step_size is None:
        step_size = _first_step_size(oracle, x, log_f, score, generator)
    tuning = _DualAveraging(positive_number("step_size", step_size), target_acceptance)
    accepted, divergent = torch.zeros(len(x), device=x.device), 0
    for step in range(warmup + steps):
        epsilon = tuning.current if step < warmup else tuning.final
        uniform = torch.rand((), device=x.device, generator=generator)
        epsilon *= 1 + jitter * (2 * float(uniform) - 1)
        momentum = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        end, end_momentum, end_score = leapfrog(
            oracle.score, x, momentum, score, step_size=epsilon, steps=leapfrog_steps
        )
        end_log_f = oracle.log_density(end)
        gain = _gain(log_f, momentum, end_log_f, end_momentum)
        uniform = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
        take = uniform.log() < gain
        x = torch.where(take[:, None], end, x)
        score = torch.where(take[:, None], end_score, score)
        log_f = torch.where(take, end_log_f, log_f)
        if step < warmup:
            tuning.update(float(gain.clamp(max=0).exp().mean()))
        else:
            accepted += take
            divergent += int((gain < -_DIVERGENT).sum())
            path.add(x, step - warmup)
    return Chains(
        samples=x,
        steps=steps,
        warmup=warmup,
        gradient_evaluations=oracle.evaluations,
        seconds=time.perf_counter() - began,
        step_size=tuning.final,
        diverged=torch.zeros(len(x), dtype=torch.bool, device=x.device),
        acceptance=float(accepted.mean()) / steps,
        acceptance_by_chain=accepted / steps,
        rejected_as_divergent=divergent,
        path=path.stacked(x),
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
        steps: how many.

    Returns:
        Positions, momenta and scores at the end, NaN or infinite where a trajectory left the finite
        numbers.

    Raises:
        ValueError: a momentum or score of another shape than `x`, fewer than 1 step.
    """
    steps = whole_number("steps", steps, least=1)
    require_shape_of(x, momentum=momentum, score=score)
    momentum = momentum + step_size / 2 * score
    for step in range(steps):
        x = x + step_size * momentum
        score = score_of(x)
        require_shape_of(x, score=score)
        momentum = momentum + (step_size if step + 1 < steps else step_size / 2) * score
    return x, momentum, score


def _gain(log_f: Tensor, momentum: Tensor, end_log_f: Tensor, end_momentum: Tensor) -> Tensor:
    """Energy lost on the way, shape (n,): the log ratio of acceptance; -inf where it is NaN."""
    before = log_f - momentum.square().sum(1) / 2
    after = end_log_f - end_momentum.square().sum(1) / 2
    return (after - before).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _first_step_size(
    oracle: Oracle, x: Tensor, log_f: Tensor, score: Tensor, generator: torch.Generator
) -> float:
    """A step size whose single step is accepted about half the time (arXiv:1111.4246, alg. 4)."""
    momentum = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    def acceptance(epsilon: float) -> float:
        end, end_momentum, _ = leapfrog(
            oracle.score, x, momentum, score, step_size=epsilon, steps=1
        )
        gain = _gain(log_f, momentum, oracle.log_density(end), end_momentum)
        return float(gain.clamp(max=0).exp().mean())

    epsilon = 1.0
    high = acceptance(epsilon) > 0.5
    # Bounded: a flat target accepts every step size, a broken one none.
    for _ in range(40):
        following = epsilon * (2.0 if high else 0.5)
        above = acceptance(following) > 0.5
        if high and not above:
            break
        epsilon = following
        if not high and above:
            break
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


def _require_between(name: str, value: float, *, low: float, inclusive: bool) -> None:
    if not (low <= value < 1 if inclusive else low < value < 1):
        raise ValueError(
            f"{name} is {value!r}, expected a number from {low} ({'' if inclusive else 'not '}"
            "included) to 1 (not included): change it"
        )
