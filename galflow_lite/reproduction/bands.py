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
from ..notebooks import execute, find_notebook, read_records
from .environment import hardware, versions
from .paper import rows
from .summaries import ALLOWANCE, COVERAGE, Summary, prediction_interval

__all__ = [
    "Band",
    "band_of",
    "band_values",
    "make_bands",
    "read_bands",
]

FEWEST = 5
RULE = (
    f"A {100 * COVERAGE:g} % prediction interval for one new run: mean +- t s sqrt(1 + 1/n), with "
    "the Student t quantile of n - 1 degrees of freedom and the standard deviation s over n seeds; "
    f"widened by {100 * ALLOWANCE:g} % of |mean| at either end, because the same seed gives a "
    "trained number that differs by up to 1.7 % between vector instruction sets; rounded outwards "
    "to two digits of its width. A one-sided band puts the whole error rate on its side. A "
    "positive quantity that scatters by factors (law lognormal) has the same interval in its "
    "logarithm, with ends rounded outwards to two digits each. A band ends where the quantity does "
    "(within). Numbers that are recorded and not checked have values and no ends (sides none)."
)


@dataclass(frozen=True)
class Band:
    """Ends of a band, both included; an open end is infinite. ``values`` are those it came from.

    ``sides`` is ``"none"`` for a number that runs record and nobody judges; ``within`` is the range
    that the quantity has by its nature, where one was stated.
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
        if self.sides == "low":
            return f"at least {self.low:.10g}"
        if self.sides == "high":
            return f"at most {self.high:.10g}"
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
        sides, law: as in :func:`prediction_interval`; ``sides="none"`` keeps the values and leaves
            both ends open.
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
    low, high = (float(end) for end in prediction_interval(values, sides=sides, law=law))
    if law == "lognormal":
        low, high = _outwards(low, math.floor), _outwards(high, math.ceil)
    else:
        width = high - low if sides == "both" else 2 * abs((low if sides == "low" else high) - mean)
        # Identical zeros have no width: the band is the value itself.
        digits = 1 - math.floor(math.log10(width)) if width > 0 else 12
        unit = 10.0**digits
        low = round(math.floor(low * unit) / unit, digits) if math.isfinite(low) else low
        high = round(math.ceil(high * unit) / unit, digits) if math.isfinite(high) else high
    if within is not None:
        low, high = max(low, float(within[0])), min(high, float(within[1]))
    return Band(low, high, mean, sd, tuple(values), sides, law, within)


def _outwards(end: float, towards: Callable[[float], int]) -> float:
    """An end of a lognormal band with two digits."""
    if end == 0 or not math.isfinite(end):
        return end
    digits = 1 - math.floor(math.log10(end))
    return round(towards(end * 10.0**digits) / 10.0**digits, digits)


def read_bands(path: Path | None = None) -> dict[str, Band]:
    """Read ``data/bands.toml``, or another such file.

    Raises:
        ValueError: the file is not valid.
        OSError: the file cannot be read.
    """
    path = path or share("data") / "bands.toml"
    return dict(_read_bands(path, path.stat().st_mtime_ns)) if path.is_file() else {}


@lru_cache(maxsize=4)
def _read_bands(path: Path, modified: int) -> dict[str, Band]:
    """The bands of a file, which every check of a notebook asks for: read when it was modified."""
    content = _content(path).unwrap()
    found = {}
    for notebook in content.get("notebook", {}).values():
        for name, entry in notebook["band"].items():
            found[name] = Band(
                low=entry.get("low", -math.inf),
                high=entry.get("high", math.inf),
                mean=entry["mean"],
                sd=entry["sd"],
                values=tuple(entry["values"]),
                sides=entry["sides"],
                law=entry.get("law", "normal"),
                within=tuple(entry["within"]) if "within" in entry else None,
            )
    return found


def band_values(name: str, *, path: Path | None = None) -> Summary | None:
    """Mean, standard error and scatter of a number over the runs that its band was made from.

    One run says nothing of the scatter between runs: show this beside it.

    Args:
        name: what the notebook calls the number when it checks or records it.
        path: another file than ``data/bands.toml``.

    Returns:
        The values of all seeds in their order, summarised; ``None`` where no band is stored, as
        while a first one is being made.

    Raises:
        ValueError: the file is not valid.
    """
    band = read_bands(path).get(name)
    return Summary.of(band.values) if band else None


def _content(path: Path) -> tomlkit.TOMLDocument:
    if not path.is_file():
        return tomlkit.document()
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8"))
    except tomlkit.exceptions.TOMLKitError as error:
        raise ValueError(
            f"{path.name} is not valid TOML ({error}); make it anew with `galflow-lite bands`"
        ) from error


def make_bands(
    notebook: str,
    *,
    seeds: int = 8,
    jobs: int = 2,
    path: Path | None = None,
    timeout: int = 3600,
) -> dict[str, Band]:
    """Run a notebook at lite scale with several seeds and write the bands of all it checks.

    Args:
        notebook: two digits, or the path of a notebook.
        seeds: how many runs, with seeds 0, 1, ...; five or more.
        jobs: runs at a time, each on one core.
        path: file to write; left out, ``data/bands.toml``. Bands of other notebooks stay.
        timeout: seconds for one cell.

    Returns:
        The new bands, by id.

    Raises:
        ValueError: too few seeds, a number that some seed did not give, or one that is not finite.
        galflow_lite.notebooks.NotebookFailed: a run failed; the file is left as it was.
    """
    if seeds < FEWEST:
        raise ValueError(f"bands need {FEWEST} or more seeds and got {seeds}; raise --seeds")
    source = find_notebook(notebook)
    with tempfile.TemporaryDirectory() as folder:
        done = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_one_seed)(source, seed, Path(folder), timeout) for seed in range(seeds)
        )
        runs = list(tqdm(done, desc=f"bands {source.name[:2]}", total=seeds, unit="run"))
    values = _gather(runs)
    known = rows()
    new = {}
    for name, found in values.items():
        row = known.get(name)
        if row is not None and row.expected is not None:
            continue
        lines = [run[name] for run in runs]
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
            sides="none" if not checked else row.sides if row else "both",
            law="lognormal" if any(line.get("positive") for line in lines) else "normal",
            within=ranges[0] if ranges else None,
        )
    if all(band.sides == "none" for band in new.values()):
        raise ValueError(
            f"{source.name} checks nothing that needs a band; check() the numbers that it quotes"
        )
    _write(path or share("data") / "bands.toml", source.name[:2], new, seeds)
    return new


def _one_seed(source: Path, seed: int, folder: Path, timeout: int) -> dict[str, dict[str, Any]]:
    """What a run checked or recorded: name to the line of the file of records."""
    lines = folder / f"{seed}.jsonl"
    environment = {
        "GALFLOW_SEED": str(seed),
        "GALFLOW_SCALE": "lite",
        "GALFLOW_RECORD": str(lines),
        "GALFLOW_RECORD_ONLY": "1",
        "OMP_NUM_THREADS": "1",
    }
    execute(
        source,
        folder / str(seed),
        timeout=timeout,
        progress=False,
        env=environment,
        report=False,
    )
    found = [line for line in read_records(lines) if line["scale"] == "lite"]
    # Of a number that was recorded too, the line that was checked counts.
    return {line["id"]: line for line in sorted(found, key=lambda line: line["checked"])}


def _gather(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """Values by name: of all that was checked, and of what every run recorded."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    partly = [name for name in names if any(name not in run for run in runs)]
    missing = [n for n in partly if any(run[n]["checked"] for run in runs if n in run)]
    if missing:
        raise ValueError(
            f"not every seed gave {', '.join(missing)}, so no band was written: let the notebook "
            "check the same names whatever the seed"
        )
    return {name: [run[name]["value"] for run in runs] for name in names if name not in partly}


def _write(path: Path, notebook: str, bands: dict[str, Band], seeds: int) -> None:
    document = _content(path)
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
