"""Small made-up files in the raw formats of POWER, GAS, HEPMASS and MINIBOONE."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np

POWER_HEADER = (
    "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;"
    "Sub_metering_1;Sub_metering_2;Sub_metering_3"
)
POWER_FILE = "household_power_consumption.txt"
GAS_HEADER = "Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels) "


def power_rows(n: int = 60, seed: int = 0) -> list[list[str]]:
    """Rows of POWER, one minute after another from 23:30 on 31 December 2006."""
    rng = np.random.default_rng(seed)
    start = np.datetime64("2006-12-31T23:30")
    rows = []
    for i in range(n):
        day, time = str(start + np.timedelta64(i, "m")).split("T")
        year, month, date = (int(part) for part in day.split("-"))
        readings = [f"{rng.uniform(0.1, 9):.3f}", f"{rng.uniform(0, 1):.3f}"]
        readings += [f"{rng.normal(240, 3):.3f}", f"{rng.uniform(1, 40):.3f}"]
        readings += [f"{rng.integers(0, 40)}.000" for _ in range(3)]
        rows.append([f"{date}/{month}/{year}", f"{time}:00", *readings])
    return rows


def power_text(rows: list[list[str]]) -> bytes:
    """The layout of UCI."""
    return ("\r\n".join([POWER_HEADER, *(";".join(row) for row in rows)]) + "\r\n").encode()


def power_csv(rows: list[list[str]]) -> bytes:
    """The comma-separated layout: an index, and days up to the 12th with a year of two digits."""
    lines = ["index," + POWER_HEADER.replace(";", ",")]
    for i, row in enumerate(rows):
        day, month, year = row[0].split("/")
        date = f"{day}/{month}/{year[2:]}" if int(day) <= 12 else row[0]
        lines.append(",".join([str(i), date, *row[1:]]))
    return ("\n".join(lines) + "\n").encode()


def sensors(n: int = 200, seed: int = 0) -> np.ndarray:
    """Time, two concentrations and 16 sensors, of which 3 follows 1, and 5 follows 4 and 6."""
    rng = np.random.default_rng(seed)
    table = np.round(rng.normal(1000, 100, size=(n, 16)), 2)
    near = np.round(rng.normal(0, 5, size=(n, 3)), 2)
    table[:, 2] = table[:, 0] + near[:, 0]
    table[:, 4] = table[:, 3] + near[:, 1]
    table[:, 5] = table[:, 4] + near[:, 2]
    # The opposite of a sensor is no near-copy by the published rule, which takes no absolute value.
    table[:, 9] = -table[:, 8]
    time = np.round(np.arange(n) * 0.01, 2)
    return np.column_stack([time, np.zeros(n), np.full(n, 20.0), table])


def gas_text(table: np.ndarray) -> bytes:
    lines = [GAS_HEADER, *("  ".join(f"{value:.2f}" for value in row) for row in table)]
    return ("\n".join(lines) + "\n").encode()


def collisions(n: int, seed: int = 0) -> np.ndarray:
    """Class and 27 features; f5 repeats its smallest value, f9 its largest."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 28))
    table[:, 0] = rng.integers(0, 2, size=n)
    table[:, 6] = np.where(rng.uniform(size=n) < 0.5, 0.0, 1.0 + table[:, 6] ** 2)
    table[:, 10] = np.where(rng.uniform(size=n) < 0.5, 9.0, table[:, 10])
    return table


def hepmass_text(table: np.ndarray, *, named: int | None = None) -> bytes:
    """A file of HEPMASS; ``named`` columns have a name in the header."""
    header = ["# label", *(f"f{i}" for i in range(table.shape[1] - 1))][:named]
    lines = [",".join(header), *(",".join(f"{value:.18e}" for value in row) for row in table)]
    return ("\n".join(lines) + "\n").encode()


def events(signal: int = 120, seed: int = 0) -> np.ndarray:
    """50 features: 2 rows failed (-999), feature 7 repeats its smallest value, 8 its largest."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(signal, 50))
    table[:, 7] = np.where(rng.uniform(size=signal) < 0.5, 0.0, 1.0 + table[:, 7] ** 2)
    table[:, 8] = np.where(rng.uniform(size=signal) < 0.5, 9.0, table[:, 8])
    table[[3, 50]] = -999.0
    return table


def miniboone_text(signal: np.ndarray, background: int = 30) -> bytes:
    rows = np.concatenate([signal, np.full((background, 50), 5.0)])
    lines = [f" {len(signal)} {background}"]
    lines += ["  ".join(f"{value:.8e}" for value in row) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def npy(table: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, table)
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# How a raw file may come: name, and how the bytes are made of the member's name and content.
PACKINGS: dict[str, tuple[str, Callable[[str, bytes], bytes]]] = {
    "plain": ("{}", lambda name, content: content),
    "gz": ("{}.gz", lambda name, content: gzip.compress(content)),
    "zip": ("set.zip", lambda name, content: zipped({"Index.txt": b"other", name: content})),
    "gz in zip": ("set.zip", lambda name, content: zipped({f"{name}.gz": gzip.compress(content)})),
    "tar": ("set.tar.gz", lambda name, content: tarred({"data/x": b"1", f"data/{name}": content})),
}
