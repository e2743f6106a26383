"""Bands: where a number of a notebook lies on another machine or with another seed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from .rows import rows
from .settings import hardware, versions
from .summaries import ALLOWANCE, COVERAGE, Summary, prediction_interval

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
    """Ends of a band, both included. ``values`` are those it came from.

    ``sides`` is ``"none"`` for a number that runs record and nobody judges, whose ends are
    infinite; ``within`` is the range that the quantity has by its nature, where one was stated.
    """

    low: float
    high: float
    mean: float
    sd: float
    values: tuple[float, ...]
    sides: str = "both"
    law: str = "normal"
    within: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.sides == "none":
            return "without ends"
        return f"in [{self.low:.10g}, {self.high:.10g}]"


def band_of(
    values: Sequence[float],
    *,
    sides: str = "both",
    law: str = "normal",
    within: tuple[float, float] | None = None,
) -> Band:
    """The band of a list of values, by the rule in :data:`RULE`.

    Args:
        values: those of five or more seeds.
        sides: ``"both"``; ``"none"`` keeps the values and leaves both ends open.
        law: as in :func:`prediction_interval`.
        within: lowest and highest possible value of the quantity, such as (0, 1) for a share.

    Raises:
        ValueError: fewer than five values, or a value that is not finite or not ``within``.
    """
    if len(values) < FEWEST:
        raise ValueError(
            f"a band needs the values of {FEWEST} or more seeds and got {len(values)}; run more"
        )
    if within is not None and not within[0] <= min(values) <= max(values) <= within[1]:
        raise ValueError(
            f"found values from {min(values):g} to {max(values):g}, expected all within "
            f"{within[0]:g} to {within[1]:g}: correct the number, or the range in its check"
        )
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    if sides == "none":
        return Band(-math.inf, math.inf, mean, sd, tuple(values), sides)
    low, high = (float(end) for end in prediction_interval(values, law=law))
    # Identical zeros have no width: the band is the value itself.
    widths = (low, high) if law == "lognormal" else (high - low, high - low)
    low, high = _rounded(low, widths[0], math.floor), _rounded(high, widths[1], math.ceil)
    if within is not None:
        low, high = max(low, float(within[0])), min(high, float(within[1]))
    return Band(low, high, mean, sd, tuple(values), sides, law, within)


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
    content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    return {
        name: Band(
            low=entry.get("low", -math.inf),
            high=entry.get("high", math.inf),
            mean=entry["mean"],
            sd=entry["sd"],
            values=tuple(entry["values"]),
            sides=entry["sides"],
            law=entry.get("law", "normal"),
            within=tuple(entry["within"]) if "within" in entry else None,
        )
        for notebook in content.get("notebook", {}).values()
        for name, entry in notebook["band"].items()
    }


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


def make_bands(
    notebook: str, *, seeds: int = 8, jobs: int = 2, timeout: int = 7200
) -> dict[str, Band]:
    """Run lesson and audit at lite scale with several seeds; write the bands of all they check.

    Args:
        notebook: two digits, or the path of one notebook.
        seeds: how many runs, with seeds 0, 1, ...; five or more.
        jobs: runs at a time, each on one core.
        timeout: seconds for one cell.

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
            joblib.delayed(_one_seed)(paths, seed, Path(folder), timeout) for seed in range(seeds)
        )
        runs = list(tqdm(done, desc=f"bands {number}", total=seeds, unit="run"))
    known, new = rows(), {}
    for name, lines in _gather(runs).items():
        row = known.get(name)
        if row is not None and row.expected is not None:
            continue
        found = [line["value"] for line in lines]
        checked = any(line["checked"] for line in lines)
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in found):
            if not checked:
                continue
            raise ValueError(
                f"{name} was {', '.join(map(str, found))} with seeds 0 to {seeds - 1}, expected "
                "finite numbers, so no band was written; mend the notebook, or give the row an "
                "expected value if it is exact"
            )
        ranges = [tuple(line["within"]) for line in lines if line.get("within")]
        new[name] = band_of(
            found,
            sides="both" if checked else "none",
            law="lognormal" if any(line.get("positive") for line in lines) else "normal",
            within=ranges[0] if ranges else None,
        )
    _write(share("data") / "bands.toml", number, new, seeds)
    return new


def _one_seed(
    paths: Sequence[Path], seed: int, folder: Path, timeout: int
) -> dict[str, dict[str, Any]]:
    """What a run checked or recorded: name to the line of the file of records."""
    lines = folder / f"{seed}.jsonl"
    environment = {
        "GALFLOW_SEED": str(seed),
        "GALFLOW_SCALE": "lite",
        "GALFLOW_RECORD": str(lines),
        "GALFLOW_RECORD_ONLY": "1",
        "GALFLOW_JOBS": "1",
        "OMP_NUM_THREADS": "1",
    }
    for path in paths:
        out = folder / str(seed)
        execute(path, out, timeout=timeout, progress=False, env=environment, report=False)
    found = [line for line in read_records(lines) if line["scale"] == "lite"]
    # Of a number that was recorded too, the line that was checked counts.
    return {line["id"]: line for line in sorted(found, key=lambda line: line["checked"])}


def _gather(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Lines by name: of all that was checked, and of what every run recorded."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    partly = [name for name in names if any(name not in run for run in runs)]
    missing = [n for n in partly if any(run[n]["checked"] for run in runs if n in run)]
    if missing:
        raise ValueError(
            f"not every seed gave {', '.join(missing)}, so no band was written: let the notebook "
            "check the same names whatever the seed"
        )
    return {name: [run[name] for run in runs] for name in names if name not in partly}


def _write(path: Path, notebook: str, bands: dict[str, Band], seeds: int) -> None:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    document = tomlkit.parse(text)
    if "rule" not in document:
        document.add(tomlkit.comment("Made by `galflow-lite bands`; not to be edited by hand."))
    document["rule"] = RULE
    section = tomlkit.table()
    section["date"] = datetime.now(timezone.utc).date().isoformat()
    section["seeds"] = seeds
    # Bands are made on the CPU or on the GPU of one machine: this says on which.
    section["hardware"] = {k: v for k, v in hardware().items() if v is not None}
    section["versions"] = versions()
    section["band"] = {name: _entry(band) for name, band in bands.items()}
    document.setdefault("notebook", tomlkit.table(is_super_table=True))[notebook] = section
    write_aside(path, tomlkit.dumps(document))


def _entry(band: Band) -> dict[str, Any]:
    ends = {"low": band.low, "high": band.high}
    return {
        **{key: end for key, end in ends.items() if math.isfinite(end)},
        "mean": band.mean,
        "sd": band.sd,
        "n": len(band.values),
        "sides": band.sides,
        **({"law": band.law} if band.law != "normal" else {}),
        **({"within": list(band.within)} if band.within else {}),
        "values": list(band.values),
    }
