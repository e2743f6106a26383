"""Images that were taken: the Hubble deep field, the Galaxy Zoo, handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage.data import hubble_deep_field
from sklearn.datasets import load_digits
from torch.nn import functional as F

from ..inputs import as_choice, as_whole
from .imageset import ImageSet, Stretch, split_rows

_STRIDE = 8
_TEST_FRACTION = 0.2
_GAP = 32
_THRESHOLD = 90.0


def hubble_patches(size: int = 32, *, split: str = "train") -> ImageSet:
    """Patches of the Hubble deep field, in grey, that have a source near their centre.

    The picture (872 x 1000 pixels, NASA, public domain) is part of the scikit-image wheel. Patches
    start every 8 pixels and count when the mean of the colours, 0 to 255, is above 90 somewhere in
    their central half (in height and in width). Patches of one part overlap one another, so the
    split is made on the sky: test patches come from the fifth of the picture on the right, training
    patches from the left, with a strip of 32 pixels between them that neither part sees. Take
    `ImageSet.augmented` for flips and rotations.

    Args:
        size: Side of a patch in pixels.
        split: "train" or "test".

    Returns:
        Images of shape (n, 1, size, size), the square root of the flux, ordered by position; one
        class; the row and the column of the upper left corner of each patch as targets. With the
        defaults 4,391 training and 993 test patches.
    """
    size = as_whole(size, "size", least=4)
    sky = hubble_deep_field()
    border = sky.shape[1] - round(_TEST_FRACTION * sky.shape[1])
    as_choice(split, "split", ("train", "test"))
    first, end = (border, sky.shape[1]) if split == "test" else (0, border - _GAP)
    centre = slice(size // 4, size - size // 4)
    grey = sliding_window_view(sky[:, first:end].mean(axis=2), (size, size))
    bright = grey[::_STRIDE, ::_STRIDE, centre, centre].max(axis=(2, 3)) > _THRESHOLD
    rows, columns = (_STRIDE * corner for corner in bright.nonzero())
    windows = sliding_window_view(sky[:, first:end], (size, size), axis=(0, 1))
    flux = torch.from_numpy(windows[rows, columns]).float() / 255
    stretch = Stretch("square root")
    return ImageSet(
        images=stretch(flux.mean(dim=1, keepdim=True)),
        labels=torch.zeros(len(flux), dtype=torch.int64),
        class_names=("patch",),
        name="Hubble deep field",
        split=split,
        stretch=stretch,
        mirror=(0,),
        targets=torch.from_numpy(np.stack([rows, columns + first], axis=1)).float(),
        target_names=("row", "column"),
    )


def galaxy_zoo(
    source: Path | str, *, size: int = 64, channels: int = 3, split: str = "train"
) -> ImageSet:
    """Images of SDSS galaxies with the classes of Galaxy Zoo 1; nothing is downloaded.

    The classes are the most frequent votes. `ImageSet.augmented` exchanges the two spirals in a
    flip. Credit SDSS and Galaxy Zoo (Lintott et al. 2011; images: Willett et al. 2013).

    Args:
        source: The file that ``galflow-lite data fetch galaxy_zoo`` leaves (`data.fetch` returns
            its path), or another .npz file with ``x``, uint8, shape (n, side, side) or (n, side,
            side, 3), and ``y``, whole numbers, shape (n,).
        size: Side in pixels; a divisor of the side in the file: squares of pixels are averaged.
        channels: 3 for colour (of a grey file three equal ones), 1 for the mean of the colours.
        split: "train" or "test": 15 % of the images, which are shuffled, since files are in the
            order of the sky.

    Returns:
        Images of shape (n, channels, size, size), the square root of the flux up to 0.6.

    Raises:
        FileNotFoundError: The file is not there; the message has the command.
        ValueError: It is another file, or ``size`` does not fit it.
    """
    as_choice(split, "split", ("train", "test"))
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"there is no file {source}, expected images of the Galaxy Zoo: run galflow-lite data "
            "fetch galaxy_zoo"
        )
    with np.load(source, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    if x.dtype != np.uint8 or x.shape[1] % size:
        raise ValueError(
            f"{source} has x of type {x.dtype} and shape {x.shape}, expected uint8 and sides that "
            f"are multiples of {size}: convert it, or choose another size"
        )
    x = x.reshape(*x.shape[:3], -1)
    rows = split_rows(len(x), split=split, test_fraction=0.15).numpy()
    stretch = Stretch("square root", scale=0.6)
    images = torch.empty(len(rows), channels, size, size)
    # In pieces: the whole set as float32 beside its means would not fit everywhere.
    for start in range(0, len(rows), 1024):
        part = slice(start, start + 1024)
        pixels = torch.from_numpy(x[rows[part]]).float().div_(255).permute(0, 3, 1, 2)
        if channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)
        images[part] = stretch(F.avg_pool2d(pixels, x.shape[1] // size))
    spirals = ("clockwise spiral", "anticlockwise spiral")
    return ImageSet(
        images=images,
        labels=torch.from_numpy(y[rows].astype(np.int64)),
        # The six choices of Galaxy Zoo 1 (arXiv:1007.3265), in the order of its table.
        class_names=("elliptical", *spirals, "edge-on", "unknown", "merger"),
        name="Galaxy Zoo",
        split=split,
        stretch=stretch,
        mirror=(0, 2, 1, 3, 4, 5),
    )


def digits(*, split: str = "train") -> ImageSet:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn: no download.

    Args:
        split: "train" or "test", a fifth of them.

    Returns:
        Grey images, shape (n, 1, 8, 8), values in [-1, 1]; ten classes.
    """
    table = load_digits()
    rows = split_rows(len(table.images), split=split, test_fraction=0.2)
    stretch = Stretch("linear")
    return ImageSet(
        images=stretch(torch.from_numpy(table.images / 16).float()[rows, None]),
        labels=torch.from_numpy(table.target).long()[rows],
        class_names=tuple("0123456789"),
        name="digits",
        split=split,
        stretch=stretch,
    )
