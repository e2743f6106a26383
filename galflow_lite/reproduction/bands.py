"""Bands: where a number of a notebook lies with a fresh seed, and where it must not lie."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import tomlkit
from tqdm import tqdm

from ..files import bars_hidden, read_toml, share, writable, write_aside
from ..inputs import as_whole
from ..notebooks import execute, find_notebooks
from .settings import about
from .summaries import prediction_interval
from .tables import lines_of_record, rows, store

FEWEST = 5


@dataclass(frozen=True)
class Band:
    """Ends of a band, both included; ``null`` is the value that it must not hold.

    ``law`` and ``within`` are those that it was made with, see :func:`band_of`.
    """

    low: float
    high: float
    null: float | None = None
    law: str = "normal"
    within: list[float] | None = None

    def __str__(self) -> str:
        return f"[{self.low:.10g}, {self.high:.10g}]"


def band_of(
    values: Sequence[float],
    *,
    law: str = "normal",
    within: Sequence[float] | None = None,
    null: float | None = None,
) -> Band:
    """The band of a list of values, by the rule that stands at the head of ``data/bands.toml``.

    Args:
        values: those of five or more seeds.
        law: as in :func:`prediction_interval`.
        within: lowest and highest possible value of the quantity, such as (0, 1) for a share.
        null: what the number would be if nothing had been learned, or by the rival.

    Raises:
        ValueError: fewer than five values, one that is not finite or not ``within``, or a band
            that holds its null: passing it would mean nothing.
    """
    least, most = within or (0 if law == "lognormal" else -math.inf, math.inf)
    wrong = [v for v in values if not least <= v <= most or (law == "lognormal" and v == 0)]
    if len(values) < FEWEST or not all(map(math.isfinite, values)) or wrong:
        raise ValueError(
            f"found the values {', '.join(f'{value:g}' for value in values)}, expected {FEWEST} or "
            f"more finite ones from {least:g} to {most:g}: run more seeds, or correct the range "
            "or positive=True in its check"
        )
    low, high = (float(end) for end in prediction_interval(values, law=law))
    # Identical zeros have no width: the band is the value itself.
    widths = (low, high) if law == "lognormal" else (high - low, high - low)
    low, high = _rounded(low, widths[0], math.floor), _rounded(high, widths[1], math.ceil)
    if within is not None:
        low, high = max(low, float(least)), min(high, float(most))
    if null is not None and low <= null <= high:
        raise ValueError(
            f"the band [{low:g}, {high:g}] holds its null {null:g}: a check that the null passes "
            "says nothing; average over more draws, compare paired differences, or drop it"
        )
    return Band(low, high, null, law, None if within is None else list(within))


def _rounded(end: float, size: float, towards: Callable[[float], int]) -> float:
    """An end, rounded at the second digit of a size."""
    digits = 1 - math.floor(math.log10(size)) if size > 0 else 12
    return round(towards(end * 10.0**digits) / 10.0**digits, digits)


def read_bands() -> dict[str, Band]:
    """The bands of ``data/bands.toml``, by name."""
    if not (share("data") / "bands.toml").is_file():
        return {}
    sections = read_toml("bands.toml").get("notebook", {}).values()
    return {name: Band(**entry) for part in sections for name, entry in part["band"].items()}


def make_bands(notebook: str, *, seeds: int = 8, jobs: int = 2) -> dict[str, Band]:
    """Run lesson and audit at lite scale with several seeds; write the bands of all they check.

    All numbers of these runs take the place of those of earlier ones in the table of runs.

    Args:
        notebook: two digits, or the path of one notebook.
        seeds: how many runs, with seeds 0, 1, ...; five or more.
        jobs: runs at a time, each on one core.

    Returns:
        The new bands, by name. They replace the section of the notebook in ``data/bands.toml``.

    Raises:
        ValueError: too few seeds, a number that some seed did not give or that is not finite, or
            a band without a null or that holds it.
        galflow_lite.notebooks.NotebookFailed: a run failed; the file is left as it was.
        OSError: ``data/`` cannot be written to, as in an installed package.
    """
    as_whole(seeds, "seeds", least=FEWEST)
    paths, target = find_notebooks([notebook]), writable(share("data")) / "bands.toml"
    number = paths[0].name[:2]
    bar = {"desc": f"bands {number}", "total": seeds, "unit": "run", "disable": bars_hidden()}
    with tempfile.TemporaryDirectory() as folder:
        call = joblib.delayed(_one_seed)
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator", idle_worker_timeout=10)
        runs = list(tqdm(pool(call(paths, seed, Path(folder)) for seed in range(seeds)), **bar))
    new, exact = {}, {name for name, row in rows().items() if row.expected is not None}
    for name in dict.fromkeys(line["id"] for run in runs for line in run.values()):
        lines = [run[name] for run in runs if name in run]
        if name in exact or not any(line["checked"] for line in lines):
            continue
        found = [line["value"] for line in lines]
        if len(found) < seeds or not all(isinstance(value, int | float) for value in found):
            raise ValueError(f"{name}: not every seed gave a number: check it in each run")
        law = "lognormal" if any(line.get("positive") for line in lines) else "normal"
        within, null = (lines[0].get(key) for key in ("within", "null"))
        if null is None:
            raise ValueError(f"{name}: found no null, expected check(..., null=a rival's number)")
        if isinstance(null, str):
            null = float(np.mean([run[null]["value"] for run in runs]))
        try:
            new[name] = band_of(found, law=law, within=within, null=null)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    records = [line for run in runs for line in run.values()]
    store(lines_of_record(records, notebook=number, **about()), afresh=True)
    _write(target, number, new, seeds)
    return new


def _one_seed(paths: Sequence[Path], seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """What a run checked or recorded, by name."""
    environment = {"GALFLOW_SEED": str(seed), "GALFLOW_SCALE": "lite", "GALFLOW_JOBS": "1"}
    options = {"env": {**environment, "OMP_NUM_THREADS": "1"}, "progress": False, "report": False}
    runs = [execute(path, folder / str(seed), **options) for path in paths]
    found = [line for run in runs for line in run.records if line["scale"] == "lite"]
    # Of a number that was recorded too, the line that was checked counts.
    return {line["id"]: line for line in sorted(found, key=lambda line: line["checked"])}


def _write(path: Path, notebook: str, bands: dict[str, Band], seeds: int) -> None:
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    # Bands are made on the CPU or on the GPU of one machine: this says on which.
    here = about()
    section: dict[str, Any] = {"date": here["date"], "seeds": seeds, **here}
    # What is not the default.
    section["band"] = {
        name: {key: value for key, value in vars(band).items() if value not in (None, "normal")}
        for name, band in bands.items()
    }
    document.setdefault("notebook", tomlkit.table(is_super_table=True))[notebook] = section
    write_aside(path, tomlkit.dumps(document))
