"""What the papers report, what we get, and whether the two agree.

A notebook opens with :func:`settings`, holds each number it quotes against a band with
:func:`check`, notes numbers that have no band with :func:`record`, shows their scatter between runs
with :func:`band_values`, and ends with :func:`table`.
"""

from __future__ import annotations

from .bands import Band, band_values, make_bands, read_bands
from .checks import OutOfBand, Record, check, record, records, remark
from .environment import Settings, hardware, settings, versions
from .paper import Row, rows, verdict
from .repeats import Case, CasesFailed, spent
from .results import Results, reference
from .runs import Runs, repeat
from .summaries import Summary, prediction_interval
from .tables import Table, table

__all__ = [
    "Band",
    "Case",
    "CasesFailed",
    "OutOfBand",
    "Record",
    "Results",
    "Row",
    "Runs",
    "Summary",
    "Settings",
    "Table",
    "band_values",
    "check",
    "hardware",
    "make_bands",
    "prediction_interval",
    "read_bands",
    "record",
    "records",
    "reference",
    "remark",
    "repeat",
    "rows",
    "settings",
    "spent",
    "table",
    "verdict",
    "versions",
]
