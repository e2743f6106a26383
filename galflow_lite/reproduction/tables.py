"""All numbers of all runs as one table, ``data/runs.csv``, beside those that the papers report."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import read_toml, share, write_aside
from .summaries import Number, Summary, format_number

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("notebook", "row", "case", "seed", "scale", "value", "error", "n"),
    *("seconds", "device", "versions", "commit", "date", "key"),
)


def runs(notebook: str | None = None) -> pd.DataFrame:
    """The numbers of all stored runs, a line for each run and number.

    Columns: ``notebook`` (two digits), ``row`` (name of the number), ``case``, ``seed``, ``scale``
    (lite or paper), ``value``, ``error`` (its standard error within the run, where it has one),
    ``n`` (1; or, with ``seed`` -1, how many seeds the line sums up whose runs were not kept, the
    error being that of their mean), ``seconds`` (of the whole run, one core), ``device``,
    ``versions``, ``commit``, ``date``, ``key`` (checksum of the settings of the case).

    Args:
        notebook: two digits; left out, all.
    """
    path = share("data") / "runs.csv"
    table = _read(path, path.stat().st_mtime_ns)
    return (table if notebook is None else table[table.notebook == notebook]).copy()


@lru_cache(maxsize=2)
def _read(path: Path, modified: int) -> pd.DataFrame:
    import pandas as pd

    numbers = ("value", "error", "seconds")
    kinds = dict.fromkeys(COLUMNS, str) | {"seed": int, "n": int} | dict.fromkeys(numbers, float)
    missing = dict.fromkeys(numbers, ["", "nan"])
    return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=missing)


def stored(row: str, case: str = "", *, scale: str | None = None) -> Summary | None:
    """A number over the seeds of its stored runs; ``None`` where there is no run.

    Args:
        row: name of the number.
        case: of a repeated experiment, such as ``"ring8/dft"``.
        scale: lite or paper; left out, the one with more seeds.

    Returns:
        Mean, standard error and scatter over seeds; a number of one run has no error. They are NaN
        where a run gave no finite value, which no criterion forgives.
    """
    path = share("data") / "runs.csv"
    found = _by_number(path, path.stat().st_mtime_ns)
    scales = ("paper", "lite") if scale is None else (scale,)
    known = [found.get((row, case, at), []) for at in scales]
    lines = max(known, key=lambda lines: sum(line.n for line in lines))
    if not lines:
        return None
    if not np.isfinite([line.value for line in lines]).all():
        return Summary(sum(line.n for line in lines), np.nan, np.nan, np.nan)
    if len(lines) > 1:
        return Summary.of([line.value for line in lines], [line.seed for line in lines])
    (line,) = lines
    error = line.error if line.n > 1 else 0.0
    return Summary(line.n, line.value, error, error * line.n**0.5)


@lru_cache(maxsize=2)
def _by_number(path: Path, modified: int) -> dict[tuple[str, str, str], list]:
    """The lines of each number, by row, case and scale, in the order of their seeds."""
    found = defaultdict(list)
    table = _read(path, modified)
    for line in table.sort_values("seed").itertuples():
        found[line.row, line.case, line.scale].append(line)
    return found


def store(lines: Iterable[Mapping[str, Any]], *, afresh: bool = False) -> None:
    """Add lines to the table, in the place of those of the same run and number.

    Runs of a case with other settings than those of the last line of it, be they in the table or
    among the lines, are of an earlier version and go.

    Args:
        lines: names of columns to values; what is left out is empty.
        afresh: lines of the same numbers with other seeds go too, but for repeated experiments.

    Raises:
        OSError: the table cannot be written.
    """
    path = share("data") / "runs.csv"
    lines = [{name: _text(line.get(name, "")) for name in COLUMNS} for line in lines]
    keys, known = {_number(line): line["key"] for line in lines}, {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                key = keys.get(_number(line), line["key"])
                if key == line["key"] and not (afresh and key == "" and _number(line) in keys):
                    known[_identity(line)] = line
    for line in lines:
        if line["key"] == keys[_number(line)]:
            known[_identity(line)] = line
            # Where there are runs, no summary of earlier ones stays.
            if line["seed"] != "-1":
                known.pop(_identity({**line, "seed": "-1"}), None)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(known.values(), key=_order))
    write_aside(path, out.getvalue())


def by_seed(line: Mapping[str, Any]) -> list[tuple[int, float]]:
    """A recorded number with its seed, or those of a summary with theirs; none of a text."""
    if line["values"]:
        return list(zip(line["seeds"], line["values"], strict=True))
    return [(line["seed"], line["value"])] if isinstance(line["value"], int | float) else []


def lines_of_record(records: Iterable[Mapping[str, Any]], **origin: Any) -> Iterator[dict]:
    """What a notebook recorded as lines of the table; texts have no place there."""
    for line in records:
        one = {**origin, "n": 1, "row": line["id"], "scale": line["scale"]}
        one["error"] = None if line["values"] else line["standard_error"]
        yield from ({**one, "seed": seed, "value": value} for seed, value in by_seed(line))


def _number(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("notebook", "row", "case", "scale"))


def _identity(line: Mapping[str, str]) -> tuple[str, ...]:
    return (*_number(line), line["seed"])


def _order(line: Mapping[str, str]) -> tuple:
    run = (line["notebook"], line["scale"], line["case"], line["key"], int(line["seed"]))
    # The numbers of a list in their order.
    return run, [int(p) if p.isdigit() else p for p in re.split(r"\[(\d+)\]$", line["row"])]


def _text(value: Any) -> str:
    """Seven digits, which is more than another machine reproduces; whole numbers in full."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"
    return str(int(value)) if isinstance(value, bool) else str(value)


