"""The command ``galflow-lite``."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

# Everything that takes time to import is imported by the command that needs it, so that
# `galflow-lite --help` answers at once.

app = typer.Typer(
    help="Papers on generative models for physics, reproduced step by step in notebooks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 something failed, 2 the command was not understood. With "
    "--debug an error shows its full traceback.",
)
data = typer.Typer(help="Make, convert, list and download data.", no_args_is_help=True)
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """The option that stands before any command."""
    if version:
        from . import __version__

        typer.echo(f"galflow-lite {__version__}")
        raise typer.Exit()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an expected error ends it with one line and exit code 1.

    Args:
        arguments: words after ``galflow-lite``; left out, those of the command line. ``--debug``
            counts wherever it stands.

    Raises:
        SystemExit: always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app([word for word in words if word != "--debug"], prog_name="galflow-lite")
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] == __package__
        if debug or not (ours or isinstance(error, ValueError | OSError)):
            raise
        message = " ".join(str(error).split())
        typer.echo(f"error: {message or type(error).__name__}", err=True)
        raise SystemExit(1) from None


@app.command()
def check(
    offline: Annotated[
        bool, typer.Option("--offline", help="Also run a notebook that no network is open to.")
    ] = False,
) -> None:
    """Look at this environment: one line for each thing, OK or FAIL."""
    failed = 0
    for finding in [*findings(), *([_without_network()] if offline else [])]:
        ok = "OK" if finding.ok else "FAIL"
        typer.echo(f"{ok:<5}{finding.what:<27} {finding.found}")
        failed += not finding.ok
    if failed:
        typer.echo(f"{failed} of the above failed", err=True)
        raise typer.Exit(1)


@app.command()
def reproduce(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Number (01: lesson and audit) or path; or all.")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            envvar="GALFLOW_SCALE",
            help="lite: minutes on a laptop. paper: the paper's settings, on a GPU.",
        ),
    ] = "lite",
    seed: Annotated[
        int | None,
        typer.Option(min=0, envvar="GALFLOW_SEED", help="In place of the notebook's own."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for reports and new runs.")] = Path("runs"),
    store: Annotated[
        bool, typer.Option("--store", help="Store outputs in the notebooks, numbers in data/.")
    ] = False,
) -> None:
    """Execute lesson and audit, write them with a report each, print the claims of the paper.

    Ends with exit code 1 when a cell failed, or a number lies outside its usual range. A claim that
    does not hold is a finding and no failure.
    """
    from . import notebooks as books

    if scale not in ("lite", "paper"):
        raise ValueError(f"scale {scale!r} is not known: choose lite or paper")
    if seed is not None and store and scale == "lite":
        raise ValueError(
            "--store with --seed would store outputs that the notebook does not give by itself; "
            "leave out one of them"
        )
    environment = {"GALFLOW_SCALE": scale}
    environment["GALFLOW_SEED"] = "" if seed is None else str(seed)
    chosen = books.find_notebooks(notebooks or ())
    failures = 0
    for number in dict.fromkeys(path.name[:2] for path in chosen):
        runs, before = {}, failures
        for path in [path for path in chosen if path.name[:2] == number]:
            try:
                runs[path] = books.execute(path, out, env=environment)
            except books.NotebookFailed as error:
                # The other notebooks are still worth running.
                failures += 1
                typer.echo(f"error: {error}\n       as far as it came: {out}", err=True)
        failures += _show(number, scale, runs, store and failures == before)
    if failures:
        raise typer.Exit(1)


def _show(number: str, scale: str, runs: dict[Path, Any], store: bool) -> int:
    """Print and store what the notebooks of a number gave; how many numbers lie outside."""
    from . import notebooks as books
    from . import reproduction
    from .reproduction.checks import OUTSIDE
    from .reproduction.repeat_runs import compared, store_run
    from .reproduction.verdicts import papers, write_report

    found = [line for run in runs.values() for line in run.records]
    if number in papers():
        typer.echo(reproduction.claims(number))
    typer.echo(compared(found))
    outside = [line for line in found if line.get("sign") == OUTSIDE]
    for line in outside:
        typer.echo(f"{line['sign']} {line['id']}: {line['said']}", err=True)
    if runs and number in papers():
        page = next(iter(runs.values())).notebook.with_name(f"report_{number}.html")
        write_report(page, number, [run.notebook for run in runs.values()])
        typer.echo(f"claims, key figures and rows: {page}")
    for path, run in runs.items():
        typer.echo(f"{run.notebook.stem}: {run.seconds:.0f} s, {run.notebook} and {run.report}")
        if store and scale == "lite":
            books.store_outputs(run.notebook, path)
            typer.echo(f"stored the outputs in {path.name}")
    if store:
        stored = store_run(number, found)
        typer.echo(f"stored {stored} numbers in runs.csv")
    return len(outside)


@app.command()
def table(
    notebook: Annotated[str | None, typer.Argument(help="Notebook (01); left out, all.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Each number that a paper states.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every number of ours as well.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, html or csv.")] = "text",
) -> None:
    """Print the claims of a paper with verdicts, from stored runs; or the rows behind them."""
    from . import reproduction
    from .reproduction.tables import markdown

    claims, table = reproduction.claims(notebook), None
    if rows or everything:
        table = reproduction.row_table(notebook, everything=everything)
    if form == "text":
        typer.echo(claims if table is None else table.to_string(index=False, max_colwidth=46))
    elif form == "markdown":
        typer.echo(claims.to_markdown() if table is None else markdown(table))
    elif form == "html":
        typer.echo(claims.to_html() if table is None else table.to_html(index=False))
    elif form == "csv":
        typer.echo((claims.table() if table is None else table).to_csv(index=False))
    else:
        raise ValueError(f"the format {form!r} is not known: choose text, markdown, html or csv")


@app.command()
def student(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    solutions: Annotated[bool, typer.Option("--solutions", help="With solutions.")] = False,
    nbgrader: Annotated[
        bool, typer.Option("--nbgrader", help="Sources of nbgrader assignments.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write the lessons without solutions and outputs, to work through or to hand out."""
    from . import notebooks as books
    from .exercises.student_version import write_student_version
    from .files import writable

    lessons = [path for path in books.find_notebooks() if path.parent.name != "audits"]
    for lesson in lessons:
        _keep_existing(out / lesson.name, force)
    writable(out)
    for lesson in lessons:
        target = out / lesson.name
        stubs = write_student_version(lesson, target, solutions=solutions, nbgrader=nbgrader)
        typer.echo(f"{target}: {stubs} cells to fill in")


