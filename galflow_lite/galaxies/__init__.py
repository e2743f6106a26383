"""Galaxies: star tables, the paper's cuts and conditions, the HDF5 catalogue.

Source: Wolf & Buck 2023, *GalacticFlow*, arXiv:2312.06017.
"""

from __future__ import annotations

from .batches import CatalogueBatches
from .catalogue import Catalogue, CatalogueError
from .model import GalaxyFlow
from .numpy_folder import Conversion, NumpyFolder, convert, read_numpy_folder
from .table import COLUMNS, CONDITIONS, UNITS, Galaxy, TooFewStars, clean, conditions

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "UNITS",
    "Catalogue",
    "CatalogueBatches",
    "CatalogueError",
    "Conversion",
    "Galaxy",
    "GalaxyFlow",
    "NumpyFolder",
    "TooFewStars",
    "clean",
    "conditions",
    "convert",
    "read_numpy_folder",
]
