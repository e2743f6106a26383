"""Distances of optimal transport: sliced Wasserstein between samples, Frechet between Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..inputs import as_number, as_tensor, as_values, as_whole, sent
from ..networks import FeatureNetwork
from .divergences import Estimate, moments, sample_pair, subsample


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
    n_bases = max(2, math.ceil(as_whole(n_projections, "n_projections", least=1) / features))
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


def _line_distances(x: Tensor, y: Tensor, p: float, labels: Tensor) -> tuple[Tensor, ...]:
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
    potentials = _potential(xs, x_slope, x_order), _potential(ys, y_slope, y_order)
    return tuple(part.mean(-1) for part in (cost(xs, ys), torch.stack(chance), *potentials))


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


_BATCH = 500
Samples = tuple[Tensor, Tensor]


def frechet_distance(
    x: Any,
    y: Any,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    paired: bool = False,
    resamplings: int = 100,
    seed: int = 0,
) -> Estimate:
    r"""Squared Frechet distance of the Gaussians fitted to the features of two sets of images.

    .. math:: |m_x - m_y|^2 + \mathrm{tr}\,(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    with the means m and the covariances S of the features: the squared Wasserstein distance of
    order 2 of the two Gaussians (Dowson & Landau 1982, J. Multivariate Analysis 12:450). It sees
    means and covariances of features and nothing else.

    **This is not the FID** and must not be compared with a published one: that has 2,048 features
    of another network, trained on photographs. Nor do distances under different features, sizes of
    images or sizes of samples compare.

    A finite sample is at a positive distance from another one of the same distribution, roughly in
    proportion to 1 / n + 1 / m. The null is that bias at these sizes: the mean distance over random
    relabellings of the pooled images. It is close to the bias when the distributions differ as
    well, unless they do so strongly, so ``value - null`` compares better between sample sizes than
    ``value``; it is never subtracted here. The standard error is a bootstrap over images. Near the
    null, where the distance is quadratic in the noise, the bootstrap counts its spread three times;
    two of them are taken off by the spread over the relabellings, which is also the least it may
    be. It covers neither the choice of the features nor images that depend on one another, such as
    patches that overlap or several samples for one input: there it is too small.

    Args:
        x: First images, shape (n, 1, height, width), values in about [-1, 1].
        y: Second images, shape (m, 1, height, width), under the same stretch.
        features: Maps a batch of images to features, shape (batch, d); by default
            `networks.FeatureNetwork.shipped()`, d = 64, for galaxies in grey. With ``lambda x: x``
            the rows of x and y, shape (n, d), are the features, of any kind.
        paired: Whether row i of x belongs to row i of y, as a completion does to the image that
            its known pixels come from. The bootstrap then draws pairs and the relabelling
            exchanges within pairs; the null is lower, for the known pixels agree in any case.
        resamplings: Number of resamplings of the images, for the standard error, and of
            relabellings, for the null.
        seed: Of both.

    Returns:
        The distance, in float64, in units of squared features; those of the shipped network have
        variance 1 in every direction over galaxies. It is 0 for identical samples.

    Raises:
        ValueError: If images have unequal shapes, NaN or infinite values, or are too few (d + 1
            in each sample, else the covariance says nothing of some directions), or the features
            have another shape or are not finite.
    """
    read = as_values if features is None else as_tensor
    resamplings, x = as_whole(resamplings, "resamplings", least=2), read(x, "x").detach()
    rows = len(x) if paired else "n"
    y = read(y, "y", (rows, *x.shape[1:]), like=x).detach()
    if features is None:
        features = FeatureNetwork.shipped().to(x.device)
    x, y = _features("x", x, features), _features("y", y, features)
    generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
    value = _distances([(x, y)])
    resampled = (_resampled(x, y, paired, generator) for _ in range(resamplings))
    relabelled = (_relabelled(x, y, paired, generator) for _ in range(resamplings))
    spread = _distances(resampled).var()
    chance = _distances(relabelled)
    variance = torch.maximum(spread - 2 * chance.var(), chance.var())
    return Estimate(float(value), float(variance.sqrt()), float(chance.mean()))


def gaussian_frechet(mean_x: Any, covariance_x: Any, mean_y: Any, covariance_y: Any) -> Tensor:
    r"""Squared Frechet distance of Gaussians from their moments, the formula of `frechet_distance`.

    The trace of the root is the sum of the singular values of
    :math:`S_x^{1/2} S_y^{1/2}`, and these roots come from eigenvalues: a singular covariance needs
    no ridge and raises no warning.

    Args:
        mean_x: Shape (\*batch, d), and so ``mean_y``.
        covariance_x: Symmetric, shape (\*batch, d, d), and so ``covariance_y``.

    Returns:
        Shape (\*batch,), at least 0, float64.
    """
    mean_x = as_tensor(mean_x, "mean_x", dtype=torch.float64)
    mean_y = as_tensor(mean_y, "mean_y", mean_x.shape, like=mean_x)
    shape, pair = (*mean_x.shape, *mean_x.shape[-1:]), (covariance_x, covariance_y)
    covariance_x, covariance_y = (as_tensor(c, "covariance", shape, like=mean_x) for c in pair)
    cross = torch.linalg.svdvals(_root(covariance_x) @ _root(covariance_y)).sum(-1)
    traces = (covariance_x + covariance_y).diagonal(dim1=-2, dim2=-1).sum(-1)
    # Rounding leaves +-1e-15 of the traces where nothing is different.
    return ((mean_x - mean_y).square().sum(-1) + traces - 2 * cross).clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    rounding = 1e-5 * values[..., -1].abs()
    asymmetry = (covariance - covariance.mT).abs().amax((-1, -2))
    if not ((asymmetry <= rounding) & (values[..., 0] >= -rounding)).all():
        raise ValueError(
            "a covariance is not symmetric or has negative eigenvalues, expected neither: pass "
            "torch.cov(x.T) of points x, and not the points"
        )
    # An eigenvalue at the level of rounding is a zero, and its root would not be small.
    least = values[..., -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
    roots = values.where(values > least, torch.zeros_like(values)).sqrt()
    return vectors * roots[..., None, :] @ vectors.mT


def _distances(pairs: Any) -> Tensor:
    """Distances of pairs of samples of features, in float64 on the CPU."""
    found = [(*moments(x), *moments(y)) for x, y in pairs]
    return gaussian_frechet(*(torch.stack(part).cpu() for part in zip(*found, strict=True)))


def _resampled(x: Tensor, y: Tensor, paired: bool, generator: torch.Generator) -> Samples:
    rows = torch.randint(len(x), (len(x),), generator=generator)
    others = rows if paired else torch.randint(len(y), (len(y),), generator=generator)
    return x[sent(rows, x.device)], y[sent(others, y.device)]


def _relabelled(x: Tensor, y: Tensor, paired: bool, generator: torch.Generator) -> Samples:
    if paired:
        swap = (torch.rand(len(x), 1, dtype=torch.float32, generator=generator) < 0.5).to(x.device)
        return torch.where(swap, y, x), torch.where(swap, x, y)
    order = torch.randperm(len(x) + len(y), generator=generator)
    pool = torch.cat([x, y])[sent(order, x.device)]
    return pool[: len(x)], pool[len(x) :]


@torch.no_grad()
def _features(name: str, images: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    """Features in float64, shape (n, d), a batch at a time."""
    if isinstance(features, nn.Module):
        images = as_tensor(images, name, like=features)
    values = torch.cat([features(batch) for batch in images.split(_BATCH)])
    values = as_tensor(
        values, f"the features of {name}", (len(images), "features"), dtype=torch.float64
    )
    if len(values) <= values.shape[1]:
        raise ValueError(
            f"{name} has {len(values)} images, expected more than the {values.shape[1]} features, "
            "and better many times as many: use a larger sample"
        )
    return values
