"""The notebooks as files: executed, checked, readable, and small.

nbval compares stored outputs with fresh ones, so a notebook without outputs passes it without
testing anything. What is looked at here makes that impossible.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import tomlkit

from galflow_lite import reproduction
from galflow_lite.files import share
from galflow_lite.notebooks import mathml
from galflow_lite.reproduction.bands import read_bands
from galflow_lite.reproduction.checks import INSIDE, OUTSIDE

FOLDER = Path(__file__).parents[1] / "notebooks"
FILES = sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("audits/*.ipynb")])
LESSONS = [path for path in FILES if path.parent.name != "audits"]
# Of a lesson and its audit together.
FEWEST_VERDICTS = {"00": 2, "01": 5, "02": 20, "03": 15, "04": 16}
NUMBERS = list(FEWEST_VERDICTS)
# Figures count too: their pixels differ from one release of matplotlib to the next.
MOST_IGNORED = 40

MOST_BYTES = 1_500_000
# An experiment of an audit is one function of case and seed.
# The core loop of a lesson is one cell.
MOST_LINES = {"lesson": 26, "audit": 40}
FEWEST_LETTERS = 20

PLAIN = ["text/plain"]
CHECKED, IGNORED, SKIPPED = "nbval-check-output", "nbval-ignore-output", "nbval-skip"
OPENING = {
    "what the reader will be able to do": r"able to",
    "what the reader needs to know": r"need to know",
    "minutes": r"\d+\s*min",
    "time on CPU cores": r"2 (CPU )?cores",
    "time on a GPU": r"GPU",
    "memory": r"\d\s*[GM]B",
    "data": r"\b[Dd]ata\b",
}
PAPER = {"arXiv number": r"arXiv:\s*\d{4}\.\d{5}", "sections of the paper": r"[Ss]ections?|§"}
PATHS = re.compile(
    r"(?<![\w.:/<>-])/(?:home|root|tmp|work|Users|var|opt|mnt|usr|private|content)/\w|\b[A-Z]:\\"
)
SPOILT = {
    "output that ends in ';'": re.compile(r";\s*\Z").search,
    "an absolute path": PATHS.search,
    "a progress bar": re.compile(r"\d%\|| ?(?:it|cell|step|s)/(?:s|it)\]|\r").search,
    "a warning": re.compile(r"\w*Warning: |Traceback \(most").search,
}


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(book) -> list:
    return [c for c in book.cells if c.cell_type == "code" and c.source.strip()]


def texts(output) -> Iterator[str]:
    """Every text of an output that a reader sees, embedded images left out."""
    if output.output_type == "stream":
        yield output.text
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield content


def printed(cell) -> str:
    """Plain text output of a cell; figures, captions and tables have only a stand-in for it."""
    plain = (o for o in cell.outputs if o.output_type == "stream" or [*o.get("data", {})] == PLAIN)
    return "".join("".join(texts(output)) for output in plain).strip()


def calls(cell, *names: str) -> bool:
    """Whether a cell calls one of these functions, as ``check(...)`` or ``x.check(...)``."""
    source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(getattr(f, "id", None) in names or getattr(f, "attr", None) in names for f in called)


def problems(book, kind="lesson", paper=True) -> list[str]:
    """All that is wrong with a notebook, one sentence each.

    Args:
        kind: ``"lesson"`` or ``"audit"``.
        paper: False for the notebook that only opens the series.
    """
    of_book = (guard(book) for guard in (execution, verdicts, output_problems, figure_problems))
    return [*chain(*of_book), *source_problems(book, kind), *structure(book, kind, paper)]


def execution(book) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(book)]
    if not counts or counts != list(range(1, len(counts) + 1)):
        yield f"not executed in order on a fresh kernel: execution counts {counts}"
    ids = [cell.id for cell in book.cells]
    if len(set(ids)) < len(ids):
        yield "two cells have the same id"
    for cell in book.cells:
        if set(cell.metadata) - {"tags", "slideshow", "jupyter"}:
            yield f"metadata that vary from run to run: {sorted(cell.metadata)}"
    if book.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"


def verdicts(book) -> Iterator[str]:
    cells = code_cells(book)
    checked = [cell for cell in cells if CHECKED in tags(cell)]
    if not checked:
        yield "no verdict cells"
    for cell in cells:
        first = cell.source.splitlines()[0]
        if cell in checked and not printed(cell):
            yield f"a verdict cell without text in its output: {first}"
        text = printed(cell)
        passed = INSIDE in text and OUTSIDE not in text and "no band" not in text
        if calls(cell, "check", "tell") and not (cell in checked and passed):
            yield f"a check that nbval does not compare, or that did not pass: {first}"
        if printed(cell) and not tags(cell) & {CHECKED, IGNORED}:
            yield f"text output that is neither checked nor ignored by name: {first}"
        if {CHECKED, IGNORED} <= tags(cell):
            yield f"a cell that is both checked and not: {first}"
        if INSIDE in text and CHECKED not in tags(cell):
            yield f"a verdict that nbval does not compare: {first}"
        if SKIPPED in tags(cell):
            yield f"a skipped cell: {first}"
    ignored = sum(IGNORED in tags(cell) for cell in cells)
    if ignored > MOST_IGNORED:
        yield f"{ignored} ignored cells, expected at most {MOST_IGNORED}"


def output_problems(book) -> Iterator[str]:
    for cell in code_cells(book):
        where = cell.source.splitlines()[0]
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"a traceback: {where}"
            if output.get("name") == "stderr":
                yield f"output on stderr: {where}"
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                yield f"a widget, which shows nothing in a stored notebook: {where}"
            for text in texts(output):
                yield from (f"{what}: {where}" for what, found in SPOILT.items() if found(text))


def figure_problems(book) -> Iterator[str]:
    for cell in code_cells(book):
        where = cell.source.splitlines()[0]
        for output, after in zip(cell.outputs, [*cell.outputs, {}][1:], strict=True):
            data, about = output.get("data", {}), output.get("metadata", {})
            if "<img" in data.get("text/html", ""):
                yield f"an image inside HTML, expected one of plotting.show: {where}"
            for kind in (kind for kind in data if kind.startswith("image/")):
                if len(about.get(kind, {}).get("alt", "").strip()) < FEWEST_LETTERS:
                    yield f"a figure without alt text: {where}"
                # plotting.show displays the caption next, as Markdown.
                below = after.get("data", {}).get("text/markdown", "")
                caption = re.match(r"\*\*Figure.*?\*\*(.*)", below)
                if not caption or len(caption.group(1).strip()) < FEWEST_LETTERS:
                    yield f"a figure without a caption: {where}"
    for cell in book.cells:
        alts = re.findall(r"!\[([^\]]*)\]\(", cell.source if cell.cell_type == "markdown" else "")
        if any(len(alt.strip()) < FEWEST_LETTERS for alt in alts):
            yield "an image in a text cell without alt text"


def source_problems(book, kind: str) -> Iterator[str]:
    for cell in code_cells(book):
        lines = cell.source.rstrip().splitlines()
        if len(lines) > MOST_LINES[kind]:
            yield f"a cell of {len(lines)} lines, expected at most {MOST_LINES[kind]}: {lines[0]}"
        if lines[-1].rstrip().endswith(";"):
            yield f"a cell that ends in ';': {lines[-1]}"


def structure(book, kind: str, paper: bool) -> Iterator[str]:
    opening = book.cells[0]
    if opening.cell_type != "markdown" or not opening.source.startswith("# "):
        yield "the first cell is no title"
    wanted = (OPENING if kind == "lesson" else {}) | (PAPER if paper else {})
    for name, pattern in wanted.items():
        if not re.search(pattern, opening.source):
            yield f"the opening cell lacks: {name}"
    second = book.cells[1]
    if second.cell_type != "code" or not calls(second, "settings") or IGNORED not in tags(second):
        yield f"the second cell is not the imports and settings(), tagged {IGNORED}"
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## +(.+)$", prose.lower(), flags=re.MULTILINE)
    last = ["reading"] if kind == "lesson" else []
    found = headings[len(headings) - len(last) :]
    if len(found) < len(last) or not all(w in f for w, f in zip(last, found, strict=True)):
        yield f"the last sections are {found}, expected {last}"


# What a student finishes in two units of 50 minutes.
MOST = {"words": 1_800, "words of a cell": 150, "code lines": 350, "checks": 10, "exercises": 9}


def size(book) -> dict[str, int]:
    """How long a lesson is, in the terms of `MOST`."""
    words = [len(cell.source.split()) for cell in book.cells if cell.cell_type == "markdown"]
    lines = [line.strip() for cell in code_cells(book) for line in cell.source.splitlines()]
    code = [line for line in lines if line and not line.startswith("#")]
    return {
        "words": sum(words),
        "words of a cell": max(words),
        "code lines": len(code),
        "checks": sum(bool(re.match(r"(reproduction\.)?(check|tell)\(", line)) for line in code),
        "exercises": sum("# BEGIN SOLUTION" in cell.source for cell in code_cells(book)),
    }


def shown_claims(book) -> list[str]:
    """The claims that a notebook shows, as text."""
    cells = [cell for cell in code_cells(book) if calls(cell, "claims")]
    data = [output.data for cell in cells for output in cell.outputs if "data" in output]
    return [found["text/plain"] for found in data if "<table" in found.get("text/html", "")]


# ---- the notebooks ----------------------------------------------------------------------------


def read(path: Path):
    return nbformat.read(path, as_version=4)


def kind_of(path: Path) -> dict:
    kind = "audit" if path.parent.name == "audits" else "lesson"
    return {"kind": kind, "paper": path.name[:2] != "00"}


def test_every_lesson_is_there_and_every_audit_has_one():
    lessons = [path.name[:2] for path in FILES if kind_of(path)["kind"] == "lesson"]
    audits = [path.name[:2] for path in FILES if kind_of(path)["kind"] == "audit"]
    assert lessons == NUMBERS
    assert set(audits) <= set(NUMBERS)
    assert len(set(audits)) == len(audits)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_notebook_is_as_it_should_be(path):
    book = read(path)
    nbformat.validate(book)
    assert problems(book, **kind_of(path)) == []
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name[:2])
def test_a_student_finishes_the_lesson(path):
    found = size(read(path))
    assert {name: value for name, value in found.items() if value > MOST[name]} == {}
    assert found["exercises"] >= (3 if path.name.startswith("00") else 6)


@pytest.mark.parametrize("number", NUMBERS)
def test_lesson_and_audit_together_hold_verdicts_and_the_claims(number):
    books = [read(path) for path in FILES if path.name.startswith(number)]
    checked = [cell for book in books for cell in code_cells(book) if CHECKED in tags(cell)]
    assert len(checked) >= FEWEST_VERDICTS[number]
    # Those of the runs that ship: stored outputs that are stale fail here.
    wanted = [] if number == "00" else [str(reproduction.claims(number))]
    assert [text for book in books for text in shown_claims(book)] == wanted


@pytest.mark.parametrize("number", NUMBERS)
def test_stored_verdicts_name_the_bands_that_ship_and_all_of_them(number):
    books = [read(path) for path in FILES if path.name.startswith(number)]
    lines = [line for book in books for c in code_cells(book) for line in printed(c).splitlines()]
    said = re.compile(rf"(\S+   ){INSIDE} in its usual range (.*?\])")
    shown = {"".join(found.groups()) for found in map(said.match, lines) if found}
    bands = tomlkit.parse((share("data") / "bands.toml").read_text(encoding="utf-8"))
    names = bands["notebook"].get(number, {}).get("band", {})
    known = {f"{n}   {band}" for n, band in read_bands().items() if n in names}
    assert known == shown


# ---- the guard itself -------------------------------------------------------------------------


def shown(kind, content):
    return nbformat.v4.new_output("display_data", {kind: content})


def said(text, **more):
    return nbformat.v4.new_output("stream", text=text, **more)


SPOILT_OUTPUTS = [
    (said("x", name="stderr"), "stderr"),
    (nbformat.v4.new_output("error", ename="E"), "a traceback"),
    (said("UserWarning: old"), "a warning"),
    (said("0.5;\n"), "output that ends in ';'"),
    (said("saved /home/me/a.h5"), "absolute path"),
    (said(r"saved C:\a.h5"), "absolute path"),
    (said(" 45%|####  | 9/20"), "a progress bar"),
    (shown("application/vnd.jupyter.widget-view+json", {"model_id": "1"}), "a widget"),
    (shown("text/html", "<img>"), "an image inside HTML"),
    (shown("image/png", "aGk="), "without alt text"),
]
# Of the opening cell, the settings, a verdict and a figure.
DAMAGE = [
    (lambda title, first, verdict, figure: verdict.update(execution_count=None), "not executed"),
    (lambda title, first, verdict, figure: verdict.outputs.clear(), "a verdict cell without text"),
    (lambda title, first, verdict, figure: verdict.metadata.clear(), "nbval does not compare"),
    (lambda title, first, verdict, figure: verdict.metadata.tags.append(IGNORED), "both checked"),
    (lambda title, first, verdict, figure: verdict.outputs[0].update(text="a"), "did not pass"),
    (lambda title, first, verdict, figure: first.metadata.clear(), "neither checked nor ignored"),
    (lambda title, first, verdict, figure: first.metadata.update(a="b"), "vary from run"),
    (lambda title, first, verdict, figure: first.update(id=verdict.id), "the same id"),
    (lambda title, first, verdict, figure: first.update(source="x\n" * 27), "27 lines"),
    (lambda title, first, verdict, figure: first.update(source="x;"), "cell that ends in ';'"),
    (lambda title, first, verdict, figure: first.update(source="x"), "the second cell"),
    (lambda title, first, verdict, figure: figure.outputs.pop(), "without a caption"),
    (lambda title, first, verdict, figure: title.update(source="A"), "lacks: arXiv number"),
]


DAMAGE += [
    (lambda title, first, verdict, figure, output=output: first.outputs.append(output), message)
    for output, message in SPOILT_OUTPUTS
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_the_guard_sees_damage(change, message):
    book = read(FILES[1])
    cells = code_cells(book)
    verdict = next(cell for cell in cells if calls(cell, "check"))
    figure = next(c for c in cells if any("image/png" in o.get("data", {}) for o in c.outputs))
    change(book.cells[0], cells[0], verdict, figure)
    assert any(message in text for text in problems(book)), problems(book)


FORMULAS = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`])\$(?!\s)([^$`]+?)(?<!\s)\$", flags=re.DOTALL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name[:2]}")
def test_pages_that_need_no_network_show_each_formula(path):
    prose = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    formulas = [a or b for a, b in FORMULAS.findall(re.sub(r"`[^`]*`", "", "\n\n".join(prose)))]
    assert [f for f in formulas if "\\" in mathml(f)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name[:2]}")
def test_no_link_goes_to_a_heading(path):
    """Jupyter and Sphinx give headings other anchors: one of them would lead nowhere."""
    assert re.findall(r"\]\(#[^)]*\)", path.read_text(encoding="utf-8")) == []