@app.command()
def classroom(
    out: Annotated[Path, typer.Argument(help="Folder to write to, such as a USB stick.")],
    platform: Annotated[
        list[str] | None, typer.Option(help="windows or macos, or both; left out, this computer's.")
    ] = None,
    python: Annotated[str, typer.Option(help="The class's Python, with a platform.")] = "3.12",
) -> None:
    """Gather wheels, lessons and solutions for a room without a network."""
    from .classroom import write_classroom

    write_classroom(out, platforms=platform or (), python=python)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    typer.echo(f"{out}: {size:,.0f} MB, see READ_ME.txt there")


@app.command()
def slides(
    notebook: Annotated[str, typer.Argument(help="Lesson (01).")],
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    reveal: Annotated[
        Path | None, typer.Option(help="Archive of reveal.js, where there is no network.")
    ] = None,
) -> None:
    """Write slides of a lesson that play in a browser without a network."""
    from . import notebooks as books
    from .slides import write_slides

    lesson = books.find_notebooks([notebook])[0]
    count = write_slides(lesson, out, reveal=reveal)
    typer.echo(f"{out / lesson.name[:2]}.html: {count} slides")


@app.command()
def bands(
    notebook: Annotated[str, typer.Argument(help="Notebook (01): the lesson and its audit.")],
    seeds: Annotated[int, typer.Option(help="Runs, with seeds 0, 1, ...; at least 5.")] = 8,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
) -> None:
    """Repeat a notebook with several seeds and write the bands of what it checks.

    Run `galflow-lite reproduce NOTEBOOK --store` afterwards: its stored outputs name the bands.
    """
    from .reproduction.bands import make_bands

    made = make_bands(notebook, seeds=seeds, jobs=jobs)
    for name, band in made.items():
        typer.echo(f"{name}   {band}   null {band.null}")
    typer.echo(f"{len(made)} bands written to data/bands.toml")


