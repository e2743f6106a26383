"""The numbers that ship: each quantity of each run behind the reference of notebook 04, by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..files import share, write_aside
from ..reproduction.settings import hardware, versions

__all__ = ["FILE", "ship", "shipped_numbers"]

FILE = "results/samplers_paper.json"

_FORMAT = 1
_DIGITS = 5


def ship(results: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Put the numbers of many runs together in one file, seeds side by side.

    Args:
        results: what `galflow_lite.reproduction.repeat` returned for the ``paper_cases`` of
            `comparison`, `posteriors` and `energy`; names end in ``-seed``.
        path: the file, JSON. A number that is not finite is null there, as is one that a run of
            another seed has and this one has not; lists are left out.

    Raises:
        OSError: the file cannot be written; the one before it is intact.
    """
    seeds = sorted({int(name.rpartition("-")[2]) for name in results})
    table: dict[str, dict[str, list[float | None]]] = {}
    for name, result in results.items():
        case, _, seed = name.rpartition("-")
        for quantity, value in result.items():
            if isinstance(value, int | float):
                row = table.setdefault(case, {}).setdefault(quantity, [None] * len(seeds))
                row[seeds.index(int(seed))] = _rounded(value)
    head = {
        "format": _FORMAT,
        "seeds": seeds,
        "hardware": hardware(),
        "versions": versions(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(row)}" for case, row in table.items())
    # A line for each case: short enough to read, and to compare with an older file.
    text = json.dumps(head)[:-1] + ',\n"numbers": {\n' + lines + "\n}}\n"
    write_aside(path, text)


def shipped_numbers(path: str | Path | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The numbers behind the reference of notebook 04.

    Args:
        path: another file that `ship` wrote.

    Returns:
        Case, such as ``"ring8-recipe"``, to quantity, such as ``"energy_distance"``, to its values
        over seeds, shape (seeds,); NaN where a run has no finite value.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is not one that `ship` wrote.
    """
    path = share("data") / FILE if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}, which belongs to the package: restore it, or install anew"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"{path} does not hold numbers of format {_FORMAT}: restore it, or install anew"
        )
    return {
        case: {
            quantity: np.array([math.nan if value is None else value for value in values])
            for quantity, values in row.items()
        }
        for case, row in content["numbers"].items()
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
