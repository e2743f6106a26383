"""Bands: where a number of a notebook lies on another machine or with another seed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import tomlkit
from tqdm import tqdm

from ..files import share, write_aside
from ..notebooks import execute, find_notebooks, read_records
from .rows import ALLOWANCE, COVERAGE, Summary, prediction_interval, rows
from .settings import hardware, versions

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
    found = Band(
        float(np.mean(values)), float(np.std(values, ddof=1)), len(values), sides, [*values]
    )
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
    """
    if seeds < FEWEST:
        raise ValueError(f"bands need {FEWEST} or more seeds and got {seeds}; raise --seeds")
    paths = find_notebooks([notebook])
    number = paths[0].name[:2]
    with tempfile.TemporaryDirectory() as folder:
        done = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_one_seed)(paths, seed, Path(folder)) for seed in range(seeds)
        )
        runs = list(tqdm(done, desc=f"bands {number}", total=seeds, unit="run"))
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
        new[name] = band_of(
            found,
            sides="both" if checked else "none",
            law="lognormal" if any(line.get("positive") for line in lines) else "normal",
            within=next((line["within"] for line in lines if line.get("within")), None),
        )
    _write(share("data") / "bands.toml", number, new, seeds)
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
