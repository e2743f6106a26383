"""Stored results: one JSON file for each notebook and scale, with where and when it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import share, write_aside
from ..notebooks import Execution
from .checks import REMARK
from .environment import SCALES, hardware, versions
from .paper import MEASURED, format_entry, rows

__all__ = ["Results", "reference"]

_FORMAT = 1


@dataclass
class Results:
    """What one or several runs of a notebook gave.

    Attributes:
        notebook: two digits.
        scale: ``"lite"`` or ``"paper"``.
        seconds: wall time of the whole run, or of the mean run.
        seeds: seeds that were run.
        rows: id to ``{"value", "standard_error", "scatter", "runs"}``; all but the first may be
            missing. Scatter is the standard deviation over so many runs.
        hardware: see :func:`galflow_lite.reproduction.hardware`.
        versions: see :func:`galflow_lite.reproduction.versions`.
        date: day of the run, ISO 8601, UTC.
        remark: what a reader must know of this run, such as that it was cut short.
    """

    notebook: str
    scale: str
    seconds: float
    seeds: list[int]
    rows: dict[str, dict[str, Any]]
    hardware: dict[str, Any] = field(default_factory=hardware)
    versions: dict[str, str] = field(default_factory=versions)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())
    remark: str = ""

    @classmethod
    def of_run(cls, notebook: str, scale: str, run: Execution) -> Results:
        """The numbers that an executed notebook recorded at one scale.

        A name that was recorded twice has its last value.
        """
        lines = [line for line in run.records if line["scale"] == scale]
        remarks = [line["value"] for line in lines if line["id"] == REMARK]
        return cls(
            notebook=notebook,
            scale=scale,
            seconds=round(run.seconds, 1),
            seeds=sorted({line["seed"] for line in lines if line["seed"] is not None}),
            rows={line["id"]: _row(line) for line in lines if line["id"] != REMARK},
            remark=remarks[-1] if remarks else "",
        )

    @staticmethod
    def path(notebook: str, scale: str) -> Path:
        """Where the results of a notebook at a scale are stored."""
        return share("data") / "results" / f"{scale}_{notebook}.json"

    def save(self, path: Path | None = None) -> Path:
        """Store as JSON, written aside and renamed.

        Raises:
            ValueError: a value is not finite.
            OSError: the file cannot be written.
        """
        path = path or self.path(self.notebook, self.scale)
        for name, entry in self.rows.items():
            value = entry["value"]
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"result {name!r} is {value}, not a finite number: nothing was stored; find "
                    "out why the run gave it"
                )
        content = {"format": _FORMAT, **asdict(self)}
        write_aside(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that :meth:`save` wrote.

        Raises:
            ValueError: not such a file, or one of a newer format.
            OSError: the file cannot be read.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path.name} is not valid JSON ({error}); make it anew with `galflow-lite "
                "reproduce --store`"
            ) from error
        number = content.pop("format", None) if isinstance(content, dict) else None
        if not isinstance(number, int) or number > _FORMAT:
            raise ValueError(
                f"{path.name} has the format {number!r} and this version reads up to {_FORMAT}; "
                "update galflow-lite"
            )
        try:
            result = cls(**content)
        except TypeError as error:
            raise ValueError(
                f"{path.name} does not hold results ({error}); make it anew with `galflow-lite "
                "reproduce --store`"
            ) from error
        if result.scale not in SCALES:
            raise ValueError(f"{path.name} has the scale {result.scale!r}; write 'lite' or 'paper'")
        return result

    @classmethod
    def stored(cls, notebook: str, scale: str) -> Results | None:
        """The stored results of a notebook at a scale, or ``None`` where there are none."""
        path = cls.path(notebook, scale)
        return cls.load(path) if path.is_file() else None

    def values(self) -> dict[str, Any]:
        """Id to value."""
        return {name: entry["value"] for name, entry in self.rows.items()}

    def origin(self) -> str:
        """One line: scale, device, seconds, seeds, date, and the remark if there is one."""
        device = self.hardware.get("gpu") or self.hardware.get("cpu") or "unknown device"
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{self.scale} scale, {device}, {_duration(self.seconds)}, "
            f"seed{'s' * (len(self.seeds) > 1)} {seeds}, {self.date}, "
            f"torch {self.versions.get('torch', 'unknown')}{self.remark and '; '}{self.remark}"
        )

    def __str__(self) -> str:
        known: Mapping[str, Any] = rows()
        lines = [f"Stored reference: {self.origin()}"]
        width = max((len(name) for name in self.rows), default=0)
        for name, entry in self.rows.items():
            number = format_entry(entry)
            text = known[name].quantity if name in known else ""
            lines.append(f"  {name:<{width}}  {number:>16}  {text}".rstrip())
        return "\n".join(lines)


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in MEASURED if line.get(name) is not None}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def reference(notebook: str, start: str = "") -> Results | str:
    """What a GPU cell shows where there is no GPU: the stored run at paper scale.

    Args:
        notebook: two digits.
        start: only rows whose id starts like this; all by default.

    Returns:
        The results, which print as a line each; or one sentence that says how to make them.
    """
    found = Results.stored(notebook, "paper")
    if found is not None:
        kept = {name: entry for name, entry in found.rows.items() if name.startswith(start)}
        return replace(found, rows=kept)
    return (
        f"No reference at paper scale is stored for notebook {notebook}: make one with "
        f"`galflow-lite reproduce {notebook} --scale paper --store`."
    )
