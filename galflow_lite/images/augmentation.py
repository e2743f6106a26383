"""Flips and rotations by quarter turns."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flip_and_rotate"]


def flip_and_rotate(
    images: Tensor, *, seed: int | torch.Generator, flips: bool = True
) -> tuple[Tensor, Tensor]:
    """Turn each image by 0, 90, 180 or 270 degrees and flip every other one, at random.

    A flip turns a clockwise spiral into an anticlockwise one, a rotation does not: use the second
    result to change the classes (`ImageSet.augmented` does), or leave the flips out.

    Args:
        images: Square images, shape (n, channels, size, size).
        seed: Seed, or a generator on the CPU that goes on from call to call.
        flips: Whether to flip; without it, only turn.

    Returns:
        Images of the same shape, and which of them were flipped, shape (n,), bool.

    Raises:
        ValueError: If the images are not square.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"the images have the shape {tuple(images.shape)}, expected (n, channels, size, size): "
            "only square images can be turned."
        )
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    choice = torch.randint(8 if flips else 4, (len(images),), generator=generator)
    turned = torch.empty_like(images)
    for k in range(8 if flips else 4):
        rows = (choice == k).nonzero()[:, 0].to(images.device)
        these = images[rows].rot90(k % 4, dims=(2, 3))
        turned[rows] = these.flip(3) if k >= 4 else these
    return turned, (choice >= 4).to(images.device)
