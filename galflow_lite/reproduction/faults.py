"""Planted faults: a check that no fault of the package turns amber says nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..notebooks import NotebookFailed, execute, find_notebooks
from .checks import OUTSIDE


@dataclass(frozen=True)
class Fault:
    """A fault of ``data/faults.toml``.

    Attributes:
        name: of the fault.
        notebooks: numbers of the notebooks that it reaches.
        what: what is wrong, in words.
        file: of the package; ``"notebook"`` for the cells of the notebook itself.
        old: text that occurs in it exactly once; ``new``: what stands there instead.
        moves: numbers that have to turn amber, at least.
    """

    name: str
    notebooks: tuple[str, ...]
    what: str
    file: str
    old: str
    new: str
    moves: tuple[str, ...] = ()

    def plant(self, text: str) -> str:
        """The text with the fault in it.

        Raises:
            ValueError: the place is not there, or not the only one.
        """
        if text.count(self.old) != 1:
            raise ValueError(
                f"the fault {self.name} found its place {text.count(self.old)} times in "
                f"{self.file}, expected once: correct data/faults.toml"
            )
        return text.replace(self.old, self.new)


def faults(notebook: str | None = None) -> dict[str, Fault]:
    """The faults that can be planted, by name; those that reach a notebook, or all."""
    found = {name: Fault(name, **entry) for name, entry in files.read_toml("faults.toml").items()}
    return {k: fault for k, fault in found.items() if notebook in (None, *fault.notebooks)}


def run_with(fault: Fault, notebook: str, folder: Path) -> Iterator[str]:
    """Run lesson and audit with a fault; the numbers that turn amber.

    A cell that fails ends its notebook, as it would for a reader: it counts as ``"(an error)"``.

    Args:
        fault: what is planted, in a copy of the package; the package itself stays as it is.
        notebook: two digits, or the name of one notebook.
        folder: an empty one, for the copy and the executed notebooks.
    """
    import nbformat

    package = Path(files.__file__).parent
    copy = folder / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    texts = Path("notebooks") / "captions"
    shutil.copytree(files.share("notebooks") / texts.name, copy / "_share" / texts)
    if fault.file != "notebook":
        place = copy / fault.file
        place.write_text(fault.plant(place.read_text(encoding="utf-8")), encoding="utf-8")
    environment = {"PYTHONPATH": str(folder), "GALFLOW_SCALE": "lite", "GALFLOW_SEED": ""}
    environment |= {"GALFLOW_DATA": str(files.share("data")), "GALFLOW_JOBS": "1"}
    for path in find_notebooks([notebook]):
        book = nbformat.read(path, as_version=4)
        if fault.file == "notebook":
            cells = [cell for cell in book.cells if fault.old in cell.source]
            if not cells:
                continue
            cells[0].source = fault.plant(cells[0].source)
        target = folder / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        nbformat.write(book, target)
        try:
            run = execute(target, folder / "out", progress=False, env=environment, report=False)
        except NotebookFailed:
            yield "(an error)"
            continue
        yield from (line["id"] for line in run.records if line.get("sign") == OUTSIDE)
