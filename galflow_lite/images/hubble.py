"""Real galaxies with no download: patches of the Hubble deep field inside scikit-image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage import data

from .imageset import ImageSet, check_split
from .stretch import Stretch

__all__ = ["hubble_patches"]


def hubble_patches(
    size: int = 32,
    *,
    stride: int = 8,
    split: str = "train",
    test_fraction: float = 0.2,
    gap: int = 32,
    channels: int = 1,
    threshold: float = 90.0,
    stretch: Stretch | None = None,
) -> ImageSet:
    """Patches of the Hubble deep field that have a source near their centre.

    The picture (872 x 1000 pixels, NASA, public domain) is part of the scikit-image wheel. Patches
    of one part overlap one another, so the split is made on the sky: test patches come from the
    right of the picture, training patches from the left, with a strip between them that neither
    part sees. Take `ImageSet.augmented` for flips and rotations.

    Args:
        size: Side of a patch in pixels.
        stride: Pixels from one patch to the next, in both directions.
        split: "train" or "test".
        test_fraction: Share of the picture's width that is kept for testing.
        gap: Width in pixels of the strip between the parts; with 32, few galaxies reach across.
        channels: 3 for colour, 1 for the mean of the colours.
        threshold: A patch counts when the mean of the colours, 0 to 255, is above this somewhere in
            its central half (in height and in width).
        stretch: Stretch of pixel values in [0, 1]; None takes the square root up to 1.

    Returns:
        Images of shape (n, channels, size, size), ordered by position; one class; the row and the
        column of the upper left corner of each patch as targets. With the defaults 4,391 training
        and 993 test patches.

    Raises:
        ValueError: If an argument makes no sense or no patch is left.
    """
    check_split(split)
    for name, n in {"size": size, "stride": stride, "gap + 1": gap + 1}.items():
        if n < 1:
            raise ValueError(f"{name} is {n}, expected at least 1: give a positive number.")
    if channels not in (1, 3):
        raise ValueError(f"found {channels} channels, expected 1 (grey) or 3 (colour): choose one.")
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"the test fraction is {test_fraction}, expected a number between 0 and 1: change it."
        )
    sky = data.hubble_deep_field()
    border = sky.shape[1] - round(test_fraction * sky.shape[1])
    first, end = (border, sky.shape[1]) if split == "test" else (0, border - gap)
    if size > min(sky.shape[0], end - first):
        raise ValueError(
            f"patches of {size} pixels are to be cut from {max(end - first, 0)} columns of the sky "
            f"and {sky.shape[0]} rows, expected smaller ones: change size, gap or test_fraction."
        )
    rows, columns = _corners(
        sky[:, first:end].mean(axis=2), size=size, stride=stride, threshold=threshold
    )
    if not len(rows):
        raise ValueError(
            f"no patch has a source above {threshold}, expected a threshold below 255: lower it."
        )
    windows = sliding_window_view(sky[:, first:end], (size, size), axis=(0, 1))
    flux = torch.from_numpy(windows[rows, columns]).float() / 255
    if channels == 1:
        flux = flux.mean(dim=1, keepdim=True)
    stretch = Stretch("square root") if stretch is None else stretch
    return ImageSet(
        images=stretch(flux),
        labels=torch.zeros(len(flux), dtype=torch.int64),
        class_names=("patch",),
        name="Hubble deep field",
        split=split,
        stretch=stretch,
        mirror=(0,),
        targets=torch.from_numpy(np.stack([rows, columns + first], axis=1)).float(),
        target_names=("row", "column"),
    )


def _corners(
    grey: np.ndarray, *, size: int, stride: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the upper left corners of patches with a bright central half."""
    centre = slice(size // 4, size - size // 4)
    windows = sliding_window_view(grey, (size, size))[::stride, ::stride, centre, centre]
    rows, columns = (windows.max(axis=(2, 3)) > threshold).nonzero()
    return rows * stride, columns * stride
