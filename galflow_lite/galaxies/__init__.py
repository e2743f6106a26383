"""Galaxies: star tables, cuts and conditions, the HDF5 catalogue, GalaxyFlow and its baselines.

Source: Wolf & Buck 2023, *GalacticFlow*, arXiv:2312.06017.
"""

from __future__ import annotations

from .baselines import ConditionalMixture, NearestGalaxy
from .batches import CatalogueBatches
from .catalogue import Catalogue, CatalogueError
from .conditioning import OutsideTrainingRange
from .model import GalaxyFlow, paper_schedule
from .numpy_folder import Conversion, NumpyFolder, convert, read_numpy_folder
from .profiles import cylindrical, face_on_map, profile_distance, radial_profile
from .table import COLUMNS, CONDITIONS, UNITS, Galaxy, TooFewStars, clean, conditions

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "UNITS",
    "Catalogue",
    "CatalogueBatches",
    "CatalogueError",
    "ConditionalMixture",
    "Conversion",
    "Galaxy",
    "GalaxyFlow",
    "NearestGalaxy",
    "NumpyFolder",
    "OutsideTrainingRange",
    "TooFewStars",
    "clean",
    "conditions",
    "convert",
    "cylindrical",
    "face_on_map",
    "paper_schedule",
    "profile_distance",
    "radial_profile",
    "read_numpy_folder",
]
