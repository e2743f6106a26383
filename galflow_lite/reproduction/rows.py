"""Rows: the numbers that the papers report, verdicts on ours, and how numbers are summed up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from scipy import stats

from ..files import share

Number = float | int | str
COVERAGE = 0.999
ALLOWANCE = 0.02


@dataclass(frozen=True)
class Summary:
    """Several values of one number, such as those of ten seeds.

    Attributes:
        n: how many.
        mean: their mean.
        standard_error: of the mean, ``scatter / sqrt(n)``.
        scatter: standard deviation over the values, with n - 1 in the denominator.
        values: the values themselves.
    """

    n: int
    mean: float
    standard_error: float
    scatter: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise two or more finite numbers.

        Raises:
            ValueError: fewer than two values, or a value that is not finite.
        """
        found = tuple(float(value) for value in values)
        if len(found) < 2 or not all(map(math.isfinite, found)):
            raise ValueError(
                f"found the values {', '.join(map(str, found)) or 'none'}, expected two or more "
                "finite numbers: run more seeds, or find out why a run gave such a value"
            )
        scatter = statistics.stdev(found)
        error = scatter / math.sqrt(len(found))
        return cls(len(found), statistics.fmean(found), error, scatter, found)

    def __str__(self) -> str:
        return format_number(self.mean, self.standard_error, self.scatter, self.n)


def prediction_interval(
    values: np.ndarray | Sequence[float],
    *,
    coverage: float = COVERAGE,
    allowance: float = ALLOWANCE,
    law: str = "normal",
) -> tuple[np.ndarray, np.ndarray]:
    """Interval that holds one new value of the same law with probability ``coverage``.

    Args:
        values: shape (..., n), n >= 2 independent finite values.
        coverage: probability, for ``allowance`` 0.
        allowance: fraction of |mean| added at either end.
        law: ``"normal"``, or ``"lognormal"`` for values above zero that scatter by factors.

    Returns:
        Lower and upper ends, each of shape (...).
    """
    values = np.asarray(values, dtype=float)
    if law == "lognormal":
        low, high = prediction_interval(np.log(values), coverage=coverage, allowance=0)
        return np.exp(low) * (1 - allowance), np.exp(high) * (1 + allowance)
    n, mean = values.shape[-1], values.mean(-1)
    half = stats.t.isf((1 - coverage) / 2, n - 1) * values.std(-1, ddof=1) * math.sqrt(1 + 1 / n)
    half = half + allowance * np.abs(mean)
    return mean - half, mean + half


def format_number(
    value: Number | None,
    standard_error: float | None = None,
    scatter: float | None = None,
    runs: int | None = None,
) -> str:
    """A number with four significant digits, whole numbers in full with thousands separated.

    With a standard error both are rounded to its second digit. ``scatter``, the standard deviation
    over ``runs`` runs, follows in brackets.
    """
    if scatter is not None:
        # Two digits of 150 would be 1.5e+02.
        spread = f"{scatter:,.0f}" if abs(scatter) >= 99.5 else f"{scatter:.2g}"
        return f"{format_number(value, standard_error)} (scatter {spread}, {runs} runs)"
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}"
    if standard_error and math.isfinite(value) and math.isfinite(standard_error):
        # Two digits of the standard error say where the value stops to mean anything.
        decimals = max(0, 1 - math.floor(math.log10(standard_error)))
        if decimals > 6:
            return f"{value:.3g} ± {standard_error:.1g}"
        return f"{value:,.{decimals}f} ± {standard_error:.{decimals}f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:.4g}"


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
