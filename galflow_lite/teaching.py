"""For those who teach: lessons to hand out, slides, and a folder for a room without a network."""

from __future__ import annotations

import ast
import copy
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pooch
import tomlkit
from nbformat.v4 import new_code_cell, new_markdown_cell
from pygments.formatters import HtmlFormatter

from . import __version__
from .files import sha256, share, writable, write_aside
from .inputs import as_choice
from .notebooks import figures_of, find_notebooks, fragment

_TEXTS = tomlkit.parse(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).unwrap()

# ---- lessons to hand out ----------------------------------------------------------------------


def lessons() -> list[Path]:
    """The lessons, without their audits."""
    return [path for path in find_notebooks() if path.parent.name != "audits"]


_SOLUTION = re.compile(
    r"^(?P<indent> *)# BEGIN SOLUTION:? *(?P<task>.*)\n(?P<body>(?s:.*?))^ *# END SOLUTION *$\n?",
    flags=re.MULTILINE,
)


def write_student_version(
    lesson: Path,
    target: Path,
    *,
    solutions: bool = False,
    nbgrader: bool = False,
    colab: str = "",
) -> int:
    """Write a lesson without solutions and outputs; a picture that an answer makes stays, folded.

    Args:
        lesson: the notebook with solutions between ``# BEGIN SOLUTION: what to do`` and
            ``# END SOLUTION``; it is not changed.
        target: the notebook to write.
        solutions: whether the solutions stay, for those who teach.
        nbgrader: whether to write the source of an assignment: solutions between nbgrader's marks,
            and each check in a cell of its own that gives a point for each star of the task.
        colab: ``owner/repository@tag`` on GitHub, which holds the package and will hold the
            folder of ``target``: the lesson gets a badge, and a cell that installs the package.

    Returns:
        The number of cells to fill in.

    Raises:
        ValueError: ``colab`` has another form.
        OSError: a file cannot be read or written.
    """
    book, cells, stubs = nbformat.read(lesson, as_version=4), [], 0
    for cell in book.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        outputs, cell.outputs, cell.execution_count = cell.outputs, [], None
        if not _SOLUTION.search(cell.source):
            continue
        stubs += 1
        if nbgrader:
            cells[-1:] = _graded(cell, stars=cells[-2].source.count("★"))
        elif not solutions:
            source = cell.source
            cell.source = _SOLUTION.sub(lambda f, s=source: _stub(f, s[f.end() :]), source)
            for picture in (output.get("data", {}).get("image/png") for output in outputs):
                if picture:
                    attached = {"expected.png": {"image/png": picture}}
                    cells.append(new_markdown_cell(_TEXTS["expected"], attachments=attached))
    if colab:
        where = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w.-]+)", colab)
        if where is None:
            raise ValueError(f"--colab is {colab!r}, expected owner/repository@tag")
        place = f"{where[1]}/blob/{where[2]}/{target.resolve().parent.name}/{target.name}"
        page = f"https://colab.research.google.com/github/{place}"
        cells[0].source += "\n\n" + _TEXTS["badge"].format(page=page)
        cells.insert(1, new_code_cell(_TEXTS["install"].format(repository=where[1], tag=where[2])))
    book.cells = cells
    write_aside(target, nbformat.writes(book) + "\n")
    return stubs


def _graded(cell, stars: int) -> list:
    """A cell with the solution, and a locked one with its check."""
    call = re.search(r'^(?:if )?(exercises\.check\("(.+?)".*?\)):?$', cell.source, flags=re.M)
    answer, check, number = cell.source[: call.start()].rstrip(), f"assert {call[1]}", call[2]
    answer = re.sub(r"# (BEGIN|END) SOLUTION.*", r"### \1 SOLUTION", answer)
    cells = []
    for source, kind in ((answer, "solution"), (check, "grade")):
        locked = kind == "grade"
        name = f"{kind}-{number}".replace(".", "-")  # nbgrader knows no dots
        about = {"schema_version": 3, "grade_id": name, "task": False}
        about |= {"solution": not locked, "grade": locked, "locked": locked}
        about |= {"points": stars} if locked else {}
        cells.append(new_code_cell(source, metadata={"nbgrader": about}))
    return cells


