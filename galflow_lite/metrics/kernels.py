"""Distances by pairs of points: of means, energy distance, kernel Stein."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_tensor, as_whole
from .divergences import Estimate, moments, sample_pair, sample_rows

PAIRS = 2**17
"""Pairs of rows held at once: a block stays in the cache of a processor."""


def linear_mmd(x: Any, y: Any, *, std: Any = None) -> Estimate:
    r"""The MMD in the public code of arXiv:2312.06017: biased, squared, with a linear kernel.

    .. math:: \sum_j (\bar x_j - \bar y_j)^2 / s_j^2

    which is the squared distance of the means of standardised columns. It is blind to everything
    but the means: spread, shape, correlation, number of modes.

    The standard error is that of a quadratic form of normal means (delta method with its second
    order, which is all that is left when the means agree).

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        std: s, shape (d,); the paper takes that of all training stars. By default the root mean
            square of the standard deviations of both samples.

    Raises:
        ValueError: shapes differ, fewer than 2 rows, NaN, or a column without spread.
    """
    x, y = sample_pair(x, y, least=2)
    if std is None:
        std = ((x.var(0) + y.var(0)) / 2).sqrt()
    std = as_tensor(std, "std", x.shape[1:], like=x)
    if not bool((std > 0).all()):
        raise ValueError(f"std is {std.tolist()}, expected positive numbers: drop constant columns")
    # Centred before the division: the mean of a large offset would cost digits.
    centre = x.mean(0)
    x, y = (x - centre) / std, (y - centre) / std
    (own, own_covariance), (other, other_covariance) = moments(x), moments(y)
    difference = own - other
    covariance = own_covariance / len(x) + other_covariance / len(y)
    first = 4 * difference @ covariance @ difference
    second = 2 * covariance.square().sum()
    # The difference is itself noisy, which raises the expectation of `first` by 2 * second.
    variance = torch.maximum(first - second, second)
    value, chance = difference @ difference, covariance.trace()
    return Estimate(float(value), float(variance.sqrt()), float(chance))


def energy_distance(x: Any, y: Any) -> Estimate:
    r"""Unbiased energy distance :math:`2 E|x - y| - E|x - x'| - E|y - y'|`.

    Zero only when both distributions agree (Székely and Rizzo 2013), in the units of the columns;
    no kernel and no bandwidth to choose. It sees the weights of separated modes, which a kernel
    Stein discrepancy hardly does. As a U-statistic it can be negative. The standard error holds
    both orders of the Hoeffding decomposition: it covers when the distributions differ and when
    they agree, and in the latter case scatters to the safe side. Computed in float64.

    Memory grows linearly with the number of rows. So does time for one column, but for a sort; for
    more it grows with the square: seconds for 20,000 rows, minutes for 200,000. Beyond that take
    rows at random, ``x[torch.randperm(len(x))[:20_000]]``: the standard error says what that costs.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN or infinite values.
    """
    x, y = sample_pair(x, y, least=4)
    sums = _line_sums if x.shape[1] == 1 else partial(_pair_sums, kernel=Tensor.sqrt_)
    # The distance enters as a kernel with the other sign.
    value, error = _within_less_across(x, y, sums)
    return Estimate(-value, error, 0.0)


def _within_less_across(
    x: Tensor, y: Tensor, sums: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> tuple[float, float]:
    """Unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y), and its standard error.

    The error holds both orders of the Hoeffding decomposition (Gretton et al. 2012, JMLR 13:723;
    compare arXiv:1906.02104): it covers when the distributions differ and when they agree.

    Args:
        x: first sample, shape (n, d), n at least 2.
        y: second sample, shape (m, d), m at least 2.
        sums: of k over pairs, as `_pair_sums` has them; k is 0 at the distance 0.
    """
    n, m = len(x), len(y)
    # About the common mean: |a|^2 + |b|^2 - 2 ab keeps its digits.
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    xx_rows, _, xx_squares = sums(x, x)
    yy_rows, _, yy_squares = sums(y, y)
    xy_rows, xy_columns, xy_squares = sums(x, y)

    # Means over pairs of different rows.
    a, b = xx_rows / (n - 1), yy_rows / (m - 1)
    c, d = xy_rows / m, xy_columns / n
    value = a.mean() + b.mean() - 2 * c.mean()

    # Variance over pairs that no row explains alone.
    xx = xx_squares / (n * (n - 1)) - a.mean().square() - 2 * a.var()
    yy = yy_squares / (m * (m - 1)) - b.mean().square() - 2 * b.var()
    xy = xy_squares / (n * m) - c.mean().square() - c.var() - d.var()
    xx, yy, xy = xx.clamp(min=0), yy.clamp(min=0), xy.clamp(min=0)
    second = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) + 4 * xy / (n * m)
    # Variance of the rows' own parts, less what the noise of their means adds.
    first = 4 * ((a - c).var() - xx / n - xy / m) / n + 4 * ((b - d).var() - yy / m - xy / n) / m
    return float(value), float((first.clamp(min=0) + second).sqrt())


def _pair_sums(
    x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of a kernel over all pairs, a block of rows at a time.

    Args:
        x: shape (n, d), near the origin: distances lose the digits of a common offset.
        y: shape (m, d), likewise.
        kernel: of squared distances, which it may overwrite.

    Returns:
        Sums over the rows of y, shape (n,), over those of x, shape (m,), and of squares, shape ().
    """
    norms = y.square().sum(1)
    rows, columns, squares = x.new_empty(len(x)), torch.zeros_like(norms), norms.new_zeros(())
    size = max(1, PAIRS // len(y))
    for start in range(0, len(x), size):
        block = x[start : start + size]
        squared = torch.addmm(norms, block, y.T, alpha=-2).add_(block.square().sum(1)[:, None])
        values = kernel(squared.clamp_(min=0))
        rows[start : start + size] = values.sum(1)
        columns += values.sum(0)
        squares += values.square_().sum()
    return rows, columns, squares


def _line_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_pair_sums` gives for the distance of points with one column, by sorting them."""

    def rows(x: Tensor, y: Tensor) -> Tensor:
        y = y.sort().values
        below, sums = torch.searchsorted(y, x), torch.cat([y.new_zeros(1), y.cumsum(0)])
        # The distance is x - y to the points below x, and y - x to the others.
        return x * (2 * below - len(y)) + sums[-1] - 2 * sums[below]

    x, y = x.flatten(), y.flatten()
    squares = len(y) * x.square().sum() + len(x) * y.square().sum() - 2 * x.sum() * y.sum()
    return rows(x, y), rows(y, x), squares


def ksd(x: Any, score: Any) -> Estimate:
    r"""Kernel Stein discrepancy (KSD) of a sample with the inverse multiquadric kernel.

    With :math:`B = 1 + |x - y|^2`, kernel :math:`B^{-1/2}` and score s (Gorham and Mackey, 2017,
    arXiv:1703.01717)

    .. math::
        k_0(x, y) = s(x)^T s(y) B^{-1/2} - B^{-3/2} (s(y) - s(x))^T (x - y)
        + d B^{-3/2} - 3 B^{-5/2} |x - y|^2

    The value is :math:`\sqrt{\sum_{ij} k_0} / n`, which papers report (the V-statistic). It never
    falls to zero: exact samples score about `ksd_floor`, which is the ``null`` of the result, so
    compare values at one n only, and with their floor.

    A KSD hardly sees the weights of separated modes: a sample that misses a mode can score as
    exact ones do. A sample narrower than the target has a smaller score, and so its own floor is
    lower. Give a distance to exact samples and mode weights beside it.

    The standard error holds both orders of the Hoeffding decomposition; for exact samples it is
    on the safe side, by about a quarter. Computed in float64; memory grows linearly with
    n, time with its square: seconds for 20,000 rows. Of more take some at random; the floor and the
    standard error are those of the rows taken.

    Args:
        x: the sample, shape (n, d).
        score: gradient of the log-density: a target, not a stochastic one, a function of points of
            shape (n, d), or its values at `x`, shape (n, d). The floor takes E|s|^2 of a target
            that knows it, else the mean over `x`, which is right only when `x` follows the target.

    Raises:
        ValueError: fewer than 4 rows, NaN or infinite values in points or scores, shapes that
            differ, a stochastic target.
    """
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
