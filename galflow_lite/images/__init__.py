"""Sets of images for generative models: galaxies that need no download, and some that do.

Each function returns an `ImageSet`: float32 images with values in about [-1, 1], classes, and the
stretch that leads back to fluxes. No pickle is loaded.
"""

from __future__ import annotations

from .augmentation import flip_and_rotate
from .digits import digits
from .hubble import hubble_patches
from .imageset import ImageSet
from .parametric import PARAMETERS, parametric_galaxies
from .stretch import Stretch
from .zoo import galaxy_zoo

__all__ = [
    "PARAMETERS",
    "ImageSet",
    "Stretch",
    "digits",
    "flip_and_rotate",
    "galaxy_zoo",
    "hubble_patches",
    "parametric_galaxies",
]
