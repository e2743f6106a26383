"""The claims of a paper, each with a verdict that is computed from runs."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import tomlkit

from ..files import share
from .run_table import runs, stored
from .summaries import Summary, decide, format_number

if TYPE_CHECKING:
    import pandas as pd

HOLDS, DIRECTION, ONLY_WITH, FAILS, UNTESTED = (
    "holds",
    "holds in direction",
    "holds only with",
    "does not hold here",
    "not testable here",
)
SIGNS = {HOLDS: "✔", DIRECTION: "~", ONLY_WITH: "◐", FAILS: "✘", UNTESTED: "–"}
# Dark enough on white for small text; told apart by the signs as well.
COLORS = {
    HOLDS: "#00664d",
    DIRECTION: "#0b5394",
    ONLY_WITH: "#8a5a00",
    FAILS: "#a61c00",
    UNTESTED: "#555555",
}
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
        ours, other = (
            format_number(number.mean, number.standard_error or None)
            if isinstance(number, Summary)
            else format_number(number)
            for number in (self.ours, self.other)
        )
        return f"{label}{ours} against {other}"


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
            other = stored(
                other.format(*names),
                criterion.get("other_case", criterion.get("case", "")).format(*names),
                scale=criterion.get("scale"),
            )
        passed = None
        if ours is not None and other is not None:
            if kind == "equals":
                passed = ours.mean == other and ours.scatter == 0
            else:
                passed = _passed(ours, other, kind, criterion.get("margin", 0.0))
        found.append(Comparison(" ".join(names), ours, other, passed))
    return found


def _passed(ours: Summary, other: Summary | float, kind: str, margin: float) -> bool | None:
    if kind == "above":
        ours, other = _negative(ours), _negative(other)
    found = decide(ours, other, margin=margin)
    return None if math.isnan(found.p) else found.below


def _negative(number: Summary | float) -> Summary | float:
    if not isinstance(number, Summary):
        return -number
    return replace(number, mean=-number.mean, values=tuple(-value for value in number.values))


def _judged(entry: Mapping[str, Any]) -> Claim:
    """A claim with its verdict, from what ``data/claims.toml`` says of it."""
    entry = dict(entry)
    levels = {
        HOLDS: entry.pop("holds", []),
        ONLY_WITH: entry.pop("only_with", []),
        DIRECTION: entry.pop("direction", []),
    }
    condition, noun = entry.pop("with", ""), entry.pop("noun", "cases")
    tests = {
        name: [c for criterion in level for c in _compare(criterion)]
        for name, level in levels.items()
    }
    met = [name for name, found in tests.items() if found and all(c.passed for c in found)]
    if met:
        verdict, found = met[0], tests[met[0]]
    else:
        found = tests[HOLDS] or tests[DIRECTION]
        known = found and all(c.passed is not None for c in found)
        verdict = FAILS if known else UNTESTED
    if verdict != ONLY_WITH:
        condition = ""
    here = entry.pop("here", "")
    if found and verdict != UNTESTED:
        passed = sum(bool(c.passed) for c in found)
        here = str(found[0]) if len(found) == 1 else f"{passed} of {len(found)} {noun}"
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
        for part in textwrap.wrap(f"{self.counts(number)}. {_origin(number)}.", 100):
            lines.append(part)
        lines.append(
            f"Each with its evidence: --format html. Rows: galflow-lite table {number} --rows"
        )
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """A section for each paper, for README."""
        parts = []
        for number, title in self.papers.items():
            parts += [f"**{number} · {title}**", "", "| claim | the paper | here | verdict |"]
            parts.append("|---|---|---|---|")
            for claim in self.of(number):
                cells = (claim.short, claim.place, claim.here, str(claim))
                parts.append(f"| {' | '.join(cells)} |")
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
        body = []
        for claim in self.of(number):
            color, text = COLORS[claim.verdict], html.escape(str(claim))
            numbers = "<br>".join(html.escape(str(c)) for c in claim.comparisons)
            tested = html.escape(f"{claim.tested} ({claim.section}). {claim.criterion}".strip())
            note = f"<p>{html.escape(claim.note)}</p>" if claim.note else ""
            body.append(
                f'<tr><th scope="row" style="{_CELL};font-weight:normal">'
                f"<strong>{html.escape(claim.claim)}</strong> ({html.escape(claim.place)})"
                f'<br>{tested}{note}</th><td style="{_CELL}">{numbers or html.escape(claim.here)}'
                f'</td><td style="{_CELL};color:{color};font-weight:bold">{text}</td></tr>'
            )
        columns = {"Claim": 45, "Here": 38, "Verdict": 17}
        head = "".join(
            f'<th scope="col" style="{_CELL};width:{share}%">{text}</th>'
            for text, share in columns.items()
        )
        caption = f'<caption style="{_CELL}">{html.escape(self.papers[number])}. '
        caption += f"{html.escape(self.counts(number))}. {html.escape(_origin(number))}</caption>"
        return (
            f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )


_CELL = "text-align:left;vertical-align:top"


def _columns(*cells: str) -> str:
    parts = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, _WIDTHS, strict=True)]
    lines = zip_longest(*parts, fillvalue="")
    return "\n".join(" ".join(map(str.ljust, line, _WIDTHS)).rstrip() for line in lines)


def _origin(number: str) -> str:
    table = runs(number)
    dates, devices = sorted(set(table.date)), sorted(set(table.device))
    return f"Stored runs of {dates[0]} to {dates[-1]}, {', '.join(devices)}"


def _content() -> dict[str, Any]:
    path = share("data") / "claims.toml"
    return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()


def papers() -> dict[str, str]:
    """Number of each notebook that has a paper, and what the paper is called."""
    return _content()["papers"]


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
    content = _content()
    titles = content["papers"]
    if notebook is not None and notebook not in titles:
        raise ValueError(
            f"there is no paper for notebook {notebook!r}: choose one of {', '.join(titles)}"
        )
    chosen = {notebook: titles[notebook]} if notebook else titles
    found = [_judged(entry) for entry in content["claim"] if entry["notebook"] in chosen]
    return Claims(chosen, found)
