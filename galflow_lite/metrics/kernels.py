"""Maximum mean discrepancy (MMD) with the linear and the Gaussian kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, sample_pair, subsample
from .pairs import within_less_across

__all__ = ["gaussian_mmd", "linear_mmd"]


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
    std = torch.as_tensor(std).to(x)
    if std.shape != x.shape[1:] or not bool((std > 0).all() and std.isfinite().all()):
        raise ValueError(
            f"std is {std.tolist()}, expected {x.shape[1]} positive numbers: drop constant columns"
        )
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
    generator = torch.Generator().manual_seed(seed)
    x, y = subsample(x, max_samples, generator), subsample(y, max_samples, generator)
    if bandwidth == "median":
        pool = torch.cat([subsample(x, 1000, generator), subsample(y, 1000, generator)])
        bandwidth = float(torch.pdist(pool).median())
    if isinstance(bandwidth, str) or not bandwidth > 0:
        raise ValueError(
            f"bandwidth is {bandwidth!r}, expected a positive number or 'median' of rows that are "
            "not all equal: pass a number"
        )
    scale = -0.5 / bandwidth**2
    value, error = within_less_across(x, y, lambda d: d.mul_(scale).exp_(), diagonal=1.0)
    return Estimate(value, error, 0.0)
