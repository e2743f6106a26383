"""Repeated runs: each case with each seed is a line of JSON, made once and read afterwards."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from ..files import append_line, bars_hidden, writable
from ..inputs import as_whole
from .checks import OPEN, note_kept, tell
from .settings import about
from .summaries import ALLOWANCE, Summary, prediction_interval
from .tables import by_seed, key_of, lines_of_record, runs, store

Experiment = Callable[..., Mapping[str, Any] | list[Mapping[str, Any]]]
# With fewer other seeds an interval says nothing.
_FEWEST_OTHERS = 4


@dataclass(frozen=True)
class Runs:
    """What `repeat` gives: a run for each case and seed.

    Attributes:
        row: name of the files of runs.
        runs: one mapping for each run, in the order of the cases and their seeds, with the fields
            of its line (row, case, seed, key, value, error, seconds, device, versions, commit,
            date) and its ``source``: ``"shipped"``, ``"kept"`` by an earlier call, or ``"made"``
            by this one.
        again: shipped runs that this call made anew, as they came out this time.
    """

    row: str
    runs: list[dict[str, Any]]
    again: list[dict[str, Any]] = field(default_factory=list)

    def values(self, case: str, number: str) -> list[Any]:
        """One number of a case, for each seed in the order of the seeds.

        Raises:
            KeyError: there is no such case or number.
        """
        return [run["value"][number] for run in self._of(case)]

    def _of(self, case: str) -> list[dict[str, Any]]:
        found = [run for run in self.runs if run["case"] == case]
        if not found:
            raise KeyError(f"{case!r} is no case of {self.row}")
        return found

    def summary(self, case: str, number: str) -> Summary:
        """Mean, standard error and scatter of a number over the seeds of a case."""
        seeds = [run["seed"] for run in self._of(case)]
        return Summary.of(self.values(case, number), seeds)

    def origin(self) -> str:
        """One line: how many runs are shipped, kept or made now; hardware, days and seconds."""
        parts = []
        for source in ("shipped", "kept", "made"):
            if runs := [run for run in self.runs if run["source"] == source]:
                where, dates = ({run[name] for run in runs} for name in ("device", "date"))
                days = " to ".join(sorted({min(dates), max(dates)}))
                total = f"{sum(run['seconds'] for run in runs):,.0f} s"
                parts += [f"{len(runs)} {source} ({', '.join(sorted(where))}, {days}, {total})"]
        return f"{len(self.runs)} runs: {'; '.join(parts)}"

    def confirm(self) -> None:
        """Hold the runs that were made again against the stored ones, a line each.

        A run agrees where each of its numbers is the stored one to within 2 %, or where both lie
        in the 99.9 % prediction interval that the other seeds of its case give. Numbers whose name
        ends in "seconds" belong to a machine and are left out.
        """
        if not self.again:
            print(f"{self.row}   {OPEN} no shipped run was used, nothing to confirm")
        for new in self.again:
            case = self._of(new["case"])
            old = next(run for run in case if run["seed"] == new["seed"])
            bad = _differences(old, new, [run["value"] for run in case if run is not old])
            said = f"{len(_numbers(old))} numbers as in {len(case)} stored runs"
            if bad:
                said = f"differs from the stored run in {', '.join(bad)}"
            tell(f"{self.row}: {new['case']}, seed {new['seed']}, run again", not bad, said)


def repeat(
    function: Experiment,
    cases: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int] | int,
    *,
    row: str,
    jobs: int = 2,
    version: str = "1",
    again: int = 0,
    together: int = 1,
) -> Runs:
    """Call ``function(**settings, seed=seed)`` for every case and seed, and keep each result.

    A run becomes one line in ``runs/<row>.jsonl`` of the current folder (or of the folder that the
    environment variable ``GALFLOW_RUNS`` names) as soon as it is done, so a call that was
    interrupted or killed goes on where it was. Runs with the same settings, seed and version that
    are there, or among those that ship (`runs`), are read and not made again; ``GALFLOW_FRESH=1``
    leaves out those that ship. Each run has one torch thread.

    Args:
        function: may be defined in a cell. Returns a mapping of names to numbers, texts, lists,
            arrays or tensors; arrays are kept as lists.
        cases: name to the keyword arguments of the function: ``{"ring8/recipe": {"k": 8}}``.
        seeds: those of each case, or how many: 0, 1, ...
        row: name of the files.
        jobs: runs at a time, each in a process; -1 for as many as there are cores. The environment
            variable ``GALFLOW_JOBS`` goes before it.
        version: of what the function does. Change it when the function changes: files do not know.
        again: so many of the shipped runs, the quickest first, are made again on each call, for
            `Runs.confirm`.
        together: so many seeds of a case at most are run in one call. With more than 1 the function
            gets a list, ``seed=[...]``, be it of one, and returns a list of mappings: so it can
            train them in one batched model. Each run has its share of the seconds; a call that
            fails counts for all its seeds.

    Returns:
        The runs.

    Raises:
        RuntimeError: some runs failed; the others are done and kept, and calling again makes only
            those that are missing.
        OSError: the folder cannot be written.
    """
    seeds = range(as_whole(seeds, "seeds", least=1)) if isinstance(seeds, int) else seeds
    seeds = list(dict.fromkeys(as_whole(s, "a seed") for s in seeds))
    wanted = [
        {"row": row, "case": case, "seed": seed, "key": key_of(_plain(settings), version)}
        for case, settings in cases.items()
        for seed in seeds
    ]
    jobs, together = as_whole(jobs, "jobs", least=-1), as_whole(together, "together", least=1)
    file = Path(os.environ.get("GALFLOW_RUNS") or "runs") / f"{row}.jsonl"
    fresh = os.environ.get("GALFLOW_FRESH") == "1"
    known = {_key(run): {**run, "source": "kept"} for run in read_kept(file)}
    known |= {} if fresh else {_key(run): run for run in _shipped(row)}
    missing = [run for run in wanted if _key(run) not in known]
    if missing:
        writable(file.parent)
    shipped = [run for run in wanted if known.get(_key(run), {}).get("source") == "shipped"]
    shipped.sort(key=lambda run: known[_key(run)]["seconds"])
    groups = [[{**run, "source": "again"}] for run in shipped[: as_whole(again, "again")]]
    by_case = [[run for run in missing if run["case"] == case] for case in cases]
    groups += [g[k : k + together] for g in by_case for k in range(0, len(g), together)]

    jobs = int(os.environ.get("GALFLOW_JOBS") or jobs)
    threads, failed, anew = torch.get_num_threads(), [], []
    call = joblib.delayed(_call)
    calls = [call(function, dict(cases[g[0]["case"]]), g, together > 1, _commit()) for g in groups]
    hidden = not calls or bars_hidden()
    # A batch of several calls would come back, and be kept, only when its last is done. Workers
    # whose parent was killed know nothing of it: they go once they have been idle.
    options = {"batch_size": 1, "idle_worker_timeout": 10}
    pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", **options)
    try:
        # Closing stops the workers when this loop is interrupted.
        with closing(pool(calls)) as done:
            for made in tqdm(done, desc=row, total=len(calls), unit="call", disable=hidden):
                for run, trace in made:
                    if run.pop("source", None):
                        anew.append(run)
                        continue
                    append_line(file, json.dumps(run, ensure_ascii=False))
                    if trace:
                        failed.append((run, trace))
                    known[_key(run)] = {**run, "source": "made"}
    finally:
        # With one job, or with threads, the runs were made in this process.
        torch.set_num_threads(threads)
    if failed:
        names = ", ".join(f"{run['case']} with seed {run['seed']}" for run, _ in failed)
        raise RuntimeError(
            f"{len(failed)} of {sum(map(len, groups))} runs failed ({names}), the first with "
            f"{failed[0][0]['error']}; the others are kept in {file.name}: mend the cause and call "
            f"again, which makes only those that are missing\n\n{failed[0][1]}"
        )
    # The name of a case may have changed since; its settings say what it is.
    runs = [{**known[_key(run)], "case": run["case"]} for run in wanted]
    if any(run["source"] != "shipped" for run in runs):
        note_kept(row, file.resolve())
    return Runs(row, runs, sorted(anew, key=lambda run: (run["case"], run["seed"])))


def _call(
    function: Experiment, given: dict, runs: list[dict], listed: bool, commit: str | None
) -> list[tuple[dict, str]]:
    """Make the runs of one call, in a worker: their lines, and the traceback if it failed."""
    torch.set_num_threads(1)
    begin, values, error, trace = time.perf_counter(), [None] * len(runs), None, ""
    seeds = [run["seed"] for run in runs]
    try:
        found = function(**given, seed=seeds) if listed else [function(**given, seed=seeds[0])]
        if not isinstance(found, list) or len(found) != len(seeds):
            raise TypeError(f"found {found!r:.60}, expected a list of {len(seeds)} mappings")
        values = [_plain(value) for value in found]
    except Exception as reason:
        # As text: not every exception can be sent to another process.
        error, trace = f"{type(reason).__name__}: {reason}", traceback.format_exc()
    same = {"error": error, "seconds": round((time.perf_counter() - begin) / len(runs), 3)}
    same |= {**about(), "commit": commit}
    return [({**run, "value": v} | same, trace) for run, v in zip(runs, values, strict=True)]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON holds; arrays and tensors as lists. Python reads its own NaN and Infinity again."""

    def as_list(found: Any) -> Any:
        if hasattr(found, "tolist"):
            return found.tolist()
        raise TypeError(f"{type(found).__name__} cannot be kept: return numbers, texts and arrays")

    return json.loads(json.dumps(dict(value), default=as_list))


