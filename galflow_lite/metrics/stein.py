"""Kernel Stein discrepancy: how far a sample is from a density known up to a constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, require_finite_rows
from .pairs import PAIRS

__all__ = ["ksd", "ksd_floor"]


def ksd(
    x: Any,
    score: Any,
    *,
    statistic: str = "V",
    c: float = 1.0,
    beta: float = -0.5,
    mean_square_score: float | None = None,
) -> Estimate:
    r"""Kernel Stein discrepancy (KSD) of a sample with the inverse multiquadric kernel.

    With :math:`B = c^2 + |x - y|^2`, kernel :math:`B^\beta` and score s (Gorham and Mackey, 2017,
    arXiv:1703.01717)

    .. math::
        k_0(x, y) = s(x)^T s(y) B^\beta + 2\beta B^{\beta-1} (s(y) - s(x))^T (x - y)
        - 2 d \beta B^{\beta-1} - 4 \beta (\beta - 1) B^{\beta-2} |x - y|^2

    - ``"V"``: :math:`\sqrt{\sum_{ij} k_0} / n`, the value that papers report. It never falls to
      zero: exact samples score about `ksd_floor`, which is the ``null`` of the result, so compare
      values at one n only, and with their floor.
    - ``"U"``: :math:`\sum_{i \ne j} k_0 / (n (n - 1))`, an unbiased estimate of the *squared*
      KSD, which can be negative; its ``null`` is 0.

    A KSD hardly sees the weights of separated modes: a sample that misses a mode can score as
    exact ones do. A sample narrower than the target has a smaller score, and so its own floor is
    lower. Give a distance to exact samples and mode weights beside it.

    The standard error holds both orders of the Hoeffding decomposition; for exact samples it is
    on the safe side (for "V" by about a quarter). Computed in float64; memory grows linearly with
    n, time with its square.

    Args:
        x: the sample, shape (n, d).
        score: gradient of the log-density: a target, not a stochastic one, a function of points of
            shape (n, d), or its values at `x`, shape (n, d).
        statistic: "V" or "U".
        c: offset of the kernel, in the units of the columns.
        beta: exponent of the kernel, between -1 and 0.
        mean_square_score: J = E|s|^2 under the target, for the null of "V". By default that of
            the target where it knows it, else the mean over `x`, which is right only when `x`
            follows the target.

    Raises:
        ValueError: fewer than 4 rows, NaN or infinite values in points or scores, shapes that
            differ, a stochastic target, an unknown statistic, `c` not positive, `beta` outside
            (-1, 0).
    """
    if statistic not in ("V", "U"):
        raise ValueError(f"statistic is {statistic!r}, expected 'V' or 'U': choose one")
    _require_kernel(c, beta)
    x, s = _points_and_scores(x, score)
    n, d = x.shape
    # At distance zero only the first and the third term are left.
    diagonal = c ** (2 * beta) * s.square().sum(1) - 2 * d * beta * c ** (2 * beta - 2)
    rows, squares = _stein_sums(x, s, c, beta)

    means = rows / (n - 1)
    u = float(means.mean())
    # Variance over pairs that no row explains alone, then that of the row means without its noise.
    second = (squares / (n * (n - 1)) - u**2 - 2 * means.var()).clamp(min=0)
    first = (means.var() - second / n).clamp(min=0)
    variance = 4 * first / n + 2 * second / (n * (n - 1))
    if statistic == "U":
        return Estimate(u, math.sqrt(variance), 0.0)

    squared = (n - 1) / n * u + float(diagonal.mean()) / n
    covariance = ((means - u) * (diagonal - diagonal.mean())).sum() / (n - 1)
    variance = variance + diagonal.var() / n**3 + 4 * covariance / n**2
    value = math.sqrt(max(squared, 0.0))
    if mean_square_score is None:
        mean_square_score = _known_mean_square(score)
    if mean_square_score is None:
        mean_square_score = float(s.square().sum(1).mean())
    # The root has no slope at zero, which only a sample with score zero throughout reaches.
    error = math.sqrt(max(float(variance), 0.0)) / (2 * value) if value else 0.0
    return Estimate(value, error, ksd_floor(mean_square_score, d, n, c=c, beta=beta))


def ksd_floor(
    mean_square_score: float, dim: int, n: int, *, c: float = 1.0, beta: float = -0.5
) -> float:
    r"""Root of the expected squared V-statistic of n exact samples.

    :math:`\sqrt{(c^{2\beta} J - 2 d \beta c^{2\beta-2}) / n}`, which is :math:`\sqrt{(J + d)/n}`
    for the default kernel: off the diagonal the expectation of the Stein kernel is zero.

    Args:
        mean_square_score: J = E|s|^2 under the target.
        dim: d.
        n: number of samples.
        c: offset of the kernel.
        beta: exponent of the kernel.

    Raises:
        ValueError: J negative or not finite, `dim` or `n` below 1, `c` not positive, `beta`
            outside (-1, 0).
    """
    _require_kernel(c, beta)
    if not (math.isfinite(mean_square_score) and mean_square_score >= 0):
        raise ValueError(
            f"mean_square_score is {mean_square_score}, expected a finite number of at least 0: "
            "pass E|s|^2 of the target"
        )
    if dim < 1 or n < 1:
        raise ValueError(f"found dim {dim} and n {n}, expected both at least 1: pass the sizes")
    diagonal = c ** (2 * beta) * mean_square_score - 2 * dim * beta * c ** (2 * beta - 2)
    return math.sqrt(diagonal / n)


def _stein_sums(x: Tensor, s: Tensor, c: float, beta: float) -> tuple[Tensor, Tensor]:
    """Sums over the other rows of the Stein kernel, shape (n,), and the sum of its squares."""
    n, d = x.shape
    # About their mean, so that |x|^2 + |y|^2 - 2 xy keeps its digits.
    x = x - x.mean(0)
    norms, dots = x.square().sum(1), (s * x).sum(1)
    rows, squares = x.new_empty(n), x.new_zeros(())
    size = max(1, PAIRS // n)
    for start in range(0, n, size):
        part = slice(start, start + size)
        points, scores = x[part], s[part]
        distances = torch.addmm(norms, points, x.T, alpha=-2).add_(norms[part, None]).clamp_(min=0)
        base = distances + c**2
        # (s(y) - s(x))^T (x - y) - d
        cross = torch.addmm(-dots, points, s.T).addmm_(scores, x.T).sub_(dots[part, None] + d)
        slope = cross.sub_(distances.div_(base), alpha=2 * (beta - 1)).mul_(2 * beta).div_(base)
        kernel = torch.addmm(slope, scores, s.T).mul_(base.pow_(beta))
        # The diagonal is known in closed form.
        at = torch.arange(len(points), device=x.device)
        kernel[at, at + start] = 0
        rows[part] = kernel.sum(1)
        squares += kernel.square_().sum()
    return rows, squares


def _points_and_scores(x: Any, score: Any) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(x).detach().double()
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (rows, columns): reshape it")
    if len(x) < 4:
        raise ValueError(f"x has {len(x)} rows, expected at least 4: use a larger sample")
    require_finite_rows("x", x)
    # `target.score` is the score of its target.
    owner = getattr(score, "__self__", score)
    if getattr(owner, "stochastic", False):
        raise ValueError(
            f"the score of {type(owner).__name__} is a fresh estimate on each call, expected the "
            "score itself, since products of estimates are biased: use the same target with all "
            "its data"
        )
    function: Callable | None = getattr(score, "score", score if callable(score) else None)
    s = torch.as_tensor(score if function is None else function(x)).detach().to(x)
    if s.shape != x.shape:
        raise ValueError(
            f"the scores have shape {tuple(s.shape)}, expected that of x, {tuple(x.shape)}: give "
            "one gradient a row"
        )
    require_finite_rows("the score", s)
    return x, s


def _require_kernel(c: float, beta: float) -> None:
    if not c > 0:
        raise ValueError(f"c is {c}, expected a number above 0: use 1")
    if not -1 < beta < 0:
        raise ValueError(f"beta is {beta}, expected -1 < beta < 0: use -0.5")


def _known_mean_square(score: Any) -> float | None:
    try:
        return getattr(score, "mean_square_score", None)
    except NotImplementedError:
        return None
