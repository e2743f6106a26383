"""dX = (b + ε s) dt + √(2ε) dW: the same law at each time for every ε_t ≥ 0 (eqs. 11-14)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .conversions import data_mean, score_from_velocity
from .laws import GaussianBase
from .losses import Field
from .masks import Condition, MaskedVelocity
from .sampling import Samples, require_start
from .schedules import Schedule
from .solvers import CountedField, require_span, require_steps

__all__ = ["Diffusion", "constant", "decreasing", "rise_and_fall", "sample_sde"]

Diffusion = Callable[[float], float]


def constant(epsilon: float) -> Diffusion:
    """ε_t = ε."""
    return lambda t: epsilon


def decreasing(epsilon: float) -> Diffusion:
    """ε_t = ε(1-t): vanishes at t = 1 as fast as the score may grow."""
    return lambda t: epsilon * (1 - t)


def rise_and_fall(epsilon: float) -> Diffusion:
    """ε_t = 4ε t(1-t): vanishes at both ends and reaches ε half-way."""
    return lambda t: 4 * epsilon * t * (1 - t)


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
    margin: float = 1e-3,
    denoise: bool = True,
    times: tuple[float, ...] | None = None,
    generator: torch.Generator | None = None,
    max_evaluations: int = 100_000,
) -> Samples:
    """Solve the stochastic equation of Corollary 3.1 of arXiv:2310.03725, without gradients.

    The score comes from the denoiser, s = -g/γ, or from the velocity alone, if the law of x0 is
    given (`score_from_velocity`). It is singular at t = 1, and with a denoiser at t = 0 as well:
    within `margin` of the ends ε is taken as zero.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: start, shape (batch, *dim).
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
        margin: no diffusion within so much of t = 0 and t = 1.
        denoise: replace the last step, if it ends at t = 1, by E[x1 | x_t] without noise.
        times: times of the path that is wanted, rounded to the grid of steps.
        generator: source of the noise.
        max_evaluations: of the velocity.

    Returns:
        `Samples`; `evaluations` counts calls of the velocity. A denoiser is not counted.

    Raises:
        ValueError: neither or both of `base` and `denoiser`, a negative diffusion, σ = 0, times
            outside [0, 1].
        SolverError: NaN or infinite values on the way.
    """
    require_start(x0)
    require_span(start, end, times)
    require_steps(steps)
    if (base is None) == (denoiser is None):
        raise ValueError(
            "found base and denoiser both given or both missing, expected one of them as the "
            "source of the score: pass one"
        )
    if method not in ("euler", "heun"):
        raise ValueError(f"found method={method!r}, expected 'euler' or 'heun': choose one")
    if not 0 < margin < 0.5:
        raise ValueError(f"found margin={margin}, expected a number in (0, 0.5): correct it")
    drift = _Drift(velocity, condition, schedule, base, denoiser, max_evaluations)
    epsilon = _checked(diffusion, margin)
    hole = _hole(velocity, condition, base, x0)
    backward = end < start

    def held(new: Tensor, old: Tensor) -> Tensor:
        """Known pixels as they were."""
        return new if hole is None else torch.where(hole, new, old)

    grid = [start + (end - start) * n / steps for n in range(steps)] + [end]
    kept = {round((t - start) / (end - start) * steps): None for t in times or ()}
    x = x0
    with torch.no_grad():
        for n, t in enumerate(grid[:-1]):
            if n in kept:
                kept[n] = x
            after = grid[n + 1]
            h = after - t
            if denoise and after == 1.0:
                x = held(drift.denoised(x, t), x)
                continue
            now, then = epsilon(t), epsilon(after)
            # Noise and drift belong to the same ε: at the left end, or at the mean of both ends.
            scale = math.sqrt((2 * now if method == "euler" else now + then) * abs(h))
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            first = drift(x, t, now, backward=backward)
            new = held(x + h * first + scale * noise, x)
            if method == "heun":
                second = drift(new, after, then, backward=backward)
                new = held(x + h / 2 * (first + second) + scale * noise, x)
            x = new
        if steps in kept:
            kept[steps] = x
    path = None
    if times is not None:
        rows = [kept[round((t - start) / (end - start) * steps)] for t in times]
        path = torch.stack(rows)
        times = tuple(grid[round((t - start) / (end - start) * steps)] for t in times)
    return Samples(x, drift.velocity.evaluations, times, path)


class _Drift:
    """b ± ε s, and the denoised mean, from one evaluation of the velocity each."""

    def __init__(
        self,
        velocity: Field,
        condition: Condition,
        schedule: Schedule,
        base: GaussianBase | None,
        denoiser: Field | None,
        most: int,
    ) -> None:
        self.velocity = CountedField(velocity, condition, most=most)
        self.denoiser = None
        if denoiser is not None:
            self.denoiser = CountedField(denoiser, condition, most=most, name="denoiser")
        self.schedule, self.base = schedule, base

    def __call__(self, x: Tensor, t: float, epsilon: float, *, backward: bool) -> Tensor:
        b = self.velocity(t, x)
        if epsilon == 0:
            return b
        if self.denoiser is None:
            score = score_from_velocity(self.schedule, x, t, b, base=self.base)
        else:
            score = -self.denoiser(t, x) / self.schedule.at(t, x).gamma
        return b + (-epsilon if backward else epsilon) * score

    def denoised(self, x: Tensor, t: float) -> Tensor:
        b = self.velocity(t, x)
        g = None if self.denoiser is None else self.denoiser(t, x)
        return data_mean(self.schedule, x, t, b, denoiser=g, base=self.base)


def _checked(diffusion: Diffusion | float, margin: float) -> Diffusion:
    function = diffusion if callable(diffusion) else constant(float(diffusion))

    def epsilon(t: float) -> float:
        if not margin <= t <= 1 - margin:
            return 0.0
        value = float(function(t))
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"found a diffusion of {value} at t = {t:.4g}, expected a number from 0 up: "
                "correct diffusion"
            )
        return value

    return epsilon


def _hole(
    velocity: Field, condition: Condition, base: GaussianBase | None, x: Tensor
) -> Tensor | None:
    if isinstance(velocity, MaskedVelocity):
        return velocity.hole(condition, x)
    return None if base is None else base.hole
