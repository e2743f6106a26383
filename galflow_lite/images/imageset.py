"""Images with their classes, and the stretch between fluxes and values that a network can learn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_choice, as_number, as_tensor, as_whole


@dataclass(frozen=True)
class Stretch:
    """A monotone map of flux to value: zero flux becomes -1, the flux ``scale`` becomes 1.

    Most pixels of a galaxy are faint; the square root and the arcsinh spread them out. With
    u = flux / scale the value is 2 f(u) - 1, where f(u) is u, sqrt(u), or arcsinh(s u) / arcsinh(s)
    with the softening s.

    Attributes:
        kind: "linear", "square root" or "arcsinh".
        scale: Flux that becomes 1.
        low: Smallest flux, smaller ones are set to it; below zero for "linear" and "arcsinh" only.
        high: Largest flux, larger ones are set to it; None takes ``scale``.
        softening: s of the arcsinh: the larger it is, the brighter the faint pixels.

    Example:
        >>> Stretch("square root", scale=0.6)(torch.tensor([0.0, 0.15, 0.6, 0.9]))
        tensor([-1.,  0.,  1.,  1.])
    """

    kind: str
    scale: float = 1.0
    low: float = 0.0
    high: float | None = None
    softening: float = 6.0

    def __post_init__(self) -> None:
        as_choice(self.kind, "kind", ("linear", "square root", "arcsinh"))
        as_number(self.scale, "scale", above=0)
        as_number(self.softening, "softening", above=0)
        least = 0 if self.kind == "square root" else -math.inf
        low = as_number(self.low, "low", least=least)
        object.__setattr__(self, "high", self.scale if self.high is None else self.high)
        as_number(self.high, "high", above=low)

    def __call__(self, flux: Any) -> Tensor:
        """Values of fluxes, any shape; fluxes outside ``low`` to ``high`` are set to these."""
        u = as_tensor(flux, "flux").clamp(self.low, self.high) / self.scale
        if self.kind == "square root":
            u = u.sqrt()
        elif self.kind == "arcsinh":
            u = (self.softening * u).asinh() / math.asinh(self.softening)
        return 2 * u - 1

    def inverse(self, values: Any) -> Tensor:
        """Fluxes of values, any shape: the exact inverse between the low and the high flux.

        Values beyond those continue smoothly and are not cut off: what a model makes of a pixel
        stays visible. Below -1 the square root continues as an odd function.
        """
        u = (as_tensor(values, "values", finite=False) + 1) / 2
        if self.kind == "square root":
            u = u * u.abs()
        elif self.kind == "arcsinh":
            u = (u * math.asinh(self.softening)).sinh() / self.softening
        return u * self.scale


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
        ValueError: The images are whole numbers: fluxes, which a stretch makes into values.
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
        as_choice(self.split, "split", ("train", "test"))
        dtype = str(getattr(self.images, "dtype", "")).removeprefix("torch.")
        if dtype.startswith(("int", "uint", "bool")):
            raise ValueError(
                "the images hold whole numbers, expected values of about -1 to 1: apply a Stretch "
                "to them first"
            )
        shape = ("n", "channels", "height", "width")
        images = as_tensor(self.images, "the images", shape, dtype=torch.float32)
        labels = torch.as_tensor(self.labels, device=images.device).long()
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: int | slice | Tensor) -> ImageSet:
        """The images of a slice, a mask or an index; a whole number gives a set of one image."""
        if isinstance(rows, int):
            rows = torch.arange(len(self))[rows, None]
        targets = self.targets[rows] if self.targets is not None else None
        return replace(self, images=self.images[rows], labels=self.labels[rows], targets=targets)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"<ImageSet {self.name}, {self.split}: {len(self):,} images, {size}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.images.shape[1:])

    @property
    def flux(self) -> Tensor:
        """The images without the stretch, shape of ``images``."""
        return self.stretch.inverse(self.images)

    def augmented(self, *, copies: int = 1, seed: int) -> ImageSet:
        """Turn by 0, 90, 180 or 270 degrees and flip every other image, at random.

        A flip turns a clockwise spiral into an anticlockwise one, a rotation does not: the classes
        follow ``mirror``.

        Args:
            copies: Variants of each image; the originals are not kept beside them.
            seed: Seed of the choice.

        Returns:
            Set of ``copies`` times as many images, without targets, some of which a turn changes.
        """
        images, labels = self.images.repeat(copies, 1, 1, 1), self.labels.repeat(copies)
        generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
        choice = torch.randint(8, (len(images),), generator=generator)
        turned = torch.empty_like(images)
        for k in range(8):
            rows = (choice == k).nonzero()[:, 0].to(images.device)
            these = images[rows].rot90(k % 4, dims=(2, 3))
            turned[rows] = these.flip(3) if k >= 4 else these
        mirror = torch.tensor(self.mirror, device=labels.device)
        labels = torch.where((choice >= 4).to(labels.device), mirror[labels], labels)
        return replace(self, images=turned, labels=labels, targets=None, target_names=())


def split_rows(n: int, *, split: str, test_fraction: float) -> Tensor:
    """Rows of a part of n rows, in a random order that is the same every time, shape (m,)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    test = round(n * test_fraction)
    return order[:test] if split == "test" else order[test:]
