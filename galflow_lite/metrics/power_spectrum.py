"""The power of images by spatial frequency: whether answers are too smooth or too rough."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inputs import as_tensor


def power_spectrum(images: Any) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean power of a Fourier mode in rings of frequencies, one cycle per shorter side wide.

    The power of a mode is :math:`|\sum_p x_p e^{-2\pi i k p}|^2 / N^2` with N pixels, so that the
    sum over rings of power times modes is the mean square of the image (Parseval). No window is
    applied: light at the edges leaks over frequencies.

    Args:
        images: Shape (n, channels, height, width).

    Returns:
        Mean frequency of each ring in cycles per pixel, from 0 (the mean of the image alone) over
        0.5 (the highest along an axis) to 0.71 (along the diagonal); the number of its modes; and
        the power of each image, averaged over channels, shape (n, rings), on the CPU.

    Raises:
        ValueError: The images have another shape, or hold NaN or infinite values.
    """
    shape = ("n", "channels", "height", "width")
    images = as_tensor(images, "images", shape, dtype=torch.float64).detach().cpu()
    height, width = images.shape[-2:]
    along = [torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width)]
    radius = torch.hypot(along[0][:, None], along[1][None, :]).flatten()
    # At least 1 for all but the mean, which long waves along a longer side are not.
    ring = (radius * min(height, width)).round().clamp(min=1).where(radius > 0, 0.0).long()
    # A ring may be empty for images that are not square.
    _, ring = ring.unique(return_inverse=True)
    modes = ring.bincount()
    power = torch.fft.fft2(images).abs().square().mean(1).flatten(1)
    sums = power.new_zeros(len(images), len(modes)).index_add_(1, ring, power)
    return ring.bincount(weights=radius) / modes, modes, sums / modes / (height * width) ** 2
