"""Frechet distance between sets of images, in the features of a small network of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..networks import FeatureNetwork
from .estimate import Estimate

__all__ = ["frechet_distance", "gaussian_frechet", "train_test_floor"]

_BATCH = 500


def frechet_distance(
    x: Any,
    y: Any,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    paired: bool = False,
    n_bootstrap: int = 100,
    n_permutations: int = 100,
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

    A finite sample is at a positive distance from another one of the same law, roughly in
    proportion to 1 / n + 1 / m. The null is that bias at these sizes: the mean distance over random
    relabellings of the pooled images. It is close to the bias when the laws differ as well, unless
    they do so strongly, so ``value - null`` compares better between sample sizes than ``value``;
    it is never subtracted here. The standard error is a bootstrap over images. Near the null, where
    the distance is quadratic in the noise, the bootstrap counts its spread three times; two of them
    are taken off by the spread over the relabellings, which is also the least it may be. It covers
    neither the choice of the features nor images that depend on one another, such as patches that
    overlap or several samples for one input: there it is too small.

    Args:
        x: First images, shape (n, 1, height, width), values in about [-1, 1].
        y: Second images, shape (m, 1, height, width), under the same stretch.
        features: Maps a batch of images to features, shape (batch, d); by default
            `networks.FeatureNetwork.shipped()`, d = 64, for galaxies in grey. With ``lambda x: x``
            the rows of x and y, shape (n, d), are the features, of any kind.
        paired: Whether row i of x belongs to row i of y, as a completion does to the image that
            its known pixels come from. The bootstrap then draws pairs and the relabelling
            exchanges within pairs; the null is lower, for the known pixels agree in any case.
        n_bootstrap: Resamplings of the images, for the standard error.
        n_permutations: Relabellings, for the null.
        seed: Of both.

    Returns:
        The distance, in float64, in units of squared features; those of the shipped network have
        variance 1 in every direction over galaxies. It is 0 for identical samples.

    Raises:
        ValueError: If images have unequal shapes, NaN or infinite values, or are too few (d + 1
            in each sample, else the covariance says nothing of some directions), or the features
            have another shape or are not finite.
    """
    for name, count in (("n_bootstrap", n_bootstrap), ("n_permutations", n_permutations)):
        if count < 2:
            raise ValueError(f"{name} is {count}, expected at least 2: use 100")
    x, y = _images("x", x), _images("y", y)
    y = y.to(x.device)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x has images of shape {tuple(x.shape[1:])} and y of {tuple(y.shape[1:])}, expected "
            "one shape: bring them to the same size"
        )
    if paired and len(x) != len(y):
        raise ValueError(
            f"x has {len(x)} images and y has {len(y)}, expected pairs of them: set paired=False"
        )
    if features is None:
        features = FeatureNetwork.shipped().to(x.device)
    x, y = _features("x", x, features), _features("y", y, features)
    generator = torch.Generator().manual_seed(seed)
    value = _distances([(x, y)])
    resampled = (_resampled(x, y, paired, generator) for _ in range(n_bootstrap))
    relabelled = (_relabelled(x, y, paired, generator) for _ in range(n_permutations))
    spread = _distances(resampled).var()
    chance = _distances(relabelled)
    variance = torch.maximum(spread - 2 * chance.var(), chance.var())
    return Estimate(float(value), float(variance.sqrt()), float(chance.mean()))


def train_test_floor(
    train: Any,
    test: Any,
    *,
    n: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    n_bootstrap: int = 100,
    n_permutations: int = 100,
    seed: int = 0,
) -> Estimate:
    """`frechet_distance` of training images from test images: what a perfect memory would score.

    Samples of a model are then compared with the same test images. A distance below this floor is
    not better than the data: the model sees a part of the test images, as a completion does, or
    there are other numbers of images.

    The floor of parametric galaxies is the null. That of the Hubble patches is well above it, for
    the parts are different parts of the sky, and its standard error is too small, for patches
    overlap; so it is the scatter between parts of the sky more than a property of training.

    Args:
        train: Training images, shape (rows, 1, height, width).
        test: Test images, shape (m, 1, height, width).
        n: Number of training images, drawn at random; take that of the samples of the model, as
            distances depend on it. None takes all.
        features: As in `frechet_distance`, and so are the following.
        n_bootstrap: Resamplings of the images.
        n_permutations: Relabellings.
        seed: Of the draw and of both.

    Raises:
        ValueError: If there are fewer than n training images, or as in `frechet_distance`.
    """
    train = _images("train", train)
    if n is not None:
        if not 1 <= n <= len(train):
            raise ValueError(
                f"n is {n}, expected 1 to {len(train)}, the number of training images: lower it"
            )
        generator = torch.Generator().manual_seed(seed)
        train = train[torch.randperm(len(train), generator=generator)[:n].to(train.device)]
    return frechet_distance(
        train,
        test,
        features=features,
        n_bootstrap=n_bootstrap,
        n_permutations=n_permutations,
        seed=seed,
    )


