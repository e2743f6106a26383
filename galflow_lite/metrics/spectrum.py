"""Power of images by spatial frequency: how much of it samples have, and how much they miss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .image_errors import image_pair

__all__ = ["Spectrum", "power_spectrum", "residual_power_spectrum", "spectrum_ratio"]


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


def power_spectrum(images: Any) -> Spectrum:
    r"""Mean power of a Fourier mode by frequency, :math:`|\sum_p x_p e^{-2\pi i k p}|^2 / N^2`.

    N is the number of pixels, so that ``(value * modes).sum()`` is the mean square of the images
    (Parseval). Modes are averaged over rings one cycle per shorter side wide, over channels and
    over images. No window is applied: light at the edges leaks over frequencies, in samples as in
    true images.

    Args:
        images: Shape (n, channels, height, width), in values or in flux (`ImageSet.flux`).

    Raises:
        ValueError: If the shape is another, a value is NaN or infinite, or there are fewer than 2.
    """
    images, _ = image_pair(images, images)
    rings = _Rings(images)
    power = rings.power(images)
    return rings.spectrum(power.mean(0), power.std(0) / len(power) ** 0.5)


def spectrum_ratio(
    sample: Any, truth: Any, *, paired: bool = False, n_bootstrap: int = 200, seed: int = 0
) -> Spectrum:
    """Mean power of samples over that of true images, by frequency; 1 where they agree.

    Below 1 at high frequencies, samples are too smooth; above, too noisy.

    Args:
        sample: Images, shape (n, channels, height, width).
        truth: True images, shape (m, channels, height, width).
        paired: Whether row i of both belongs together, as a completion does to its true image: the
            bootstrap then draws pairs, and the errors are those of pairs.
        n_bootstrap: Resamplings of the images, for the standard errors.
        seed: Of these.

    Raises:
        ValueError: If the images have unequal sizes or, paired, numbers, a value is NaN or
            infinite, there are fewer than 2, or true images have no power at some frequency.
    """
    if paired:
        sample, truth = image_pair(sample, truth)
    (sample, _), (truth, _) = image_pair(sample, sample), image_pair(truth, truth)
    if sample.shape[1:] != truth.shape[1:]:
        raise ValueError(
            f"sample has images of shape {tuple(sample.shape[1:])} and truth of "
            f"{tuple(truth.shape[1:])}, expected one shape: bring them to the same size"
        )
    return _ratio(sample.to(truth.device), truth, truth, paired, n_bootstrap, seed)


def residual_power_spectrum(
    sample: Any, truth: Any, *, n_bootstrap: int = 200, seed: int = 0
) -> Spectrum:
    """Mean power of ``sample - truth`` over that of the true images, by frequency.

    0 where every sample has the true value, 1 where it has no power at all, 2 where it has the
    right power and nothing to do with the truth (at frequency 0, where images have a mean,
    less). So it tells which frequencies of a hole or of a missing resolution are known.

    Args:
        sample: Images, shape (n, channels, height, width).
        truth: True image of each sample, same shape.
        n_bootstrap: Resamplings of the pairs, for the standard errors.
        seed: Of these.

    Raises:
        ValueError: If the shapes differ, a value is NaN or infinite, there are fewer than 2 images,
            or true images have no power at some frequency.
    """
    sample, truth = image_pair(sample, truth)
    return _ratio(sample - truth, truth, truth, True, n_bootstrap, seed)


class _Rings:
    """Rings of frequencies, for images of one size."""

    def __init__(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        along = [torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width)]
        radius = torch.hypot(along[0][:, None], along[1][None, :]).flatten()
        # At least 1 for all but the mean, which long waves along a longer side are not.
        ring = (radius * min(height, width)).round().clamp(min=1).where(radius > 0, 0.0).long()
        # A ring may be empty for images that are not square.
        _, self.ring = ring.unique(return_inverse=True)
        self.modes = self.ring.bincount()
        self.frequency = self.ring.bincount(weights=radius) / self.modes

    def power(self, images: Tensor) -> Tensor:
        """Mean power of a mode in each ring of each image, shape (n, rings), on the CPU."""
        n, channels, height, width = images.shape
        modes = torch.fft.fft2(images).abs().square().mean(1).flatten(1).cpu()
        sums = modes.new_zeros(n, len(self.modes)).index_add_(1, self.ring, modes)
        return sums / self.modes / (height * width) ** 2

    def spectrum(self, value: Tensor, standard_error: Tensor) -> Spectrum:
        return Spectrum(self.frequency, value, standard_error, self.modes)


def _ratio(
    above: Tensor, below: Tensor, truth: Tensor, paired: bool, n_bootstrap: int, seed: int
) -> Spectrum:
    """Ratio of mean powers, with bootstrap errors over images."""
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap is {n_bootstrap}, expected at least 2: use 200")
    rings = _Rings(truth)
    above, below = rings.power(above), rings.power(below)
    if not bool((below.mean(0) > 0).all()):
        empty = int((below.mean(0) <= 0).nonzero()[0, 0])
        raise ValueError(
            f"the true images have no power at {float(rings.frequency[empty]):.3f} cycles per "
            "pixel, expected some at every frequency: compare images that are not constant"
        )
    generator = torch.Generator().manual_seed(seed)
    first = _counts(len(above), n_bootstrap, generator)
    second = first if paired else _counts(len(below), n_bootstrap, generator)
    resampled = (first @ above / len(above)) / (second @ below / len(below))
    return rings.spectrum(above.mean(0) / below.mean(0), resampled.std(0))


def _counts(n: int, n_bootstrap: int, generator: torch.Generator) -> Tensor:
    """How often each row is drawn in each resampling, shape (n_bootstrap, n)."""
    rows = torch.randint(n, (n_bootstrap, n), generator=generator)
    counts = torch.zeros(n_bootstrap, n, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones_like(counts))
