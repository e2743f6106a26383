"""Galaxies: star tables, the paper's cuts and conditions, the HDF5 catalogue.

Source: Wolf & Buck 2023, *GalacticFlow*, arXiv:2312.06017.
"""

from __future__ import annotations

from .table import COLUMNS, CONDITIONS, UNITS, Galaxy, TooFewStars, clean, conditions

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "UNITS",
    "Galaxy",
    "TooFewStars",
    "clean",
    "conditions",
]
