"""Check that a target's score is the gradient of its log density, by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Target

__all__ = ["check_score"]

_HALVINGS = 24


def check_score(
    target: Target,
    x: Any,
    *,
    step: float = 1e-4,
    tolerance: float = 1e-4,
    directions: int = 8,
) -> None:
    """Compare score and log density of a target at points, in float64.

    Slopes of log f along random directions are compared with the score, and slopes of the score
    with the gradients that flow back through `differentiable_score`, which training needs. Each
    slope is a central difference with an error of order step^2, estimated from a second one with
    half the step; the score may differ by `tolerance`, relative to its largest component, and by
    that error. Jumps that lie between the points show in differences of log f from one point to the
    next, which must be the integrals of the score along the way.

    Args:
        target: not a stochastic one.
        x: points where the target should be smooth, shape (n, dim).
        step: of the differences, in units of x.
        tolerance: relative to the largest component of the score at all points (at least 1).
        directions: random unit vectors per check; fixed, so that the check is repeatable.

    Raises:
        ValueError: the score is stochastic, has another shape, is NaN or infinite; the log density
            has another shape, is not finite at the points, is not differentiable or does not match
            the score; gradients through `differentiable_score` do not match it either.
    """
    name = type(target).__name__
    if target.stochastic:
        raise ValueError(
            f"the score of {name} is a fresh estimate on each call, expected one that repeats: "
            "check the same target with all its data"
        )
    x = target._finite_points(x).detach().double()
    log_f, score = _values(target, x, name)
    scale = max(1.0, float(score.abs().max()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(directions):
        along = torch.randn(target.dim, dtype=torch.float64, generator=generator)
        along = (along / along.norm()).to(x.device)
        _compare_slopes(target, x, log_f, score, along, step, tolerance * scale, name)
        _compare_second_slopes(target, x, score, along, step, tolerance, name)
    if len(x) > 1:
        _compare_differences(target, x, log_f, tolerance * scale, name)


def _values(target: Target, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Log density and score at the points, of the right shapes and finite."""
    with torch.no_grad():
        log_f = target.log_density(x)
    target._require_one_a_point(log_f, x)
    bad = int((~log_f.isfinite()).sum())
    if bad:
        raise ValueError(
            f"the log density of {name} is not finite at {bad} of {len(x)} points, expected finite "
            "values: check it at points inside its support, or mend its formula"
        )
    score = target.score(x)
    target._require_like_points(score, x)
    bad = int((~score.isfinite()).any(1).sum())
    if bad:
        raise ValueError(
            f"the score of {name} is NaN or infinite at {bad} of {len(x)} points, expected finite "
            "values: look for 0/0, the square root at 0 or an overflow in its formula"
        )
    return log_f, score


def _compare_slopes(
    target: Target,
    x: Tensor,
    log_f: Tensor,
    score: Tensor,
    along: Tensor,
    step: float,
    allowed: float,
    name: str,
) -> None:
    with torch.no_grad():
        ahead, behind, near_ahead, near_behind = (
            target.log_density(x + part * step * along) for part in (1, -1, 0.5, -0.5)
        )
    wide = (ahead - behind) / (2 * step)
    narrow = (near_ahead - near_behind) / step
    rounding = 1e-14 * log_f.abs().clamp(min=1) / step
    # One-sided slopes differ by step * curvature where the density is smooth, so half of it at
    # half the step; at a kink the difference stays, at a jump it doubles.
    gap = (ahead + behind - 2 * log_f).abs() / step
    near_gap = (near_ahead + near_behind - 2 * log_f).abs() / (step / 2)
    kink = (near_gap > 0.75 * gap + 8 * rounding) & (near_gap > allowed)
    if kink.any():
        raise ValueError(
            f"the log density of {name} is not differentiable at {int(kink.sum())} of {len(x)} "
            f"points (its slopes to both sides differ by {float(near_gap[kink].max()):.3g}), "
            "expected a smooth function: smooth it, or check it at other points"
        )
    error = (narrow - score @ along).abs()
    wrong = error > allowed + (wide - narrow).abs() + 8 * rounding
    if wrong.any():
        raise ValueError(
            f"score and log density of {name} do not match at {int(wrong.sum())} of {len(x)} "
            f"points (slopes differ by up to {float(error[wrong].max()):.3g}), expected the score "
            "to be the gradient of the log density: mend one of them"
        )