@app.command()
def faults(
    notebook: Annotated[str, typer.Argument(help="Notebook (01): the lesson and its audit.")],
    only: Annotated[str | None, typer.Option(help="Name of one fault; left out, all.")] = None,
) -> None:
    """Plant known faults, one at a time, run the notebook, and list the checks that see each.

    Ends with exit code 1 when a number that has to turn amber did not.
    """
    import tempfile

    from .reproduction import faults as known

    blind = []
    for name, fault in known.faults(notebook).items():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                seen = list(known.run_with(fault, notebook, Path(folder)))
            typer.echo(f"{name} ({fault.what}): {', '.join(seen) or 'seen by no check'}")
            blind += [f"{name}: {row}" for row in fault.moves if row not in seen]
    if blind:
        raise ValueError(f"found no amber at {'; '.join(blind)}: sharpen these checks")


@data.command("make")
def data_make(
    kind: Annotated[str, typer.Argument(help="galaxies")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of galaxies.")] = 90,
    stars: Annotated[
        int, typer.Option(help="Stars in each galaxy before the cuts; 0: as many as its mass has.")
    ] = 2500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the family.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("galaxies_lite.h5"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Make the synthetic family of galaxies, at any size; the defaults make the file that ships."""
    if kind != "galaxies":
        raise ValueError(f"data of the kind {kind!r} cannot be made: choose galaxies")
    _keep_existing(out, force)
    from . import __version__, galaxies, synthetic

    # A bar for a family of seconds would be noise.
    family = synthetic.galaxy_family(n, stars or None, seed=seed, progress=stars == 0)
    recipe = {"recipe": "galflow_lite.synthetic.galaxy_family", "version": __version__}
    recipe |= {"n_galaxies": n, "stars_per_galaxy": stars or None, "seed": seed}
    galaxies.Catalogue.write(out, family, significant_bits=10, provenance=recipe)
    typer.echo(f"{n} galaxies with {sum(map(len, family)):,} stars")
    _describe(out)


@data.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="Folder with one .npy of shape (11, N) a galaxy.")],
    target: Annotated[Path, typer.Argument(help="HDF5 catalogue to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Convert the published layout into a catalogue, with the paper's cuts."""
    _keep_existing(target, force)
    from . import galaxies

    found = galaxies.convert(source, target)
    typer.echo("read {raw_galaxies} galaxies with {raw_stars:,} stars".format(**found))
    typer.echo("wrote {galaxies} galaxies with {stars:,} stars".format(**found))
    _describe(target)


@data.command("list")
def data_list() -> None:
    """List the data that ship and the data that can be downloaded."""
    from .data import DATASETS
    from .files import share

    for path in sorted(share("data").rglob("*.h5")):
        typer.echo(f"{path.stem}: ships with the package")
    for name, entry in DATASETS.items():
        typer.echo(f"{name}: {entry.description}")
        typer.echo(f"    galflow-lite data fetch {name}")


@data.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A name that `galflow-lite data list` shows.")],
    folder: Annotated[Path | None, typer.Option(help="Where to put it.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(help="The raw file, or the folder of several, if you have them already."),
    ] = None,
) -> None:
    """Download published data, check and convert them."""
    from .data import fetch

    typer.echo(f"{name} is at {fetch(name, folder, source=source)}")


def _keep_existing(path: Path, force: bool) -> None:
    from .files import writable

    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} exists: give another name, or --force to replace a file")
    writable(path.parent)


def _describe(path: Path) -> None:
    from .files import sha256

    typer.echo(f"{path}  {path.stat().st_size / 1e6:.2f} MB  sha256 {sha256(path)}")


class Finding(NamedTuple):
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str


def findings() -> Iterator[Finding]:
    """Look at Python, packages, device, kernel, disk, notebooks and data, one after another."""
    yield from _packages()
    yield from _devices()
    yield _kernel()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "" if free >= 1 else ", expected 1 GB: free some space"
    yield Finding(not advice, "disk", f"{free:.1f} GB free here{advice}")
    yield from _files()


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata("galflow-lite")
    except metadata.PackageNotFoundError:
        yield Finding(False, "galflow-lite", "not installed: run pip install -e .")
        return
    python = Requirement(f"python{about['Requires-Python']}")
    yield _against(python, platform.python_version())
    for requirement in map(Requirement, metadata.requires("galflow-lite") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            yield _against(requirement, metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            text = f"missing, expected {requirement.specifier}: run pip install -e ."
            yield Finding(False, requirement.name, text)


def _against(wanted: Any, found: str) -> Finding:
    ok = wanted.specifier.contains(found, prereleases=True)
    return Finding(ok, wanted.name, found if ok else f"{found}, expected {wanted.specifier}")


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from .reproduction import hardware

        here = hardware()
        # A build that imports may still fail at the first operation, on an old processor say.
        torch.ones(2, 2).matmul(torch.ones(2, 2))
        yield Finding(True, "cpu", f"{here['cpu']}, {here['cores']} cores, {here['vector']}")
        if here["gpu"] is None:
            yield Finding(True, "cuda", "no device: GPU cells show the stored reference")
            return
        torch.ones(2, 2, device="cuda").matmul(torch.ones(2, 2, device="cuda"))
        free, _ = torch.cuda.mem_get_info()
        yield Finding(True, "cuda", f"{here['gpu']}, {free / 2**30:.1f} GiB free")
    except Exception as error:
        yield Finding(False, "torch", f"{type(error).__name__}: {error}".splitlines()[0])


def _kernel() -> Finding:
    """Whether the kernel that Jupyter starts under the name python3 is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding(False, "jupyter kernel", "no kernel python3: run pip install ipykernel")
    # Jupyter itself replaces a bare name by the Python that it runs on.
    if Path(command).name == command or Path(command).absolute() == Path(sys.executable):
        return Finding(True, "jupyter kernel", f"python3, this Python {platform.python_version()}")
    text = f"python3 is {command}: run {sys.executable} -m ipykernel install --sys-prefix"
    return Finding(False, "jupyter kernel", text)


_OFFLINE = """import socket

def refuse(*words, **more):
    raise OSError("the network was asked for")

socket.getaddrinfo = refuse
from galflow_lite import flows, galaxies, plotting, reproduction, samplers
from galflow_lite.files import share
from galflow_lite.interpolants.shipped import shipped_models
reproduction.settings("00")
galaxies.Catalogue.open(share("data") / "galaxies_lite.h5")[0]
shipped_models(), flows.neural_spline_flow(2, layers=1).sample(5), reproduction.claims()"""


def _without_network() -> Finding:
    """Whether a notebook runs, from the kernel to the report, where no address is found."""
    import tempfile

    import nbformat

    from .notebooks import NotebookFailed, execute

    with tempfile.TemporaryDirectory() as folder:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_OFFLINE)])
        nbformat.write(book, Path(folder) / "offline.ipynb")
        try:
            run = execute(Path(folder) / "offline.ipynb", Path(folder) / "out", progress=False)
        except NotebookFailed as error:
            return Finding(False, "without a network", str(error))
    return Finding(True, "without a network", f"a notebook runs, in {run.seconds:.0f} s")


def _files() -> Iterator[Finding]:
    from .files import checksums, sha256, share

    found = sorted(path.name[:2] for path in share("notebooks").rglob("[0-9][0-9]_*.ipynb"))
    text = ", ".join(dict.fromkeys(found)) or "none: install the package anew"
    yield Finding(bool(found), "notebooks", text)
    for path in map(share("data").joinpath, ("SHA256SUMS", "bands.toml", "paper_numbers.toml")):
        if not (path.is_file() and path.stat().st_size):
            yield Finding(False, path.name, f"missing or empty in {path.parent}: restore it")
    for path, expected in checksums().items():
        digest = sha256(path) if path.is_file() else "missing"
        advice = "" if digest == expected else f", expected {expected[:12]}: restore it"
        yield Finding(not advice, path.name, f"sha256 {digest[:12]}{advice}")
