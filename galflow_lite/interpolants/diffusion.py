"""dX = (b + ε s) dt + √(2ε) dW: the same law at each time for every ε_t ≥ 0 (eqs. 11-14).

The score s = ∇log ρ_t follows from the velocity b where the law of the base is known: from
x = α η0 + β η1 + γ g and b = α̇ η0 + β̇ η1 + γ̇ g with η_i = E[x_i | x_t = x] and g = E[z|x_t]
(eqs. 4.4-4.5 of arXiv:2303.08797), s = -g/γ (eq. 6 of arXiv:2310.03725) and, where
x0 = m + σζ with a known m, η0 = m - α σ² s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..inputs import as_choice, as_number, as_whole
from .conditions import Condition, Field, Random
from .couplings import GaussianBase, normal_like
from .sampling import CountedField, Samples, require_span
from .schedules import Schedule

Diffusion = Callable[[float], float]
MARGIN = 1e-3


def decreasing(epsilon: float) -> Diffusion:
    """ε_t = ε(1-t): vanishes at t = 1 as fast as the score may grow."""
    return partial(_decreasing, epsilon=epsilon)


def _decreasing(t: float, epsilon: float) -> float:
    return epsilon * (1 - t)


def score_from_velocity(
    schedule: Schedule, x: Tensor, t: Tensor | float, velocity: Tensor, *, base: GaussianBase
) -> Tensor:
    """The score without a second network, where the mean m and the scale σ of x0 are known.

    s = [(β b - β̇ x) - (βα̇ - αβ̇) m] / [β̇ (α²σ² + γ²) - β (αα̇σ² + γγ̇)] (our derivation; for the
    linear schedule without γ it is -(x - t b - m) / ((1-t) σ²)). Zero outside the hole of the base,
    where there is no density. At t = 1 it needs γ or a base that has not shrunk to nothing: it is
    infinite there without γ.

    Raises:
        ValueError: σ = 0 where γ = 0 too.
    """
    c = schedule.at(t, x)
    if not schedule.has_noise:
        base.require_noise("a score")
    variance = base.scale**2
    spread = c.alpha.square() * variance + c.gamma.square()
    # αα̇ is finite where α̇ is not only in the limit: σ = 0 must not meet an infinite rate.
    slope = c.gamma_product + (c.alpha * c.alpha_rate * variance if variance else 0)
    wronskian = c.beta * c.alpha_rate - c.alpha * c.beta_rate
    numerator = c.beta * velocity - c.beta_rate * x - wronskian * base.mean
    return base.restrict(numerator / (c.beta_rate * spread - c.beta * slope))


def sample_sde(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    diffusion: Diffusion | float,
    base: GaussianBase | None = None,
    denoiser: Field | None = None,
    method: Literal["euler", "heun"] = "euler",
    steps: int = 200,
    start: float = 0.0,
    end: float = 1.0,
    generator: Random = None,
) -> Samples:
    """Solve the stochastic equation of Corollary 3.1 of arXiv:2310.03725, without gradients.

    The score comes from the denoiser, s = -g/γ, or from the velocity alone, if the law of x0 is
    given (`score_from_velocity`). It is singular at t = 1, and with a denoiser at t = 0 as well:
    within 0.001 of the ends ε is taken as zero. A last step that ends at t = 1 is x + (1-t) b: the
    mean E[x1 | x_t] of the linear schedule, without noise.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: start, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to velocity and denoiser.
        schedule: that the velocity was learned with.
        diffusion: ε_t as a function of a number t, or one number; such as `decreasing(1.0)`.
        base: law of x0 given the condition, for example `coupling.base(x1, condition)`. Only
            pixels in its hole move.
        denoiser: callable (x, t, condition) -> E[z | x_t = x], in place of `base`.
        method: "euler" (Euler-Maruyama) or "heun" (two evaluations a step).
        steps: equal steps.
        start: time of `x0`.
        end: time of the result; before `start` the backward equation is solved (eqs. 13-14).
        generator: source of the noise.

    Returns:
        `Samples`; `evaluations` counts calls of the velocity. A denoiser is not counted.

    Raises:
        SolverError: NaN or infinite values on the way.
    """
    start, end = require_span(start, end)
    steps, method = as_whole(steps, "steps", least=1), as_choice(method, "method", _METHODS)
    if (base is None) == (denoiser is None):
        raise ValueError("the score needs base or denoiser, one of them: pass one")
    field = CountedField(velocity, x0, condition, None if base is None else base.hole)
    noises = None if denoiser is None else CountedField(denoiser, field.start, condition)
    x = field.start
    sign = -1 if end < start else 1

    def drift(x: Tensor, t: float, epsilon: float) -> Tensor:
        b = field(t, x)
        if epsilon == 0:
            return b
        if noises is None:
            score = score_from_velocity(schedule, x, t, b, base=base)
        else:
            score = -noises(t, x) / schedule.at(t, x).gamma
        return b + sign * epsilon * score

    grid = [start + (end - start) * n / steps for n in range(steps)] + [end]
    with torch.no_grad():
        for t, after in zip(grid[:-1], grid[1:], strict=True):
            h = after - t
            if after == 1.0:
                x = field.held(x + h * field(t, x))
                continue
            now, then = (_epsilon(diffusion, time) for time in (t, after))
            # Noise and drift belong to the same ε: at the left end, or at the mean of both ends.
            scale = math.sqrt((2 * now if method == "euler" else now + then) * abs(h))
            noise = normal_like(x, generator)
            first = drift(x, t, now)
            new = field.held(x + h * first + scale * noise)
            if method == "heun":
                second = drift(new, after, then)
                new = field.held(x + h / 2 * (first + second) + scale * noise)
            x = new
    return Samples(x, field.evaluations)


_METHODS = ("euler", "heun")


def _epsilon(diffusion: Diffusion | float, t: float) -> float:
    if not MARGIN <= t <= 1 - MARGIN:
        return 0.0
    return as_number(diffusion(t) if callable(diffusion) else diffusion, "diffusion", least=0)
