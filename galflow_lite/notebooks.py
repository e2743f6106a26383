"""Execute the notebooks and write reports of them."""

from __future__ import annotations

import contextlib
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
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .files import bars_hidden, share, writable, write_aside


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised, or its kernel died."""


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


def find_notebooks(names: Iterable[str | Path] = ()) -> list[Path]:
    """The notebooks in their order, each lesson with its audit after it.

    Args:
        names: two digits (``"01"``: lesson and audit), stems or paths; left out, all of them.

    Raises:
        ValueError: there is no such notebook.
    """
    folder = share("notebooks")
    lessons, audits = (sorted(f.glob("[0-9][0-9]_*.ipynb")) for f in (folder, folder / "audits"))
    known = sorted([*lessons, *audits], key=lambda path: path.name[:2])
    found = []
    for name in names:
        path = Path(name)
        named = [path.resolve()] if path.suffix == ".ipynb" and path.is_file() else []
        named = named or [p for p in known if str(name) in (p.name[:2], p.stem, p.name)]
        if not named:
            numbers = ", ".join(dict.fromkeys(path.name[:2] for path in known))
            raise ValueError(f"there is no notebook {str(name)!r}: choose one of {numbers}")
        found += named
    return found or known


def execute(
    path: Path,
    out_folder: Path,
    *,
    progress: bool = True,
    env: Mapping[str, str] | None = None,
    report: bool = True,
) -> Execution:
    """Run a notebook on a fresh kernel of this Python and write it, executed, with a report.

    The kernel works in an empty temporary folder and keeps its runs in ``out_folder``. A notebook
    that fails is written too, up to the cell that failed; an audit is written under ``audit_``.

    Args:
        path: the notebook; it is not changed.
        out_folder: where the executed notebook and the report go.
        progress: show a bar that names the section and advances with every cell.
        env: environment variables for the kernel, on top of those of this process.
        report: whether to write the HTML report.

    Returns:
        The files, the seconds and the recorded numbers.

    Raises:
        NotebookFailed: a cell failed; the message names notebook, cell, section and exception.
        KeyboardInterrupt: Ctrl-C; what was executed until then is written too.
        ValueError: the file is no notebook, or the executed one would take its place.
        OSError: an output cannot be written.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        # What nbformat lets pass would fail in the middle of a run: each cell has a text.
        "".join(cell.source for cell in notebook.cells)
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        reason = f"{path} is no notebook ({str(error).splitlines()[0]:.100})"
        raise ValueError(f"{reason}, expected one that Jupyter opens: save it again") from error
    name = f"audit_{path.stem}" if path.parent.name == "audits" else path.stem
    target = out_folder / f"{name}.ipynb"
    if target.resolve() == path.resolve():
        raise ValueError(f"{path} would be overwritten by its own run: choose another folder")
    writable(out_folder)
    with tempfile.TemporaryDirectory() as folder:
        work, lines = Path(folder) / "work", Path(folder) / "records.jsonl"
        work.mkdir()
        runs = Path(os.environ.get("GALFLOW_RUNS") or out_folder).resolve()
        environment = {**os.environ, "GALFLOW_QUIET": "1", "GALFLOW_RUNS": str(runs), **(env or {})}
        environment["GALFLOW_RECORD"] = str(lines)
        begin = time.perf_counter()
        try:
            _run(notebook, name, work, environment, progress)
        finally:
            seconds = time.perf_counter() - begin
            write_aside(target, nbformat.writes(notebook) + "\n")
        records = lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else ()
    page = target.with_suffix(".html") if report else None
    if page:
        write_page(page, notebook)
    return Execution(target, page, seconds, tuple(map(json.loads, records)))


