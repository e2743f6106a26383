"""Checks of times and of functions of time: 0 ≤ t ≤ 1, α_0 = β_1 = 1, α_1 = β_0 = γ_0 = γ_1 = 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .gammas import TimeFunction

__all__ = ["check_boundaries", "check_derivatives", "time_of"]

_TOLERANCE = 1e-6
_STEP = 1e-5
_SLOPE_TOLERANCE = 1e-5


def check_boundaries(curves: Mapping[str, TimeFunction]) -> None:
    """Check the values of alpha, beta and gamma at both ends, and α² + β² + γ² > 0 between.

    Raises:
        ValueError: the first condition that does not hold.
    """
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = {"alpha": (1.0, 0.0), "beta": (0.0, 1.0), "gamma": (0.0, 0.0)}
    for name, curve in curves.items():
        for t, value, target in zip((0, 1), curve(ends).tolist(), expected[name], strict=True):
            if not abs(value - target) <= _TOLERANCE:
                raise ValueError(
                    f"found {name} = {value:.6g} at t = {t}, expected {target:g} (t = 0 is the "
                    f"base, t = 1 the data): correct {name}"
                )
    inner = torch.linspace(0, 1, 1001, dtype=torch.float64)
    size = sum(curve(inner).square() for curve in curves.values())
    if not bool((size > 0).all()):
        t = float(inner[~(size > 0)][0])
        raise ValueError(
            f"found alpha = beta = gamma = 0 (or NaN) at t = {t:.3g}, expected a positive sum of "
            "squares: correct the schedule"
        )


def check_derivatives(curves: Mapping[str, tuple[TimeFunction, TimeFunction]]) -> None:
    """Compare derivatives with central differences at times from 0.02 to 0.98.

    Raises:
        ValueError: the first derivative that differs by more than 1e-5 of its largest value (of 1
            if that is smaller).
    """
    # An even number of nodes: none on t = 1/2, where some schedules have a kink.
    t = torch.linspace(0.02, 0.98, 98, dtype=torch.float64)
    for name, (curve, rate) in curves.items():
        found, difference = rate(t), (curve(t + _STEP) - curve(t - _STEP)) / (2 * _STEP)
        error = (found - difference).abs() / max(1.0, float(difference.abs().max()))
        if not float(error.max()) <= _SLOPE_TOLERANCE:
            worst = int(error.nan_to_num(nan=math.inf).argmax())
            raise ValueError(
                f"found a derivative of {name} of {float(found[worst]):.6g} at "
                f"t = {float(t[worst]):.3g}, expected {float(difference[worst]):.6g} by finite "
                "differences: correct it"
            )


def time_of(t: Tensor | float, x: Tensor) -> Tensor:
    """Times as a checked tensor of shape (batch,), with the dtype and device of `x`.

    Raises:
        ValueError: times outside [0, 1], NaN, or of another shape.
    """
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if times.ndim == 0:
        times = times.expand(len(x))
    if times.shape != x.shape[:1]:
        raise ValueError(
            f"found times of shape {tuple(times.shape)}, expected ({len(x)},) or one number: "
            "pass one time for each sample"
        )
    low, high = (float(end) for end in times.aminmax()) if times.numel() else (0.0, 1.0)
    # NaN fails both comparisons.
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"found times from {low:.6g} to {high:.6g}, expected times in [0, 1]: rescale them"
        )
    return times
