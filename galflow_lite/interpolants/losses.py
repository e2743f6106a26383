"""L_b = E[|b|² - 2 İ·b] and L_g = E[|g|² - 2 z·g]: square losses without their constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..inputs import as_choice, as_tensor
from .conditions import Condition, Field, Random, shaped_as
from .couplings import Pair, as_coupling, normal_like
from .schedules import Schedule


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


def draw_interpolant(
    x1: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    coupling: Any,
    times: Tensor | float | None = None,
    generator: Random = None,
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
    x1 = pair.x1
    # At the very ends some derivatives are infinite.
    edge = torch.finfo(x1.dtype).eps
    if times is None:
        t = torch.rand(len(x1), dtype=x1.dtype, device=x1.device, generator=generator)
        t = t.clamp(edge, 1 - edge)
    else:
        t = as_tensor(times, "times", like=x1).expand(len(x1))
        if len(t) and not 0 <= float(t.min()) <= float(t.max()) <= 1:
            raise ValueError(
                f"times go from {float(t.min()):g} to {float(t.max()):g}, expected [0, 1]: rescale"
            )
    z = None
    if schedule.has_noise:
        z = normal_like(x1, generator)
        z = z if pair.base is None else pair.base.restrict(z)
    value, rate = schedule.interpolate(pair.x0, pair.x1, t, z)
    if pair.hole is not None:
        value, rate = pair.base.restrict(value, outside=pair.x1), pair.base.restrict(rate)
    return Draw(t, value, rate, z, pair)


def velocity_loss(
    velocity: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    **options: Any,
) -> Tensor:
    """Eq. 22 of arXiv:2310.03725: batch mean of |b_t(I_t)|² - 2 İ_t·b_t(I_t).

    Its minimum is -∫E|b_t(I_t)|²dt, reached by b_t(x) = E[İ_t | I_t = x] (eq. 7).

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x1: data, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: of the samples; the coupling adds its own part.
        reduction: "sum" over the dimensions of a sample, as in the paper, or their "mean" (then
            clip gradients near 1, and not near the paper's 10,000).
        options: schedule, coupling, times and generator of `draw_interpolant`.

    Returns:
        A scalar.

    Raises:
        ValueError: NaN data, a coupling or velocity of another shape.
    """
    return _square_loss(velocity, x1, condition, reduction, "rate", options)


def denoiser_loss(
    denoiser: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    **options: Any,
) -> Tensor:
    """Eq. 7 of arXiv:2310.03725: batch mean of |g_t(I_t)|² - 2 z·g_t(I_t), g = E[z | I_t].

    Arguments, result and errors as for `velocity_loss`; for a schedule with latent noise.
    """
    if not options["schedule"].has_noise:
        raise ValueError(
            "the schedule has gamma = 0 and no z to learn, expected another gamma: use "
            "score_from_velocity, or a schedule with latent noise"
        )
    return _square_loss(denoiser, x1, condition, reduction, "z", options)


def _square_loss(
    field: Field, x1: Tensor, condition: Condition, reduction: str, target: str, options: dict
) -> Tensor:
    mean = as_choice(reduction, "reduction", ("sum", "mean")) == "mean"
    module = field if isinstance(field, nn.Module) else None
    draw = draw_interpolant(as_tensor(x1, "x1", like=module, finite=False), condition, **options)
    found = shaped_as(draw.x, field(draw.x, draw.t, draw.pair.condition), "network")
    # |b|² - 2 İ·b = b·(b - 2İ), in two passes.
    each = found * torch.sub(found, getattr(draw, target), alpha=2)
    return each.mean() if mean else each.sum() / len(each)