def _key(run: Mapping[str, Any]) -> tuple[str, int]:
    return run["key"], run["seed"]


def read_kept(path: Path) -> list[dict[str, Any]]:
    """The runs of a file that did not fail.

    Half a line, left by a process that died, is none, nor is one of a version without keys.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):
            run = json.loads(line)
            found += [run] if run["value"] is not None and "key" in run else []
    return found


def lines_of(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run as lines of the table, one for each number; those of a list are counted in brackets.

    Texts have no place there.
    """
    kept = {k: run[k] for k in ("case", "seed", "seconds", "key")}
    kept |= {k: run.get(k) for k in ("device", "versions", "commit", "date")} | {"n": 1}
    found = []
    for name, value in run["value"].items():
        many = isinstance(value, list)
        for k, one in enumerate(value if many else [value]):
            if not isinstance(one, int | float):
                continue
            row = f"{run['row']}.{name}{f'[{k}]' * many}"
            found.append({**kept, "row": row, "value": one})
    return found


def _shipped(row: str) -> list[dict[str, Any]]:
    """The runs of a repeated experiment among those that ship, as `lines_of` took them apart."""
    table = runs()
    lines = table[table.row.str.startswith(f"{row}.") & (table.key != "")]
    found: dict[tuple, dict[str, Any]] = {}
    for line in lines.to_dict("records"):
        run = found.setdefault(_key(line), {**line, "row": row, "value": {}, "source": "shipped"})
        name, counted = re.fullmatch(r"(.*?)(\[\d+\])?", line["row"][len(row) + 1 :]).groups()
        if counted:
            run["value"].setdefault(name, []).append(line["value"])
        else:
            run["value"][name] = line["value"]
    return list(found.values())


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of the repository that the package runs from, if it does."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.CalledProcessError):
        if (root / ".git").exists():
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            return found.stdout.strip()
    return None