def _compare_second_slopes(
    target: Target,
    x: Tensor,
    score: Tensor,
    along: Tensor,
    step: float,
    tolerance: float,
    name: str,
) -> None:
    ahead, behind, near_ahead, near_behind = (
        target.score(x + part * step * along) for part in (1, -1, 0.5, -0.5)
    )
    wide, narrow = (ahead - behind) / (2 * step), (near_ahead - near_behind) / step
    with torch.enable_grad():
        point = x.clone().requires_grad_()
        carried = target.differentiable_score(point)
        difference = float((carried.detach() - score).abs().max())
        slope = torch.zeros_like(x)
        if carried.requires_grad:
            # The Jacobian of a gradient is symmetric, so this product is the slope along it.
            (slope,) = torch.autograd.grad((carried @ along).sum(), point)
    scale = max(1.0, float(narrow.abs().max()))
    error = (slope - narrow).abs()
    allowed = tolerance * scale + (wide - narrow).abs()
    allowed = allowed + 1e-13 * score.abs().clamp(min=1) / step
    wrong = (error > allowed).any(1)
    if difference > tolerance * max(1.0, float(score.abs().max())) or wrong.any():
        raise ValueError(
            f"gradients through differentiable_score of {name} are wrong at "
            f"{max(1, int(wrong.sum()))} of {len(x)} points, expected the derivative of its score: "
            "compute the score from x with torch operations that are not detached"
        )


def _compare_differences(
    target: Target, x: Tensor, log_f: Tensor, tolerance: float, name: str
) -> None:
    """Differences of log f between neighbouring rows against integrals of the score."""
    x, ahead = x[:-1], x.diff(dim=0)
    error = (log_f.diff() - _integral(target, x, ahead)).abs()
    wrong = error > tolerance * ahead.norm(dim=1).clamp(min=1)
    x, ahead = x[wrong], ahead[wrong]
    # The score may just vary too fast for the rule. Halving the way, always towards the larger
    # error, tells: that of a rule vanishes, a jump stays.
    for _ in range(_HALVINGS):
        ahead = ahead / 2
        first, second = (_mismatch(target, start, ahead) for start in (x, x + ahead))
        x = torch.where((second > first)[:, None], x + ahead, x)
    jumps = torch.maximum(first, second)
    if (jumps > tolerance).any():
        raise ValueError(
            f"score and log density of {name} do not match over {int((jumps > tolerance).sum())} "
            f"of {len(error)} distances between points (log f jumps by up to "
            f"{float(jumps.max()):.3g}), expected a continuous log density and its gradient: look "
            "for jumps in its formula"
        )


def _mismatch(target: Target, x: Tensor, ahead: Tensor) -> Tensor:
    with torch.no_grad():
        difference = target.log_density(x + ahead) - target.log_density(x)
    return (difference - _integral(target, x, ahead)).abs()


def _integral(target: Target, x: Tensor, ahead: Tensor, nodes: int = 32) -> Tensor:
    """Integral of the score from x to x + ahead by Gauss-Legendre nodes, shape (n,)."""
    node, weight = (torch.from_numpy(part).to(x) for part in np.polynomial.legendre.leggauss(nodes))
    points = x + (1 + node)[:, None, None] / 2 * ahead
    score = target.score(points.flatten(0, 1)).view_as(points)
    return ((score * ahead).sum(2) * weight[:, None] / 2).sum(0)
