"""The table: what the papers report beside what we get."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from .checks import records
from .results import Results, format_entry, measured
from .rows import Row, rows, verdict
from .settings import current

_HEADINGS = ("Quantity", "Paper", "Here (lite)", "Reference (paper scale)", "Verdict", "Notes")
# Columns of a terminal 100 wide, with a space between; reasons and notes go below each row.
_WIDTHS = (36, 18, 14, 14, 14)
_CAPTION = 'style="caption-side:bottom;text-align:left"'
_COLUMNS = {"lite": "Here", "paper": "Reference"}


@dataclass(frozen=True)
class Line:
    """One line of the table: a row, what was measured at either scale, and the verdict."""

    row: Row
    found: Mapping[str, Mapping[str, Any]]
    verdict: str

    @property
    def kind(self) -> str:
        """The verdict without its reason or condition."""
        _, _, ours = self.verdict.partition("; our ")
        return ours or self.verdict.partition(":")[0].partition(" with ")[0]

    def cells(self) -> tuple[str, ...]:
        """Texts in the order of the columns."""
        row = self.row
        unit = f" [{row.unit}]" if row.unit else ""
        values = (format_entry(self.found.get(scale, {})) for scale in _COLUMNS)
        return (row.quantity + unit, row.paper_text(), *values, self.verdict, self.note())

    def note(self) -> str:
        """Why the numbers differ, and where the reported one stands."""
        row = self.row
        place = f"(arXiv:{row.paper}, {row.where})" if row.source != "none" else ""
        estimator = f"Estimator: {row.estimator}." if row.estimator else ""
        return " ".join(part for part in (estimator, row.note, place) if part)

    def text(self, notes: bool) -> str:
        """Aligned columns, and reason and note below them."""
        quantity, paper, here, reference, *_ = self.cells()
        # Scatter and number of runs have no room in a column.
        values = (text.partition(" (scatter")[0] for text in (here, reference))
        columns = _columns(quantity, paper, *values, self.kind)
        reason = f"{self.verdict[:1].upper()}{self.verdict[1:]}. " * (self.verdict != self.kind)
        below = textwrap.fill(reason + self.note(), 96)
        return f"{columns}\n{textwrap.indent(below, '    ')}" if notes else columns


@dataclass(frozen=True)
class Table:
    """Rows of one or more notebooks; prints as text, and shows as a table in a notebook."""

    lines: Sequence[Line]
    caption: str
    notes: bool = True

    def __str__(self) -> str:
        rule = "-" * (sum(_WIDTHS) + len(_WIDTHS) - 1)
        lines = [line.text(self.notes) for line in self.lines]
        head, caption = _columns(*_HEADINGS[:-1]), textwrap.fill(self.caption, 100)
        return "\n".join([rule, head, rule, *lines, rule, caption])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Styles stand in the tags: a style sheet would reach every table of the notebook.
        style = 'style="text-align:left;vertical-align:top;font-weight:{}"'
        head = "".join(f'<th scope="col" {style.format("bold")}>{text}</th>' for text in _HEADINGS)
        body = []
        for line in self.lines:
            first, *rest = map(html.escape, line.cells())
            cells = "".join(f"<td {style.format('normal')}>{text}</td>" for text in rest)
            body.append(f'<tr><th scope="row" {style.format("normal")}>{first}</th>{cells}</tr>')
        caption = f"<caption {_CAPTION}>{html.escape(self.caption)}</caption>"
        return (
            f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )


def _columns(*cells: str) -> str:
    columns = [textwrap.wrap(text, width) for text, width in zip(cells, _WIDTHS, strict=True)]
    lines = zip_longest(*columns, fillvalue="")
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
    chosen = rows(notebook)
    if not chosen:
        raise ValueError(
            f"data/paper_numbers.toml has no row for notebook {notebook!r}; its notebooks are "
            f"{', '.join(sorted({row.notebook for row in rows().values()}))}"
        )
    found: dict[str, dict[str, Any]] = {scale: {} for scale in _COLUMNS}
    origins = []
    for number in dict.fromkeys(row.notebook for row in chosen.values()):
        for scale, entries in found.items():
            measurements, origin = _measured(number, scale, results)
            entries.update(measurements)
            origins += [f"{_COLUMNS[scale]}: {origin}."] if origin else []
    lines = []
    for row in chosen.values():
        judged = found[row.judged_at]
        values = {name: entry["value"] for name, entry in judged.items()}
        errors = {name: entry.get("standard_error") for name, entry in judged.items()}
        said = verdict(row, values.get(row.id), values, standard_errors=errors)
        here = {scale: entries.get(row.id, {}) for scale, entries in found.items()}
        lines.append(Line(row, here, said))
    counts = Counter(line.kind for line in lines)
    caption = [
        f"{len(lines)} rows of {f'notebook {notebook}' if notebook else 'all notebooks'}: "
        f"{', '.join(f'{number} {kind}' for kind, number in counts.most_common())}.",
        "± is one standard error; of a paper, what it states.",
        *(origins if notebook else ()),
    ]
    return Table(lines, " ".join(caption), notes=notebook is not None)


def _measured(
    notebook: str, scale: str, results: Results | None
) -> tuple[dict[str, dict[str, Any]], str]:
    """Numbers of a notebook at a scale, and where they come from."""
    if results is not None and (results.notebook, results.scale) == (notebook, scale):
        return results.rows, results.origin()
    stored = Results.stored(notebook, scale)
    entries = dict(stored.rows) if stored else {}
    origins = [stored.origin()] if stored else []
    fresh = records(scale) if current().notebook == notebook else {}
    if fresh:
        # A lesson measures some of the rows, its audit the others.
        origins = ["this run"] + [f"what it did not measure, {origin}" for origin in origins]
        entries.update({name: measured(vars(kept)) for name, kept in fresh.items()})
    return entries, ", and ".join(origins)
