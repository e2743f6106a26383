"""Two samples compared over pairs of rows: maximum mean discrepancy (MMD) and energy distance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_tensor, as_whole
from .estimate import Estimate, sample_pair, subsample

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
    difference = x.mean(0) - y.mean(0)
    covariance = _covariance(x) / len(x) + _covariance(y) / len(y)
    first = 4 * difference @ covariance @ difference
    second = 2 * covariance.square().sum()
    # The difference is itself noisy, which raises the expectation of `first` by 2 * second.
    variance = torch.maximum(first - second, second)
    return Estimate(
        float(difference @ difference), float(variance.sqrt()), float(covariance.trace())
    )


def _covariance(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x.T @ x / (len(x) - 1)


def gaussian_mmd(
    x: Any,
    y: Any,
    *,
    bandwidth: float | str = "median",
    max_samples: int | None = 5000,
    seed: int = 0,
) -> Estimate:
    r"""Unbiased squared MMD with the kernel exp(-|a - b|^2 / (2 h^2)).

    The U-statistic of Gretton et al. (2012, JMLR 13:723, eq. 3), for samples of any two sizes;
    it can be negative. The standard error contains both orders of the Hoeffding decomposition, so
    that it holds when the distributions differ and when they agree (compare arXiv:1906.02104).
    Columns should have comparable scales: standardise them first. Memory grows linearly with
    the number of rows, time with its square.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        bandwidth: h, in the units of the columns; "median" is the median distance between rows
            of both samples together (from at most 1000 rows of each).
        max_samples: larger samples are thinned at random to so many rows; `None` keeps all.
        seed: of the thinning.

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN, or a bandwidth that is not positive.
    """
    x, y = sample_pair(x, y, least=4)
    generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
    x, y = subsample(x, max_samples, generator), subsample(y, max_samples, generator)
    if bandwidth == "median":
        pool = torch.cat([subsample(x, 1000, generator), subsample(y, 1000, generator)])
        bandwidth = torch.pdist(pool).median()
    scale = -0.5 / as_number(bandwidth, "bandwidth", above=0) ** 2
    value, error = _within_less_across(x, y, lambda d: d.mul_(scale).exp_(), diagonal=1.0)
    return Estimate(value, error, 0.0)


def energy_distance(x: Any, y: Any) -> Estimate:
    r"""Unbiased energy distance :math:`2 E|x - y| - E|x - x'| - E|y - y'|`.

    Zero only when both distributions agree (Székely and Rizzo 2013), in the units of the columns;
    no kernel and no bandwidth to choose. It sees the weights of separated modes, which a kernel
    Stein discrepancy hardly does. As a U-statistic it can be negative. The standard error holds
    both orders of the Hoeffding decomposition: it covers when the distributions differ and when
    they agree, and in the latter case scatters to the safe side. Computed in float64; memory grows
    linearly with the number of rows, time with its square.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN or infinite values.
    """
    x, y = sample_pair(x, y, least=4)
    # The distance enters as a kernel with the other sign.
    value, error = _within_less_across(x, y, Tensor.sqrt_, diagonal=0.0)
    return Estimate(-value, error, 0.0)


def _within_less_across(
    x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor], *, diagonal: float
) -> tuple[float, float]:
    """Unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y), and its standard error.

    The error holds both orders of the Hoeffding decomposition (Gretton et al. 2012, JMLR 13:723;
    compare arXiv:1906.02104): it covers when the distributions differ and when they agree.

    Args:
        x: first sample, shape (n, d), n at least 2.
        y: second sample, shape (m, d), m at least 2.
        kernel: k of squared distances, which it may overwrite.
        diagonal: k of the distance 0.
    """
    n, m = len(x), len(y)
    # About the common mean: |a|^2 + |b|^2 - 2 ab keeps its digits.
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    xx_rows, _, xx_squares = _pair_sums(x, x, kernel)
    yy_rows, _, yy_squares = _pair_sums(y, y, kernel)
    xy_rows, xy_columns, xy_squares = _pair_sums(x, y, kernel)

    # Means over pairs of different rows.
    a, b = (xx_rows - diagonal) / (n - 1), (yy_rows - diagonal) / (m - 1)
    c, d = xy_rows / m, xy_columns / n
    value = a.mean() + b.mean() - 2 * c.mean()

    # Variance over pairs that no row explains alone.
    xx = (xx_squares - n * diagonal**2) / (n * (n - 1)) - a.mean().square() - 2 * a.var()
    yy = (yy_squares - m * diagonal**2) / (m * (m - 1)) - b.mean().square() - 2 * b.var()
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
