"""The numbers that the papers report, and how a number of ours is judged against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tomlkit

from ..files import share
from .summaries import Number, format_number


@dataclass(frozen=True)
class Row:
    """One row of the table: what a paper reports, and how we compare.

    Attributes:
        id: name of the row, ``"galaxies.parameters"``.
        notebook: notebook that measures it, ``"01"``.
        paper: arXiv id.
        where: section, table or figure of the paper, or the place in its public code.
        source: who states the value: ``"paper abstract"``, ``"paper"``, ``"public code"``,
            ``"derived"`` (arithmetic on what they state) or ``"none"``. A number read in the code
            of a paper is not a quotation of the paper.
        quantity: one line.
        value: what is reported; ``None`` where it is not known to us, with the ``reason``.
        criterion: ``{"kind": ..., ...}``, see :func:`verdict`.
        note: why our number differs, or may.
        unit: of the value, where it has one.
        estimator: how the quantity is estimated, where papers differ in it.
        only_with: condition under which a met criterion counts, said in the verdict.
        judged_at: scale, ``"lite"`` or ``"paper"``, whose value the verdict is about.
        needs: what must be there to measure it, such as data that do not ship: said where nothing
            was measured.
        expected: for a quantity that is fixed before any training: its exact value, which
            :func:`galflow_lite.reproduction.check` then asks for instead of a band.
    """

    id: str
    notebook: str
    paper: str
    where: str
    source: str
    quantity: str
    value: Number | None
    criterion: Mapping[str, Any]
    note: str
    reason: str = ""
    unit: str = ""
    estimator: str = ""
    only_with: str = ""
    judged_at: str = "lite"
    needs: str = ""
    expected: Number | None = None

    def paper_text(self) -> str:
        """What is reported, and who states it."""
        if self.value is None:
            return "unknown"
        return f"{format_number(self.value)} ({self.source})"


def rows(notebook: str | None = None) -> dict[str, Row]:
    """The rows of ``data/paper_numbers.toml``, of one notebook or of all, in the order of the file.

    Args:
        notebook: two digits; left out, every row.
    """
    path = share("data") / "paper_numbers.toml"
    found = _read_rows(path, path.stat().st_mtime_ns)
    return {k: row for k, row in found.items() if notebook is None or row.notebook == notebook}


@lru_cache(maxsize=4)
def _read_rows(path: Path, modified: int) -> dict[str, Row]:
    """The rows of a file, which every check of a notebook asks for: read when it was modified."""
    content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    for entry in content.values():
        if entry["value"] == "unknown":
            entry["value"] = None
    return {name: Row(id=name, **entry) for name, entry in content.items()}


def verdict(
    row: Row,
    value: Number | None,
    others: Mapping[str, Number] | None = None,
    *,
    standard_errors: Mapping[str, float | None] | None = None,
) -> str:
    """Judge ``value`` by the criterion of its row.

    Kinds of criterion: ``equal`` (``target``, and optionally ``tolerance``, relative), ``at_most``
    (``high``), ``at_least`` (``low``), ``between`` (``low``, ``high``), ``reference`` (another
    number, ``row``, that is measured in the same run, and ``relation`` ``"at_most"`` or
    ``"at_least"``), ``not_comparable`` and ``out_of_reach`` (``reason``). A row of ``source``
    ``"none"``, which nobody has reported, is never "reproduced".

    ``agrees`` (``target`` and ``error``, one standard deviation, as the paper states them) is met
    when the value lies within two standard deviations of the target; its own standard error, where
    it has one, adds to ``error`` in quadrature, up to as much again. ``otherwise`` names a row that
    measures the same quantity with another estimator: when the value does not agree and that of
    ``otherwise`` does, by the same rule, it is "reproduced only with" what ``with`` says, or else
    with "the paper's estimator".

    Args:
        row: the row.
        value: what we measured; ``None`` where nothing was.
        others: values of the other numbers, for ``reference`` and ``otherwise``.
        standard_errors: standard errors by id, of this row and of the others, for ``agrees``.

    Returns:
        ``"reproduced"``, ``"reproduced only with ..."``, ``"not reproduced"``,
        ``"not comparable: ..."`` or ``"not run: ..."``.
    """
    bounds, others, errors = dict(row.criterion), others or {}, standard_errors or {}
    kind, only_with = bounds["kind"], row.only_with
    if kind == "out_of_reach":
        return f"not run: {bounds['reason']}"
    if value is None:
        where = "at paper scale" if row.judged_at == "paper" else "here"
        missing = f"notebook {row.notebook} has not measured it {where}"
        return f"not run: {f'needs {row.needs}' if row.needs else missing}"
    if kind == "not_comparable":
        return f"not comparable: {bounds['reason']}"
    if kind == "reference" and others.get(bounds["row"]) is None:
        return f"not run: {bounds['row']}, which it is compared with, is not measured"
    if kind == "agrees":
        other = others.get(bounds.get("otherwise"))
        met = _agrees(value, errors.get(row.id), bounds)
        if not met and other is not None:
            met = _agrees(other, errors.get(bounds["otherwise"]), bounds)
            only_with = bounds.get("with", "the paper's estimator")
    elif kind == "equal":
        target, tolerance = bounds["target"], bounds.get("tolerance")
        met = abs(value - target) <= tolerance * abs(target) if tolerance else value == target
    else:
        if kind == "reference":
            bounds["high" if bounds["relation"] == "at_most" else "low"] = others[bounds["row"]]
        # A comparison with NaN is false, as it should be.
        met = bounds.get("low", -math.inf) <= value <= bounds.get("high", math.inf)
    if row.source == "none":
        # What nobody has reported cannot be reproduced, however well it turns out.
        state = "is met" if met else "is not met"
        return f"not comparable: {row.reason}; our own criterion {state}"
    if not met:
        return "not reproduced"
    return f"reproduced only with {only_with}" if only_with else "reproduced"


def _agrees(value: Number, standard_error: float | None, criterion: Mapping[str, Any]) -> bool:
    ours = standard_error or 0.0
    if not math.isfinite(ours):
        return False
    # Scatter must not buy agreement: ours counts at most as much as the paper's.
    allowed = 2 * math.hypot(criterion["error"], min(ours, criterion["error"]))
    return abs(float(value) - criterion["target"]) <= allowed
