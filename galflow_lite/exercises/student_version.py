"""Lessons without their solutions, to hand out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ..files import write_aside

_SOLUTION = re.compile(
    r"^(?P<indent> *)# BEGIN SOLUTION:? *(?P<task>.*)\n(?P<body>(?s:.*?))^ *# END SOLUTION *$\n?",
    flags=re.MULTILINE,
)


def write_student_version(
    lesson: Path, target: Path, *, solutions: bool = False, nbgrader: bool = False
) -> int:
    """Write a lesson without solutions and outputs; a picture that an answer makes stays, folded.

    Args:
        lesson: the notebook with solutions between ``# BEGIN SOLUTION: what to do`` and
            ``# END SOLUTION``; it is not changed.
        target: the notebook to write.
        solutions: whether the solutions stay, for those who teach.
        nbgrader: whether to write the source of an assignment: solutions between nbgrader's marks,
            and each check in a cell of its own that gives a point for each star of the task.

    Returns:
        The number of cells to fill in.

    Raises:
        OSError: a file cannot be read or written.
    """
    import nbformat

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
            pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
            cells += [_expected(picture) for picture in pictures]
    book.cells = cells
    write_aside(target, nbformat.writes(book) + "\n")
    return stubs


def _graded(cell, stars: int) -> list:
    """A cell with the solution, and a locked one with its check."""
    from nbformat.v4 import new_code_cell

    call = re.search(r'^(?:if )?(exercises\.check\("(.+?)".*?\)):?$', cell.source, flags=re.M)
    answer, check, number = cell.source[: call.start()].rstrip(), f"assert {call[1]}", call[2]
    answer = re.sub(r"# (BEGIN|END) SOLUTION.*", r"### \1 SOLUTION", answer)
    cells = []
    for source, kind in ((answer, "solution"), (check, "grade")):
        name = f"{kind}-{number}".replace(".", "-")  # nbgrader knows no dots
        about = {"schema_version": 3, "grade_id": name, "task": False}
        about |= {"solution": kind == "solution", "grade": kind == "grade"}
        about |= {"locked": kind == "grade"} | ({"points": stars} if kind == "grade" else {})
        cells.append(new_code_cell(source, metadata={"nbgrader": about}))
    return cells


def _stub(found: re.Match[str], after: str) -> str:
    """In the place of a solution: an error in a function, or dots for what is used after it."""
    indent, task = found["indent"], found["task"] or "your turn"
    head = f"{indent}# YOUR TURN: {task}\n"
    if indent:
        return f"{head}{indent}raise NotImplementedError({task!r})\n"
    names = (node for node in ast.walk(ast.parse(found["body"])) if isinstance(node, ast.Name))
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    wanted = dict.fromkeys(name for name in re.findall(r"\w+", after) if name in assigned)
    return head + "".join(f"{name} = ...\n" for name in wanted)


def _expected(picture: str):
    import nbformat

    text = (
        "<details><summary>The picture to expect</summary>\n\n"
        "![what a right answer draws](attachment:expected.png)\n\n</details>"
    )
    return nbformat.v4.new_markdown_cell(text, attachments={"expected.png": {"image/png": picture}})
