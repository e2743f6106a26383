"""Wasserstein distances in one dimension: along random directions, and of every column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, sample_pair, subsample

__all__ = ["column_distances", "sliced_wasserstein"]


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
        n_permutations: relabellings.
        max_samples: larger samples are thinned at random to so many rows; `None` keeps all.
        seed: of the directions, the relabellings and the thinning.

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN, p below 1.
    """
    x, y = sample_pair(x, y, least=4)
    _require_order(p, n_permutations)
    generator = torch.Generator().manual_seed(seed)
    x, y = subsample(x, max_samples, generator), subsample(y, max_samples, generator)
    features = x.shape[1]
    n_bases = max(2, math.ceil(n_projections / features))
    labels = _relabellings(len(x), len(y), n_permutations, generator)
    parts = []
    for _ in range(n_bases):
        normal = torch.randn(features, features, dtype=x.dtype, generator=generator)
        basis = torch.linalg.qr(normal).Q.to(x.device)
        parts.append(_line_distances(x @ basis, y @ basis, p, labels).mean())
    value = torch.stack([part.value for part in parts])
    chance = torch.stack([part.chance for part in parts]).mean(0)
    potential_x = torch.stack([part.potential_x for part in parts]).mean(0)
    potential_y = torch.stack([part.potential_y for part in parts]).mean(0)
    whole = _LineDistances(value.mean(), chance, potential_x, potential_y)
    return _estimate(whole, p, extra=value.var() / n_bases)


def column_distances(
    x: Any,
    y: Any,
    *,
    columns: Sequence[str] | None = None,
    std: Any = None,
    p: float = 1,
    n_permutations: int = 30,
    max_samples: int | None = 100_000,
    seed: int = 0,
) -> dict[Any, Estimate]:
    """Wasserstein distance of each column, in units of its standard deviation.

    Null and standard error as in `sliced_wasserstein`.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        columns: d names, the keys of the result; by default 0 to d - 1.
        std: the units, shape (d,); by default the standard deviation of the columns of `x`.
        p: order, at least 1.
        n_permutations: relabellings of the pooled sample.
        max_samples: larger samples are thinned at random to so many rows; `None` keeps all.
        seed: of the relabellings and the thinning.

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN, p below 1, wrong number of names.
    """
    x, y = sample_pair(x, y, least=4)
    _require_order(p, n_permutations)
    names = list(range(x.shape[1])) if columns is None else list(columns)
    if len(names) != x.shape[1]:
        raise ValueError(f"columns has {len(names)} names, expected {x.shape[1]}: name each column")
    own = std is None
    std = torch.as_tensor(x.std(0) if own else std).to(x)
    if std.shape != x.shape[1:] or not bool((std > 0).all() and std.isfinite().all()):
        raise ValueError(
            f"std is {std.tolist()}, expected {x.shape[1]} positive numbers: drop constant columns"
        )
    generator = torch.Generator().manual_seed(seed)
    x, y = subsample(x, max_samples, generator), subsample(y, max_samples, generator)
    labels = _relabellings(len(x), len(y), n_permutations, generator)
    lines = _line_distances(x / std, y / std, p, labels)
    if own:
        # The unit is estimated from the same rows: what each of them adds to it.
        excess = ((x - x.mean(0)) / std).square() - 1
        lines.potential_x -= p / 2 * lines.value * excess
    return {name: _estimate(lines.line(k), p) for k, name in enumerate(names)}


@dataclass
class _LineDistances:
    """W_p^p along lines, its values after relabelling, and the transport potential of each row."""

    value: Tensor  # (lines,)
    chance: Tensor  # (relabellings, lines)
    potential_x: Tensor  # (n, lines)
    potential_y: Tensor  # (m, lines)

    def mean(self) -> _LineDistances:
        return _LineDistances(*(tensor.mean(-1) for tensor in vars(self).values()))

    def line(self, index: int) -> _LineDistances:
        return _LineDistances(*(tensor[..., index] for tensor in vars(self).values()))


def _estimate(found: _LineDistances, p: float, extra: Tensor | float = 0.0) -> Estimate:
    """The p-th root, with the error carried through by its slope."""
    linear = found.potential_x.var() / len(found.potential_x)
    linear = linear + found.potential_y.var() / len(found.potential_y)
    # Like a quadratic form, W_2^2 has a slope that is itself noisy and counts the chance part once
    # more; W_1 is of first degree and its slope is not.
    by_chance = found.chance.var()
    variance = torch.maximum(linear - min(p - 1, 1) * by_chance, by_chance) + extra
    value = found.value ** (1 / p)
    slope = value / (p * found.value) if found.value > 0 else torch.ones(())
    null = (found.chance ** (1 / p)).mean()
    return Estimate(float(value), float(variance.sqrt() * slope), float(null))


def _line_distances(x: Tensor, y: Tensor, p: float, labels: Tensor) -> _LineDistances:
    """Transport along each column of x, shape (n, lines), and y, shape (m, lines)."""
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
    return _LineDistances(
        cost(xs, ys),
        torch.stack(chance),
        _potential(xs, x_slope, x_order),
        _potential(ys, y_slope, y_order),
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


def _require_order(p: float, n_permutations: int) -> None:
    if not p >= 1:
        raise ValueError(f"p is {p}, expected at least 1: use 1 or 2")
    if n_permutations < 2:
        raise ValueError(f"n_permutations is {n_permutations}, expected at least 2: raise it")
