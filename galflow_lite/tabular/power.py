"""POWER: one household's electricity, minute by minute, for almost four years.

UCI, "Individual household electric power consumption", doi:10.24432/C58K54, CC BY 4.0.
"""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal, TypeVar

import numpy as np

from .data import TabularData, last_tenths, standardise
from .reading import checked, is_numpy, no_number, numpy_table, opened

__all__ = ["PowerReadings", "power", "power_readings"]

_FIELDS = (
    "Date",
    "Time",
    "Global_active_power",
    "Global_reactive_power",
    "Voltage",
    "Global_intensity",
    "Sub_metering_1",
    "Sub_metering_2",
    "Sub_metering_3",
)
_COLUMNS = tuple(field.lower() for field in (*_FIELDS[2:], "Time"))
_DAY_ZERO = datetime.date(1970, 1, 1).toordinal()
_TEXT = ("household_power_consumption.txt", "household_power_consumption.csv")

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class PowerReadings:
    """The complete rows of the raw file, in its order.

    Attributes:
        dates: Day of each row, shape (n,), ``datetime64[D]``.
        values: Shape (n, 8), float64: global active power (kW), global reactive power (kW),
            voltage (V), global intensity (A), sub-metering 1, 2 and 3 (Wh), minute of the day.
        incomplete: Number of rows that were left out because a reading is missing.
    """

    dates: np.ndarray
    values: np.ndarray
    incomplete: int


def power(path: Path | str, *, splits: Literal["maf", "chronological"] = "maf") -> TabularData:
    """Read POWER and prepare it as the MAF paper does (arXiv:1705.07057, and its published code).

    Reactive power and intensity are dropped, which leaves 6 columns. To each reading uniform noise
    of the width of its last digit is added (active power 0.001 kW, voltage 0.01 V, sub-metering
    1 Wh; none to the time), because a density model could otherwise put a spike on each value. The
    last tenth of the rows is for test, the last tenth of the rest for validation; mean and standard
    deviation of both other parts standardise all. Shuffle and noise come from NumPy's legacy
    generator with the seed 42, as published: the same file gives the same splits.

    Where this departs from good practice: neighbouring minutes are nearly equal, and a shuffle puts
    them on both sides of the split, so that the test score flatters a model that memorises.
    ``splits="chronological"`` leaves the rows in the order of time.

    Args:
        path: The UCI file ``household_power_consumption.txt`` or a zip with it; the comma-separated
            variant with an index; or ``power/data.npy`` of the archive doi:10.5281/zenodo.1161203,
            8 columns, plain or in that archive.
        splits: "maf" shuffles the rows, "chronological" does not.

    Returns:
        The table; of the full file 1,659,917, 184,435 and 204,928 rows.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If the file is another or damaged, or ``splits`` is not known.
    """
    if splits not in ("maf", "chronological"):
        raise ValueError(
            f"splits is {splits!r}, expected 'maf' or 'chronological': choose one of them."
        )
    values = _values(path)
    n = len(values)
    validation, test = last_tenths(n, name="power")
    # The published splits come from this generator; a new one would give others.
    rng = np.random.RandomState(42)
    if splits == "maf":
        rng.shuffle(values)
    data = np.delete(values, (1, 3), axis=1)
    del values
    data[:, 1] += 0.01 * rng.rand(n)
    data[:, 0] += 0.001 * rng.rand(n)
    data[:, 2:5] += rng.rand(n, 3)
    columns = tuple(np.delete(_COLUMNS, (1, 3)).tolist())
    standardise(data, rows=slice(0, n - test), ddof=0, columns=columns, name="power")
    return TabularData(
        name="power",
        train=data[: n - test - validation],
        validation=data[n - test - validation : n - test],
        test=data[n - test :],
        columns=columns,
    )


def power_readings(path: Path | str) -> PowerReadings:
    """Read the complete rows of the raw POWER file, as `power` does, and nothing more.

    Dates are day first, with the year in four digits or in two, which are those after 2000; rows
    with an empty field or a question mark are left out.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If the file is another or damaged, or no row is complete.
    """
    with opened(path, *_TEXT) as (source, stream):
        return _readings(stream, source)


def _values(path: Path | str) -> np.ndarray:
    with opened(path, *_TEXT, "power/data.npy") as (source, stream):
        if is_numpy(stream):
            return numpy_table(stream, source=source, width=len(_COLUMNS))
        return _readings(stream, source).values


def _readings(stream: IO[bytes], source: str) -> PowerReadings:
    delimiter, width = _header(stream.readline(), source)
    day, minute = lru_cache(4096)(_day), lru_cache(4096)(_minute)
    values, days = array("d"), array("q")
    incomplete = 0
    for number, line in enumerate(stream, 2):
        fields = line.strip().split(delimiter)
        if len(fields) != width:
            if fields == [b""]:
                continue
            raise ValueError(
                f"line {number} of {source} has {len(fields)} fields, expected {width}: this is "
                "another file, or a damaged one."
            )
        readings = fields[-7:]
        if b"?" in readings or b"" in readings:
            incomplete += 1
            continue
        try:
            values.extend(map(float, readings))
        except ValueError:
            raise no_number(readings, number, source) from None
        days.append(_parsed(day, fields[-9], number, source, "a date day/month/year"))
        values.append(_parsed(minute, fields[-8], number, source, "a time hour:minute:second"))
    if not days:
        raise ValueError(
            f"{source} has no complete rows ({incomplete} incomplete ones), expected some: check "
            "that the file is complete."
        )
    return PowerReadings(
        dates=np.frombuffer(days, dtype=np.int64).astype("datetime64[D]"),
        values=checked(np.frombuffer(values).reshape(len(days), len(_COLUMNS)), source),
        incomplete=incomplete,
    )


def _header(line: bytes, source: str) -> tuple[bytes, int]:
    """Delimiter and number of fields of the two layouts."""
    delimiter = b";" if b";" in line else b","
    found = [
        name.strip().lower() for name in line.decode(errors="replace").split(delimiter.decode())
    ]
    expected = [name.lower() for name in _FIELDS]
    # The index of the comma-separated variant may or may not have a name.
    if found[-9:] != expected or len(found) > 10:
        raise ValueError(
            f"{source} begins with the columns {', '.join(found)[:80]!r}, expected "
            f"{', '.join(_FIELDS)}: this is not the household power file."
        )
    return delimiter, len(found)


def _parsed(
    parse: Callable[[bytes], _T], field: bytes, line: int, source: str, expected: str
) -> _T:
    try:
        return parse(field)
    except ValueError:
        text = field.decode(errors="replace")[:40]
        raise ValueError(
            f"line {line} of {source} has {text!r}, expected {expected}: this is another file, or "
            "a damaged one."
        ) from None


def _day(field: bytes) -> int:
    """Days since 1970-01-01."""
    day, month, year = map(int, field.split(b"/"))
    century = 2000 if year < 100 else 0
    return datetime.date(century + year, month, day).toordinal() - _DAY_ZERO


def _minute(field: bytes) -> float:
    """Minutes since midnight."""
    hour, minute, second = map(int, field.split(b":"))
    datetime.time(hour, minute, second)
    return hour * 60 + minute + second / 60