def _run(notebook: Any, name: str, folder: Path, env: Mapping[str, str], progress: bool) -> None:
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class ThisPython(KernelSpecManager):
        """A kernel of this Python, whatever kernels the user has installed."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")

    sections, at = _sections(notebook), 0
    label = name.replace("audit_", "audit ").partition("_")[0]
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=code, desc=name, unit="cell", disable=not progress or bars_hidden()) as bar:

        def started(cell: Any, cell_index: int) -> None:
            nonlocal at
            at = cell_index
            bar.set_description(f"{label} {sections[cell_index][:40]}".rstrip())

        def executed(cell: Any, **_: Any) -> None:
            bar.update(cell.cell_type == "code")

        options = {"timeout": None, "record_timing": False, "coalesce_streams": True}
        options |= {"on_cell_execute": started, "on_cell_executed": executed}
        client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options)
        client.create_kernel_manager().kernel_spec_manager = ThisPython()
        try:
            # What the kernel itself says, beside the outputs of cells, would tear the bar apart.
            client.execute(env=dict(env), stderr=subprocess.DEVNULL)
        except Exception as error:
            # nbclient answers Ctrl-C by ending the kernel; what breaks next depends on the moment.
            if hasattr(client, "_async_cleanup_kernel_future"):
                raise KeyboardInterrupt from error
            if not isinstance(error, CellExecutionError | DeadKernelError):
                raise
            what = "the kernel died, perhaps for want of memory"
            if isinstance(error, CellExecutionError):
                said = next((line for line in error.evalue.splitlines() if line.strip()), "")
                what = f"{error.ename}: {said}"
            where = f"{name}, cell {at + 1} of {len(sections)} ({sections[at]})"
            raise NotebookFailed(f"{where}: {what}") from error


def _sections(notebook: Any) -> list[str]:
    """For each cell, the heading it stands under."""
    heading, found = "", []
    for cell in notebook.cells:
        match = re.search(r"^#{1,3}\s+(.+)$", cell.source, flags=re.MULTILINE)
        if cell.cell_type == "markdown" and match:
            heading = match.group(1).strip()
        found.append(heading)
    return found


_FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$\n]+?)\$", flags=re.S)


def write_page(path: Path, notebook: Any) -> None:
    """Write a notebook as one page that needs no network.

    Raises:
        OSError: the file cannot be written.
    """
    whole = _as_html(notebook, path.stem, mathjax_url="", require_js_url="")
    write_aside(path, _NETWORK.sub("", whole))


def fragment(cells: list[Any]) -> str:
    """Cells as HTML that stands inside a page, such as a slide."""
    from nbformat.v4 import new_notebook

    options = {"template_name": "basic", "exclude_anchor_links": True}
    return _as_html(new_notebook(cells=cells), "slide", **options)


def _as_html(notebook: Any, name: str, **options: Any) -> str:
    """Formulas are MathML, which browsers draw by themselves; the code of figures is hidden."""
    from nbconvert import HTMLExporter

    notebook, formulas = copy.deepcopy(notebook), list[str]()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if picture := as_image(output):
                output["data"] = {"text/html": picture}
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell["transient"] = {"remove_source": True}
        if cell.cell_type == "markdown":
            # Markdown would read stars and underscores of a formula: a token keeps its place.
            cell.source = _FORMULA.sub(lambda found: _token(found, formulas), cell.source)
    # Remarks on markup are nothing that a reader could do anything about.
    for logger in ("nbconvert", "traitlets"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    exporter = HTMLExporter(embed_images=True, **options)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    return re.sub(r"FORMULA(\d+)OF", lambda found: formulas[int(found[1])], body)


# What nbconvert's template would load for widgets and diagrams.
_NETWORK = re.compile(
    r"<script[^>]*\bsrc=\"[^\"]*\"[^>]*>\s*</script>|"
    r"<script type=\"module\">[^<]*\bimport\(?[^<]*mermaid.*?</script>",
    flags=re.S,
)


def _token(found: re.Match[str], formulas: list[str]) -> str:
    formulas.append(mathml(found["display"] or found["inline"], block=bool(found["display"])))
    return f"FORMULA{len(formulas) - 1}OF"


def mathml(formula: str, *, block: bool = False) -> str:
    """A formula of LaTeX as MathML, which browsers draw without a script."""
    from latex2mathml.converter import convert

    # It knows the size of a bracket, and not of an escaped one.
    formula = re.sub(r"\\[Bb]igg?[lmr]?(?=\\)", "", formula)
    found = convert(formula, display="block" if block else "inline")
    return re.sub(r'<mi mathvariant="([a-z-]+)">([A-Za-z])</mi>', _letter, found)


def _letter(found: re.Match[str]) -> str:
    """A letter of a mathematical alphabet as a character: browsers ignore the attribute."""
    kind, letter = found[1].upper(), found[2]
    size = "CAPITAL" if letter.isupper() else "SMALL"
    for name in (f"MATHEMATICAL {kind} {size} {letter}", f"{kind} {size} {letter}"):
        with contextlib.suppress(KeyError):
            return f"<mi>{unicodedata.lookup(name.upper())}</mi>"
    return found[0]


def as_image(output: Any) -> str | None:
    """An output with a picture as HTML with its alt text, which nbconvert's templates drop."""
    for kind in ("image/png", "image/gif"):
        picture = output.get("data", {}).get(kind)
        alt = output.get("metadata", {}).get(kind, {}).get("alt")
        if picture and alt:
            source = f"data:{kind};base64," + "".join(picture.split())
            return f'<img alt="{html.escape(alt)}" src="{source}">'
    return None


def figures_of(cell: Any) -> Iterator[tuple[str, str]]:
    """Each picture of an executed cell as HTML, with its caption, which is displayed after it."""
    for output, after in zip(cell.outputs, [*cell.outputs, {}][1:], strict=True):
        if picture := as_image(output):
            yield picture, after.get("data", {}).get("text/markdown", "")


def store_outputs(executed: Path, target: Path) -> None:
    """Write an executed notebook without what changes from run to run or machine to machine.

    Outputs, tags and cell ids stay; time stamps and the versions of kernel and Python go.
    """
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        kept = ("tags", "jupyter", "slideshow")
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in kept}
    write_aside(target, nbformat.writes(notebook) + "\n")
