"""What the papers report, what we get, and whether the two agree.

A notebook opens with :func:`settings`, holds each number it quotes against a band with
:func:`check`, keeps numbers that have no band with :func:`record`, repeats an experiment over cases
and seeds with :func:`repeat`, and ends with the :func:`claims` of its paper. All numbers of all
runs are one table, :func:`runs`.
"""

from __future__ import annotations

from .checks import check, record
from .repeat_runs import repeat
from .settings import settings, versions
from .summaries import Summary, decide
from .tables import reference, row_table, rows, runs, stored
from .verdicts import claims

__all__ = [
    "Summary",
    "check",
    "claims",
    "decide",
    "record",
    "reference",
    "repeat",
    "row_table",
    "rows",
    "runs",
    "settings",
    "stored",
    "versions",
]
