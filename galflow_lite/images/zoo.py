"""Galaxies of the Galaxy Zoo, as `galflow-lite data fetch galaxy_zoo` leaves them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from .imageset import ImageSet, split_rows
from .stretch import Stretch

__all__ = ["galaxy_zoo"]

CLASSES = (
    "elliptical",
    "clockwise spiral",
    "anticlockwise spiral",
    "edge-on",
    "unknown",
    "merger",
)
"""The six choices of Galaxy Zoo 1 (arXiv:1007.3265), in the order of its table."""

MIRROR = (0, 2, 1, 3, 4, 5)
"""The class that each becomes in a mirror."""


def galaxy_zoo(
    source: Path | str,
    *,
    size: int = 64,
    channels: int | None = None,
    split: str = "train",
    test_fraction: float = 0.15,
    seed: int = 0,
    n: int | None = None,
    stretch: Stretch | None = None,
) -> ImageSet:
    """Images of SDSS galaxies with the classes of Galaxy Zoo 1; nothing is downloaded.

    The classes are the most frequent votes: elliptical, clockwise spiral, anticlockwise spiral,
    edge-on, unknown, merger. `ImageSet.augmented` exchanges the two spirals in a flip. Credit SDSS
    and Galaxy Zoo (Lintott et al. 2011; images: Willett et al. 2013).

    Args:
        source: The file that ``galflow-lite data fetch galaxy_zoo`` leaves (`data.fetch` returns
            its path), or another .npz file with ``x``, uint8, shape (n, side, side) or (n, side,
            side, 3), and ``y``, whole numbers, shape (n,).
        size: Side in pixels; a divisor of the side in the file: squares of pixels are averaged.
        channels: 3 for colour, 1 for the mean of the colours, None for what the file has.
        split: "train" or "test".
        test_fraction: Share of the images kept for testing.
        seed: Seed of the split, which shuffles the images: files are in the order of the sky.
        n: Take only so many images of the part; None takes all.
        stretch: Stretch of pixel values in [0, 1]; None takes the square root up to 0.6.

    Returns:
        Images of shape (n, channels, size, size).

    Raises:
        FileNotFoundError: If the file is not there; for the name, the message has the command.
        ValueError: If it is no such file, or an argument does not fit it.
    """
    path = _find(source)
    x, y = _read(path)
    side, colours = x.shape[1], x.shape[3] if x.ndim == 4 else 1
    channels = colours if channels is None else channels
    if channels not in (1, colours):
        raise ValueError(
            f"{channels} channels are asked of images with {colours}, expected 1 or {colours}: "
            "choose one of these."
        )
    if size < 1 or side % size:
        raise ValueError(
            f"a size of {size} pixels is asked of images of {side} x {side}, expected a divisor of "
            f"{side}: choose another size."
        )
    rows = split_rows(len(x), split=split, test_fraction=test_fraction, seed=seed)
    if n is not None and not 0 < n <= len(rows):
        raise ValueError(
            f"{n} images are asked for, expected 1 to {len(rows):,} in the {split} part: change n."
        )
    rows = rows[:n].numpy()
    stretch = Stretch("square root", scale=0.6) if stretch is None else stretch
    images = torch.empty(len(rows), channels, size, size)
    # In pieces: the whole set as float32 beside its means would not fit everywhere.
    for start in range(0, len(rows), 1024):
        part = slice(start, start + 1024)
        pixels = torch.from_numpy(x[rows[part]]).float().div_(255)
        pixels = pixels.permute(0, 3, 1, 2) if x.ndim == 4 else pixels[:, None]
        if channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)
        images[part] = stretch(torch.nn.functional.avg_pool2d(pixels, side // size))
    return ImageSet(
        images=images,
        labels=torch.from_numpy(y[rows].astype(np.int64)),
        class_names=CLASSES,
        name="Galaxy Zoo",
        split=split,
        stretch=stretch,
        mirror=MIRROR,
    )


def _find(source: Path | str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}, expected images of the Galaxy Zoo: run galflow-lite data "
            "fetch galaxy_zoo"
        )
    return path


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    # ValueError: an array of objects, which would be a pickle. TypeError: a single array.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}), expected an .npz file with the "
            "arrays x and y: fetch or write it anew."
        ) from error
    square = x.ndim in (3, 4) and x.shape[1] == x.shape[2] and x.shape[3:] in ((), (3,))
    whole = np.issubdtype(y.dtype, np.integer) and y.shape == x.shape[:1]
    if (
        x.dtype != np.uint8
        or not square
        or not whole
        or not len(x)
        or y.max() >= len(CLASSES)
        or y.min() < 0
    ):
        raise ValueError(
            f"{path} has x with {x.dtype} {x.shape} and y with {y.dtype} {y.shape}, expected uint8 "
            f"(n, side, side) or (n, side, side, 3), and n classes from 0 to {len(CLASSES) - 1}: "
            "convert it."
        )
    return x, y
