"""Stored results: one JSON file for each notebook and scale, with where and when it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import share, write_aside
from .checks import REMARK
from .rows import rows
from .settings import hardware, versions
from .summaries import format_number

# What is kept of a measured value.
MEASURED = ("value", "standard_error", "scatter", "runs")


@dataclass
class Results:
    """What a run of a notebook gave, lesson and audit together.

    Attributes:
        notebook: two digits.
        scale: ``"lite"`` or ``"paper"``.
        seconds: wall time of the whole run.
        seeds: seeds that were run.
        rows: name to ``{"value", "standard_error", "scatter", "runs"}``; all but the first may be
            missing. Scatter is the standard deviation over so many runs.
        hardware: see :func:`galflow_lite.reproduction.hardware`.
        versions: see :func:`galflow_lite.reproduction.versions`.
        date: day of the run, ISO 8601, UTC.
        remark: what a reader must know of this run, such as that it was cut short.
    """

    notebook: str
    scale: str
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=hardware)
    versions: dict[str, str] = field(default_factory=versions)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())
    remark: str = ""

    @classmethod
    def of_run(
        cls, notebook: str, scale: str, seconds: float, records: Iterable[Mapping[str, Any]]
    ) -> Results:
        """The numbers that executed notebooks recorded at one scale.

        A name that was recorded twice has its last value.
        """
        lines = [line for line in records if line["scale"] == scale]
        rows = {line["id"]: measured(line) for line in lines}
        remark = rows.pop(REMARK, {"value": ""})["value"]
        seeds = sorted({line["seed"] for line in lines})
        return cls(notebook, scale, round(seconds, 1), seeds, rows, remark=remark)

    def save(self) -> Path:
        """Store as JSON, written aside and renamed.

        Raises:
            ValueError: a value is not finite.
            OSError: the file cannot be written.
        """
        values = {name: entry["value"] for name, entry in self.rows.items()}
        wrong = [n for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
        if wrong:
            raise ValueError(
                f"found {', '.join(wrong)} not finite: nothing was stored; mend the run"
            )
        path = share("data") / "results" / f"{self.scale}_{self.notebook}.json"
        write_aside(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def stored(cls, notebook: str, scale: str) -> Results | None:
        """The stored results of a notebook at a scale, or ``None`` where there are none."""
        path = share("data") / "results" / f"{scale}_{notebook}.json"
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("format", None)
        return cls(**content)

    def origin(self) -> str:
        """One line: scale, device, seconds, seeds, date, and the remark if there is one."""
        device = self.hardware.get("gpu") or self.hardware["cpu"]
        seconds, unit = (self.seconds, "s") if self.seconds < 120 else (self.seconds / 60, "min")
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        when = f"{self.date}, torch {self.versions['torch']}{self.remark and '; '}{self.remark}"
        return f"{self.scale} scale, {device}, {seconds:.0f} {unit}, {seeds}, {when}"

    def __str__(self) -> str:
        known = rows()
        lines = [f"Stored reference: {self.origin()}"]
        width = max((len(name) for name in self.rows), default=0)
        for name, entry in self.rows.items():
            text = known[name].quantity if name in known else ""
            lines.append(f"  {name:<{width}}  {format_entry(entry):>16}  {text}".rstrip())
        return "\n".join(lines)


def measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """A value and what is known of its errors, of a line of records."""
    return {name: line[name] for name in MEASURED if line.get(name) is not None}


def format_entry(entry: Mapping[str, Any]) -> str:
    """A measured value with what is known of its errors."""
    return format_number(*(entry.get(key) for key in MEASURED))


def reference(notebook: str, start: str = "") -> Results | str:
    """What a GPU cell shows where there is no GPU: the stored run at paper scale.

    Args:
        notebook: two digits.
        start: only numbers whose name starts like this; all by default.

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