def _stub(found: re.Match[str], after: str) -> str:
    """In the place of a solution: an error in a function, or dots for what is used after it."""
    indent, task = found["indent"], found["task"] or "your turn"
    head = f"{indent}# YOUR TURN: {task}\n"
    if indent:
        return f"{head}{indent}raise NotImplementedError({task!r})\n"
    body = ast.parse(found["body"])
    names = (node for node in ast.walk(body) if isinstance(node, ast.Name))
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assigned |= {node.name for node in body.body if isinstance(node, ast.FunctionDef)}
    wanted = dict.fromkeys(name for name in re.findall(r"\w+", after) if name in assigned)
    return head + "".join(f"{name} = ...\n" for name in wanted)


# ---- slides -----------------------------------------------------------------------------------

REVEAL = "https://registry.npmjs.org/reveal.js/-/reveal.js-5.2.1.tgz"
REVEAL_SHA256 = "359b575dd51bbda32f89b2fd4c7dc46ad7389a805572158916c29252f7a27333"
_PARTS = re.compile(
    r"package/(LICENSE|dist/(reset|reveal)\.css|dist/reveal\.js|dist/theme/white\.css|dist/theme/fonts/source.+)"
)


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
    page = _TEXTS["slides"].format(
        title=lesson.stem,
        style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        slides="\n".join(f"<section>{fragment(cells)}</section>" for cells in slides),
    )
    write_aside(out / f"{lesson.name[:2]}.html", page)
    return len(slides)


def _slides(cells: list[Any]) -> Iterator[list[Any]]:
    """The cells of each slide."""
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
        archive = Path(pooch.retrieve(REVEAL, f"sha256:{REVEAL_SHA256}", progressbar=False))
    if sha256(archive) != REVEAL_SHA256:
        raise ValueError(f"{archive} is not reveal.js 5.2.1, expected the archive at {REVEAL}")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as packed:
        wanted = [member for member in packed.getmembers() if _PARTS.fullmatch(member.name)]
        packed.extractall(scratch, wanted, filter="data")
        shutil.copytree(Path(scratch) / "package" / "dist", folder)
        shutil.copy(Path(scratch) / "package" / "LICENSE", folder)


# ---- a room without a network -----------------------------------------------------------------


# Tags of wheels that run there, as pip names them.
PLATFORMS = {"windows": "win_amd64", "macos": "macosx_14_0_arm64"}


def write_classroom(out: Path, *, platforms: Iterable[str] = (), python: str = "3.12") -> None:
    """Gather wheels, lessons, their solutions, and a page that says how to install.

    Wheels for this computer are those that pip would install here. For another system uv finds out
    which are needed, since pip looks at this one; on Linux run the command where the class runs.

    Args:
        out: the folder, made where it is missing.
        platforms: of `PLATFORMS`; none for this computer.
        python: the class's Python, where platforms are named.

    Raises:
        ValueError: an unknown platform; no uv; wheels that cannot be had; or the package lies in no
            repository, from which its wheel is made.
        OSError: the folder cannot be written to.
    """
    root, platforms = share("notebooks").parent, list(platforms)
    if not (root / "pyproject.toml").is_file():
        raise ValueError(f"found no pyproject.toml in {root}, expected a clone of the repository")
    for name in platforms:
        as_choice(name, "the platform", tuple(PLATFORMS))
    wheels = writable(writable(out) / "wheels")
    # nflows comes as source; its wheel and ours are the same for all.
    _run(sys.executable, "-m", "pip", "wheel", "-w", wheels, "--no-deps", "nflows==0.14", root)
    download = [sys.executable, "-m", "pip", "download", "-d", wheels, "--find-links", wheels]
    download.append("--only-binary=:all:")
    ours, bounds = f"galflow-lite=={__version__}", root / "constraints.txt"
    for name in platforms:
        needed = wheels / f"{name}.txt"
        write_aside(needed, ours)
        _run("uv", "pip", "compile", needed, "-o", needed, "--python-platform", name,
             "--python-version", python, "-c", bounds, "--find-links", wheels)  # fmt: skip
        where = ["--platform", PLATFORMS[name], "--python-version", python]
        _run(*download, "--no-deps", "-r", needed, *where)
    if not platforms:
        _run(*download, "-c", bounds, ours)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for lesson in lessons():
        write_student_version(lesson, out / "lessons" / lesson.name)
        write_aside(out / "solved" / lesson.name, lesson.read_bytes())
    what = f"for {' and '.join(platforms) or 'computers like the one that made them'}"
    write_aside(out / "READ_ME.txt", _TEXTS["read_me"].format(python=python, what=what))


def _run(*words: object) -> None:
    try:
        subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(f"found no {words[0]}, expected it here: pip install uv") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-300:]
        raise ValueError(f"{words[-1]}: wheels that are needed cannot be had ({said})") from error
