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


def write_student_version(lesson: Path, target: Path) -> int:
    """Write a lesson without solutions and outputs; a picture that an answer makes stays, folded.

    Args:
        lesson: the notebook with solutions between ``# BEGIN SOLUTION: what to do`` and
            ``# END SOLUTION``; it is not changed.
        target: the notebook to write.

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
        if _SOLUTION.search(cell.source):
            source = cell.source
            cell.source = _SOLUTION.sub(lambda f, s=source: _stub(f, s[f.end() :]), source)
            stubs += 1
            pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
            cells += [_expected(picture) for picture in pictures]
    book.cells = cells
    write_aside(target, nbformat.writes(book) + "\n")
    return stubs


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
