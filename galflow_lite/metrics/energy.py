"""Energy distance between two samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, sample_pair

__all__ = ["energy_distance"]

# Pairs of rows held at once: a block stays in the cache of a processor.
_PAIRS = 2**17


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
    n, m = len(x), len(y)
    # About the common mean: |a|^2 + |b|^2 - 2 ab keeps its digits.
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    xx_rows, _, xx_squares = _distance_sums(x, x)
    yy_rows, _, yy_squares = _distance_sums(y, y)
    xy_rows, xy_columns, xy_squares = _distance_sums(x, y)

    a, b = xx_rows / (n - 1), yy_rows / (m - 1)
    c, d = xy_rows / m, xy_columns / n
    value = 2 * c.mean() - a.mean() - b.mean()

    # Variance over pairs that no row explains alone.
    xx = xx_squares / (n * (n - 1)) - a.mean().square() - 2 * a.var()
    yy = yy_squares / (m * (m - 1)) - b.mean().square() - 2 * b.var()
    xy = xy_squares / (n * m) - c.mean().square() - c.var() - d.var()
    xx, yy, xy = xx.clamp(min=0), yy.clamp(min=0), xy.clamp(min=0)
    second = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) + 4 * xy / (n * m)
    # Variance of the rows' own parts, less what the noise of their means adds.
    first = 4 * ((a - c).var() - xx / n - xy / m) / n + 4 * ((b - d).var() - yy / m - xy / n) / m
    return Estimate(float(value), float((first.clamp(min=0) + second).sqrt()), 0.0)


def _distance_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of |a - b| over rows and columns and of its square, a block of rows at a time."""
    norms = y.square().sum(1)
    rows, columns, squares = x.new_empty(len(x)), torch.zeros_like(norms), norms.new_zeros(())
    size = max(1, _PAIRS // len(y))
    for start in range(0, len(x), size):
        block = x[start : start + size]
        squared = torch.addmm(norms, block, y.T, alpha=-2).add_(block.square().sum(1)[:, None])
        squares += squared.clamp_(min=0).sum()
        distances = squared.sqrt_()
        rows[start : start + size] = distances.sum(1)
        columns += distances.sum(0)
    return rows, columns, squares
