"""Writing a catalogue of galaxies; `catalogue` describes the layout of the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..files import written_aside
from ..inputs import as_array, as_number, as_whole
from .galaxy import UNITS, Galaxy, conditions, with_units

FORMAT = "galflow-lite catalogue"
FORMAT_VERSION = 1
# Small enough that a shuffled window of chunks mixes many galaxies, large enough to compress.
CHUNK_STARS = 8192
_PACKED = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


def write_catalogue(
    path: Path | str,
    galaxies: Iterable[Galaxy],
    *,
    significant_bits: int | None = None,
    chunk_stars: int = CHUNK_STARS,
    provenance: Mapping[str, Any] | None = None,
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
        chunk_stars: Stars in one HDF5 chunk, the unit that `batches` shuffles.
        provenance: Anything JSON can hold: recipe, seed, source.

    Returns:
        The path.

    Raises:
        ValueError: If there is no galaxy, or one has no stars, invalid rows, values beyond
            float32, other columns or conditions, or an id that is empty or taken.
        OSError: If the file cannot be written.

    Warns:
        RuntimeWarning: float32 is too coarse for the differences within a column.
    """
    bits = int(as_number(significant_bits or 23, "significant_bits", least=1, most=23))
    chunk_stars = as_whole(chunk_stars, "chunk_stars", least=1)
    attributes: dict[str, str] = {}
    counts: list[int] = []
    table: list[np.ndarray] = []
    with written_aside(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        for galaxy in galaxies:
            named = galaxy.conditions or conditions(galaxy)
            if not table:
                first, names = galaxy, tuple(named)
            same = (set(galaxy.columns), set(named)) == (set(first.columns), set(names))
            usable = {*galaxy.id}.isdisjoint("/\0") and galaxy.id not in ("", ".", *attributes)
            if not (same and usable and len(galaxy)):
                raise ValueError(
                    f"galaxy number {len(table)} is {galaxy!r}, expected stars, the columns and "
                    "conditions of the first galaxy and an id of its own without '/': mend it"
                )
            table.append(as_array(named, f"the conditions of {galaxy.id!r}", columns=names))
            group = file.create_group(f"galaxies/{galaxy.id}")
            _write_stars(group, galaxy.select(first.columns), bits, chunk_stars)
            group.attrs.update(dict(zip(names, table[-1].tolist(), strict=True)))
            attributes[galaxy.id] = _json(galaxy.attributes)
            counts.append(len(galaxy))
        if not table:
            raise ValueError(f"no galaxy was given for {path}, expected at least one: check them")
        text = h5py.string_dtype("utf-8")
        index = file.create_group("index")
        index.create_dataset("ids", data=list(attributes), dtype=text)
        index.create_dataset("n_stars", data=np.array(counts, dtype=np.int64))
        index.create_dataset("conditions", data=np.array(table).reshape(-1, len(names)))
        index.create_dataset("attributes", data=list(attributes.values()), dtype=text)
        units = {name: UNITS.get(name, "") for name in (*first.columns, *names, "mass")}
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION)
        file.attrs.update(columns=_json(first.columns), condition_names=_json(names))
        file.attrs.update(units=_json(units), provenance=_json(dict(provenance or {})))
        file.attrs.update(chunk_stars=chunk_stars, significant_bits=significant_bits or 0)
    return Path(path)


def _write_stars(group: h5py.Group, galaxy: Galaxy, bits: int, chunk_stars: int) -> None:
    name, rows = f"the table of galaxy {galaxy.id!r}", min(len(galaxy), chunk_stars)
    units = with_units(galaxy.columns)
    stars = as_array(galaxy.stars, name, dtype=np.float32, columns=units)
    stars = round_mantissa(stars, bits)
    group.create_dataset("stars", data=stars, chunks=(rows, 1), **_PACKED)
    if isinstance(galaxy.masses, np.ndarray):
        masses = as_array(galaxy.masses, f"the mass [Msun] in {name}", dtype=np.float32)
        masses = round_mantissa(masses, bits)
        group.create_dataset("masses", data=masses, chunks=(rows,), **_PACKED)
    elif galaxy.masses is not None:
        group.create_dataset("masses", data=as_array(galaxy.masses, f"the mass [Msun] in {name}"))


def _json(value: Any) -> str:
    """JSON text of a value that may hold numpy scalars and arrays."""
    return json.dumps(value, default=methodcaller("tolist"))


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 values to ``bits`` bits of the mantissa, 1 to 23, ties to even.

    The relative error is at most 2^-(bits + 1). The zeros at the end compress to nothing.

    Args:
        values: float32 array of any shape, contiguous and finite.
        bits: Explicit mantissa bits to keep; 23 returns the values as they are.
    """
    drop, one = np.uint32(23 - bits), np.uint32(1)
    if drop == 0:
        return values
    pattern = values.view(np.uint32)
    half = (one << (drop - one)) - one + ((pattern >> drop) & one)
    return (((pattern + half) >> drop) << drop).view(np.float32)
