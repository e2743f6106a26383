"""Execute the notebooks and write reports of them."""

from __future__ import annotations

import copy
import html
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .files import share, write_aside

__all__ = [
    "Execution",
    "NotebookFailed",
    "clean",
    "execute",
    "find_notebook",
    "find_notebooks",
    "read_records",
]


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised, took too long, or its kernel died."""


@dataclass(frozen=True)
class Execution:
    """What an executed notebook left.

    Attributes:
        notebook: the executed notebook.
        report: the same as one HTML file, or ``None`` where none was asked for.
        seconds: wall time from the start of the kernel to the end of the last cell.
        records: numbers that ``check`` and ``record`` kept, in their order.
    """

    notebook: Path
    report: Path | None
    seconds: float
    records: tuple[dict[str, Any], ...]


def find_notebooks(names: Iterable[str] = ()) -> list[Path]:
    """The numbered notebooks, in order; all of them, or those named by number or path.

    Raises:
        ValueError: there is no such notebook, or none at all.
    """
    names = list(names)
    if names:
        return [find_notebook(name) for name in names]
    found = sorted(share("notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(
            f"the folder {share('notebooks')} holds no numbered notebook; install galflow-lite anew"
        )
    return found


def find_notebook(name: str | Path) -> Path:
    """One notebook, by its two digits (``"01"``), its stem, or its path.

    Raises:
        ValueError: there is no such notebook.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    known = find_notebooks()
    for found in known:
        if str(name) in (found.name[:2], found.stem, found.name):
            return found
    raise ValueError(
        f"there is no notebook {str(name)!r}: choose one of "
        f"{', '.join(path.name[:2] for path in known)}"
    )


def execute(
    path: Path,
    out_folder: Path,
    *,
    timeout: int | None = 3600,
    progress: bool = True,
    env: Mapping[str, str] | None = None,
    report: bool = True,
) -> Execution:
    """Run a notebook on a fresh kernel of this Python and write it, executed, with a report.

    The kernel works in an empty temporary folder. A notebook that fails is written too, up to the
    cell that failed.

    Args:
        path: the notebook; it is not changed.
        out_folder: where the executed notebook and the report go.
        timeout: seconds for one cell; ``None`` for no limit.
        progress: show a bar that names the section and advances with every cell.
        env: environment variables for the kernel, on top of those of this process.
        report: whether to write the HTML report.

    Returns:
        The files, the seconds and the recorded numbers.

    Raises:
        NotebookFailed: a cell failed; the message names notebook, cell, section and exception.
        KeyboardInterrupt: Ctrl-C; what was executed until then is written too.
        OSError: an output cannot be written.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    target = out_folder / path.name
    out_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "records.jsonl"
        work = Path(folder) / "work"
        work.mkdir()
        environment = {
            **os.environ,
            "GALFLOW_QUIET": "1",
            "GALFLOW_RECORD": str(lines),
            **(env or {}),
        }
        lines = Path(environment["GALFLOW_RECORD"])
        begin = time.perf_counter()
        try:
            _run(notebook, path.stem, work, environment, timeout, progress)
        finally:
            seconds = time.perf_counter() - begin
            write_aside(target, nbformat.writes(notebook) + "\n")
        records = tuple(read_records(lines))
    page = _report(notebook, target.with_suffix(".html"), path.stem) if report else None
    return Execution(target, page, seconds, records)


def _run(
    notebook: Any,
    name: str,
    folder: Path,
    environment: Mapping[str, str],
    timeout: int | None,
    progress: bool,
) -> None:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    sections = _sections(notebook)
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    at = 0
    with tqdm(total=code, desc=name, unit="cell", disable=not progress, leave=True) as bar:

        def started(cell: Any, cell_index: int) -> None:
            nonlocal at
            at = cell_index
            bar.set_description(f"{name[:2]} {sections[cell_index][:40]}".rstrip())

        def executed(cell: Any, **_: Any) -> None:
            bar.update(cell.cell_type == "code")

        client = _client()(
            notebook,
            timeout=timeout,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=started,
            on_cell_executed=executed,
        )
        try:
            # What the kernel itself says, beside the outputs of cells, would tear the bar apart.
            client.execute(env=dict(environment), stderr=subprocess.DEVNULL)
        except Exception as error:
            # nbclient answers Ctrl-C by ending the kernel; what breaks next depends on the moment.
            if hasattr(client, "_async_cleanup_kernel_future"):
                raise KeyboardInterrupt from error
            if not isinstance(error, CellExecutionError | CellTimeoutError | DeadKernelError):
                raise
            if isinstance(error, CellExecutionError):
                what = f"{error.ename}: {_first_line(error.evalue)}"
            elif isinstance(error, CellTimeoutError):
                what = f"no end after {timeout} s"
            else:
                what = "the kernel died, perhaps for want of memory"
            where = f"{name}, cell {at + 1} of {len(sections)} ({sections[at]})"
            raise NotebookFailed(f"{where}: {what}") from error


def _client() -> type:
    """The nbclient class with a kernel of this Python, whatever kernels the user has installed."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")

    class Client(NotebookClient):
        def create_kernel_manager(self) -> Any:
            manager = super().create_kernel_manager()
            manager.kernel_spec_manager = ThisPython()
            return manager

    return Client


def _sections(notebook: Any) -> list[str]:
    """For each cell, the heading it stands under."""
    heading = ""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            match = re.search(r"^#{1,3}\s+(.+)$", cell.source, flags=re.MULTILINE)
            heading = match.group(1).strip() if match else heading
        found.append(heading)
    return found


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _report(notebook: Any, path: Path, title: str) -> Path:
    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _keep_alt(output)
    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"name": title}}
    with _silent("nbconvert", "traitlets"):
        body, _ = exporter.from_notebook_node(notebook, resources=resources)
    write_aside(path, body)
    return path


def _keep_alt(output: Any) -> None:
    """Turn an image with alt text into HTML: nbconvert's template drops the text otherwise."""
    picture = output.get("data", {}).get("image/png")
    alt = output.get("metadata", {}).get("image/png", {}).get("alt")
    if picture and alt:
        source = "data:image/png;base64," + "".join(picture.split())
        output["data"] = {"text/html": f'<img alt="{html.escape(alt)}" src="{source}">'}


@contextmanager
def _silent(*loggers: str) -> Iterator[None]:
    """Keep remarks on markup, which a reader can do nothing about, off the terminal."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the lines that ``check`` and ``record`` appended to the file in ``GALFLOW_RECORD``."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clean(notebook: Any) -> Any:
    """A copy of an executed notebook without what changes from run to run or machine to machine.

    Outputs, tags and cell ids stay; time stamps and the versions of kernel and Python go.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata.clear()
        if tags:
            cell.metadata["tags"] = tags
    return notebook