def gaussian_frechet(
    mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor
) -> Tensor:
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
    mean_x, mean_y = mean_x.double(), mean_y.double()
    covariance_x, covariance_y = covariance_x.double(), covariance_y.double()
    cross = torch.linalg.svdvals(_root(covariance_x) @ _root(covariance_y)).sum(-1)
    traces = (covariance_x + covariance_y).diagonal(dim1=-2, dim2=-1).sum(-1)
    # Rounding leaves +-1e-15 of the traces where nothing is different.
    return ((mean_x - mean_y).square().sum(-1) + traces - 2 * cross).clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    # An eigenvalue at the level of rounding is a zero, and its root would not be small.
    least = values[..., -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
    roots = values.where(values > least, torch.zeros_like(values)).sqrt()
    return vectors * roots[..., None, :] @ vectors.mT


def _distances(pairs: Any) -> Tensor:
    """Distances of pairs of samples of features, in float64 on the CPU."""
    moments = [(*_moments(x), *_moments(y)) for x, y in pairs]
    return gaussian_frechet(*(torch.stack(part).cpu() for part in zip(*moments, strict=True)))


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    mean = values.mean(0)
    values = values - mean
    return mean, values.T @ values / (len(values) - 1)


def _resampled(
    x: Tensor, y: Tensor, paired: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    rows = torch.randint(len(x), (len(x),), generator=generator)
    others = rows if paired else torch.randint(len(y), (len(y),), generator=generator)
    return x[rows.to(x.device)], y[others.to(y.device)]


def _relabelled(
    x: Tensor, y: Tensor, paired: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if paired:
        swap = (torch.rand(len(x), 1, generator=generator) < 0.5).to(x.device)
        return torch.where(swap, y, x), torch.where(swap, x, y)
    order = torch.randperm(len(x) + len(y), generator=generator).to(x.device)
    pool = torch.cat([x, y])[order]
    return pool[: len(x)], pool[len(x) :]


def _images(name: str, images: Any) -> Tensor:
    """A tensor with rows that are finite."""
    images = torch.as_tensor(images).detach()
    if images.ndim < 2 or not images.is_floating_point():
        raise ValueError(
            f"{name} has the shape {tuple(images.shape)} and the type {images.dtype}, expected "
            "images (n, 1, height, width) of floating-point values: convert it"
        )
    bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {len(images)} images with NaN or infinite values, expected none: "
            "remove these images, or look at the sampler that made them"
        )
    return images


@torch.no_grad()
def _features(name: str, images: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    """Features in float64, shape (n, d), a batch at a time."""
    batches = [features(batch) for batch in images.split(_BATCH)]
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    rows = sum(len(batch) for batch in batches)
    if len(shapes) > 1 or rows != len(images) or any(batch.ndim != 2 for batch in batches):
        found = ", ".join(str(tuple(batch.shape)) for batch in batches[:2])
        raise ValueError(
            f"the features of {name} have the shape {found} for batches of up to {_BATCH} images, "
            "expected (batch, d): flatten them"
        )
    values = torch.cat(batches).double()
    if len(values) <= values.shape[1]:
        raise ValueError(
            f"{name} has {len(values)} images, expected more than the {values.shape[1]} features, "
            "and better many times as many: use a larger sample"
        )
    bad = int((~torch.isfinite(values)).any(1).sum())
    if bad:
        raise ValueError(
            f"the features of {bad} images of {name} are NaN or infinite, expected numbers: look "
            "at the network that gives them"
        )
    return values
