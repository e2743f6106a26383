"""The command ``galflow-lite``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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


# What several commands take.
Out = Annotated[Path, typer.Argument(help="Folder to write to.")]
Pair = Annotated[str, typer.Argument(help="Notebook (01): the lesson and its audit.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


@app.command()
def check(
    offline: Annotated[bool, typer.Option("--offline", help="Also without a network.")] = False,
) -> None:
    """Look at this environment: one line for each thing, OK or FAIL."""
    from .environment import findings

    failed = 0
    for finding in findings(offline):
        typer.echo(f"{'OK' if finding.ok else 'FAIL':<5}{finding.what:<27} {finding.found}")
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
        Literal["lite", "paper"],
        typer.Option(envvar="GALFLOW_SCALE", help="lite: a laptop. paper: its settings, on a GPU."),
    ] = "lite",
    seed: Annotated[
        int | None,
        typer.Option(min=0, envvar="GALFLOW_SEED", help="In place of the notebook's own."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for reports and new runs.")] = Path("runs"),
    store: Annotated[bool, typer.Option("--store", help="Store outputs and numbers.")] = False,
) -> None:
    """Execute lesson and audit, write them with a report each, print the claims of the paper.

    Ends with exit code 1 when a cell failed, or a number lies outside its usual range. A claim that
    does not hold is a finding and no failure.
    """
    from . import notebooks as books

    if seed is not None and store and scale == "lite":
        raise ValueError(
            "--store with --seed would store outputs that the notebook does not give by itself; "
            "leave out one of them"
        )
    environment = {"GALFLOW_SCALE": scale, "GALFLOW_SEED": "" if seed is None else str(seed)}
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
    from .notebooks import store_outputs
    from .reproduction.checks import OUTSIDE
    from .reproduction.repeat_runs import compared, store_run
    from .reproduction.verdicts import claims, papers, write_report

    found = [line for run in runs.values() for line in run.records]
    outside = [line for line in found if line.get("sign") == OUTSIDE]
    if number in papers():
        typer.echo(claims(number))
    typer.echo(compared(found))
    for line in outside:
        typer.echo(f"{line['sign']} {line['id']}: {line['said']}", err=True)
    if runs and number in papers():
        page = next(iter(runs.values())).notebook.with_name(f"report_{number}.html")
        write_report(page, number, [run.notebook for run in runs.values()])
        typer.echo(f"claims, key figures and rows: {page}")
    for path, run in runs.items():
        typer.echo(f"{run.notebook.stem}: {run.seconds:.0f} s, {run.notebook} and {run.report}")
        if store and scale == "lite":
            store_outputs(run.notebook, path)
            typer.echo(f"stored the outputs in {path.name}")
    if store:
        typer.echo(f"stored {store_run(number, found)} numbers in runs.csv")
    return len(outside)


@app.command()
def table(
    notebook: Annotated[str | None, typer.Argument(help="Notebook (01); left out, all.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Each number that a paper states.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every number of ours, too.")] = False,
    form: Annotated[
        Literal["text", "markdown", "html", "csv"], typer.Option("--format", help="What to print.")
    ] = "text",
) -> None:
    """Print the claims of a paper with verdicts, from stored runs; or the rows behind them."""
    from . import reproduction
    from .reproduction.tables import markdown

    claims = reproduction.claims(notebook)
    write = {"text": claims.__str__, "markdown": claims.to_markdown, "html": claims.to_html}
    shown = claims.table()
    if rows or everything:
        shown = reproduction.row_table(notebook, everything=everything)
        write = {
            "text": lambda: shown.to_string(index=False, max_colwidth=46),
            "markdown": lambda: markdown(shown),
            "html": lambda: shown.to_html(index=False),
        }
    typer.echo(shown.to_csv(index=False) if form == "csv" else write[form]())


@app.command()
def student(
    out: Out,
    solutions: Annotated[bool, typer.Option("--solutions", help="With solutions.")] = False,
    nbgrader: Annotated[bool, typer.Option("--nbgrader", help="As assignments.")] = False,
    colab: Annotated[str, typer.Option(help="To open there, from owner/repository@tag.")] = "",
    force: Force = False,
) -> None:
    """Write the lessons without solutions and outputs, to work through or to hand out."""
    from .teaching import lessons, write_student_version

    targets = {lesson: out / lesson.name for lesson in lessons()}
    for target in targets.values():
        _keep_existing(target, force)
    for lesson, target in targets.items():
        options = {"solutions": solutions, "nbgrader": nbgrader, "colab": colab}
        stubs = write_student_version(lesson, target, **options)
        typer.echo(f"{target}: {stubs} cells to fill in")


@app.command()
def classroom(
    out: Out,
    platform: Annotated[list[str] | None, typer.Option(help="windows, macos or both.")] = None,
    python: Annotated[str, typer.Option(help="The class's Python, with a platform.")] = "3.12",
) -> None:
    """Gather wheels, lessons and solutions for a room without a network, such as on a USB stick."""
    from .teaching import write_classroom

    write_classroom(out, platforms=platform or (), python=python)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    typer.echo(f"{out}: {size:,.0f} MB, see READ_ME.txt there")


@app.command()
def slides(
    notebook: Annotated[str, typer.Argument(help="Lesson (01).")],
    out: Out,
    reveal: Annotated[Path | None, typer.Option(help="Archive of reveal.js, offline.")] = None,
) -> None:
    """Write slides of a lesson that play in a browser without a network."""
    from .notebooks import find_notebooks
    from .teaching import write_slides

    lesson = find_notebooks([notebook])[0]
    count = write_slides(lesson, out, reveal=reveal)
    typer.echo(f"{out / lesson.name[:2]}.html: {count} slides")


@app.command()
def bands(
    notebook: Pair,
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
    notebook: Pair,
    only: Annotated[str | None, typer.Option(help="Name of one fault; left out, all.")] = None,
) -> None:
    """Plant known faults, one at a time, run the notebook, and list the checks that see each.

    Ends with exit code 1 when a number that has to turn amber did not.
    """
    import tempfile

    from .reproduction import faults as known

    planted, blind = known.faults(notebook), []
    planted = {name: fault for name, fault in planted.items() if only in (None, name)}
    if not planted:
        what = f"fault {only!r}" if only else "fault"
        raise ValueError(
            f"found no {what} for notebook {notebook}, expected one that data/faults.toml lists: "
            "check the name and the number"
        )
    for name, fault in planted.items():
        with tempfile.TemporaryDirectory() as folder:
            seen = list(known.run_with(fault, notebook, Path(folder)))
        typer.echo(f"{name} ({fault.what}): {', '.join(seen) or 'seen by no check'}")
        blind += [f"{name}: {row}" for row in fault.moves if row not in seen]
    if blind:
        raise ValueError(f"found no amber at {'; '.join(blind)}: sharpen these checks")


@data.command("make")
def data_make(
    kind: Annotated[Literal["galaxies"], typer.Argument()],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of galaxies.")] = 90,
    stars: Annotated[
        int, typer.Option(help="Stars in each galaxy before the cuts; 0: as many as its mass has.")
    ] = 2500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the family.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("galaxies_lite.h5"),
    force: Force = False,
) -> None:
    """Make the synthetic family of galaxies, at any size; the defaults make the file that ships."""
    _keep_existing(out, force)
    from . import __version__, galaxies, synthetic

    family = synthetic.galaxy_family(n, stars or None, seed=seed)
    recipe = {"recipe": "galflow_lite.synthetic.galaxy_family", "version": __version__}
    recipe |= {"n_galaxies": n, "stars_per_galaxy": stars or None, "seed": seed}
    galaxies.Catalogue.write(out, family, significant_bits=10, provenance=recipe)
    typer.echo(f"{n} galaxies with {sum(map(len, family)):,} stars")
    _describe(out)


@data.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="Folder with one .npy of shape (11, N) a galaxy.")],
    target: Annotated[Path, typer.Argument(help="HDF5 catalogue to write.")],
    force: Force = False,
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
        typer.echo(f"{name}: {entry.description}\n    galflow-lite data fetch {name}")


@data.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A name that `galflow-lite data list` shows.")],
    folder: Annotated[Path | None, typer.Option(help="Where to put it.")] = None,
    source: Annotated[Path | None, typer.Option(help="Raw file or folder, if here.")] = None,
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
