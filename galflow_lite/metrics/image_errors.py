"""Errors of reconstructed images against the true ones: pixels in holes, flux, low resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .estimate import Estimate

if TYPE_CHECKING:
    from ..images import Stretch

__all__ = ["FluxError", "flux_conservation", "image_pair", "low_resolution_error", "masked_error"]


@dataclass(frozen=True)
class FluxError:
    """How well the flux of images is kept.

    Attributes:
        bias: Relative error of the total flux of all images together; null 0.
        scatter: Root mean square over images of the error of an image's flux, in units of the mean
            flux of the true images.
    """

    bias: Estimate
    scatter: Estimate

    def __str__(self) -> str:
        return f"bias {self.bias}, scatter {self.scatter}"


def masked_error(sample: Any, truth: Any, mask: Any) -> Estimate:
    """Root mean square error on the pixels of holes.

    A sampler is not meant to minimise it: a sample of the right law has on average twice the square
    of the error of the best guess, the conditional mean, which is no sample.

    The standard error is that of independent images (delta method for the ratio of summed squares
    to pixels); several samples for one image are not independent.

    Args:
        sample: Completed images, shape (n, channels, height, width).
        truth: True images, same shape.
        mask: 1 for known pixels, 0 for holes, or booleans; that shape, or 1 along some of its axes.

    Returns:
        The error in the units of the images.

    Raises:
        ValueError: If the shapes or the values of the mask do not fit, a value is NaN or infinite,
            or fewer than 2 images have holes.
    """
    sample, truth = image_pair(sample, truth)
    hole = _hole(mask, truth)
    pixels = hole.flatten(1).sum(1).double()
    squares = torch.where(hole, sample - truth, 0.0).square().flatten(1).sum(1)
    if int((pixels > 0).sum()) < 2:
        raise ValueError(
            f"{int((pixels > 0).sum())} of {len(truth)} images have holes, expected at least 2: "
            "check that the mask is 1 where pixels are known"
        )
    return _root(_ratio(squares, pixels))


def flux_conservation(sample: Any, truth: Any, stretch: Stretch, *, mask: Any = None) -> FluxError:
    """Whether images keep the flux of the true ones, in physical units.

    With F the sum over pixels (of the holes, where there is a mask) of the flux of an image, the
    bias is sum (F_sample - F_true) / sum F_true over images, and the scatter is
    sqrt(mean (F_sample - F_true)^2) / mean F_true. Sums come before the quotient: the flux of a
    hole in the sky may be zero or negative. Standard errors are those of independent images (delta
    method); that of the scatter is too small where few images carry most of it, by a quarter for
    40 images whose errors differ sevenfold.

    Args:
        sample: Images, shape (n, channels, height, width), stretched.
        truth: True images, same shape and stretch.
        stretch: Their stretch, `ImageSet.stretch`; its inverse gives the fluxes.
        mask: 1 for known pixels, 0 for holes, to count holes only; that shape, or 1 along some of
            its axes.

    Raises:
        ValueError: If shapes do not fit, a value is NaN or infinite, there are fewer than 2 images,
            or the true images have no flux together.
    """
    sample, truth = image_pair(sample, truth)
    counted = torch.ones_like(truth, dtype=torch.bool) if mask is None else _hole(mask, truth)
    fluxes = [
        torch.where(counted, stretch.inverse(images), 0.0).flatten(1).sum(1)
        for images in (sample, truth)
    ]
    errors, total = fluxes[0] - fluxes[1], fluxes[1]
    if not total.sum() > 0:
        raise ValueError(
            f"the true images have the flux {float(total.sum()):.3g} where it is counted, expected "
            "a positive one: check the stretch and the mask (1 known, 0 hole)"
        )
    bias = _ratio(errors, total)
    # In units of the mean flux, whose own noise counts: the ratio of a mean square to a square.
    mean, square = total.mean(), errors.square()
    rows = (square - square.mean()) / mean**2 - 2 * square.mean() / mean**3 * (total - mean)
    scatter = Estimate(float(square.mean() / mean**2), _error_of_mean(rows))
    return FluxError(Estimate(bias.value, bias.standard_error, 0.0), _root(scatter))


def low_resolution_error(sample: Any, low: Any, *, stretch: Stretch | None = None) -> Estimate:
    """Root mean square difference of the downsampled sample from the low-resolution image given.

    Means over squares of pixels are compared; the factor follows from the shapes. It is 0 for
    samples that agree with what they were made from.

    Args:
        sample: Images, shape (n, channels, height, width).
        low: What they were to enlarge, shape (n, channels, height / factor, width / factor).
        stretch: None compares means of the values, as `interpolants.super_resolution` takes them.
            With a stretch, means of the flux, in units of flux.

    Raises:
        ValueError: If the sizes do not divide, a value is NaN or infinite, or there are fewer than
            2 images.
    """
    sample, low = _checked("sample", sample), _checked("low", low)
    height, width = sample.shape[2:]
    factor = height // max(low.shape[2], 1)
    expected = (*sample.shape[:2], *(side // max(factor, 1) for side in (height, width)))
    if not factor or height % factor or width % factor or tuple(low.shape) != expected:
        raise ValueError(
            f"sample has the shape {tuple(sample.shape)} and low {tuple(low.shape)}, expected one "
            "whole factor between their heights and widths, and all else equal: downsample the "
            "images as the model was given them"
        )
    if stretch is not None:
        sample, low = stretch.inverse(sample), stretch.inverse(low)
    difference = F.avg_pool2d(sample, factor) - low.to(sample.device)
    squares = difference.square().flatten(1).mean(1)
    return _root(Estimate(float(squares.mean()), _error_of_mean(squares)))


def image_pair(sample: Any, truth: Any) -> tuple[Tensor, Tensor]:
    """Two batches of images of one shape, in float64 on the device of the second.

    Raises:
        ValueError: If they are not of one shape (n, channels, height, width), are fewer than 2, or
            hold NaN or infinite values.
    """
    sample, truth = _checked("sample", sample), _checked("truth", truth)
    if sample.shape != truth.shape:
        raise ValueError(
            f"sample has the shape {tuple(sample.shape)} and truth {tuple(truth.shape)}, expected "
            "one true image for each sample: repeat or reshape them"
        )
    return sample.to(truth.device), truth


def _checked(name: str, images: Any) -> Tensor:
    images = torch.as_tensor(images).detach().double()
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"{name} has the shape {tuple(images.shape)}, expected images (n, channels, height, "
            "width): reshape it"
        )
    if len(images) < 2:
        raise ValueError(
            f"{name} has {len(images)} images, expected at least 2 for a standard error: use more"
        )
    bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {len(images)} images with NaN or infinite values, expected none: "
            "remove these images, or look at the sampler that made them"
        )
    return images


def _hole(mask: Any, images: Tensor) -> Tensor:
    """Where the mask is 0, booleans of the shape of the images."""
    mask = torch.as_tensor(mask).to(images.device)
    fits = mask.ndim == 4 and all(
        have in (1, want) for have, want in zip(mask.shape, images.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"the mask has the shape {tuple(mask.shape)}, expected {tuple(images.shape)} or 1 "
            "along some axes, such as one channel: reshape it"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "the mask has values other than 0 and 1, expected 1 for known pixels and 0 for holes: "
            "threshold it"
        )
    return (mask == 0).expand(images.shape)


def _ratio(above: Tensor, below: Tensor) -> Estimate:
    """Sum over sum, and its standard error over rows."""
    value = above.sum() / below.sum()
    return Estimate(float(value), _error_of_mean((above - value * below) / below.mean()))


def _error_of_mean(rows: Tensor) -> float:
    return float(rows.std() / len(rows) ** 0.5)


def _root(square: Estimate) -> Estimate:
    """The square root, with the error carried through by its slope; that of 0 is 0."""
    value = square.value**0.5
    return Estimate(value, square.standard_error / (2 * value) if value else 0.0)
