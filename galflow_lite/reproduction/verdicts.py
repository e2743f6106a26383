"""The claims of a paper, each with a verdict that is computed from runs, and their page."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_toml
from ..notebooks import figures_of, write_page
from .summaries import Summary, decide, format_number
from .tables import row_table, runs, stored

if TYPE_CHECKING:
    import pandas as pd

HOLDS, DIRECTION, ONLY_WITH = "holds", "holds in direction", "holds only with"
FAILS, UNTESTED = "does not hold here", "not testable here"
SIGNS = {HOLDS: "✔", DIRECTION: "~", ONLY_WITH: "◐", FAILS: "✘", UNTESTED: "–"}
# Dark enough on white for small text; told apart by the signs as well.
COLORS = dict(zip(SIGNS, ("#00664d", "#0b5394", "#8a5a00", "#a61c00", "#555555"), strict=True))
_WIDTHS = (2, 40, 11, 22, 21)


@dataclass(frozen=True)
class Comparison:
    """One number beside the one that a criterion holds it against."""

    label: str
    ours: Summary | None
    other: Summary | float | None
    passed: bool | None

    def __str__(self) -> str:
        label = f"{self.label}: " * bool(self.label)
        if self.ours is None or self.other is None:
            return f"{label}not run"
        return f"{label}{format_number(self.ours)} against {format_number(self.other)}"


@dataclass(frozen=True)
class Claim:
    """What a paper, or a practitioner of it, claims; how we tested it; what we found.

    Attributes:
        notebook: two digits.
        short: the claim in a few words; ``claim``: in a sentence.
        place: where the paper says so; who else does.
        tested: how we tested it, one sentence; ``section``: of which notebook.
        verdict: one of five; with its condition where it holds only with one.
        here: our numbers, in a few words.
        comparisons: all numbers that the verdict rests on.
        criterion: what had to be met, in words.
        note: why it is as it is.
    """

    notebook: str
    short: str
    claim: str
    place: str
    tested: str
    section: str
    verdict: str
    condition: str = ""
    here: str = ""
    criterion: str = ""
    comparisons: Sequence[Comparison] = field(default=(), repr=False)
    note: str = ""

    def __str__(self) -> str:
        condition = f" {self.condition}" if self.condition else ""
        return f"{SIGNS[self.verdict]} {self.verdict}{condition}"


def _compare(criterion: Mapping[str, Any]) -> list[Comparison]:
    """The comparisons of one criterion, one for each of the names in its ``each``."""
    found = []
    for names in criterion.get("each", [""]):
        names = [names] if isinstance(names, str) else list(names)
        row, case = (criterion.get(k, "").format(*names) for k in ("row", "case"))
        ours = stored(row, case, scale=criterion.get("scale"))
        kind = next(k for k in ("below", "above", "equals") if k in criterion)
        other = criterion[kind]
        if isinstance(other, str):
            case = criterion.get("other_case", criterion.get("case", "")).format(*names)
            other = stored(other.format(*names), case, scale=criterion.get("scale"))
        passed = None
        if ours is not None and other is not None:
            if kind == "equals":
                passed = ours.mean == other and ours.scatter == 0
            else:
                pair = (ours, other) if kind == "below" else (-ours, -other)
                decision = decide(*pair, margin=criterion.get("margin", 0.0))
                passed = None if math.isnan(decision.p) else decision.below
        found.append(Comparison(" ".join(names), ours, other, passed))
    return found


def _judged(entry: Mapping[str, Any]) -> Claim:
    """A claim with its verdict, from what ``data/claims.toml`` says of it."""
    entry, keys = dict(entry), {HOLDS: "holds", ONLY_WITH: "only_with", DIRECTION: "direction"}
    tests = {
        name: [c for criterion in entry.pop(key, []) for c in _compare(criterion)]
        for name, key in keys.items()
    }
    condition, noun, here = (entry.pop(k, "") for k in ("with", "noun", "here"))
    met = [name for name, found in tests.items() if found and all(c.passed for c in found)]
    found = tests[met[0]] if met else tests[HOLDS] or tests[DIRECTION]
    known = found and all(c.passed is not None for c in found)
    verdict = met[0] if met else FAILS if known else UNTESTED
    if known:
        passed = sum(bool(c.passed) for c in found)
        here = str(found[0]) if len(found) == 1 else f"{passed} of {len(found)} {noun or 'cases'}"
    condition = condition if verdict == ONLY_WITH else ""
    if verdict in (ONLY_WITH, DIRECTION):
        # Beside what the claim itself comes to.
        name, own = condition or "in direction", tests[HOLDS]
        known = [(c.ours, c.other) for c in own]
        more = [c for c in found if (c.ours, c.other) not in known]
        found = own + [replace(c, label=", ".join(filter(None, (name, c.label)))) for c in more]
    return Claim(
        verdict=verdict,
        condition=condition,
        here=here,
        comparisons=tuple(found),
        **entry,
    )


@dataclass(frozen=True)
class Claims:
    """The claims of one paper or of all; prints as a screen, and shows as a table in a notebook."""

    papers: Mapping[str, str]
    claims: Sequence[Claim]

    def of(self, notebook: str) -> list[Claim]:
        return [claim for claim in self.claims if claim.notebook == notebook]

    def counts(self, notebook: str) -> str:
        """How many claims have each verdict."""
        found = Counter(claim.verdict for claim in self.of(notebook))
        shown = (
            f"{SIGNS[verdict]} {found[verdict]} {verdict}" for verdict in SIGNS if found[verdict]
        )
        return " · ".join(shown)

    def __str__(self) -> str:
        return "\n\n".join(self._screen(number) for number in self.papers)

    __repr__ = __str__

    def _screen(self, number: str) -> str:
        """One paper in 24 lines of 100 columns."""
        lines = [f"{number} · {self.papers[number]}", ""]
        lines.append(_columns("", "claim", "the paper", "here", "verdict"))
        for k, claim in enumerate(self.of(number), 1):
            lines.append(_columns(f"{k:>2}", claim.short, claim.place, claim.here, str(claim)))
        lines += textwrap.wrap(f"{self.counts(number)}. {_origin(number)}.", 100)
        more = f"Each with its evidence: --format html. Rows: galflow-lite table {number} --rows"
        return "\n".join([*lines, more])

    def to_markdown(self) -> str:
        """A section for each paper, for README."""
        parts = []
        for number, title in self.papers.items():
            parts += [f"**{number} · {title}**", "", "| claim | the paper | here | verdict |"]
            parts.append("|---|---|---|---|")
            for claim in self.of(number):
                parts.append(f"| {claim.short} | {claim.place} | {claim.here} | {claim} |")
            parts.append("")
        return "\n".join(parts)

    def table(self) -> pd.DataFrame:
        """A line for each claim, with all that it rests on as text."""
        import pandas as pd

        lines = []
        for claim in self.claims:
            numbers = "; ".join(map(str, claim.comparisons))
            lines.append({**vars(claim), "verdict": str(claim), "comparisons": numbers})
        return pd.DataFrame(lines)

    def to_html(self) -> str:
        """Tables with all comparisons; styles stand in the tags, as notebooks need."""
        return "\n".join(map(self._html, self.papers))

    _repr_html_ = to_html

    def _html(self, number: str) -> str:
        about = html.escape(f"{self.papers[number]}. {self.counts(number)}. {_origin(number)}")
        head = "".join(
            f'<th scope="col" style="{_CELL};width:{share}%">{text}</th>'
            for text, share in (("Claim", 45), ("Here", 38), ("Verdict", 17))
        )
        return (
            f'<table><caption style="{_CELL}">{about}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(map(_line_of_html, self.of(number)))}</tbody></table>"
        )


_CELL = "text-align:left;vertical-align:top"


def _line_of_html(claim: Claim) -> str:
    numbers = "<br>".join(html.escape(str(c)) for c in claim.comparisons)
    tested = html.escape(f"{claim.tested} ({claim.section}). {claim.criterion}".strip())
    note = f"<p>{html.escape(claim.note)}</p>" if claim.note else ""
    return (
        f'<tr><th scope="row" style="{_CELL};font-weight:normal">'
        f"<strong>{html.escape(claim.claim)}</strong> ({html.escape(claim.place)})"
        f'<br>{tested}{note}</th><td style="{_CELL}">{numbers or html.escape(claim.here)}'
        f'</td><td style="{_CELL};color:{COLORS[claim.verdict]};font-weight:bold">'
        f"{html.escape(str(claim))}</td></tr>"
    )


def _columns(*cells: str) -> str:
    parts = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, _WIDTHS, strict=True)]
    lines = zip_longest(*parts, fillvalue="")
    return "\n".join(" ".join(map(str.ljust, line, _WIDTHS)).rstrip() for line in lines)


def _origin(number: str) -> str:
    table = runs(number)
    dates, devices = sorted(set(table.date)), sorted(set(table.device))
    return f"Stored runs of {dates[0]} to {dates[-1]}, {', '.join(devices)}"


def papers() -> dict[str, str]:
    """Number of each notebook that has a paper, and what the paper is called."""
    return read_toml("claims.toml")["papers"]


def claims(notebook: str | None = None) -> Claims:
    """The claims of ``data/claims.toml`` with their verdicts, computed from the stored runs.

    A claim has up to three criteria: ``holds``; ``only_with``, what is met under a condition; and
    ``direction``, a weaker one. Each is a list of comparisons of a number over seeds with another
    one, or with a fixed one, all of which have to be decided (`decide`) in its favour.

    Args:
        notebook: two digits; left out, all papers.

    Raises:
        ValueError: a notebook without claims.
    """
    titles = papers()
    if notebook is not None and notebook not in titles:
        raise ValueError(
            f"there is no paper for notebook {notebook!r}: choose one of {', '.join(titles)}"
        )
    chosen = {notebook: titles[notebook]} if notebook else titles
    entries = read_toml("claims.toml")["claim"]
    return Claims(chosen, [_judged(entry) for entry in entries if entry["notebook"] in chosen])


def write_report(path: Path, notebook: str, executed: Iterable[Path]) -> None:
    """Write a page of a paper that needs no network: claims, key figures, the numbers it states.

    Args:
        path: the file.
        notebook: two digits.
        executed: notebooks; the figures of their cells with the tag ``key-figure`` are shown.

    Raises:
        OSError: the file cannot be written.
    """
    import nbformat
    from nbformat.v4 import new_markdown_cell, new_notebook

    found = claims(notebook)
    cells = [cell for book in executed for cell in nbformat.read(book, as_version=4).cells]
    key = [cell for cell in cells if "key-figure" in cell.metadata.get("tags", [])]
    figures = ["\n\n".join(figure) for cell in key for figure in figures_of(cell)]
    rows = row_table(notebook).drop(columns=["note"]).to_html(index=False, border=0)
    title = f"# {found.papers[notebook]}\n\n{found.to_html()}\n\n## Figures of this run"
    stated = "<summary>Every number that the paper states, beside ours</summary>"
    parts = [title, *figures, f"<details>{stated}{rows}</details>"]
    write_page(path, new_notebook(cells=[new_markdown_cell(part) for part in parts]))
