"""Repeated runs: each case with each seed is a line of JSON, made once and read afterwards."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from ..files import append_line, share
from ..inputs import as_whole
from .checks import OutOfBand
from .repeats import repeat as _repeat_cases
from .settings import hardware, versions
from .summaries import ALLOWANCE, Summary, prediction_interval

# With fewer other seeds an interval says nothing.
_FEWEST_OTHERS = 4


@dataclass(frozen=True)
class Runs:
    """What `repeat` gives: a run for each case and seed.

    Attributes:
        row: name of the files of runs.
        runs: one mapping for each run, in the order of the cases and their seeds, with the fields
            of its line: row, case, settings, seed, version, value, error, seconds, hardware,
            versions, commit, date.
        shipped: for each run, whether it was read from the runs that ship.
        made: number of runs that this call made.
        again: shipped runs that this call made anew, as they came out this time.
    """

    row: str
    runs: list[dict[str, Any]]
    shipped: list[bool]
    made: int
    again: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """What all runs took together, each on one core, whenever they were made."""
        return sum(run["seconds"] for run in self.runs)

    def values(self, case: str, number: str) -> list[Any]:
        """One number of a case, for each seed in the order of the seeds.

        Raises:
            KeyError: there is no such case or number.
        """
        found = [run["value"][number] for run in self.runs if run["case"] == case]
        if not found:
            known = ", ".join(dict.fromkeys(run["case"] for run in self.runs))
            raise KeyError(f"{case!r} is no case of {self.row}: choose one of {known}")
        return found

    def summary(self, case: str, number: str) -> Summary:
        """Mean, standard error and scatter of a number over the seeds of a case."""
        return Summary.of(self.values(case, number))

    def origin(self) -> str:
        """One line: how many runs are stored and how many were made here, where and how long."""
        made = [run for run, shipped in zip(self.runs, self.shipped, strict=True) if not shipped]
        stored = [run for run, shipped in zip(self.runs, self.shipped, strict=True) if shipped]
        parts = [
            f"{len(group)} {what} ({_where(group)})"
            for what, group in (("stored", stored), ("made here", made))
            if group
        ]
        return f"{len(self.runs)} runs: {', '.join(parts)}; {self.made} of them in this call"

    def confirm(self) -> None:
        """Hold the runs that were made anew against the stored ones, a line each.

        A run agrees where each of its numbers is the stored one to within 2 %, or where both lie
        in the 99.9 % prediction interval that the other seeds of its case give. Numbers whose name
        ends in "seconds" belong to a machine and are left out.

        Raises:
            OutOfBand: a run disagrees, and this is not a run that only records.
        """
        if not self.again:
            print(f"{self.row}   no stored run was used, nothing to confirm")
        wrong = []
        for new in self.again:
            old = next(run for run in self.runs if _key(run) == _key(new))
            others = [
                run
                for run in self.runs
                if run["case"] == new["case"] and run["seed"] != new["seed"]
            ]
            names = sorted(_numbers(old["value"]).keys() | _numbers(new["value"] or {}).keys())
            bad = [name for name in names if not _agrees(name, old, new, others)]
            text = f"{new['case']}, seed {new['seed']}, run again   "
            if bad or new["error"]:
                text += f"DIFFERS from the stored run in {', '.join(bad) or new['error']}"
                wrong.append(text)
            else:
                text += f"{len(names)} numbers as in {len(others) + 1} stored runs   PASS"
            print(text)
        if wrong and os.environ.get("GALFLOW_RECORD_ONLY") != "1":
            raise OutOfBand(f"{self.row}: {'; '.join(wrong)}: make the stored runs anew")


class _InWorker(Exception):
    """Shows the traceback of another process above the error that reports it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def repeat(
    function: Callable[..., Mapping[str, Any]],
    cases: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int] | int = (),
    *,
    row: str = "",
    jobs: int = 2,
    version: str = "1",
    again: int = 0,
    folder: Path | str | None = None,
) -> Any:
    """Call ``function(**settings, seed=seed)`` for every case and seed, and keep each result.

    A run becomes one line in ``runs/<row>.jsonl`` of the current folder (or of the folder that the
    environment variable ``GALFLOW_RUNS`` names) as soon as it is done, so a call that was
    interrupted or killed goes on where it was. Runs with the same settings, seed and version that
    are there, or among those that ship (``data/runs``), are read and not made again;
    ``GALFLOW_FRESH=1`` leaves out those that ship. Each run has one torch thread.

    Args:
        function: may be defined in a cell. Returns a mapping of names to numbers, texts, lists,
            arrays or tensors; arrays are kept as lists.
        cases: name to the keyword arguments of the function: ``{"ring8/recipe": {"k": 8}}``.
        seeds: those of each case, or how many: 0, 1, ...
        row: name of the files.
        jobs: runs at a time, each in a process; -1 for as many as there are cores. The environment
            variable ``GALFLOW_JOBS`` goes before it.
        version: of what the function does. Change it when the function changes: files do not know.
        again: so many of the shipped runs, the quickest first, are made anew on each call, for
            `Runs.confirm`.

    Returns:
        The runs.

    Raises:
        RuntimeError: some runs failed; the others are done and kept, and calling again makes only
            those that are missing.
        OSError: the folder cannot be written.
    """
    if folder is not None:
        return _repeat_cases(function, cases, folder=folder, jobs=jobs, version=version)
    seeds = range(seeds) if isinstance(seeds, int) else [as_whole(s, "a seed") for s in seeds]
    wanted = [
        {
            "row": row,
            "case": case,
            "settings": json.loads(_json(dict(settings))),
            "seed": seed,
            "version": version,
        }
        for case, settings in cases.items()
        for seed in seeds
    ]
    file = Path(os.environ.get("GALFLOW_RUNS") or "runs") / f"{row}.jsonl"
    shipped = (
        {} if os.environ.get("GALFLOW_FRESH") == "1" else _read(share("data") / "runs" / file.name)
    )
    known = {**_read(file), **shipped}
    stored = [run for run in wanted if _key(run) in shipped]
    stored.sort(key=lambda run: shipped[_key(run)]["seconds"])
    repeated = {_key(run) for run in stored[:again]}
    todo = [(run, True) for run in wanted if _key(run) in repeated]
    todo += [(run, False) for run in wanted if _key(run) not in known]
    made, anew, failed = 0, [], []
    for (_, is_again), run, trace in _run_all(function, cases, todo, jobs, row):
        if is_again:
            anew.append(run)
            continue
        append_line(file, _json(run))
        if run["error"]:
            failed.append((run, trace))
        else:
            known[_key(run)] = json.loads(_json(run))
            made += 1
    if failed:
        names = ", ".join(f"{run['case']} with seed {run['seed']}" for run, _ in failed)
        raise RuntimeError(
            f"{len(failed)} of {len(todo)} runs failed ({names}), the first with "
            f"{failed[0][0]['error']}; the others are kept in {file.name}: mend the cause and call "
            "again, which makes only those that are missing"
        ) from _InWorker(failed[0][1])
    # The name of a case may have changed since; its settings say what it is.
    runs = [{**known[_key(run)], "case": run["case"]} for run in wanted]
    anew.sort(key=lambda run: run["seconds"])
    return Runs(row, runs, [_key(run) in shipped for run in wanted], made, anew)


