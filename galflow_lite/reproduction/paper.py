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

__all__ = ["Row", "rows", "verdict"]

SOURCES = ("paper abstract", "paper", "public code", "derived", "none")
# What is kept of a measured value.
MEASURED = ("value", "standard_error", "scatter", "runs")
_KINDS = {
    "equal": ("target",),
    "at_most": ("high",),
    "at_least": ("low",),
    "between": ("low", "high"),
    "agrees": ("target", "error"),
    "reference": ("row", "relation"),
    "not_comparable": ("reason",),
    "out_of_reach": ("reason",),
}
_FIELDS = ("notebook", "paper", "where", "source", "quantity", "value", "criterion", "note")
_OPTIONAL = (
    "reason",
    "unit",
    "estimator",
    "only_with",
    "judged_at",
    "needs",
    "expected",
    "sides",
)
# Fields of a criterion that name another row.
_LINKS = ("row", "otherwise")


@dataclass(frozen=True)
class Row:
    """One row of the table: what a paper reports, and how we compare.

    Attributes:
        id: name of the row, ``"galaxies.parameters"``.
        notebook: notebook that measures it, ``"01"``.
        paper: arXiv id.
        where: section, table or figure of the paper, or the place in its public code.
        source: who states the value: one of :data:`SOURCES`. A number read in the code of a paper
            is not a quotation of the paper.
        quantity: one line, with the unit.
        value: what is reported; ``None`` where it is not known to us, with the ``reason``.
        criterion: ``{"kind": ..., ...}``, see :func:`verdict`.
        note: why our number differs, or may.
        estimator: how the quantity is estimated, where papers differ in it.
        only_with: condition under which a met criterion counts, said in the verdict.
        judged_at: scale, ``"lite"`` or ``"paper"``, whose value the verdict is about.
        needs: what must be there to measure it, such as data that do not ship: said where nothing
            was measured.
        expected: for a quantity that is fixed before any training: its exact value, which
            :func:`galflow_lite.reproduction.check` then asks for instead of a band.
        sides: ``"both"``, or ``"low"`` or ``"high"`` for a band that has only that end.
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
    sides: str = "both"

    @property
    def only_ours(self) -> bool:
        """Whether nothing is reported, and no criterion judges what we find."""
        return self.value is None and self.criterion["kind"] == "not_comparable"

    def paper_text(self) -> str:
        """The reported value as a person reads it, with the reason where it is unknown."""
        if self.value is None:
            return f"unknown: {self.reason}"
        return format_number(self.value)


def format_entry(entry: Mapping[str, Any]) -> str:
    """A measured value with what is known of its errors."""
    return format_number(*(entry.get(key) for key in MEASURED))


def rows(notebook: str | None = None, *, path: Path | None = None) -> dict[str, Row]:
    """Read the rows of one notebook, or of all of them, in the order of the file.

    Args:
        notebook: two digits; left out, every row.
        path: the file; left out, ``data/paper_numbers.toml``.

    Raises:
        ValueError: a row lacks a field, has one that is not known, or a criterion that cannot be
            judged.
        OSError: the file cannot be read.
    """
    path = path or share("data") / "paper_numbers.toml"
    found = _read_rows(path, path.stat().st_mtime_ns)
    return {k: row for k, row in found.items() if notebook is None or row.notebook == notebook}


@lru_cache(maxsize=4)
def _read_rows(path: Path, modified: int) -> dict[str, Row]:
    """The rows of a file, which every check of a notebook asks for: read when it was modified."""
    try:
        content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except tomlkit.exceptions.TOMLKitError as error:
        raise ValueError(f"{path.name} is not valid TOML: {error}; mend the file") from error
    found = {name: _row(name, entry, path.name) for name, entry in content.items()}
    for row in found.values():
        for key in ("row", "otherwise"):
            other = row.criterion.get(key)
            if other is not None and other not in found:
                raise ValueError(
                    f"{path.name}: row {row.id!r} is compared with {other!r}, which is no row of "
                    f"the file; correct criterion.{key}"
                )
    return found


def _row(name: str, entry: Any, file: str) -> Row:
    if not isinstance(entry, dict) or not set(_FIELDS) <= set(entry):
        missing = sorted(set(_FIELDS) - set(entry if isinstance(entry, dict) else ()))
        raise ValueError(
            f"{file}: row {name!r} lacks {', '.join(missing)}; write it as "
            f'["{name}"] followed by {", ".join(_FIELDS)}'
        )
    unknown = sorted(set(entry) - set(_FIELDS) - set(_OPTIONAL))
    if unknown:
        raise ValueError(
            f"{file}: row {name!r} has unknown fields {', '.join(unknown)}; known are "
            f"{', '.join(_FIELDS + _OPTIONAL)}"
        )
    choices = (
        ("source", SOURCES),
        ("judged_at", ("lite", "paper")),
        ("sides", ("both", "low", "high")),
    )
    for key, allowed in choices:
        if key in entry and entry[key] not in allowed:
            raise ValueError(
                f"{file}: row {name!r} has {key} = {entry[key]!r}; write one of "
                f"{', '.join(allowed)}"
            )
    criterion = entry["criterion"]
    kind = criterion.get("kind")
    known = kind in _KINDS and set(_KINDS[kind]) <= set(criterion)
    if not known or criterion.get("relation", "at_most") not in ("at_most", "at_least"):
        raise ValueError(
            f"{file}: row {name!r} has the criterion {dict(criterion)}; write kind as one of "
            + "; ".join(f"{k} (with {', '.join(v)})" for k, v in _KINDS.items())
            + "; relation as at_most or at_least"
        )
    if kind == "agrees" and not _is_positive(criterion["error"]):
        raise ValueError(
            f"{file}: row {name!r} has the error {criterion['error']!r}; write one standard "
            "deviation of the reported value, a number above 0"
        )
    entry = dict(entry)
    if entry["value"] == "unknown":
        if not entry.get("reason"):
            raise ValueError(
                f"{file}: row {name!r} has value = 'unknown' without a reason; add the field reason"
            )
        entry["value"] = None
    return Row(id=name, **entry)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


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
    ``row`` that is measured in the same run, ``relation`` ``"at_most"`` or ``"at_least"``, and
    optionally ``factor`` on the other value), ``not_comparable`` and ``out_of_reach`` (``reason``).
    A row of ``source`` ``"none"``, which nobody has reported, is never "reproduced".

    ``agrees`` (``target`` and ``error``, one standard deviation, as the paper states them) is met
    when the value lies within two standard deviations of the target; its own standard error, where
    it has one, adds to ``error`` in quadrature, up to as much again. ``otherwise`` names a row that
    measures the same quantity with another estimator: when the value does not agree and that of
    ``otherwise`` does, by the same rule, it is "reproduced only with" what ``with`` says, or else
    with "the paper's estimator".

    Args:
        row: the row.
        value: what we measured; ``None`` where nothing was.
        others: values of the other rows, for ``reference`` and ``otherwise``.
        standard_errors: standard errors by id, of this row and of the others, for ``agrees``.

    Returns:
        ``"reproduced"``, ``"reproduced only with ..."``, ``"not reproduced"``,
        ``"not comparable: ..."`` or ``"not run: ..."``.
    """
    kind = row.criterion["kind"]
    if kind == "out_of_reach":
        return f"not run: {row.criterion['reason']}"
    if value is None:
        if row.needs:
            return f"not run: needs {row.needs}"
        where = "at paper scale" if row.judged_at == "paper" else "here"
        return f"not run: notebook {row.notebook} has not measured it {where}"
    if kind == "not_comparable":
        return f"not comparable: {row.criterion['reason']}"
    bounds = dict(row.criterion)
    if kind == "reference":
        other = (others or {}).get(bounds["row"])
        if other is None:
            return f"not run: {bounds['row']}, which it is compared with, has not been measured"
        limit = float(other) * bounds.get("factor", 1.0)
        kind = bounds["relation"]
        bounds = {"high": limit, "low": limit}
    only_with = row.only_with
    if kind == "agrees":
        errors = standard_errors or {}
        met = _agrees(value, errors.get(row.id), bounds)
        name = bounds.get("otherwise")
        other = (others or {}).get(name)
        if not met and other is not None and _agrees(other, errors.get(name), bounds):
            met, only_with = True, bounds.get("with", "the paper's estimator")
    elif kind == "equal":
        met = _equal(value, bounds["target"], bounds.get("tolerance", 0.0))
    else:
        number = float(value)
        met = not math.isnan(number)
        met &= kind == "at_least" or number <= bounds["high"]
        met &= kind == "at_most" or number >= bounds["low"]
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
    # A comparison with a number that is not finite is false, as it should be.
    return abs(float(value) - criterion["target"]) <= allowed


def _equal(value: Number, target: Number, tolerance: float) -> bool:
    if isinstance(value, str) or isinstance(target, str):
        return value == target
    return abs(value - target) <= tolerance * abs(target)
