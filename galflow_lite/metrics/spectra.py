"""Power of images by spatial frequency: how much of it samples have, and how much they miss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_whole
from .image_errors import image_pair


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
    rows = torch.randint(n, (resamplings, n), generator=generator)
    counts = torch.zeros(resamplings, n, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones_like(counts))
