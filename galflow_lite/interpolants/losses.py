"""L_b = E[|b|² - 2 İ·b] and L_g = E[|g|² - 2 z·g]: square losses without their constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .couplings import Pair, as_coupling
from .masks import Condition
from .schedules import Schedule
from .times import time_of

__all__ = ["Draw", "Field", "denoiser_loss", "draw_interpolant", "velocity_loss"]

Field = Callable[[Tensor, Tensor, Condition], Tensor]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class Draw:
    """Random points of an interpolant.

    Attributes:
        t: times, shape (batch,).
        x: I_t, shape (batch, *dim).
        rate: İ_t.
        z: latent noise, zero on fixed pixels; None if the schedule has none.
        pair: base, data and condition.
    """

    t: Tensor
    x: Tensor
    rate: Tensor
    z: Tensor | None
    pair: Pair

    def mirrored(self, schedule: Schedule) -> Draw:
        """The same pair and times with -z in place of z."""
        if self.z is None:
            return self
        return _point(schedule, self.pair, self.t, -self.z)


def draw_interpolant(
    x1: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    coupling: Any,
    times: Tensor | float | None = None,
    generator: torch.Generator | None = None,
) -> Draw:
    """Draw x0, z, t ~ U(0, 1) and I_t for a batch of data (Algorithm 1 of arXiv:2310.03725).

    On known pixels of in-painting I_t = x1 and İ_t = 0 exactly. For the linear schedule this is
    what eq. 1 gives; for the others it is a choice of I(t, x0, x1) that keeps them fixed, so that a
    `MaskedVelocity` is right for every schedule.

    Args:
        x1: data, shape (batch, *dim).
        condition: of the samples; the coupling adds its own part.
        schedule: of the interpolant.
        coupling: a `Coupling` or a function (x1, condition) -> x0.
        times: fixed times in place of random ones, shape (batch,) or one number.
        generator: of all random numbers but those of a user's function.

    Raises:
        ValueError: NaN data, a coupling of another shape, times outside [0, 1].
    """
    pair = as_coupling(coupling).pair(x1, condition, generator=generator)
    if times is None:
        t = torch.rand(len(x1), dtype=x1.dtype, device=x1.device, generator=generator)
        # At the very ends some derivatives are infinite.
        edge = torch.finfo(x1.dtype).eps
        t = t.clamp(edge, 1 - edge)
    else:
        t = time_of(times, x1)
    z = None
    if schedule.has_noise:
        z = torch.randn(x1.shape, dtype=x1.dtype, device=x1.device, generator=generator)
        if pair.hole is not None:
            z = pair.base.restrict(z)
    return _point(schedule, pair, t, z)


def velocity_loss(
    velocity: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    coupling: Any,
    reduction: Reduction = "sum",
    antithetic: bool = False,
    times: Tensor | float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Eq. 22 of arXiv:2310.03725: batch mean of |b_t(I_t)|² - 2 İ_t·b_t(I_t).

    Its minimum is -∫E|b_t(I_t)|²dt, reached by b_t(x) = E[İ_t | I_t = x] (eq. 7).

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x1: data, shape (batch, *dim).
        condition: of the samples; the coupling adds its own part.
        schedule: of the interpolant.
        coupling: a `Coupling` or a function (x1, condition) -> x0.
        reduction: "sum" over the dimensions of a sample, as in the paper, or their "mean" (then
            clip gradients near 1, and not near the paper's 10,000).
        antithetic: average over z and -z (section 6 of arXiv:2303.08797); no effect without γ.
        times: fixed times in place of random ones.
        generator: source of the random numbers; None for torch's global generator.

    Returns:
        A scalar.

    Raises:
        ValueError: NaN data, a coupling or velocity of another shape, an unknown reduction.
    """
    draw = draw_interpolant(
        x1, condition, schedule=schedule, coupling=coupling, times=times, generator=generator
    )
    draws = [draw, draw.mirrored(schedule)] if antithetic and draw.z is not None else [draw]
    return _average([_square_loss(velocity, one, one.rate, reduction) for one in draws])


def denoiser_loss(
    denoiser: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    coupling: Any,
    reduction: Reduction = "sum",
    antithetic: bool = False,
    times: Tensor | float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Eq. 7 of arXiv:2310.03725: batch mean of |g_t(I_t)|² - 2 z·g_t(I_t), g = E[z | I_t].

    Arguments, result and errors as for `velocity_loss`.

    Raises:
        ValueError: the schedule has γ = 0 as well, where there is no z to learn.
    """
    if not schedule.has_noise:
        raise ValueError(
            "found a schedule with gamma = 0, which has no z to learn: use score_from_velocity, or "
            "a schedule with another gamma"
        )
    draw = draw_interpolant(
        x1, condition, schedule=schedule, coupling=coupling, times=times, generator=generator
    )
    draws = [draw, draw.mirrored(schedule)] if antithetic else [draw]
    return _average([_square_loss(denoiser, one, one.z, reduction) for one in draws])


def _point(schedule: Schedule, pair: Pair, t: Tensor, z: Tensor | None) -> Draw:
    value, rate = schedule.interpolate(pair.x0, pair.x1, t, z)
    if pair.hole is not None:
        value, rate = pair.base.restrict(value, outside=pair.x1), pair.base.restrict(rate)
    return Draw(t, value, rate, z, pair)


def _square_loss(field: Field, draw: Draw, target: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("sum", "mean"):
        raise ValueError(f"found reduction={reduction!r}, expected 'sum' or 'mean': choose one")
    found = field(draw.x, draw.t, draw.pair.condition)
    if found.shape != draw.x.shape:
        raise ValueError(
            f"found an output of shape {tuple(found.shape)}, expected that of x, "
            f"{tuple(draw.x.shape)}: return the image channels only"
        )
    # |b|² - 2 İ·b = b·(b - 2İ), in two passes.
    each = found * torch.sub(found, target, alpha=2)
    return each.mean() if reduction == "mean" else each.sum() / len(each)


def _average(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
