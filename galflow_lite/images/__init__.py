"""Sets of images for generative models: galaxies that need no download, and some that do.

Each function returns an `ImageSet`: float32 images with values in about [-1, 1], classes, and the
stretch that leads back to fluxes. No pickle is loaded.
"""

from __future__ import annotations

from .imageset import ImageSet, Stretch, galaxy_zoo, hubble_patches
from .parametric import PARAMETERS, parametric_galaxies

__all__ = [
    "PARAMETERS",
    "ImageSet",
    "Stretch",
    "galaxy_zoo",
    "hubble_patches",
    "parametric_galaxies",
]
