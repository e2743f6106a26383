"""Writing a catalogue of galaxies; `catalogue` describes the layout of the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..files import explain_write_errors, written_aside
from .table import UNITS, Galaxy, conditions

__all__ = [
    "CHUNK_STARS",
    "FORMAT",
    "FORMAT_VERSION",
    "round_mantissa",
    "to_json",
    "write_catalogue",
]

FORMAT = "galflow-lite catalogue"
FORMAT_VERSION = 1
# Small enough that a shuffled window of chunks mixes many galaxies, large enough to compress.
CHUNK_STARS = 8192


def to_json(value: Any) -> str:
    """JSON text of a value that may hold numpy scalars and arrays."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        raise ValueError(
            f"found {item!r} of type {type(item).__name__} among attributes or provenance, "
            "expected text, numbers, lists and dicts: convert it."
        )

    return json.dumps(value, default=plain)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 values to ``bits`` bits of the mantissa, ties to even.

    The relative error is at most 2^-(bits + 1). The zeros at the end compress to nothing.

    Args:
        values: float32 array of any shape, finite.
        bits: Explicit mantissa bits to keep, 1 to 23; 23 returns the values as they are.

    Raises:
        ValueError: If ``bits`` is out of range.
    """
    if not 1 <= bits <= 23:
        raise ValueError(
            f"found significant_bits={bits}, expected 1 to 23 (float32 has 23): choose within, "
            "or None to keep all."
        )
    values = np.asarray(values, dtype=np.float32, order="C")
    drop = np.uint32(23 - bits)
    if drop == 0:
        return values
    pattern = values.view(np.uint32)
    one = np.uint32(1)
    odd = (pattern >> drop) & one
    half = (one << (drop - one)) - one + odd
    return (((pattern + half) >> drop) << drop).view(np.float32)


def write_catalogue(
    path: Path | str,
    galaxies: Iterable[Galaxy],
    *,
    significant_bits: int | None = None,
    compression: int = 4,
    chunk_stars: int = CHUNK_STARS,
    units: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    drop_invalid: bool = False,
) -> Path:
    """Write galaxies to a file, one at a time: a generator is never held in memory.

    The file is written aside and renamed, so that a failure leaves an older file intact.
    The same galaxies give the same bytes with the same version of HDF5.

    Args:
        path: The file to write; a missing folder is made.
        galaxies: All with the same columns and conditions as the first, each with its own
            id. A galaxy that comes without conditions gets those of `conditions`.
        significant_bits: Bits of the float32 mantissa to keep, 1 to 23. With 10 the
            relative error is below 0.05 % and the file about half as large; conditions
            are stored in full. None keeps all.
        compression: gzip level, 0 to 9.
        chunk_stars: Stars in one HDF5 chunk, the unit that `batches` shuffles.
        units: Units of columns that `UNITS` does not know.
        provenance: Anything JSON can hold: recipe, seed, source.
        drop_invalid: Drop rows with NaN or infinite values instead of raising.

    Returns:
        The path.

    Raises:
        ValueError: If there is no galaxy, or one has no stars, invalid rows, other columns
            or conditions, or an id that is empty or taken.
        OSError: If the file cannot be written, e.g. on a full disk.
    """
    path = Path(path)
    if chunk_stars < 1 or not 0 <= compression <= 9:
        raise ValueError(
            f"found chunk_stars={chunk_stars}, compression={compression}, expected at least 1 "
            "star and a gzip level of 0 to 9: mend the setting."
        )
    if significant_bits is not None:
        round_mantissa(np.zeros(1, np.float32), significant_bits)  # refuses a bad number early
    provenance_text = to_json(dict(provenance or {}))
    with written_aside(path) as temporary:
        with explain_write_errors(path):
            sink = _Sink(temporary)
        try:
            with h5py.File(sink, "w", track_order=True) as file:
                writer = _Writer(file, significant_bits, compression, chunk_stars)
                for galaxy in galaxies:
                    writer.add(galaxy.require_finite(drop_invalid=drop_invalid))
                    # An error of the source of galaxies must not read as one of this file.
                    with explain_write_errors(path):
                        sink.check()
                if not writer.positions:
                    raise ValueError(
                        f"no galaxy was given for {path}, expected at least one: check the "
                        "source and its cuts."
                    )
                writer.finish({**UNITS, **(units or {})}, provenance_text)
        finally:
            sink.close()
        with explain_write_errors(path):
            sink.check()
    return path


class _Sink:
    """A file that HDF5 writes into through Python, and that never fails HDF5 itself.

    When the disk is full, the HDF5 library cannot close its file any more, complains on stderr
    and may crash as the process ends. Here the first error is kept, later writes are thrown
    away, and `check` raises the error once HDF5 is out of the way.
    """

    def __init__(self, path: Path | str) -> None:
        self._file = FileIO(path, "w+b")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of a write.

        Raises:
            OSError: If there was one.
        """
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error


