"""Galaxies: star tables, cuts and conditions, the HDF5 catalogue, GalaxyFlow and its baselines.

Source: Wolf & Buck 2023, *GalacticFlow*, arXiv:2312.06017.
"""

from __future__ import annotations

from .baselines import ConditionalMixture, NearestGalaxy, compare, condition_errors
from .catalogue import Catalogue
from .catalogue_writer import convert
from .galaxy import COLUMNS, UNITS, Galaxy, clean, conditions, profile_distance, radial_profile
from .galaxy_flow import GalaxyFlow
from .scaling import OutsideTrainingRange

__all__ = [
    "COLUMNS",
    "UNITS",
    "Catalogue",
    "ConditionalMixture",
    "Galaxy",
    "GalaxyFlow",
    "NearestGalaxy",
    "OutsideTrainingRange",
    "clean",
    "compare",
    "condition_errors",
    "conditions",
    "convert",
    "profile_distance",
    "radial_profile",
]
