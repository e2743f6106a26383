"""Repeated runs: many cases side by side, each kept as soon as it is done, and their summary."""

from __future__ import annotations

import json
import math
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from ..files import write_aside
from .settings import hardware, versions

__all__ = ["Case", "CasesFailed", "repeat", "spent"]

_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# JSON has no infinity: a float that is not finite is stored as a mapping with this one key.
_FLOAT = "$float"


@dataclass(frozen=True)
class Case:
    """One run of many.

    Attributes:
        name: name of its file: letters, digits, ``_``, ``.`` and ``-``.
        settings: keyword arguments of the function that :func:`repeat` calls; texts, numbers, and
            lists and mappings of them.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class CasesFailed(RuntimeError):
    """Some cases of :func:`repeat` raised; ``tracebacks`` has the traceback of each, by name."""

    def __init__(self, message: str, tracebacks: Mapping[str, str]) -> None:
        super().__init__(message)
        self.tracebacks = dict(tracebacks)


class _InWorker(Exception):
    """Shows the traceback of another process above the error that reports it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def repeat(
    run: Callable[..., Mapping[str, Any]],
    cases: Sequence[Case],
    *,
    folder: Path | str,
    jobs: int = 2,
    version: str = "1",
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Call ``run(**case.settings)`` for every case, several at a time, and keep each result.

    A case leaves one JSON file in ``folder`` as soon as it is done, with its settings, seconds,
    hardware and versions. A case whose file has the same settings and the same ``version`` is read
    and not run again, so a call that was interrupted or killed goes on where it was; other settings
    or another version run it anew and replace the file. The cases run through joblib, with one
    torch thread each: inside ``joblib.parallel_config(backend="dask")`` they go to a cluster, and
    the files are written here all the same.

    Args:
        run: function of a case; may be defined in a notebook. Returns a mapping of numbers, texts,
            lists and mappings of them; arrays and tensors are kept as lists, and numbers that are
            not finite stay what they are.
        cases: what to run; the names must differ by more than upper and lower case.
        folder: where the files are; made where it is missing.
        jobs: cases at a time; -1 for as many as there are cores.
        version: of what ``run`` does. Change it when ``run`` changes: files do not know.
        progress: show a bar; the environment variables ``GALFLOW_PROGRESS=0`` and
            ``GALFLOW_QUIET=1`` hide it.

    Returns:
        Name to result, in the order of the cases.

    Raises:
        ValueError: a name that is not usable or not unique, settings that JSON cannot hold, or a
            file in the place of a result that is none.
        CasesFailed: one or more cases raised, or returned something else; the others are done and
            kept, and calling again runs only those that failed.
        OSError: the folder cannot be read or written.
    """
    folder = Path(folder)
    wanted = _settings_by_name(cases)
    results: dict[str, dict[str, Any]] = {}
    for name, settings in wanted.items():
        stored = _read(folder / f"{name}.json")
        if stored is not None and _same(stored, settings, version):
            results[name] = _decode(stored["result"])
    missing = [case for case in cases if case.name not in results]
    failures: dict[str, tuple[str, str]] = {}
    if missing:
        hidden = os.environ.get("GALFLOW_PROGRESS") == "0" or os.environ.get("GALFLOW_QUIET") == "1"
        # A batch of several cases would come back, and be kept, only when its last is done.
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        threads = torch.get_num_threads()
        bar = tqdm(
            total=len(cases),
            initial=len(results),
            desc="cases",
            unit="case",
            disable=hidden or not progress,
        )
        try:
            # Closing stops the workers when this loop is interrupted.
            with bar, closing(pool(joblib.delayed(_one)(run, case) for case in missing)) as done:
                for name, outcome, failure in done:
                    if failure is not None:
                        failures[name] = failure
                    else:
                        content = {
                            "format": _FORMAT,
                            "name": name,
                            "settings": wanted[name],
                            "version": version,
                            **outcome,
                        }
                        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
                        write_aside(folder / f"{name}.json", text + "\n")
                        results[name] = _decode(outcome["result"])
                    bar.update()
        finally:
            # With one job, or with threads, the cases ran in this process.
            torch.set_num_threads(threads)
    if failures:
        _report(failures, cases, folder)
    return {case.name: results[case.name] for case in cases}


def spent(cases: Sequence[Case], *, folder: Path | str) -> float:
    """Seconds that the stored results of these cases took together, each on one core.

    Raises:
        ValueError: a case has no stored result.
    """
    found = {case.name: _read(Path(folder) / f"{case.name}.json") for case in cases}
    missing = [name for name, stored in found.items() if stored is None]
    if missing:
        raise ValueError(
            f"found no result of {len(missing)} cases in {folder}, {missing[0]} among them: run "
            "them with repeat()"
        )
    return sum(stored["seconds"] for stored in found.values())


def _settings_by_name(cases: Sequence[Case]) -> dict[str, Any]:
    """Settings as they are stored, by the name of the case."""
    found: dict[str, Any] = {}
    taken = set()
    for case in cases:
        if not _NAME.fullmatch(case.name):
            raise ValueError(
                f"found the case name {case.name!r}, which becomes the name of a file: use "
                "letters, digits, '_', '.' and '-', and do not begin with '.' or '-'"
            )
        # Some file systems do not tell upper from lower case.
        if case.name.casefold() in taken:
            raise ValueError(
                f"found two cases with the name {case.name!r}, expected names that differ by more "
                "than upper and lower case: rename one"
            )
        taken.add(case.name.casefold())
        try:
            found[case.name] = _encode(dict(case.settings))
        except ValueError as error:
            message = f"the settings of case {case.name!r} cannot be kept: {error}"
            raise ValueError(message) from error
    return found


def _one(run: Callable[..., Mapping[str, Any]], case: Case) -> tuple[str, Any, Any]:
    """Run one case, in a worker: its name, what to store, and its error and traceback if any."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    try:
        result = run(**case.settings)
        if not isinstance(result, Mapping):
            raise ValueError(
                f"the function returned {type(result).__name__}, expected a mapping of names to "
                "numbers: return a dict"
            )
        outcome = {
            "result": _encode(result),
            "seconds": round(time.perf_counter() - begin, 3),
            "hardware": hardware(),
            "versions": versions(),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
    except Exception as error:
        # As text: not every exception can be sent to another process.
        return case.name, None, (f"{type(error).__name__}: {error}", traceback.format_exc())
    return case.name, outcome, None


def _report(failures: Mapping[str, tuple[str, str]], cases: Sequence[Case], folder: Path) -> None:
    names = [case.name for case in cases if case.name in failures]
    reason, trace = failures[names[0]]
    raise CasesFailed(
        f"{len(names)} of {len(cases)} cases failed ({', '.join(names)}); {names[0]} with "
        f"{reason}; the others are kept in {folder}: mend the cause and call again, which runs "
        "only what failed",
        {name: failures[name][1] for name in names},
    ) from _InWorker(trace)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a file that :func:`repeat` wrote, or ``None`` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # not JSON, or not UTF-8
        content = None
    needed = {"settings", "version", "result", "seconds"}
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not needed <= set(content)
    ):
        raise ValueError(
            f"{path} is not the result of a case, expected none or one of format {_FORMAT} there: "
            "move it away, or choose another folder"
        )
    return content


def _same(stored: Mapping[str, Any], settings: Any, version: str) -> bool:
    # As texts, which tell 1 from 1.0 and from true.
    before, now = (json.dumps(found, sort_keys=True) for found in (stored["settings"], settings))
    return stored["version"] == version and before == now


def _encode(value: Any) -> Any:
    """What strict JSON can hold, of numbers, texts, lists, arrays, tensors and mappings.

    Raises:
        ValueError: another type, or a key that is not a text.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str) or key == _FLOAT]
        if wrong:
            raise ValueError(f"found the key {wrong[0]!r}, expected a text: rename it")
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _encode(value.tolist())
    raise ValueError(
        f"found {type(value).__name__} {value!r:.60}, expected numbers, texts, lists and mappings "
        "of them: convert it"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _decode(entry) for key, entry in value.items()}
    return [_decode(entry) for entry in value] if isinstance(value, list) else value
