"""Galaxies: star tables, cuts and conditions, the HDF5 catalogue, GalaxyFlow and its baselines.

Source: Wolf & Buck 2023, *GalacticFlow*, arXiv:2312.06017.
"""

from __future__ import annotations

from .baselines import ConditionalMixture, NearestGalaxy
from .catalogue import Catalogue
from .galaxy import COLUMNS, CONDITIONS, UNITS, Galaxy, clean, conditions
from .galaxy_flow import GalaxyFlow
from .profiles import PROFILES, cylindrical, face_on_map, profile_distance, radial_profile
from .published_layout import convert
from .scaling import OutsideTrainingRange

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "PROFILES",
    "UNITS",
    "Catalogue",
    "ConditionalMixture",
    "Galaxy",
    "GalaxyFlow",
    "NearestGalaxy",
    "OutsideTrainingRange",
    "clean",
    "conditions",
    "convert",
    "cylindrical",
    "face_on_map",
    "profile_distance",
    "radial_profile",
]
