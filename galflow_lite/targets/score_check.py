"""Check that a target's score is the gradient of its log density, by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .target import Target, as_target

# Step of the differences in units of x, and what the score may be off by, relative to its largest
# component (at least 1).
_STEP, _TOLERANCE = 1e-4, 1e-4


def check_score(target: Target, x: Any) -> None:
    """Compare score and log density of a target at points, in float64.

    Slopes of log f along random directions are compared with the score, and slopes of the score
    with the gradients that flow back through `differentiable_score`, which training needs. Each
    slope is a central difference with an error of order step^2, estimated from a second one with
    half the step; the score may differ by 1e-4, relative to its largest component, and by that
    error. Jumps that lie between the points show in differences of log f from one point to the
    next, which must be the integrals of the score along the way.

    Args:
        target: not a stochastic one.
        x: points where the target should be smooth, shape (n, dim).

    Raises:
        ValueError: the score is stochastic, has another shape, is NaN or infinite; the log density
            has another shape, is not finite at the points, is not differentiable or does not match
            the score; gradients through `differentiable_score` do not match it either.
    """
    name = type(as_target(target)).__name__
    if target.stochastic:
        raise ValueError(
            f"the score of {name} is a fresh estimate on each call, expected one that repeats: "
            "check the same target with all its data"
        )
    x = target._points(x).detach().double()
    with torch.no_grad():
        log_f = target.log_density(x)
    _refuse(~log_f.isfinite(), f"the log density of {name} is not finite")
    try:
        score = target._score(x)
    except RuntimeError as error:
        raise ValueError(
            f"the log density of {name} cannot be differentiated ({str(error).splitlines()[0]}), "
            "expected torch operations from x to the result: rewrite it"
        ) from error
    _refuse(~score.isfinite().all(1), f"the score of {name} is NaN or infinite")
    largest = score.abs().max().clamp(min=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        along = torch.randn(target.dim, dtype=torch.float64, generator=generator)
        along = (along / along.norm()).to(x)
        slope, error = _slope(target._log_density, x, along)
        rounding = 8e-14 * log_f.abs().clamp(min=1) / _STEP
        wrong = (slope - score @ along).abs() > _TOLERANCE * largest + error + rounding
        _refuse(wrong, f"score and log density of {name} do not match")

        slope, error = _slope(target._score, x, along)
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            carried = target._score(point, create_graph=True)
            second = torch.zeros_like(x)
            if carried.requires_grad:
                # The Jacobian of a gradient is symmetric, so this product is the slope along it.
                (second,) = torch.autograd.grad((carried @ along).sum(), point)
        rounding = 1e-13 * score.abs().clamp(min=1) / _STEP
        allowed = _TOLERANCE * slope.abs().max().clamp(min=1) + error + rounding
        wrong = ((second - slope).abs() > allowed) | (
            (carried - score).abs() > _TOLERANCE * largest
        )
        _refuse(wrong.any(1), f"gradients through differentiable_score of {name} are wrong")
    wrong = _jumps(target, x, log_f, float(_TOLERANCE * largest))
    _refuse(wrong, f"log density and integral of the score of {name} do not match on the way")


def _refuse(bad: Tensor, found: str) -> None:
    if bad.any():
        raise ValueError(
            f"{found} at {int(bad.sum())} of {len(bad)} points: mend the formula (0/0, a jump, an "
            "overflow, a detached tensor), or check it where it is smooth"
        )


@torch.no_grad()
def _slope(function: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Central difference of half the step, and the change from that of the whole step."""
    ahead, behind, near_ahead, near_behind = (
        function(x + part * _STEP * along) for part in (1, -1, 0.5, -0.5)
    )
    narrow = (near_ahead - near_behind) / _STEP
    return narrow, ((ahead - behind) / (2 * _STEP) - narrow).abs()


@torch.no_grad()
def _jumps(target: Target, x: Tensor, log_f: Tensor, tolerance: float) -> Tensor:
    """Whether log f jumps somewhere between a row and the next, shape (n - 1,)."""
    x, ahead = x[:-1], x.diff(dim=0)
    error = (log_f.diff() - _integral(target, x, ahead)).abs()
    wrong = error > tolerance * ahead.norm(dim=1).clamp(min=1)
    x, ahead, error = x[wrong], ahead[wrong], error[wrong]
    # The score may just vary too fast for the rule. Halving the way, always towards the larger
    # error, tells: that of a rule vanishes, a jump stays.
    for _ in range(24):
        ahead = ahead / 2
        starts = torch.stack((x, x + ahead))
        rise = target._log_density((starts + ahead).flatten(0, 1))
        rise = (rise - target._log_density(starts.flatten(0, 1))).view(2, -1)
        error, side = (rise - _integral(target, starts, ahead)).abs().max(0)
        x = x + side[:, None] * ahead
    wrong[wrong.clone()] = error > tolerance
    return wrong


def _integral(target: Target, x: Tensor, ahead: Tensor) -> Tensor:
    """Integral of the score from x to x + ahead by 32 Gauss-Legendre nodes."""
    node, weight = (torch.from_numpy(part).to(x) for part in np.polynomial.legendre.leggauss(32))
    points = x[..., None, :] + (1 + node)[:, None] / 2 * ahead[..., None, :]
    score = target._score(points.reshape(-1, target.dim)).view_as(points)
    return ((score * ahead[..., None, :]).sum(-1) * weight / 2).sum(-1)
