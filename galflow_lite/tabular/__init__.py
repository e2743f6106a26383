"""Four tables on which density models are compared: POWER, GAS, HEPMASS and MINIBOONE.

Each reader takes the raw file and prepares it as the MAF paper (arXiv:1705.07057) and its published
code do, so that scores can be set beside published ones; each docstring says what in that is not
good practice. No pickle is loaded.
"""

from __future__ import annotations

from .data import TabularData, subset
from .gas import gas
from .particles import hepmass, miniboone
from .power import PowerReadings, power, power_readings

__all__ = [
    "PowerReadings",
    "TabularData",
    "gas",
    "hepmass",
    "miniboone",
    "power",
    "power_readings",
    "subset",
]
