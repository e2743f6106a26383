"""Rows: the numbers that the papers report, beside ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import tomlkit

from ..files import share
from .run_table import runs, stored
from .summaries import Number, format_number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """A number that a paper or its public code states.

    Attributes:
        id: name of the row, ``"galaxies.parameters"``.
        notebook: notebook that measures it, ``"01"``.
        paper: arXiv id.
        where: section, table or figure of the paper, or the place in its public code.
        source: who states the value: ``"paper abstract"``, ``"paper"``, ``"public code"`` or
            ``"derived"`` (arithmetic on what they state). A number read in the code of a paper is
            not a quotation of the paper.
        quantity: one line, with the estimator where papers differ in it.
        value: what is reported.
        error: one standard deviation as the paper states it, where it does.
        unit: of the value, where it has one.
        note: why our number differs, or may.
        needs: what must be there to measure it, where it is not measured here.
        expected: for a quantity that is fixed before any training: its exact value, which
            :func:`galflow_lite.reproduction.check` then asks for instead of a band.
    """

    id: str
    notebook: str
    paper: str
    where: str
    source: str
    quantity: str
    value: Number
    note: str = ""
    error: float | None = None
    unit: str = ""
    needs: str = ""
    expected: Number | None = None


def rows(notebook: str | None = None) -> dict[str, Row]:
    """The rows of ``data/paper_numbers.toml``, of one notebook or of all, in the order of the file.

    Args:
        notebook: two digits; left out, every row.
    """
    path = share("data") / "paper_numbers.toml"
    found = _read(path, path.stat().st_mtime_ns)
    return {k: row for k, row in found.items() if notebook is None or row.notebook == notebook}


@lru_cache(maxsize=4)
def _read(path: Path, modified: int) -> dict[str, Row]:
    """The rows of a file, which every check of a notebook asks for: read when it was modified."""
    content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    return {name: Row(id=name, **entry) for name, entry in content.items()}


def row_table(notebook: str | None = None, *, everything: bool = False) -> pd.DataFrame:
    """Each number of a paper beside ours, with its place, seeds, hardware and command.

    Args:
        notebook: two digits; left out, all.
        everything: also the numbers of ours that no paper states.
    """
    import pandas as pd

    table = runs(notebook)
    known = rows(notebook)
    names = dict.fromkeys((row, "") for row in known)
    if everything:
        names |= dict.fromkeys(zip(table.row, table.case, strict=True))
    lines = {pair: part for pair, part in table.groupby(["row", "case"])}
    return pd.DataFrame([_line(known.get(row), row, case, lines) for row, case in names])


def _line(row: Row | None, name: str, case: str, lines: dict) -> dict[str, str]:
    found, here, seeds, origin = stored(name, case), "", "", ""
    if found is not None:
        part = lines[name, case]
        scale = max(set(part.scale), key=lambda at: (part[part.scale == at].n.sum(), at))
        last = part[part.scale == scale].iloc[-1]
        here = format_number(found.mean, found.standard_error or None)
        seeds = f"{found.n}, {last.scale} scale"
        command = f"galflow-lite reproduce {last.notebook} --scale {last.scale}"
        commit = f" {last.commit}" if last.commit else ""
        origin = f"{last.device}, {last.date}{commit}: {command}"
    paper = "" if row is None else format_number(row.value)
    if row is not None and row.error is not None:
        paper = format_number(float(row.value), row.error)
    return {
        "number": f"{name}{f' ({case})' * bool(case)}",
        "quantity": "" if row is None else f"{row.quantity}{f' [{row.unit}]' * bool(row.unit)}",
        "place": "" if row is None else f"{row.source}: {row.where}",
        "paper": paper,
        "here": here or (row.needs and f"not run: needs {row.needs}" if row else ""),
        "seeds": seeds,
        "origin": origin,
        "note": "" if row is None else row.note,
    }


def reference(notebook: str, start: str = "") -> str:
    """What a GPU cell shows where there is no GPU: the stored numbers at paper scale.

    Args:
        notebook: two digits.
        start: only numbers whose name starts like this; all by default.
    """
    table = runs(notebook)
    table = table[(table.scale == "paper") & table.row.str.startswith(start)]
    if not len(table):
        return (
            f"No reference at paper scale is stored for notebook {notebook}: make one with "
            f"`galflow-lite reproduce {notebook} --scale paper --store`."
        )
    last = table.iloc[-1]
    lines = [f"Stored at paper scale: {last.device}, {last.date}, {last.versions}"]
    for row, case in dict.fromkeys(zip(table.row, table.case, strict=True)):
        found = stored(row, case, scale="paper")
        error = found.standard_error if math.isfinite(found.standard_error) else None
        seeds = f"{found.n} seed{'s' * (found.n > 1)}"
        name = f"{row}{f' ({case})' * bool(case)}"
        lines.append(f"  {name:<44} {format_number(found.mean, error or None):>18}  {seeds}")
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
