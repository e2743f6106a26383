"""A kernel summed over all pairs of rows, and the two-sample statistic made of such sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["PAIRS", "pair_sums", "within_less_across"]

PAIRS = 2**17
"""Pairs of rows held at once: a block stays in the cache of a processor."""


def within_less_across(
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
    xx_rows, _, xx_squares = pair_sums(x, x, kernel)
    yy_rows, _, yy_squares = pair_sums(y, y, kernel)
    xy_rows, xy_columns, xy_squares = pair_sums(x, y, kernel)

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


def pair_sums(
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
