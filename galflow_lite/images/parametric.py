"""Galaxies drawn from parameters: as many as wanted, with the truth about each."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import convolve1d

from ..inputs import as_choice, as_whole
from .imageset import ImageSet, Stretch

PARAMETERS = (
    "axis ratio",
    "position angle",
    "effective radius",
    "bulge fraction",
    "Sersic index",
    "pitch angle",
    "arm phase",
    "arm amplitude",
    "x offset",
    "y offset",
)
"""Targets of `parametric_galaxies`; angles in rad, lengths in half sides of the image."""

_CLASSES = ("elliptical", "spiral", "edge-on")
_AXIS_RATIO = np.array([[0.6, 1.0], [0.55, 1.0], [0.12, 0.3]])
_NOISE = 0.015
_PSF = 0.8
_PIXELS_AT_ONCE = 1 << 19

_SOFTENING = 6.0
# The flux whose value is -1.2, the smallest value that an image may have.
_LOW = -math.sinh(0.1 * math.asinh(_SOFTENING)) / _SOFTENING
_STRETCH = Stretch("arcsinh", low=_LOW, high=1.2, softening=_SOFTENING)


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
    as_choice(split, "split", ("train", "test"))
    n, size = as_whole(n, "n", least=1), as_whole(size, "size", least=8)
    seed = as_whole(seed, "seed")
    images = torch.empty(n, 1, size, size)
    labels = np.empty(n, dtype=np.int64)
    targets = np.empty((n, len(PARAMETERS)))
    # In pieces, so that beyond the images themselves memory grows neither with n nor with size.
    piece = max(_PIXELS_AT_ONCE // size**2, 1)
    for start in range(0, n, piece):
        part = slice(start, min(start + piece, n))
        labels[part], targets[part], noise = _draw(
            range(part.start, part.stop), size=size, seed=seed, stream=split == "test"
        )
        flux = _render(labels[part], targets[part], size=size)
        flux /= np.quantile(flux, 0.995, axis=(1, 2), keepdims=True)
        images[part, 0] = _STRETCH(torch.from_numpy(flux + _NOISE * noise)).float()
    return ImageSet(
        images=images,
        labels=torch.from_numpy(labels),
        class_names=_CLASSES,
        name="parametric galaxies",
        split=split,
        stretch=_STRETCH,
        mirror=(0, 1, 2),
        targets=torch.from_numpy(targets).float(),
        target_names=PARAMETERS,
    )


def _draw(
    numbers: range, *, size: int, seed: int, stream: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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

    elliptical, spiral = label == 0, label == 1
    # The halves of the unit interval are the two handednesses.
    side = 2 * uniform[:, 6] - 1
    pitch = np.sign(side) * (0.25 + 0.3 * np.abs(side))
    parameters = {
        "axis ratio": between(1, *_AXIS_RATIO[label].T),
        "position angle": between(2, 0.0, np.pi),
        "effective radius": between(3, 0.18, 0.38),
        "bulge fraction": np.where(elliptical, 1.0, between(4, 0.1, 0.5)),
        "Sersic index": np.where(elliptical, between(5, 2.5, 4.0), 1.0),
        "pitch angle": np.where(side == 0, 0.25, pitch),
        "arm phase": between(7, 0.0, 2 * np.pi),
        "arm amplitude": np.where(spiral, between(8, 0.5, 0.95), 0.0),
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
    slope = 2 * index - 1 / 3
    light = 0.12 * np.exp(-slope * ((r / bulge_radius) ** (1 / index) - 1))
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / _PSF) ** 2)
    flux = (1 - bulge) * disc + bulge * light
    for direction in (1, 2):
        flux = convolve1d(flux, kernel / kernel.sum(), axis=direction, mode="nearest")
    return flux
