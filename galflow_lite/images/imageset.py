"""Images with their classes and their stretch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .augmentation import flip_and_rotate
from .stretch import Stretch

__all__ = ["ImageSet", "check_split", "split_rows"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images, their classes, and how to get back to fluxes. ``images[3:7]`` is a smaller set.

    Attributes:
        images: Stretched images, shape (n, channels, height, width), float32, about [-1, 1].
        labels: Class of each image, shape (n,), int64.
        class_names: Name of each class.
        name: Name of the set.
        split: "train" or "test".
        stretch: Made the values from fluxes.
        mirror: The class that each class becomes in a mirror; None where a mirror image or a turned
            one is no member of the set, as for digits.
        targets: Numbers that belong to each image, shape (n, len(target_names)), float32.
        target_names: What these are.

    Raises:
        ValueError: If the shapes do not fit together, or a value is not finite.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    split: str
    stretch: Stretch
    mirror: tuple[int, ...] | None = None
    targets: Tensor | None = None
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_split(self.split)
        n = len(self.images)
        if self.images.ndim != 4 or not torch.isfinite(self.images).all():
            raise ValueError(
                f"the images of {self.name} have the shape {tuple(self.images.shape)}, expected "
                "(n, channels, height, width) and finite values: reshape them or drop the others."
            )
        if self.labels.shape != (n,) or (
            n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names)
        ):
            raise ValueError(
                f"the labels of {self.name} do not fit, expected {n} of them between 0 and "
                f"{len(self.class_names) - 1}: one for each image."
            )
        expected = (n, len(self.target_names)) if self.target_names else None
        if (tuple(self.targets.shape) if self.targets is not None else None) != expected:
            raise ValueError(
                f"the targets of {self.name} do not fit, expected the shape {expected} for "
                f"{', '.join(self.target_names) or 'no names'}: one row for each image."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: int | slice | Tensor) -> ImageSet:
        """The images of a slice, a mask or an index; a whole number gives a set of one image."""
        if isinstance(rows, int):
            rows = torch.arange(len(self))[rows, None]
        targets = self.targets[rows] if self.targets is not None else None
        return replace(self, images=self.images[rows], labels=self.labels[rows], targets=targets)

    def __repr__(self) -> str:
        n, channels, height, width = self.images.shape
        text = f"{self.name}, {self.split}: {n:,} images, {channels} x {height} x {width}"
        if n:
            text += f", values {self.images.min():.2f} to {self.images.max():.2f}"
        if len(self.class_names) > 1:
            counts = self.labels.bincount(minlength=len(self.class_names)).tolist()
            named = zip(self.class_names, counts, strict=True)
            text += "; " + ", ".join(f"{name} {count:,}" for name, count in named)
        return f"<ImageSet {text}; {self.stretch}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.images.shape[1:])

    @property
    def flux(self) -> Tensor:
        """The images without the stretch, shape of ``images``."""
        return self.stretch.inverse(self.images)

    def binned(self, factor: int) -> ImageSet:
        """Average squares of factor x factor pixels: means of the flux, stretched again.

        Raises:
            ValueError: If the factor does not divide height and width.
        """
        _, height, width = self.shape
        if factor < 1 or height % factor or width % factor:
            raise ValueError(
                f"images of {height} x {width} pixels are to be averaged in squares of {factor}, "
                "expected a divisor of both sides: choose another factor."
            )
        return replace(self, images=self.stretch(F.avg_pool2d(self.flux, factor)))

    def augmented(self, *, copies: int = 1, seed: int, flips: bool = True) -> ImageSet:
        """Turn and flip at random (`flip_and_rotate`); the classes follow what a mirror does.

        Args:
            copies: Variants of each image; the originals are not kept beside them.
            seed: Seed of the choice.
            flips: Whether to flip as well.

        Returns:
            Set of ``copies`` times as many images, without targets, some of which a turn changes.

        Raises:
            ValueError: If turned images are no members of this set, or are not square, or the
                number of copies is not positive.
        """
        if self.mirror is None:
            raise ValueError(
                f"the images of {self.name} are to be turned, expected a set that has no upright "
                "direction: leave the augmentation out."
            )
        if copies < 1:
            raise ValueError(f"found {copies} copies, expected at least 1: give a positive number.")
        labels = self.labels.repeat(copies)
        images, flipped = flip_and_rotate(
            self.images.repeat(copies, 1, 1, 1), seed=seed, flips=flips
        )
        mirror = torch.tensor(self.mirror, device=labels.device)
        labels = torch.where(flipped, mirror[labels], labels)
        return replace(self, images=images, labels=labels, targets=None, target_names=())


def check_split(split: str) -> None:
    """Refuse what is neither "train" nor "test"."""
    if split not in ("train", "test"):
        raise ValueError(f"there is no part {split!r}, expected 'train' or 'test': choose one.")


def split_rows(n: int, *, split: str, test_fraction: float, seed: int) -> Tensor:
    """Rows of a part of n rows, in a random order that the seed gives, shape (m,).

    Raises:
        ValueError: If there is no such part, or a part would be empty.
    """
    check_split(split)
    test = round(n * test_fraction) if 0 < test_fraction < 1 else 0
    if not 0 < test < n:
        raise ValueError(
            f"{n} images are to be split with a test fraction of {test_fraction}, expected one "
            "between 0 and 1 that leaves images in both parts: change it."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:test] if split == "test" else order[test:]
