"""Stored results of a notebook, and the table that shows them beside its paper."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from ..files import share, write_aside
from .checks import REMARK, records
from .rows import Row, format_number, rows, verdict
from .settings import current, hardware, versions

# What is kept of a measured value.
MEASURED = ("value", "standard_error", "scatter", "runs")


@dataclass
class Results:
    """What a run of a notebook gave, lesson and audit together.

    Attributes:
        notebook: two digits.
        scale: ``"lite"`` or ``"paper"``.
        seconds: wall time of the whole run.
        seeds: seeds that were run.
        rows: name to ``{"value", "standard_error", "scatter", "runs"}``; all but the first may be
            missing. Scatter is the standard deviation over so many runs.
        hardware: see :func:`galflow_lite.reproduction.hardware`.
        versions: see :func:`galflow_lite.reproduction.versions`.
        date: day of the run, ISO 8601, UTC.
        remark: what a reader must know of this run, such as that it was cut short.
    """

    notebook: str
    scale: str
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=hardware)
    versions: dict[str, str] = field(default_factory=versions)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())
    remark: str = ""

    @classmethod
    def of_run(
        cls, notebook: str, scale: str, seconds: float, records: Iterable[Mapping[str, Any]]
    ) -> Results:
        """The numbers that executed notebooks recorded at one scale.

        A name that was recorded twice has its last value.
        """
        lines = [line for line in records if line["scale"] == scale]
        rows = {line["id"]: measured(line) for line in lines}
        remark = rows.pop(REMARK, {"value": ""})["value"]
        seeds = sorted({line["seed"] for line in lines})
        return cls(notebook, scale, round(seconds, 1), seeds, rows, remark=remark)

    def save(self) -> Path:
        """Store as JSON, written aside and renamed.

        Raises:
            ValueError: a value is not finite.
            OSError: the file cannot be written.
        """
        values = {name: entry["value"] for name, entry in self.rows.items()}
        wrong = [n for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
        if wrong:
            raise ValueError(
                f"found {', '.join(wrong)} not finite: nothing was stored; mend the run"
            )
        path = share("data") / "results" / f"{self.scale}_{self.notebook}.json"
        write_aside(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def stored(cls, notebook: str, scale: str) -> Results | None:
        """The stored results of a notebook at a scale, or ``None`` where there are none."""
        path = share("data") / "results" / f"{scale}_{notebook}.json"
        if not path.is_file():
            return None
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def origin(self) -> str:
        """One line: scale, device, seconds, seeds, date, and the remark if there is one."""
        device = self.hardware.get("gpu") or self.hardware["cpu"]
        seconds, unit = (self.seconds, "s") if self.seconds < 120 else (self.seconds / 60, "min")
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        when = f"{self.date}, torch {self.versions['torch']}{self.remark and '; '}{self.remark}"
        return f"{self.scale} scale, {device}, {seconds:.0f} {unit}, {seeds}, {when}"

    def __str__(self) -> str:
        known = rows()
        lines = [f"Stored reference: {self.origin()}"]
        width = max((len(name) for name in self.rows), default=0)
        for name, entry in self.rows.items():
            text = known[name].quantity if name in known else ""
            lines.append(f"  {name:<{width}}  {format_entry(entry):>16}  {text}".rstrip())
        return "\n".join(lines)


def measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """A value and what is known of its errors, of a line of records."""
    return {name: line[name] for name in MEASURED if line.get(name) is not None}


def format_entry(entry: Mapping[str, Any]) -> str:
    """A measured value with what is known of its errors."""
    return format_number(*(entry.get(key) for key in MEASURED))


def reference(notebook: str, start: str = "") -> Results | str:
    """What a GPU cell shows where there is no GPU: the stored run at paper scale.

    Args:
        notebook: two digits.
        start: only numbers whose name starts like this; all by default.

    Returns:
        The results, which print as a line each; or one sentence that says how to make them.
    """
    found = Results.stored(notebook, "paper")
    if found is not None:
        kept = {name: entry for name, entry in found.rows.items() if name.startswith(start)}
        return replace(found, rows=kept)
    return (
        f"No reference at paper scale is stored for notebook {notebook}: make one with "
        f"`galflow-lite reproduce {notebook} --scale paper --store`."
    )


_HEADINGS = ("Quantity", "Paper", "Here (lite)", "Reference (paper scale)", "Verdict", "Notes")
# Columns of a terminal 100 wide, with a space between; reasons and notes go below each row.
_WIDTHS = (36, 18, 14, 14, 14)
_LEFT = "text-align:left;vertical-align:top"
_COLUMNS = {"lite": "Here", "paper": "Reference"}


@dataclass(frozen=True)
class Table:
    """Rows of one or more notebooks; prints as text, and shows as a table in a notebook.

    Attributes:
        lines: six texts for each row: quantity, paper, here, reference, verdict, notes.
        caption: how often each verdict occurs, and where our numbers come from.
        notes: whether reasons and notes are printed.
    """

    lines: Sequence[tuple[str, ...]]
    caption: str
    notes: bool = True

    def __str__(self) -> str:
        rule = "-" * 100
        parts = [rule, _columns(_HEADINGS), rule]
        for quantity, paper, here, reference, said, note in self.lines:
            # Scatter and number of runs have no room in a column.
            values = (text.partition(" (scatter")[0] for text in (here, reference))
            parts.append(_columns((quantity, paper, *values, _kind(said))))
            if self.notes:
                reason = f"{said[:1].upper()}{said[1:]}. " * (said != _kind(said))
                parts.append(textwrap.indent(textwrap.fill(reason + note, 96), "    "))
        return "\n".join([*parts, rule, textwrap.fill(self.caption, 100)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Styles stand in the tags: a style sheet would reach every table of the notebook.
        head = "".join(f'<th scope="col" style="{_LEFT}">{text}</th>' for text in _HEADINGS)
        body = []
        for line in self.lines:
            first, *rest = map(html.escape, line)
            cells = "".join(f'<td style="{_LEFT}">{text}</td>' for text in rest)
            title = f'<th scope="row" style="{_LEFT};font-weight:normal">{first}</th>'
            body.append(f"<tr>{title}{cells}</tr>")
        caption = f'<caption style="caption-side:bottom">{html.escape(self.caption)}</caption>'
        body = f"<tbody>{''.join(body)}</tbody>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead>{body}</table>"


def _kind(said: str) -> str:
    """A verdict without its reason or condition."""
    return said.partition("; our ")[2] or said.partition(":")[0].partition(" with ")[0]


def _columns(cells: Sequence[str]) -> str:
    lines = zip_longest(*map(textwrap.wrap, cells, _WIDTHS), fillvalue="")
    return "\n".join(" ".join(map(str.ljust, parts, _WIDTHS)).rstrip() for parts in lines)


def table(notebook: str | None = None, *, results: Results | None = None) -> Table:
    """What the papers report, what we get at either scale, and the verdicts.

    Each column holds the numbers of the current run where it has them, and else the stored ones; a
    verdict is about the scale that its row names.

    Args:
        notebook: two digits; left out, the rows of all notebooks, without their notes in print.
        results: results to show in place of those of this run and the stored ones.

    Raises:
        ValueError: a notebook without rows.
    """
    chosen = rows(notebook).values()
    if not chosen:
        known = ", ".join(sorted({row.notebook for row in rows().values()}))
        raise ValueError(f"there is no row for notebook {notebook!r}: choose one of {known}")
    found: dict[str, dict[str, Any]] = {scale: {} for scale in _COLUMNS}
    origins = []
    for number, scale in product(dict.fromkeys(row.notebook for row in chosen), _COLUMNS):
        entries, origin = _measured(number, scale, results)
        found[scale].update(entries)
        origins += [f"{_COLUMNS[scale]}: {origin}."] if origin and notebook else []
    lines = [_line(row, found) for row in chosen]
    counts = Counter(_kind(line[4]) for line in lines).most_common()
    caption = (
        f"{len(lines)} rows of {f'notebook {notebook}' if notebook else 'all notebooks'}: "
        f"{', '.join(f'{number} {kind}' for kind, number in counts)}. ± is one standard error; of "
        f"a paper, what it states. {' '.join(origins)}"
    )
    return Table(lines, caption.strip(), notes=notebook is not None)


def _line(row: Row, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    judged = found[row.judged_at]
    values = {name: entry["value"] for name, entry in judged.items()}
    errors = {name: entry.get("standard_error") for name, entry in judged.items()}
    said = verdict(row, values.get(row.id), values, standard_errors=errors)
    place = f"(arXiv:{row.paper}, {row.where})" if row.source != "none" else ""
    estimator = f"Estimator: {row.estimator}." if row.estimator else ""
    note = " ".join(part for part in (estimator, row.note, place) if part)
    here = (format_entry(found[scale].get(row.id, {})) for scale in _COLUMNS)
    quantity = f"{row.quantity} [{row.unit}]" if row.unit else row.quantity
    paper = "unknown" if row.value is None else f"{format_number(row.value)} ({row.source})"
    return (quantity, paper, *here, said, note)


def _measured(notebook: str, scale: str, results: Results | None) -> tuple[dict[str, dict], str]:
    """Numbers of a notebook at a scale, and where they come from."""
    if results is not None and (results.notebook, results.scale) == (notebook, scale):
        return results.rows, results.origin()
    stored = Results.stored(notebook, scale)
    entries, origin = (dict(stored.rows), stored.origin()) if stored else ({}, "")
    fresh = records(scale) if current().notebook == notebook else {}
    if fresh:
        # A lesson measures some of the rows, its audit the others.
        origin = f"this run{', and what it did not measure, ' * bool(origin)}{origin}"
        entries.update({name: measured(vars(kept)) for name, kept in fresh.items()})
    return entries, origin
