"""Hold a number of a notebook against its band, keep it for the table, and make bands."""

from __future__ import annotations

import difflib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import tomlkit
from tqdm import tqdm

from ..files import append_line, bars_hidden, share, writable, write_aside
from ..notebooks import execute, find_notebooks, read_records
from .rows import ALLOWANCE, COVERAGE, Summary, format_number, prediction_interval, rows
from .settings import current, hardware, versions

FEWEST = 5
RULE = (
    f"A {100 * COVERAGE:g} % prediction interval for one new run: mean +- t s sqrt(1 + 1/n), with "
    "the Student t quantile of n - 1 degrees of freedom and the standard deviation s over n seeds; "
    f"widened by {100 * ALLOWANCE:g} % of |mean| at either end, because the same seed gives a "
    "trained number that differs by up to 1.7 % between vector instruction sets; rounded outwards "
    "to two digits of its width. A positive quantity that scatters by factors (law lognormal) has "
    "the same interval in its logarithm, with ends rounded outwards to two digits each. A band "
    "ends where the quantity does (within). Numbers that are recorded and not checked have values "
    "and no ends (sides none)."
)


@dataclass(frozen=True)
class Band:
    """Ends of a band, both included. ``values`` are those it came from, of ``n`` seeds.

    ``sides`` is ``"none"`` for a number that runs record and nobody judges, whose ends are
    infinite; ``within`` is the range that the quantity has by its nature, where one was stated.
    """

    mean: float
    sd: float
    n: int
    sides: str
    values: list[float]
    low: float = -math.inf
    high: float = math.inf
    law: str = "normal"
    within: list[float] | None = None

    def __str__(self) -> str:
        return "without ends" if self.sides == "none" else f"in [{self.low:.10g}, {self.high:.10g}]"


def band_of(
    values: Sequence[float],
    *,
    sides: str = "both",
    law: str = "normal",
    within: Sequence[float] | None = None,
) -> Band:
    """The band of a list of values, by the rule in :data:`RULE`.

    Args:
        values: those of five or more seeds.
        sides: ``"both"``; ``"none"`` keeps the values and leaves both ends open.
        law: as in :func:`prediction_interval`.
        within: lowest and highest possible value of the quantity, such as (0, 1) for a share.

    Raises:
        ValueError: fewer than five values, or one that is not finite or not ``within``.
    """
    least, most = within or (0 if law == "lognormal" else -math.inf, math.inf)
    wrong = [v for v in values if not least <= v <= most or (law == "lognormal" and v == 0)]
    if len(values) < FEWEST or not all(map(math.isfinite, values)) or wrong:
        raise ValueError(
            f"found the values {', '.join(f'{value:g}' for value in values)}, expected {FEWEST} or "
            f"more finite ones from {least:g} to {most:g}: run more seeds, or correct the range "
            "or positive=True in its check"
        )
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    found = Band(mean, sd, len(values), sides, [*values])
    if sides == "none":
        return found
    low, high = (float(end) for end in prediction_interval(values, law=law))
    # Identical zeros have no width: the band is the value itself.
    widths = (low, high) if law == "lognormal" else (high - low, high - low)
    low, high = _rounded(low, widths[0], math.floor), _rounded(high, widths[1], math.ceil)
    if within is not None:
        low, high, within = max(low, float(least)), min(high, float(most)), list(within)
    return replace(found, low=low, high=high, law=law, within=within)


def _rounded(end: float, size: float, towards: Callable[[float], int]) -> float:
    """An end, rounded at the second digit of a size."""
    digits = 1 - math.floor(math.log10(size)) if size > 0 else 12
    return round(towards(end * 10.0**digits) / 10.0**digits, digits)


def read_bands() -> dict[str, Band]:
    """The bands of ``data/bands.toml``, by name."""
    path = share("data") / "bands.toml"
    return _read_bands(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=4)
def _read_bands(path: Path, modified: int) -> dict[str, Band]:
    """The bands of a file, which every check of a notebook asks for: read when it was modified."""
    sections = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap().get("notebook", {})
    return {n: Band(**entry) for part in sections.values() for n, entry in part["band"].items()}


def band_values(name: str) -> Summary | None:
    """Mean, standard error and scatter of a number over the runs that its band was made from.

    One run says nothing of the scatter between runs: show this beside it.

    Args:
        name: what the notebook calls the number when it checks or records it.

    Returns:
        The values of all seeds in their order, summarised; ``None`` where no band is stored, as
        while a first one is being made.
    """
    band = read_bands().get(name)
    return Summary.of(band.values) if band else None


