"""All numbers of all runs as one table, ``data/runs.csv``: a line for each run and number."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import share, write_aside
from .summaries import Summary

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

    text = dict.fromkeys(COLUMNS, str) | {"seed": int, "n": int}
    text |= dict.fromkeys(("value", "error", "seconds"), float)
    kinds = dict.fromkeys(("value", "error", "seconds"), ["", "nan"])
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=kinds)


def stored(row: str, case: str = "", *, scale: str | None = None) -> Summary | None:
    """A number over the seeds of its stored runs; ``None`` where there is no run.

    Args:
        row: name of the number.
        case: of a repeated experiment, such as ``"ring8/dft"``.
        scale: lite or paper; left out, the one with more seeds.

    Returns:
        Mean, standard error and scatter over seeds; a number of one run has no error.
    """
    path = share("data") / "runs.csv"
    found = _by_number(path, path.stat().st_mtime_ns)
    known = [found[row, case, at] for at in ("paper", "lite") if (row, case, at) in found]
    known = [lines for lines in known if scale in (None, lines[0].scale)]
    if not known:
        return None
    lines = max(known, key=lambda lines: sum(line.n for line in lines))
    if len(lines) > 1:
        return Summary.of([line.value for line in lines], [line.seed for line in lines])
    (line,) = lines
    error = line.error if line.n > 1 else 0.0
    return Summary(line.n, line.value, error, error * line.n**0.5)


@lru_cache(maxsize=2)
def _by_number(path: Path, modified: int) -> dict[tuple[str, str, str], list]:
    """The lines of each number, by row, case and scale, in the order of their seeds."""
    found: dict[tuple[str, str, str], list] = {}
    table = _read(path, modified)
    for line in table[table.value.notna()].sort_values("seed").itertuples():
        found.setdefault((line.row, line.case, line.scale), []).append(line)
    return found


def store(lines: Iterable[Mapping[str, Any]], *, instead_of: tuple[str, str] | None = None) -> int:
    """Add lines to the table, in the place of those of the same run and number.

    Args:
        lines: names of columns to values; what is left out is empty.
        instead_of: notebook and scale whose lines go first, but for those of repeated experiments.

    Returns:
        How many lines there are now.

    Raises:
        OSError: the table cannot be written.
    """
    path = share("data") / "runs.csv"
    known = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            known = {_identity(line): line for line in csv.DictReader(file)}
    if instead_of is not None:
        stale = (*instead_of, "")
        known = {
            name: line
            for name, line in known.items()
            if (line["notebook"], line["scale"], line["key"]) != stale
        }
    for line in lines:
        texts = {name: _text(line.get(name, "")) for name in COLUMNS}
        known[_identity(texts)] = texts
        # Where there are runs, no summary of earlier ones stays.
        known.pop(_identity({**texts, "seed": "-1"}), None) if line["seed"] != -1 else None
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(known.values(), key=_order))
    write_aside(path, out.getvalue())
    return len(known)


def _identity(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("notebook", "row", "case", "seed", "scale", "key"))


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


def about(hardware: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """What the columns ``device`` and ``versions`` say."""
    named = " ".join(f"{name} {versions[name]}" for name in ("python", "torch"))
    return {"device": hardware.get("gpu") or hardware["cpu"], "versions": named}
