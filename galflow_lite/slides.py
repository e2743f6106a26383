"""Slides of a lesson, with reveal.js beside them, so that they play without a network."""

from __future__ import annotations

import copy
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import write_aside
from .notebooks import figures_of, fragment

REVEAL = "https://registry.npmjs.org/reveal.js/-/reveal.js-5.2.1.tgz"
REVEAL_SHA256 = "359b575dd51bbda32f89b2fd4c7dc46ad7389a805572158916c29252f7a27333"
_PARTS = re.compile(
    r"package/(LICENSE|dist/(reset|reveal)\.css|dist/reveal\.js|dist/theme/white\.css|dist/theme/fonts/source.+)"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="reveal/reset.css"><link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="reveal/theme/white.css">
<style>
.reveal {{ font-size: 28px; }}
.reveal h1, .reveal h2 {{ font-size: 1.5em; text-transform: none; }}
.reveal .slides section {{ text-align: left; max-height: 690px; overflow-y: auto; }}
.reveal .slides section img {{ display: block; margin: auto; max-height: 500px; max-width: 100%; }}
.reveal pre {{ font-size: 19px; width: 100%; box-shadow: none; }}
.reveal .prompt {{ display: none; }}
.reveal blockquote {{ width: 95%; font-style: normal; }}
{style}
</style></head>
<body><div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="reveal/reveal.js"></script>
<script>Reveal.initialize({{ width: 1280, height: 720, hash: true, slideNumber: true }});</script>
</body></html>
"""


def write_slides(lesson: Path, out: Path, *, reveal: Path | None = None) -> int:
    """Write the slides of a lesson as ``OUT/NN.html``, with ``OUT/reveal`` beside it.

    A slide is a section's text, one figure with its caption, one cell of code without output, or
    one task; solutions, checks, and the code of figures stay in the notebook.

    Args:
        lesson: the notebook, executed.
        out: a folder, made where it is missing.
        reveal: the archive of reveal.js 5.2.1 from the npm registry; downloaded where left out.

    Returns:
        The number of slides.

    Raises:
        ValueError: the archive has another checksum.
        OSError: it cannot be downloaded, or a file cannot be written.
    """
    import nbformat
    from pygments.formatters import HtmlFormatter

    book = nbformat.read(lesson, as_version=4)
    slides: list[list[Any]] = []
    for cells in _slides(book.cells):
        remark = len(cells) == 1 and cells[0].cell_type == "markdown"
        remark = remark and len(cells[0].source.split()) <= 45 and cells[0].source[0] not in "#>"
        # A short remark stays with the figure that it is about.
        if remark and slides and "<img" in slides[-1][-1].source and "<img" not in cells[0].source:
            slides[-1] += cells
        else:
            slides.append(cells)
    out.mkdir(parents=True, exist_ok=True)
    _vendor(out / "reveal", reveal)
    page = _PAGE.format(
        title=lesson.stem,
        style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        slides="\n".join(f"<section>{fragment(cells)}</section>" for cells in slides),
    )
    write_aside(out / f"{lesson.name[:2]}.html", page)
    return len(slides)


def _slides(cells: list[Any]) -> Iterator[list[Any]]:
    """The cells of each slide."""
    from nbformat.v4 import new_markdown_cell

    waiting: list[Any] = []  # what is said before a figure or a cell of code stands above it
    for cell in cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
            # A heading and a task begin a slide of their own.
            for part in re.split(r"\n(?=#{1,2} )|\n(?=> \*\*Your turn)", text):
                yield from filter(None, [waiting])
                waiting = [new_markdown_cell(part)] if part.strip() else []
            continue
        shown = [new_markdown_cell("\n\n".join(figure)) for figure in figures_of(cell)]
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
        exercise = "nbval-check-output" in cell.metadata.get("tags", [])
        if not (shown or hidden or exercise or "settings(" in cell.source):
            shown = [copy.deepcopy(cell)]
            shown[0].outputs = []
        for each in shown:
            if waiting and len(waiting[0].source.split()) > 60:
                yield waiting
                waiting = []
            yield [*waiting, each]
            waiting = []
    yield from filter(None, [waiting])


def _vendor(folder: Path, archive: Path | None) -> None:
    """The files of reveal.js that a page needs, from its archive."""
    if folder.is_dir():
        return
    if archive is None:
        import pooch

        archive = Path(pooch.retrieve(REVEAL, f"sha256:{REVEAL_SHA256}", progressbar=False))
    from .files import sha256

    if sha256(archive) != REVEAL_SHA256:
        raise ValueError(f"{archive} is not reveal.js 5.2.1, expected the archive at {REVEAL}")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as packed:
        wanted = [member for member in packed.getmembers() if _PARTS.fullmatch(member.name)]
        packed.extractall(scratch, wanted, filter="data")
        shutil.copytree(Path(scratch) / "package" / "dist", folder)
        shutil.copy(Path(scratch) / "package" / "LICENSE", folder)
