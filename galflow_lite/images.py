"""Sets of images for generative models: galaxies that need no download, and some that do.

Each function returns an `ImageSet`: float32 images with values in about [-1, 1], classes, and the
stretch that leads back to fluxes. No pickle is loaded.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import convolve1d
from torch import Tensor
from tqdm import TqdmWarning

from .files import reading
from .inputs import (
    as_array,
    as_choice,
    as_index,
    as_number,
    as_tensor,
    as_values,
    as_whole,
    sent,
)

with warnings.catch_warnings():
    # scikit-image brings pooch, which warns in a notebook without ipywidgets.
    warnings.simplefilter("ignore", TqdmWarning)
    from skimage.data import hubble_deep_field

__all__ = ["ImageSet", "Stretch", "galaxy_zoo", "hubble_patches", "parametric_galaxies"]

_SOFTENING = 6.0


@dataclass(frozen=True)
class Stretch:
    """A monotone map of flux to value: zero flux becomes -1, the flux ``scale`` becomes 1.

    Most pixels of a galaxy are faint; the square root and the arcsinh spread them out. With
    u = flux / scale the value is 2 f(u) - 1, where f(u) is u, sqrt(u), or arcsinh(s u) / arcsinh(s)
    with s = 6.

    Attributes:
        kind: "linear", "square root" or "arcsinh".
        scale: Flux that becomes 1.
        low: Smallest flux, smaller ones are set to it; below zero for "linear" and "arcsinh" only.
        high: Largest flux, larger ones are set to it; None takes ``scale``.

    Example:
        >>> Stretch("square root", scale=0.6)(torch.tensor([0.0, 0.15, 0.6, 0.9]))
        tensor([-1.,  0.,  1.,  1.])
    """

    kind: str
    scale: float = 1.0
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        as_choice(self.kind, "kind", ("linear", "square root", "arcsinh"))
        as_number(self.scale, "scale", above=0)
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
            u = (_SOFTENING * u).asinh() / math.asinh(_SOFTENING)
        return 2 * u - 1

    def inverse(self, values: Any) -> Tensor:
        """Fluxes of values, any shape: the exact inverse between the low and the high flux.

        Values beyond those continue smoothly and are not cut off: what a model makes of a pixel
        stays visible. Below -1 the square root continues as an odd function.
        """
        u = (as_values(values, "values", finite=False) + 1) / 2
        if self.kind == "square root":
            u = u * u.abs()
        elif self.kind == "arcsinh":
            u = (u * math.asinh(_SOFTENING)).sinh() / _SOFTENING
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
            one is no member of the set.
        targets: Numbers that belong to each image, shape (n, numbers), float32; the function that
            made the set says which.

    Raises:
        ValueError: The images are fluxes, such as 0 to 255, which a stretch makes into values.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    split: str
    stretch: Stretch
    mirror: tuple[int, ...] | None = None
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        as_choice(self.split, "split", ("train", "test"))
        shape = ("n", "channels", "height", "width")
        images = as_values(self.images, "image array", shape, dtype=torch.float32)
        names, shape = self.class_names, (len(images),)
        labels = as_index(self.labels, "labels", shape, len(names), like=images)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        if self.targets is not None:
            object.__setattr__(self, "targets", torch.as_tensor(self.targets).to(images.device))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: int | slice | Tensor) -> ImageSet:
        """The images of a slice, a mask or an index; a whole number gives a set of one image."""
        if isinstance(rows, int | np.integer):
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
        copies = as_whole(copies, "copies", least=1)
        images, labels = self.images.repeat(copies, 1, 1, 1), self.labels.repeat(copies)
        generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
        choice = torch.randint(8, (len(images),), generator=generator)
        turned, device = torch.empty_like(images), images.device
        for k in range(8):
            rows = sent((choice == k).nonzero()[:, 0], device)
            these = images[rows].rot90(k % 4, dims=(2, 3))
            turned[rows] = these.flip(3) if k >= 4 else these
        mirror = sent(torch.tensor(self.mirror), device)
        labels = torch.where(sent(choice >= 4, device), mirror[labels], labels)
        return replace(self, images=turned, labels=labels, targets=None)


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
    first, end = (800, 1000) if split == "test" else (0, 768)
    centre = slice(size // 4, size - size // 4)
    grey = sliding_window_view(sky[:, first:end].mean(axis=2), (size, size))
    bright = grey[::8, ::8, centre, centre].max(axis=(2, 3)) > 90.0
    corners = 8 * np.argwhere(bright)
    windows = sliding_window_view(sky[:, first:end], (size, size), axis=(0, 1))
    flux = torch.from_numpy(windows[tuple(corners.T)]).float() / 255
    stretch = Stretch("square root")
    images, labels = stretch(flux.mean(dim=1, keepdim=True)), torch.zeros(len(flux)).long()
    targets = torch.from_numpy(corners + [0, first]).float()
    about = ("Hubble deep field", split, stretch)
    return ImageSet(images, labels, ("patch",), *about, mirror=(0,), targets=targets)


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
        OSError: The file is not there, or may not be read; the message has the command.
        ValueError: It is another file, or ``size`` does not fit it.
    """
    expected = "images as galflow-lite data fetch galaxy_zoo brings them"
    with reading(source, expected), np.load(source, allow_pickle=False) as arrays:
        x, y = arrays["x"], as_array(arrays["y"], "y", (len(arrays["x"]),), dtype=np.int64)
    square = x.ndim in (3, 4) and x.shape[1:] in (2 * x.shape[1:2], (*2 * x.shape[1:2], 3))
    if x.dtype != np.uint8 or not square or x.shape[1] % size:
        raise ValueError(
            f"{source} has x of type {x.dtype} and shape {x.shape}, expected uint8 and sides that "
            f"are multiples of {size}: convert it, or choose another size"
        )
    x = x.reshape(*x.shape[:3], -1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy()
    test = round(0.15 * len(x))
    rows = order[:test] if split == "test" else order[test:]
    stretch = Stretch("square root", scale=0.6)
    images = torch.empty(len(rows), channels, size, size)
    # In pieces: the whole set as float32 beside its means would not fit everywhere.
    for part in torch.arange(len(rows)).split(1024):
        pixels = torch.from_numpy(x[rows[part]]).float().div_(255).permute(0, 3, 1, 2)
        if channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)
        images[part] = stretch(torch.nn.functional.avg_pool2d(pixels, x.shape[1] // size))
    spirals = ("clockwise spiral", "anticlockwise spiral")
    # The six choices of Galaxy Zoo 1 (arXiv:1007.3265), in the order of its table.
    classes = ("elliptical", *spirals, "edge-on", "unknown", "merger")
    labels, mirror = torch.from_numpy(y[rows]), (0, 2, 1, 3, 4, 5)
    return ImageSet(images, labels, classes, "Galaxy Zoo", split, stretch, mirror)


_SHAPE = ("axis ratio", "position angle", "effective radius", "bulge fraction", "Sersic index")
_ARMS_AND_CENTRE = ("pitch angle", "arm phase", "arm amplitude", "x offset", "y offset")
PARAMETERS = _SHAPE + _ARMS_AND_CENTRE
"""Targets of `parametric_galaxies`; angles in rad, lengths in half sides of the image."""

_AXIS_RATIO = np.array([[0.6, 1.0], [0.55, 1.0], [0.12, 0.3]])
# The flux whose value is -1.2, the smallest value that an image may have.
_LOW = -math.sinh(0.1 * math.asinh(_SOFTENING)) / _SOFTENING
_STRETCH = Stretch("arcsinh", low=_LOW, high=1.2)


def parametric_galaxies(n: int, size: int = 32, *, seed: int = 0, split: str = "train") -> ImageSet:
    """Draw ellipticals, two-armed spirals and edge-on discs with a blurred, noisy camera.

    A disc that falls off exponentially, with two logarithmic arms where the galaxy is a spiral, and
    a Sersic bulge; blurred by a Gaussian of 0.8 pixels, divided by the 99.5 % quantile of the
    image, and with Gaussian noise of 0.015. Image k depends on the seed, the part, the size and k,
    never on n: its random numbers start at a counter of its own. The three classes are equally
    probable. The stretch is the arcsinh with softening 6, from -1.2 to 1.145.

    Args:
        n: Number of images.
        size: Side in pixels, at least 8.
        seed: Seed, 0 or more.
        split: "train" or "test": two independent streams of random numbers.

    Returns:
        Grey images of shape (n, 1, size, size), their classes, and the parameters that made them as
        targets (`PARAMETERS`, in this order). The sign of the pitch angle is the handedness.
    """
    n, size = as_whole(n, "n", least=1), as_whole(size, "size", least=8)
    seed = as_whole(seed, "seed")
    images = torch.empty(n, 1, size, size)
    labels, targets = np.empty(n, dtype=np.int64), np.empty((n, len(PARAMETERS)))
    # In pieces, so that beyond the images themselves memory grows neither with n nor with size.
    piece = max((1 << 19) // size**2, 1)
    for part in np.split(np.arange(n), range(piece, n, piece)):
        labels[part], targets[part], noise = _draw(part, size, seed, split == "test")
        flux = _render(labels[part], targets[part], size=size)
        flux /= np.quantile(flux, 0.995, axis=(1, 2), keepdims=True)
        images[part, 0] = _STRETCH(torch.from_numpy(flux + 0.015 * noise)).float()
    targets, labels = torch.from_numpy(targets).float(), torch.from_numpy(labels)
    about = ("elliptical", "spiral", "edge-on"), "parametric galaxies", split, _STRETCH
    return ImageSet(images, labels, *about, mirror=(0, 1, 2), targets=targets)


def _draw(numbers: np.ndarray, size: int, seed: int, stream: bool) -> tuple[np.ndarray, ...]:
    """Classes, parameters and noise of the images with these numbers."""
    uniform, normal = np.empty((len(numbers), 9)), np.empty((len(numbers), 2))
    noise = np.empty((len(numbers), size, size))
    for i, k in enumerate(numbers):
        # The same count of numbers for each class, so that none depends on the choice before it.
        # The key has 128 bits: the seed in the lower half, the part in the upper.
        rng = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, k, 0, 0]))
        uniform[i], normal[i] = rng.random(9), rng.standard_normal(2)
        noise[i] = rng.standard_normal((size, size))
    label = (3 * uniform[:, 0]).astype(np.int64)

    def between(column: int, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
        return low + (high - low) * uniform[:, column]

    # The halves of the unit interval are the two handednesses.
    side = 2 * uniform[:, 6] - 1
    parameters = {
        "axis ratio": between(1, *_AXIS_RATIO[label].T),
        "position angle": between(2, 0.0, np.pi),
        "effective radius": between(3, 0.18, 0.38),
        "bulge fraction": np.where(label == 0, 1.0, between(4, 0.1, 0.5)),
        "Sersic index": np.where(label == 0, between(5, 2.5, 4.0), 1.0),
        "pitch angle": np.copysign(0.25 + 0.3 * np.abs(side), side),
        "arm phase": between(7, 0.0, 2 * np.pi),
        "arm amplitude": np.where(label == 1, between(8, 0.5, 0.95), 0.0),
        "x offset": 0.04 * normal[:, 0],
        "y offset": 0.04 * normal[:, 1],
    }
    return label, np.stack([parameters[name] for name in PARAMETERS], axis=1), noise


def _render(label: np.ndarray, parameters: np.ndarray, *, size: int) -> np.ndarray:
    """Blurred fluxes without noise, shape (n, size, size)."""
    q, angle, radius, bulge, index, pitch, phase, amplitude, dx, dy = parameters.T[..., None, None]
    axis = (np.arange(size) + 0.5) / (size / 2) - 1
    x, y = axis[None, None, :] - dx, axis[None, :, None] - dy
    u = np.cos(angle) * x + np.sin(angle) * y
    v = (np.cos(angle) * y - np.sin(angle) * x) / q
    r, theta = np.hypot(u, v) + 1e-3, np.arctan2(v, u)
    disc = np.exp(-1.68 * r / radius)
    spiral = theta - np.log(r / radius + 0.05) / np.tan(pitch) - phase
    disc *= 1 + amplitude * np.cos(2 * spiral)
    bulge_radius = np.where((label == 0)[:, None, None], radius, 0.35 * radius)
    light = 0.12 * np.exp((1 / 3 - 2 * index) * ((r / bulge_radius) ** (1 / index) - 1))
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    flux = (1 - bulge) * disc + bulge * light
    for direction in (1, 2):
        flux = convolve1d(flux, kernel / kernel.sum(), axis=direction, mode="nearest")
    return flux
