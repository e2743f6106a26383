"""What the papers report, what we get, and whether the two agree.

A notebook opens with :func:`settings`, holds each number it quotes against a band with
:func:`check`, keeps numbers that have no band with :func:`record`, shows their scatter between runs
with :func:`band_values`, repeats an experiment over cases and seeds with :func:`repeat`, and shows
the rows of its paper with :func:`table`.
"""

from __future__ import annotations

from .checks import OutOfBand, band_values, check, record, records, remark
from .rows import Summary, rows
from .runs import repeat
from .settings import hardware, settings, versions
from .table import Results, reference, table

__all__ = [
    "OutOfBand",
    "Results",
    "Summary",
    "band_values",
    "check",
    "hardware",
    "record",
    "records",
    "reference",
    "remark",
    "repeat",
    "rows",
    "settings",
    "table",
    "versions",
]
