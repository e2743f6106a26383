"""Sliced Wasserstein distance: transport in one dimension, along random directions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_whole
from .estimate import Estimate, sample_pair, subsample


def sliced_wasserstein(
    x: Any,
    y: Any,
    *,
    n_projections: int = 100,
    p: float = 2,
    n_permutations: int = 30,
    max_samples: int | None = 20_000,
    seed: int = 0,
) -> Estimate:
    r"""Sliced Wasserstein distance of order p, in the units of the columns.

    The p-th root of the mean of :math:`W_p^p` over directions (Bonneel et al. 2015). The
    directions are random orthogonal bases, so that a shift by a vector v gives exactly
    :math:`|v|/\sqrt{d}` for p = 2. Columns should have comparable scales.

    A finite sample never gives 0: the null is the mean over random relabellings of the pooled
    sample. The standard error joins the linear term (from the transport potentials), the spread
    over the relabellings, and the spread over bases.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        n_projections: directions, rounded up to whole bases; at least two bases.
        p: order, at least 1.
        n_permutations: relabellings, at least two.
        max_samples: larger samples are thinned at random to so many rows; `None` keeps all.
        seed: of the directions, the relabellings and the thinning.

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN, p below 1.
    """
    x, y = sample_pair(x, y, least=4)
    p = as_number(p, "p", least=1)
    generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
    x, y = subsample(x, max_samples, generator), subsample(y, max_samples, generator)
    features = x.shape[1]
    n_bases = max(2, math.ceil(n_projections / features))
    labels = _relabellings(len(x), len(y), n_permutations, generator)
    parts = []
    for _ in range(n_bases):
        normal = torch.randn(features, features, dtype=x.dtype, generator=generator)
        basis = torch.linalg.qr(normal).Q.to(x.device)
        parts.append(_line_distances(x @ basis, y @ basis, p, labels))
    value, chance, *potentials = (torch.stack(part) for part in zip(*parts, strict=True))
    chance = chance.mean(0)
    linear = sum(rows.mean(0).var() / rows.shape[1] for rows in potentials)
    # Like a quadratic form, W_2^2 has a slope that is itself noisy and counts the chance part once
    # more; W_1 is of first degree and its slope is not.
    by_chance = chance.var()
    variance = torch.maximum(linear - min(p - 1, 1) * by_chance, by_chance) + value.var() / n_bases
    mean = value.mean()
    root = mean ** (1 / p)
    slope = root / (p * mean) if mean > 0 else 1.0
    null = (chance ** (1 / p)).mean()
    return Estimate(float(root), float(variance.sqrt() * slope), float(null))


def _line_distances(
    x: Tensor, y: Tensor, p: float, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Transport along each column of x, shape (n, lines), and y, shape (m, lines).

    Returns:
        Means over the lines of W_p^p, shape (), of its values after each relabelling, shape
        (relabellings,), and of the transport potentials of the rows, shapes (n,) and (m,).
    """
    n, m = len(x), len(y)
    # Quantile functions are steps: between the breakpoints of both, both are constant.
    ends = [torch.arange(1, rows + 1, dtype=x.dtype, device=x.device) / rows for rows in (n, m)]
    breaks = torch.cat(ends).unique()
    widths = breaks.diff(prepend=breaks.new_zeros(1))
    middle = breaks - widths / 2
    i, j = (middle * n).long().clamp(max=n - 1), (middle * m).long().clamp(max=m - 1)

    def cost(xs: Tensor, ys: Tensor) -> Tensor:
        return widths @ (xs[i] - ys[j]).abs() ** p

    (xs, x_order), (ys, y_order) = x.sort(dim=0), y.sort(dim=0)
    # The slope of a potential is the slope of the cost between a point and its partner.
    gap = xs[i] - ys[j]
    slope = p * gap.abs() ** (p - 1) * gap.sign() * widths[:, None]
    x_slope = torch.zeros_like(xs).index_add_(0, i, slope) * n
    y_slope = torch.zeros_like(ys).index_add_(0, j, -slope) * m

    pool, order = torch.cat([x, y]).sort(dim=0)
    chance = []
    for label in labels.to(x.device):
        # The pooled sample is sorted, so each part of it is: no relabelling needs a sort.
        first = label[order].T
        rows = pool.T
        chance.append(cost(rows[first].view(-1, n).T, rows[~first].view(-1, m).T))
    return (
        cost(xs, ys).mean(-1),
        torch.stack(chance).mean(-1),
        _potential(xs, x_slope, x_order).mean(-1),
        _potential(ys, y_slope, y_order).mean(-1),
    )


def _potential(points: Tensor, slope: Tensor, order: Tensor) -> Tensor:
    """Integral of the slope over sorted points, back in the order of the rows."""
    rise = points.diff(dim=0) * (slope[1:] + slope[:-1]) / 2
    potential = torch.cat([torch.zeros_like(points[:1]), rise.cumsum(0)])
    return torch.empty_like(potential).scatter_(0, order, potential)


def _relabellings(n: int, m: int, count: int, generator: torch.Generator) -> Tensor:
    """Which rows of the pooled sample play x, shape (count, n + m)."""
    labels = torch.zeros(count, n + m, dtype=torch.bool)
    for label in labels:
        label[torch.randperm(n + m, generator=generator)[:n]] = True
    return labels