def key_of(settings: Mapping[str, Any], version: str) -> str:
    """Checksum of the settings of a case and of the version of its function."""
    # As text, which tells 1 from 1.0 and from true.
    return hashlib.sha1(json.dumps([settings, version], sort_keys=True).encode()).hexdigest()[:8]


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
    value: Number | None
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
    found = {name: Row(id=name, **entry) for name, entry in read_toml("paper_numbers.toml").items()}
    return {k: row for k, row in found.items() if notebook is None or row.notebook == notebook}


def row_table(notebook: str | None = None, *, everything: bool = False) -> pd.DataFrame:
    """Each number of a paper beside ours, with its place, seeds, hardware and command.

    Args:
        notebook: two digits; left out, all.
        everything: also the numbers of ours that no paper states.
    """
    import pandas as pd

    table, known = runs(notebook), rows(notebook)
    names = dict.fromkeys((row, "") for row in known)
    if everything:
        names |= dict.fromkeys(zip(table.row, table.case, strict=True))
    lines = {pair: part for pair, part in table.groupby(["row", "case"])}
    unstated = Row("", "", "", "", "", "", None)
    return pd.DataFrame(
        [_line(known.get(row, unstated), row, case, lines.get((row, case))) for row, case in names]
    )


def _line(row: Row, name: str, case: str, part: pd.DataFrame | None) -> dict[str, str]:
    found, seeds, origin = stored(name, case), "", ""
    if found is not None:
        scale = max(set(part.scale), key=lambda at: (part[part.scale == at].n.sum(), at))
        last = part[part.scale == scale].iloc[-1]
        seeds = f"{found.n}, {scale} scale"
        command = f"galflow-lite reproduce {last.notebook} --scale {scale}"
        origin = f"{last.device}, {last.date}{f' {last.commit}' * bool(last.commit)}: {command}"
    return {
        "number": f"{name}{f' ({case})' * bool(case)}",
        "quantity": f"{row.quantity}{f' [{row.unit}]' * bool(row.unit)}",
        "place": ": ".join(filter(None, (row.source, row.where))),
        "paper": format_number(row.value, row.error),
        "here": format_number(found) or (row.needs and f"not run: needs {row.needs}"),
        "seeds": seeds,
        "origin": origin,
        "note": row.note,
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
        seeds = f"{found.n} seed{'s' * (found.n > 1)}"
        name = f"{row}{f' ({case})' * bool(case)}"
        lines.append(f"  {name:<44} {format_number(found):>18}  {seeds}")
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