def _run_all(
    function: Callable[..., Mapping[str, Any]],
    cases: Mapping[str, Mapping[str, Any]],
    todo: list[tuple[dict[str, Any], bool]],
    jobs: int,
    row: str,
) -> Iterator[tuple[tuple[dict[str, Any], bool], dict[str, Any], str]]:
    """Each of the runs to make with its line and its traceback, in the order in which they end."""
    if not todo:
        return
    jobs = int(os.environ.get("GALFLOW_JOBS") or jobs)
    hidden = os.environ.get("GALFLOW_PROGRESS") == "0" or os.environ.get("GALFLOW_QUIET") == "1"
    # A batch of several runs would come back, and be kept, only when its last is done.
    pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    calls = (
        joblib.delayed(_one)(function, dict(cases[run["case"]]), run, number)
        for number, (run, _) in enumerate(todo)
    )
    threads = torch.get_num_threads()
    try:
        # Closing stops the workers when this loop is interrupted.
        with closing(pool(calls)) as done:
            bar = tqdm(done, desc=row, total=len(todo), unit="run", disable=hidden)
            for number, run, trace in bar:
                yield todo[number], {**run, "commit": _commit()}, trace
    finally:
        # With one job, or with threads, the runs were made in this process.
        torch.set_num_threads(threads)


def _one(
    function: Callable[..., Mapping[str, Any]],
    settings: dict[str, Any],
    run: dict[str, Any],
    number: int,
) -> tuple[int, dict[str, Any], str]:
    """Make one run, in a worker: its number, its line, and its traceback if it failed."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    value, error, trace = None, None, ""
    try:
        value = json.loads(_json(dict(function(**settings, seed=run["seed"]))))
    except Exception as found:
        # As text: not every exception can be sent to another process.
        error, trace = f"{type(found).__name__}: {found}", traceback.format_exc()
    line = {
        **run,
        "value": value,
        "error": error,
        "seconds": round(time.perf_counter() - begin, 3),
        "hardware": hardware(),
        "versions": versions(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    return number, line, trace


def _json(value: Any) -> str:
    """As one line; arrays and tensors as lists. Python reads its own NaN and Infinity again."""

    def plain(found: Any) -> Any:
        if hasattr(found, "tolist"):
            return found.tolist()
        raise TypeError(
            f"{type(found).__name__} {found!r:.60} cannot be kept: return numbers, texts, arrays, "
            "lists and mappings of them"
        )

    return json.dumps(value, default=plain, ensure_ascii=False)


def _key(run: Mapping[str, Any]) -> str:
    # As text, which tells 1 from 1.0 and from true.
    return json.dumps([run["settings"], run["seed"], run["version"]], sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The runs of a file that did not fail; half a line, left by a process that died, is none."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict) and run.get("value") is not None:
            found[_key(run)] = run
    return found


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of the repository that the package runs from, if it does."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _numbers(value: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: number
        for name, number in value.items()
        if isinstance(number, int | float) and not name.endswith("seconds")
    }


def _agrees(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], others: list[dict[str, Any]]
) -> bool:
    before, now = (_numbers(run["value"] or {}).get(name) for run in (old, new))
    if before is None or now is None:
        return False
    if abs(now - before) <= ALLOWANCE * abs(before) or (now != now and before != before):
        return True
    rest = [_numbers(run["value"]).get(name, math.nan) for run in others]
    if len(rest) < _FEWEST_OTHERS or not all(map(math.isfinite, rest)):
        return False
    factors = min(rest) > 0 and max(rest) > 3 * min(rest)
    low, high = prediction_interval(rest, law="lognormal" if factors else "normal")
    return bool(low <= min(before, now) and max(before, now) <= high)


def _where(runs: list[dict[str, Any]]) -> str:
    places = dict.fromkeys(
        f"{run['hardware'].get('gpu') or run['hardware']['cpu']}, torch {run['versions']['torch']}"
        for run in runs
    )
    dates = sorted({run["date"] for run in runs})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{'; '.join(places)}, {days}, {sum(run['seconds'] for run in runs):,.0f} s"
