"""What is wrong with an image: errors in holes, flux, the power spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..images import Stretch
from ..inputs import as_hole, as_tensor, as_whole
from .divergences import Estimate


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
    hole = as_hole(mask, truth)
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
    counted = torch.ones_like(truth, dtype=torch.bool) if mask is None else as_hole(mask, truth)
    fluxes = (torch.where(counted, stretch.inverse(x), 0.0) for x in (sample, truth))
    found, total = (flux.flatten(1).sum(1) for flux in fluxes)
    errors = found - total
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


def image_pair(sample: Any, truth: Any, *, paired: bool = True) -> tuple[Tensor, Tensor]:
    """Two batches of images of one size, in float64 on the device of the second.

    Raises:
        ValueError: If they are not of one shape (n, channels, height, width), where n may differ
            unless they are ``paired``, or hold NaN or infinite values.
    """
    shape = ("n", "channels", "height", "width")
    truth = as_tensor(truth, "truth", shape, dtype=torch.float64).detach()
    shape = (len(truth) if paired else "n", *truth.shape[1:])
    return as_tensor(sample, "sample", shape, like=truth).detach(), truth


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


@dataclass(frozen=True)
class Spectrum:
    """Values by spatial frequency, averaged over directions.

    Attributes:
        frequency: Mean frequency of each ring, cycles per pixel, shape (rings,), from 0 (the mean
            of the image alone) over 0.5 (the highest along an axis) to 0.71 (along the diagonal).
        value: Value in each ring, shape (rings,), float64.
        standard_error: Its standard deviation over repeated sets of images, shape (rings,).
        modes: Number of Fourier modes in each ring, shape (rings,); they add up to the number of
            pixels.
    """

    frequency: Tensor
    value: Tensor
    standard_error: Tensor
    modes: Tensor


def spectrum_ratio(
    sample: Any, truth: Any, *, paired: bool = False, resamplings: int = 200, seed: int = 0
) -> Spectrum:
    r"""Mean power of samples over that of true images, by frequency; 1 where they agree.

    Below 1 at high frequencies, samples are too smooth; above, too noisy. The power of a Fourier
    mode is averaged over rings of frequencies one cycle per shorter side wide, over channels and
    over images. No window is applied: light at the edges leaks over frequencies, in samples as in
    true images.

    Args:
        sample: Images, shape (n, channels, height, width).
        truth: True images, shape (m, channels, height, width).
        paired: Whether row i of both belongs together, as a completion does to its true image: the
            bootstrap then draws pairs, and the errors are those of pairs.
        resamplings: Resamplings of the images, for the standard errors, at least two.
        seed: Of these.

    Raises:
        ValueError: If the images have unequal sizes or, paired, numbers, a value is NaN or
            infinite, or true images have no power at some frequency.
    """
    sample, truth = image_pair(sample, truth, paired=paired)
    frequency, modes, below = ring_power(truth)
    above = ring_power(sample)[2]
    if not bool((below.mean(0) > 0).all()):
        empty = int((below.mean(0) <= 0).nonzero()[0, 0])
        raise ValueError(
            f"the true images have no power at {float(frequency[empty]):.3f} cycles per pixel, "
            "expected some at every frequency: compare images that are not constant"
        )
    generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
    first = _counts(len(above), resamplings, generator)
    second = first if paired else _counts(len(below), resamplings, generator)
    resampled = (first @ above / len(above)) / (second @ below / len(below))
    return Spectrum(frequency, above.mean(0) / below.mean(0), resampled.std(0), modes)


def ring_power(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean power of a Fourier mode in rings of frequencies.

    The power of a mode is :math:`|\sum_p x_p e^{-2\pi i k p}|^2 / N^2` with N pixels, so that the
    sum over rings of power times modes is the mean square of the image (Parseval).

    Args:
        images: Shape (n, channels, height, width), float64.

    Returns:
        Mean frequency and number of modes of each ring, shape (rings,), and the power of each
        image, averaged over channels, shape (n, rings), on the CPU.
    """
    height, width = images.shape[-2:]
    along = [torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width)]
    radius = torch.hypot(along[0][:, None], along[1][None, :]).flatten()
    # At least 1 for all but the mean, which long waves along a longer side are not.
    ring = (radius * min(height, width)).round().clamp(min=1).where(radius > 0, 0.0).long()
    # A ring may be empty for images that are not square.
    _, ring = ring.unique(return_inverse=True)
    modes = ring.bincount()
    power = torch.fft.fft2(images).abs().square().mean(1).flatten(1).cpu()
    sums = power.new_zeros(len(images), len(modes)).index_add_(1, ring, power)
    return ring.bincount(weights=radius) / modes, modes, sums / modes / (height * width) ** 2


def _counts(n: int, resamplings: int, generator: torch.Generator) -> Tensor:
    """How often each row is drawn in each resampling, shape (resamplings, n)."""
    resamplings = as_whole(resamplings, "resamplings", least=2)
    rows = torch.randint(n, (resamplings, n), generator=generator)
    counts = torch.zeros(resamplings, n, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones_like(counts))