def make_bands(notebook: str, *, seeds: int = 8, jobs: int = 2) -> dict[str, Band]:
    """Run lesson and audit at lite scale with several seeds; write the bands of all they check.

    Args:
        notebook: two digits, or the path of one notebook.
        seeds: how many runs, with seeds 0, 1, ...; five or more.
        jobs: runs at a time, each on one core.

    Returns:
        The new bands, by name. They replace the section of the notebook in ``data/bands.toml``.

    Raises:
        ValueError: too few seeds, a number that some seed did not give, or one that is not finite.
        galflow_lite.notebooks.NotebookFailed: a run failed; the file is left as it was.
        OSError: ``data/`` cannot be written to, as in an installed package.
    """
    if seeds < FEWEST:
        raise ValueError(f"bands need {FEWEST} or more seeds and got {seeds}; raise --seeds")
    paths, target = find_notebooks([notebook]), writable(share("data")) / "bands.toml"
    number = paths[0].name[:2]
    with tempfile.TemporaryDirectory() as folder:
        done = joblib.Parallel(n_jobs=jobs, return_as="generator", idle_worker_timeout=10)(
            joblib.delayed(_one_seed)(paths, seed, Path(folder)) for seed in range(seeds)
        )
        runs = list(
            tqdm(done, desc=f"bands {number}", total=seeds, unit="run", disable=bars_hidden())
        )
    new, exact = {}, {name for name, row in rows().items() if row.expected is not None}
    for name in dict.fromkeys(name for run in runs for name in run):
        lines = [run[name] for run in runs if name in run]
        found = [line["value"] for line in lines]
        checked = any(line["checked"] for line in lines)
        if name in exact:
            continue
        whole = len(found) == seeds and all(isinstance(value, int | float) for value in found)
        if checked and not whole:
            raise ValueError(f"{name}: not every seed gave a number: check it in each run")
        if not checked and not (whole and all(map(math.isfinite, found))):
            continue
        law = "lognormal" if any(line.get("positive") for line in lines) else "normal"
        within = next((line["within"] for line in lines if line.get("within")), None)
        new[name] = band_of(found, sides="both" if checked else "none", law=law, within=within)
    _write(target, number, new, seeds)
    return new


