"""Kernel Stein discrepancy: how far a sample is from a density known up to a constant."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_choice, as_number, as_tensor, as_whole
from .estimate import Estimate, sample_rows
from .mmd_and_energy import PAIRS


def ksd(x: Any, score: Any, *, statistic: str = "V") -> Estimate:
    r"""Kernel Stein discrepancy (KSD) of a sample with the inverse multiquadric kernel.

    With :math:`B = 1 + |x - y|^2`, kernel :math:`B^{-1/2}` and score s (Gorham and Mackey, 2017,
    arXiv:1703.01717)

    .. math::
        k_0(x, y) = s(x)^T s(y) B^{-1/2} - B^{-3/2} (s(y) - s(x))^T (x - y)
        + d B^{-3/2} - 3 B^{-5/2} |x - y|^2

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
            shape (n, d), or its values at `x`, shape (n, d). The floor takes E|s|^2 of a target
            that knows it, else the mean over `x`, which is right only when `x` follows the target.
        statistic: "V" or "U".

    Raises:
        ValueError: fewer than 4 rows, NaN or infinite values in points or scores, shapes that
            differ, a stochastic target, an unknown statistic.
    """
    as_choice(statistic, "statistic", ("V", "U"))
    x = sample_rows(x, "x", least=4)
    s = _scores(x, score)
    n, d = x.shape
    # At distance zero only the first and the third term are left.
    diagonal = s.square().sum(1) + d
    rows, squares = _stein_sums(x, s)

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
    known = _known_mean_square(score)
    floor = ksd_floor(float(s.square().sum(1).mean()) if known is None else known, d, n)
    # The root has no slope at zero, which only a sample with score zero throughout reaches.
    error = math.sqrt(max(float(variance), 0.0)) / (2 * value) if value else 0.0
    return Estimate(value, error, floor)


def ksd_floor(mean_square_score: float, dim: int, n: int) -> float:
    r"""Root of the expected squared V-statistic of n exact samples: :math:`\sqrt{(J + d)/n}`.

    Off the diagonal the expectation of the Stein kernel is zero.

    Args:
        mean_square_score: J = E|s|^2 under the target.
        dim: d.
        n: number of samples.
    """
    j = as_number(mean_square_score, "mean_square_score", least=0)
    return math.sqrt((j + as_whole(dim, "dim", least=1)) / as_whole(n, "n", least=1))


def _stein_sums(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
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
        base = distances + 1
        # (s(y) - s(x))^T (x - y) - d
        cross = torch.addmm(-dots, points, s.T).addmm_(scores, x.T).sub_(dots[part, None] + d)
        slope = cross.add_(distances.div_(base), alpha=3).neg_().div_(base)
        kernel = torch.addmm(slope, scores, s.T).mul_(base.pow_(-0.5))
        # The diagonal is known in closed form.
        at = torch.arange(len(points), device=x.device)
        kernel[at, at + start] = 0
        rows[part] = kernel.sum(1)
        squares += kernel.square_().sum()
    return rows, squares


def _scores(x: Tensor, score: Any) -> Tensor:
    """Scores at the points, shape (n, d)."""
    # `target.score` is the score of its target.
    owner = getattr(score, "__self__", score)
    if getattr(owner, "stochastic", False):
        raise ValueError(
            f"the score of {type(owner).__name__} is a fresh estimate on each call, expected the "
            "score itself, since products of estimates are biased: use the same target with all "
            "its data"
        )
    function = getattr(score, "score", score if callable(score) else None)
    values = score if function is None else function(x)
    return as_tensor(values, "the score", x.shape, like=x).detach()


def _known_mean_square(score: Any) -> float | None:
    try:
        return getattr(score, "mean_square_score", None)
    except NotImplementedError:
        return None