def _numbers(run: Mapping[str, Any]) -> dict[str, float]:
    value = (run["value"] or {}).items()
    return {n: v for n, v in value if isinstance(v, int | float) and not n.endswith("seconds")}


def _differences(old: Mapping, new: Mapping, others: list[Mapping[str, Any]]) -> list[str]:
    """Names of the numbers in which a run that was made again does not agree."""
    found, bad = _numbers(new), []
    for name, before in _numbers(old).items():
        now = found.get(name, math.inf)
        rest = [value[name] for value in others if math.isfinite(value.get(name, math.nan))]
        same = abs(now - before) <= ALLOWANCE * abs(before) or repr(now) == repr(before)
        if not same and len(rest) >= _FEWEST_OTHERS:
            factors = min(rest) > 0 and max(rest) > 3 * min(rest)
            low, high = prediction_interval(rest, law="lognormal" if factors else "normal")
            same = low <= min(before, now) and max(before, now) <= high
        if not same:
            bad.append(name)
    return bad


def compared(records: Iterable[Mapping[str, Any]]) -> str:
    """Whether a run is the one that was stored: how many of its numbers are, to within 2 %."""
    table = runs()
    table = table[table.key == ""]
    names = zip(table.row, table.scale, table.seed, strict=True)
    before = dict(zip(names, table.value, strict=True))
    same, moved, new = 0, [], 0
    for line in records:
        for seed, value in by_seed(line):
            old = before.get((line["id"], line["scale"], seed))
            if old is None:
                new += 1
            elif abs(value - old) <= ALLOWANCE * abs(old):
                same += 1
            else:
                moved.append(line["id"])
    text = f"This run: {same} numbers as stored for its seed, {new} not stored"
    return f"{text}, {len(moved)} moved{': ' * bool(moved)}{', '.join(dict.fromkeys(moved))}"


def store_run(notebook: str, records: Iterable[Mapping[str, Any]]) -> int:
    """Add what a run of a notebook recorded to the table of runs; how many numbers that were.

    Where a number has several seeds, one run does not change it: that is for `make_bands`.
    """
    records = list(records)
    origin = {**about(), "notebook": notebook, "commit": _commit()}
    table, lines = runs(notebook), []
    several = table[table.key == ""].groupby(["row", "scale"]).n.sum() > 1
    for line in records:
        if path := line.get("kept"):
            before = table[table.row.str.startswith(f"{line['id']}.")]
            scale = line["scale"] if before.empty else before.scale.iloc[0]
            for run in read_kept(Path(path)):
                lines += [{"notebook": notebook, "scale": scale, **one} for one in lines_of(run)]
        elif not line["values"] and not several.get((line["id"], line["scale"]), False):
            lines += lines_of_record([line], **origin)
    # A summary is all there is of its number: seeds that it lacks are of an earlier one.
    whole = list(lines_of_record([line for line in records if line.get("values")], **origin))
    store(lines)
    store(whole, afresh=True)
    return len(lines) + len(whole)