def _one_seed(paths: Sequence[Path], seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """What a run checked or recorded: name to the line of the file of records."""
    lines = folder / f"{seed}.jsonl"
    environment = {"SEED": str(seed), "SCALE": "lite", "RECORD": str(lines), "RECORD_ONLY": "1"}
    environment = {f"GALFLOW_{name}": value for name, value in environment.items()}
    environment |= {"GALFLOW_JOBS": "1", "OMP_NUM_THREADS": "1"}
    for path in paths:
        out = folder / str(seed)
        execute(path, out, progress=False, env=environment, report=False)
    found = [line for line in read_records(lines) if line["scale"] == "lite"]
    # Of a number that was recorded too, the line that was checked counts.
    return {line["id"]: line for line in sorted(found, key=lambda line: line["checked"])}


def _write(path: Path, notebook: str, bands: dict[str, Band], seeds: int) -> None:
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    if "rule" not in document:
        document.add(tomlkit.comment("Made by `galflow-lite bands`; not to be edited by hand."))
    document["rule"] = RULE
    # Bands are made on the CPU or on the GPU of one machine: this says on which.
    where = {k: v for k, v in hardware().items() if v is not None}
    section = {"date": datetime.now(timezone.utc).date().isoformat(), "seeds": seeds}
    section |= {"hardware": where, "versions": versions()}
    section |= {"band": {name: _entry(band) for name, band in bands.items()}}
    document.setdefault("notebook", tomlkit.table(is_super_table=True))[notebook] = section
    write_aside(path, tomlkit.dumps(document))


def _entry(band: Band) -> dict[str, Any]:
    """What the file holds: all that is not the default, the values last."""
    left_out = (None, "normal", -math.inf, math.inf)
    order = ("low", "high", "mean", "sd", "n", "sides", "law", "within", "values")
    return {key: vars(band)[key] for key in order if vars(band)[key] not in left_out}


REMARK = "remark"
"""The name under which :func:`remark` keeps its text."""


class OutOfBand(ValueError):
    """A number lies outside the band that repeated runs gave it."""


def records(scale: str | None = None) -> dict[str, SimpleNamespace]:
    """The numbers of the current run, by name, at its own scale or at the one named.

    Each has ``value``, ``standard_error``, ``scatter`` over so many ``runs``, and whether it was
    ``checked``.
    """
    run = current()
    wanted = scale or run.scale
    kept = {name: line for (name, at), line in run.records.items() if at == wanted}
    kept.pop(REMARK, None)
    return kept


def record(
    name: str, value: Any, standard_error: float | None = None, *, scale: str | None = None
) -> None:
    """Keep a number without holding it against a band, such as a run time.

    Args:
        name: what it is called, in parts: ``"samplers.seconds.recipe"``. The table shows it where
            this is a row of ``data/paper_numbers.toml``.
        value: a number (one-element arrays and tensors too), a text, or a :class:`Summary` of
            several runs, of which mean, standard error, scatter and number of runs are kept.
        standard_error: its standard error; a summary brings its own.
        scale: the scale it was measured at, where that is not the scale of the notebook: a GPU
            cell of a lite run records ``scale="paper"``.
    """
    _keep(name, value, standard_error, scale)


def remark(text: str, *, scale: str | None = None) -> None:
    """Keep a sentence that stored results of this run carry, such as how often it was repeated.

    Args:
        text: what a reader of the results must know.
        scale: the scale it is about, where that is not the scale of the notebook.
    """
    _keep(REMARK, text, scale=scale)


def check(
    name: str,
    value: Any,
    *,
    standard_error: float | None = None,
    positive: bool = False,
    within: tuple[float, float] | None = None,
) -> None:
    """Hold a number against its band: print one line with the verdict, raise when it is outside.

    A trained number differs a little from machine to machine, so the line holds the band and the
    verdict and not the number. Its band comes from repeated runs (``galflow-lite bands``) and holds
    at lite scale; at paper scale the number is kept and not judged. A quantity that is fixed before
    training (``expected`` in ``data/paper_numbers.toml``) is compared exactly, at any scale.

    Args:
        name: of a band in ``data/bands.toml``, or of a row with an ``expected`` value.
        value: a number (one-element arrays and tensors too), a :class:`Summary` of several runs,
            whose mean is held against the band, or, for an exact quantity, a text.
        standard_error: its standard error, kept for the table; a summary brings its own.
        positive: whether it is above zero by nature and scatters by factors, such as a divergence:
            its band is then made from logarithms.
        within: lowest and highest value that the quantity can have, such as (0, 1) for a share: its
            band then ends there.

    Raises:
        OutOfBand: the number is outside, or is not a number.
        ValueError: there is no band with this name.
    """
    found = _keep(name, value, standard_error, checked=True, positive=positive, within=within)
    run, row, reason = current(), rows().get(name), ""
    if os.environ.get("GALFLOW_RECORD_ONLY") == "1":
        reason = "recorded, not checked"
    elif not run.judged:
        reason = "recorded, not checked: bands hold for the default data"
    elif row is not None and row.expected is not None:
        reason = f"exactly {format_number(row.expected)}   PASS"
        if found.value != row.expected:
            raise OutOfBand(
                f"{name} is {format_number(found.value)} where exactly "
                f"{format_number(row.expected)} was expected: it does not depend on training, so "
                "look for a change in the code or the data"
            )
    elif run.scale != "lite":
        reason = "recorded, not checked: bands hold at lite scale"
    print(f"{name}   {reason or _held(found)}")


def _held(found: SimpleNamespace) -> str:
    bands = read_bands()
    band = bands.get(found.id)
    command = f"`galflow-lite bands {found.notebook or 'NOTEBOOK'}`"
    if band is None or band.sides == "none":
        close = ", ".join(difflib.get_close_matches(found.id, list(bands)))
        raise ValueError(
            f"there is no band for {found.id!r} in data/bands.toml (similar: {close or 'none'}): "
            f"make it with {command}"
        )
    if isinstance(found.value, str) or not band.low <= found.value <= band.high:
        raise OutOfBand(
            f"{found.id} is {format_number(found.value, found.standard_error)} and should be "
            f"{band}: run the notebook from the top on a fresh kernel, and if it stays, what you "
            f"changed moved this result (new bands: {command})"
        )
    return f"{band}   PASS"


def _keep(
    name: str, value: Any, standard_error: Any = None, scale: str | None = None, **more: Any
) -> SimpleNamespace:
    run, scatter, n = current(), None, None
    if isinstance(value, Summary):
        standard_error, scatter, n = value.standard_error, value.scatter, value.n
        value = value.mean
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is {value!r:.60}, expected a single number: pass an int or float")
    error = None if standard_error is None else float(standard_error)
    line = dict(id=name, value=value, standard_error=error, scatter=scatter, runs=n, checked=False)
    line |= dict(notebook=run.notebook, scale=scale or run.scale, seed=run.seed) | more
    if path := os.environ.get("GALFLOW_RECORD"):
        append_line(path, json.dumps(line))
    run.records[name, line["scale"]] = SimpleNamespace(**line)
    return run.records[name, line["scale"]]
