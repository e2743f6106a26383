"""Handwritten digits, small and quick."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from .imageset import ImageSet, split_rows
from .stretch import Stretch

__all__ = ["digits"]


def digits(*, split: str = "train", test_fraction: float = 0.2, seed: int = 0) -> ImageSet:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn: no download.

    Args:
        split: "train" or "test".
        test_fraction: Share of the images kept for testing.
        seed: Seed of the split.

    Returns:
        Grey images, shape (n, 1, 8, 8), values in [-1, 1]; ten classes.

    Raises:
        ValueError: If there is no such part, or it would be empty.
    """
    table = load_digits()
    rows = split_rows(len(table.images), split=split, test_fraction=test_fraction, seed=seed)
    stretch = Stretch("linear")
    flux = torch.from_numpy(table.images / table.images.max()).float()[rows, None]
    return ImageSet(
        images=stretch(flux),
        labels=torch.from_numpy(table.target).long()[rows],
        class_names=tuple(str(name) for name in table.target_names),
        name="digits",
        split=split,
        stretch=stretch,
    )
