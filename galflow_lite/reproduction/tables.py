"""The table at the end of a notebook: what the paper reports beside what we get."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import checks
from .paper import MEASURED, Row, format_entry, rows, verdict
from .results import Results
from .summaries import format_number, format_spread

__all__ = ["Line", "Table", "table"]

_HEADINGS = ("Quantity", "Paper", "Here (lite)", "Reference (paper scale)", "Verdict", "Notes")
# Columns of a terminal 100 wide, with a space between; reasons and notes go below each row.
_WIDTHS = (34, 18, 14, 14, 16)
_INDENT = "    "
_CAPTION = 'style="caption-side:bottom;text-align:left"'
# Fewer rows are not worth a click.
_FEWEST_FOLDED = 10
_COLUMNS = {"lite": "Here", "paper": "Reference"}


@dataclass(frozen=True)
class Line:
    """One line of the table: a row, what was measured at either scale, and the verdict."""

    row: Row
    found: Mapping[str, Mapping[str, Any]]
    verdict: str

    @property
    def here(self) -> str:
        """Our value at lite scale."""
        return format_entry(self.found.get("lite", {}))

    @property
    def reference(self) -> str:
        """Our value at paper scale."""
        return format_entry(self.found.get("paper", {}))

    def cells(self) -> tuple[str, ...]:
        """Texts in the order of the columns."""
        paper = self.row.paper_text()
        if self.row.value is not None:
            paper = f"{paper} ({self.row.source})"
        unit = f" [{self.row.unit}]" if self.row.unit else ""
        quantity = f"{self.row.quantity}{unit}"
        return (quantity, paper, self.here, self.reference, self.verdict, self.note())

    def note(self) -> str:
        """Why the numbers differ, and where the reported one stands."""
        row = self.row
        place = ", ".join(part for part in (f"arXiv:{row.paper}", row.where) if part)
        parts = [
            f"Estimator: {row.estimator}." if row.estimator else "",
            row.note,
            f"({place})" if row.source != "none" else "",
        ]
        return " ".join(part for part in parts if part)

    def text(self) -> str:
        """Aligned columns, with what does not fit a column below them."""
        quantity, paper, *_ = self.cells()
        kind, reason = _split(self.verdict)
        sentences = [reason, *self._spreads()]
        if self.row.value is None:
            paper = "unknown"
            sentences += [] if self.row.reason in reason else [self.row.reason]
        below = " ".join(
            [f"{text[:1].upper()}{text[1:]}." for text in sentences if text] + [self.note()]
        )
        below = textwrap.fill(below.strip(), 100, initial_indent=_INDENT, subsequent_indent=_INDENT)
        # Scatter and number of runs have no room in a column.
        values = [
            format_number(entry.get("value"), entry.get("standard_error"))
            for entry in (self.found.get("lite", {}), self.found.get("paper", {}))
        ]
        columns = _wrapped((quantity, paper, *values, kind))
        return f"{columns}\n{below}" if below else columns

    def _spreads(self) -> list[str]:
        return [
            f"{name}: {format_spread(entry['scatter'], entry.get('runs'))}"
            for scale, name in _COLUMNS.items()
            if (entry := self.found.get(scale, {})).get("scatter") is not None
        ]


@dataclass(frozen=True)
class Table:
    """Rows of one or more notebooks; prints as text, and shows as a table in a notebook."""

    lines: Sequence[Line]
    caption: str
    format: str = "text"

    def __str__(self) -> str:
        return self.markdown() if self.format == "markdown" else self.text()

    def __repr__(self) -> str:
        return str(self)

    def text(self) -> str:
        """Aligned columns for a terminal of 100 columns."""
        rule = "-" * (sum(_WIDTHS) + len(_WIDTHS) - 1)
        blocks = [rule, _wrapped(_HEADINGS[:-1]), rule]
        for line in self.lines:
            blocks += [line.text(), ""]
        blocks[-1:] = [rule, *textwrap.wrap(self.caption, 100)]
        return "\n".join(blocks)

    def markdown(self) -> str:
        """A table in Markdown, with the caption under it."""
        lines = [_HEADINGS, ["---"] * len(_HEADINGS), *(line.cells() for line in self.lines)]
        text = ["| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |" for cells in lines]
        return "\n".join([*text, "", self.caption])

    def _repr_html_(self) -> str:
        # What is neither reported nor judged would bury the rest: it is folded away.
        folded = [line for line in self.lines if line.row.only_ours]
        shown = [line for line in self.lines if not line.row.only_ours]
        if not shown or len(folded) < _FEWEST_FOLDED:
            return _html_table(self.lines, self.caption)
        return (
            f"{_html_table(shown, self.caption)}<details><summary>{len(folded)} more quantities, "
            "for which there is no reported number</summary>"
            f"{_html_table(folded)}</details>"
        )

    def counts(self) -> dict[str, int]:
        """How often each verdict occurs, without its reason."""
        found: dict[str, int] = {}
        for line in self.lines:
            kind, _ = _split(line.verdict)
            found[kind] = found.get(kind, 0) + 1
        return found


def _html_table(lines: Sequence[Line], caption: str = "") -> str:
    # Styles stand in the tags: a style sheet would reach every table of the notebook.
    style = 'style="text-align:left;vertical-align:top;font-weight:{}"'
    head = "".join(
        f'<th scope="col" {style.format("bold")}>{html.escape(text)}</th>' for text in _HEADINGS
    )
    body = []
    for line in lines:
        first, *rest = (html.escape(text) for text in line.cells())
        cells = "".join(f"<td {style.format('normal')}>{text}</td>" for text in rest)
        body.append(f'<tr><th scope="row" {style.format("normal")}>{first}</th>{cells}</tr>')
    below = f"<caption {_CAPTION}>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{below}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _split(verdict: str) -> tuple[str, str]:
    """A verdict as its kind and its reason or condition."""
    only = "reproduced only with"
    if verdict.startswith(only):
        return only, verdict
    kind, _, reason = verdict.partition(": ")
    return kind, reason


def _wrapped(cells: Sequence[str]) -> str:
    columns = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, _WIDTHS, strict=True)]
    height = max(map(len, columns))
    lines = []
    for i in range(height):
        parts = [
            (column[i] if i < len(column) else "").ljust(width)
            for column, width in zip(columns, _WIDTHS, strict=True)
        ]
        lines.append(" ".join(parts).rstrip())
    return "\n".join(lines)


def table(
    notebook: str | None = None,
    *,
    results: Results | None = None,
    format: str = "text",
) -> Table:
    """What the papers report, what we get at either scale, and the verdicts.

    The column "here" holds, in this order of preference: ``results``, the numbers of the current
    run, the stored results at lite scale. The column "reference" holds numbers of the current run
    at paper scale, or the stored ones. A verdict is about the scale that its row names.

    Args:
        notebook: two digits; left out, the rows of all notebooks.
        results: results to show in place of those of this run.
        format: ``"text"`` or ``"markdown"``, for ``print``; a notebook shows HTML.

    Raises:
        ValueError: unknown format, or a notebook without rows.
    """
    if format not in ("text", "markdown"):
        raise ValueError(f"format {format!r} is not known; write 'text' or 'markdown'")
    chosen = rows(notebook)
    if not chosen:
        raise ValueError(
            f"data/paper_numbers.toml has no row for notebook {notebook!r}; its notebooks are "
            f"{', '.join(sorted({row.notebook for row in rows().values()}))}"
        )
    found: dict[str, dict[str, Any]] = {"lite": {}, "paper": {}}
    origins = []
    for number in dict.fromkeys(row.notebook for row in chosen.values()):
        for scale in found:
            entries, origin = _measured(number, scale, results)
            found[scale].update(entries)
            origins += [origin] if origin else []
    lines = []
    for row in chosen.values():
        judged = found[row.judged_at]
        values = {name: entry["value"] for name, entry in judged.items()}
        errors = {name: entry.get("standard_error") for name, entry in judged.items()}
        lines.append(
            Line(
                row=row,
                found={scale: found[scale].get(row.id, {}) for scale in found},
                verdict=verdict(row, values.get(row.id), values, standard_errors=errors),
            )
        )
    which = f"notebook {notebook}" if notebook else "all notebooks"
    quoted = any("±" in row.paper_text() for row in chosen.values())
    caption = "± is one standard error" + ("; of a paper, what it states" if quoted else "")
    caption = f"Rows of {which}. {caption}. {' '.join(origins)}"
    return Table(lines, caption.strip(), format)


def _measured(
    notebook: str, scale: str, results: Results | None
) -> tuple[dict[str, dict[str, Any]], str]:
    """Numbers of a notebook at a scale, and a sentence on where they come from."""
    name = _COLUMNS[scale]
    if results is not None and (results.notebook, results.scale) == (notebook, scale):
        return results.rows, f"{name}: {results.origin()}."
    stored = Results.stored(notebook, scale)
    entries = dict(stored.rows) if stored else {}
    origin = f"{name}: {stored.origin()}." if stored else ""
    if checks.current_notebook() == notebook:
        fresh = {
            row_id: {key: getattr(found, key) for key in MEASURED}
            for row_id, found in checks.records(scale).items()
        }
        if fresh and scale == "lite":
            # A run and a stored one are never mixed in one column: it would have two origins.
            return fresh, f"{name}: this run."
        if fresh:
            entries.update(fresh)
            origin = f"{name}: this run{', and ' + stored.origin() if stored else ''}."
    return entries, origin