class _Writer:
    """Adds galaxies to an open file one by one; keeps only the index in memory."""

    def __init__(
        self, file: h5py.File, bits: int | None, compression: int, chunk_stars: int
    ) -> None:
        self.file, self.bits = file, bits
        self.compression, self.chunk_stars = compression, chunk_stars
        self.columns: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.positions: dict[str, int] = {}
        self.n_stars: list[int] = []
        self.conditions: list[list[float]] = []
        self.attributes: list[str] = []

    def add(self, galaxy: Galaxy) -> None:
        if not galaxy.conditions and len(galaxy):
            galaxy = replace(galaxy, conditions=conditions(galaxy))
        galaxy = self._checked(galaxy)
        stars, masses = self._encode(galaxy, "stars"), self._encode(galaxy, "masses")
        values = [float(galaxy.conditions[name]) for name in self.names]
        group = self.file.create_group(f"galaxies/{galaxy.id}")
        rows = min(len(stars), self.chunk_stars)
        packed = {
            "compression": "gzip",
            "compression_opts": self.compression,
            "shuffle": True,
        }
        group.create_dataset("stars", data=stars, chunks=(rows, 1), **packed)
        if masses is not None and masses.ndim:
            group.create_dataset("masses", data=masses, chunks=(rows,), **packed)
        elif masses is not None:
            group.create_dataset("masses", data=masses)
        for name, value in zip(self.names, values, strict=True):
            group.attrs[name] = value
        self.positions[galaxy.id] = len(self.positions)
        self.n_stars.append(len(stars))
        self.conditions.append(values)
        self.attributes.append(to_json(galaxy.attributes))

    def _checked(self, galaxy: Galaxy) -> Galaxy:
        """Hold a galaxy to the first one: columns, conditions, a new and usable id."""
        if not self.positions:
            self.columns, self.names = galaxy.columns, tuple(galaxy.conditions)
        if not galaxy.id or "/" in galaxy.id or galaxy.id == "." or "\0" in galaxy.id:
            raise ValueError(
                f"galaxy number {len(self.positions)} has the id {galaxy.id!r}, expected a name "
                "that is not empty and holds no '/': give it an id."
            )
        if galaxy.id in self.positions:
            raise ValueError(
                f"the id {galaxy.id!r} belongs to galaxies number {self.positions[galaxy.id]} "
                f"and {len(self.positions)}, expected every id once: rename one of them."
            )
        if not len(galaxy):
            raise ValueError(
                f"galaxy {galaxy.id!r} has no stars, expected at least one: leave it out."
            )
        for what, found, expected in (
            ("columns", galaxy.columns, self.columns),
            ("conditions", tuple(galaxy.conditions), self.names),
        ):
            missing = [name for name in expected if name not in found]
            extra = [name for name in found if name not in expected]
            if missing or extra:
                raise ValueError(
                    f"galaxy {galaxy.id!r} has the {what} {', '.join(found) or 'none'}: missing "
                    f"{', '.join(missing) or 'none'}, extra {', '.join(extra) or 'none'}, "
                    f"expected those of the first galaxy: give all galaxies the same {what}."
                )
        bad = [name for name, value in galaxy.conditions.items() if not np.isfinite(value)]
        if bad:
            raise ValueError(
                f"galaxy {galaxy.id!r} has NaN or infinite values for the condition(s) "
                f"{', '.join(bad)}, expected numbers: compute them with conditions()."
            )
        return galaxy.select(self.columns)

    def _encode(self, galaxy: Galaxy, what: str) -> np.ndarray | None:
        values = getattr(galaxy, what)
        if values is None or isinstance(values, float):
            return None if values is None else np.asarray(values)
        with np.errstate(over="ignore"):
            values = np.asarray(values).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                f"galaxy {galaxy.id!r} has {what} beyond 3.4e38, the largest number that the "
                "file can hold (float32), expected smaller ones: check the units."
            )
        return values if self.bits is None else round_mantissa(values, self.bits)

    def finish(self, units: Mapping[str, str], provenance: str) -> None:
        names = (*self.columns, *self.names, "mass")
        text = h5py.string_dtype("utf-8")
        index = self.file.create_group("index")
        index.create_dataset("ids", data=list(self.positions), dtype=text)
        index.create_dataset("n_stars", data=np.asarray(self.n_stars, dtype=np.int64))
        shape = (len(self.n_stars), len(self.names))
        table = np.asarray(self.conditions, dtype=np.float64).reshape(shape)
        index.create_dataset("conditions", data=table)
        index.create_dataset("attributes", data=self.attributes, dtype=text)
        self.file.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "columns": json.dumps(self.columns),
                "condition_names": json.dumps(self.names),
                "units": json.dumps({name: units.get(name, "") for name in names}),
                "provenance": provenance,
                "chunk_stars": self.chunk_stars,
                "significant_bits": self.bits or 0,
            }
        )
