"""The table: what the papers report beside what we get."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any

from .checks import records
from .results import Results, format_entry, measured
from .rows import Row, rows, verdict
from .settings import current

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
    return (quantity, row.paper_text(), *here, said, note)


def _measured(
    notebook: str, scale: str, results: Results | None
) -> tuple[dict[str, dict[str, Any]], str]:
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
