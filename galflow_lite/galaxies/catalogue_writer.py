"""Writing a catalogue of galaxies, also from the layout in which the paper's data were published.

`catalogue` describes the layout of the file.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from ..files import bars_hidden, reading, written_aside
from ..inputs import as_array, as_whole
from .galaxy import COLUMNS, UNITS, Galaxy, TooFewStars, clean, conditions

FORMAT = "galflow-lite catalogue"
FORMAT_VERSION = 1
_CHUNK_STARS = 8192
_PACKED = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


def write_catalogue(
    path: Path | str,
    galaxies: Iterable[Galaxy],
    *,
    significant_bits: int = 23,
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
            are stored in full.
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
    bits = min(as_whole(significant_bits, "significant_bits", least=1), 23)
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
            _write_stars(group, galaxy.select(first.columns), bits)
            group.attrs.update(dict(zip(names, table[-1].tolist(), strict=True)))
            group.attrs["checksum"] = read_group(group)[2]
            attributes[galaxy.id] = _json(galaxy.attributes)
            counts.append(len(galaxy))
        if not table:
            raise ValueError(f"no galaxy was given for {path}, expected at least one: check them")
        text = h5py.string_dtype("utf-8")
        index = file.create_group("index")
        index.create_dataset("ids", data=list(attributes), dtype=text)
        index.create_dataset("n_stars", data=np.array(counts, dtype=np.int64))
        index.create_dataset("conditions", data=np.array(table).reshape(len(table), -1))
        index.create_dataset("attributes", data=list(attributes.values()), dtype=text)
        units = {name: UNITS.get(name, "") for name in (*first.columns, *names, "mass")}
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION)
        file.attrs.update(columns=_json(first.columns), condition_names=_json(names))
        file.attrs.update(units=_json(units), provenance=_json(dict(provenance or {})))
        file.attrs.update(chunk_stars=_CHUNK_STARS, significant_bits=bits % 23)
        for group in (index, file):
            group.attrs["checksum"] = read_group(group)[2]
    return Path(path)


def read_group(group: h5py.Group) -> tuple[dict[str, Any], dict[str, np.ndarray], int]:
    """The attributes and the arrays of a group, and the checksum (CRC-32) of its name and these.

    Raises:
        ValueError: A checksum is stored with the group, and it is another one.
    """
    about = {name: np.asarray(value).tolist() for name, value in sorted(group.attrs.items())}
    stored = about.pop("checksum", None)
    items = sorted(group.items())
    arrays = {name: item[()] for name, item in items if isinstance(item, h5py.Dataset)}
    types = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    found = zlib.crc32(repr([group.name, about, types]).encode())
    for array in arrays.values():
        # Of texts the bytes would be those of pointers.
        content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        found = zlib.crc32(content, found)
    if stored not in (None, found):
        raise ValueError(f"{group.name} differs from its checksum")
    return about, arrays, found


def _write_stars(group: h5py.Group, galaxy: Galaxy, bits: int) -> None:
    name, rows = f"the table of galaxy {galaxy.id!r}", min(len(galaxy), _CHUNK_STARS)
    mass = f"the mass [Msun] in {name}"
    stars = as_array(galaxy.stars, name, dtype=np.float32, columns=galaxy.columns)
    group.create_dataset("stars", data=round_mantissa(stars, bits), chunks=(rows, 1), **_PACKED)
    if isinstance(galaxy.masses, np.ndarray):
        masses = round_mantissa(as_array(galaxy.masses, mass, dtype=np.float32), bits)
        group.create_dataset("masses", data=masses, chunks=(rows,), **_PACKED)
    elif galaxy.masses is not None:
        group.create_dataset("masses", data=as_array(galaxy.masses, mass))


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


_NAME = re.compile(r"_(?P<id>[^_]+)_(?P<m_dm>[-+.\de]+)\.npy$")
# Rows of a published array; all but the mass are columns of a galaxy.
_ROWS = (*COLUMNS[:-1], "mass", COLUMNS[-1])


def published_galaxies(folder: Path | str) -> Iterator[Galaxy]:
    """Galaxies of a folder of the published layout, read one after the other.

    Layout (Zenodo, DOI 10.5281/zenodo.8389554; arXiv:2312.06017): one ``.npy`` a galaxy, array
    (11, N), rows x, y, z [kpc], vx, vy, vz [km/s], Z, [Fe/H], [O/Fe], mass [Msun], age [Gyr].
    A file name ends in ``_<id>_<M_dm>.npy``. The galaxies come sorted by file name, so that
    their numbers are the same on every machine (the public code takes the unsorted order of
    the file system). The id is taken from the name; where several files have the same, each
    of these takes its whole name instead. M_dm [Msun] becomes an attribute.

    Raises:
        ValueError: If there is no such file or a file name does not fit; and, once its turn has
            come, if an array has another shape or is cut short, or holds Python objects, which are
            never loaded.
    """
    # macOS puts files of its own, ._name, into archives.
    files = sorted(f for f in Path(folder).glob("*.npy") if not f.name.startswith("."))
    named = [_NAME.search(file.name) for file in files]
    if None in named or not files:
        wrong = files[named.index(None)].name if files else "no .npy file"
        raise ValueError(
            f"the folder {folder} holds {wrong}, expected one file a galaxy whose name ends in "
            "_<id>_<M_dm>.npy, as run_g1.05e11_1.096e11.npy: move other files elsewhere"
        )
    taken = Counter(match["id"] for match in named)
    return (
        _published(file, match["id"] if taken[match["id"]] == 1 else file.stem, match["m_dm"])
        for file, match in zip(files, named, strict=True)
    )


def _published(file: Path, id: str, m_dm: str) -> Galaxy:
    rows = ", ".join(_ROWS)
    with reading(file, f"numbers with the rows {rows} (pickled objects are never loaded)"):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        array = as_array(array, "it", (len(_ROWS), "stars"), dtype=array.dtype, finite=False)
    rows = dict(zip(_ROWS, array, strict=True))
    return Galaxy(rows, id=id, masses=rows["mass"], attributes={"M_dm": float(m_dm)})


def convert(source: Path | str, target: Path | str) -> dict[str, int]:
    """Convert a folder of the published layout into a catalogue, with the paper's cuts.

    It takes one galaxy at a time. A galaxy that the function `clean` leaves with too few stars is
    passed over, and a line says so.

    Args:
        source: Folder, see `published_galaxies`.
        target: HDF5 file to write; an older one is replaced only when all went well.

    Returns:
        Numbers of galaxies and stars before and after: ``raw_galaxies``, ``raw_stars``,
        ``galaxies`` and ``stars``.

    Raises:
        ValueError: As `published_galaxies`, `clean` and `Catalogue.write`.
        OSError: If the file cannot be written.
    """
    found, galaxies = Counter(), published_galaxies(source)

    def kept() -> Iterator[Galaxy]:
        for galaxy in tqdm(galaxies, desc="convert", unit=" galaxies", disable=bars_hidden()):
            found.update(raw_galaxies=1, raw_stars=len(galaxy))
            try:
                galaxy = clean(galaxy)
            except TooFewStars as reason:
                tqdm.write(f"dropped: {reason}")
                continue
            found.update(galaxies=1, stars=len(galaxy))
            yield galaxy

    provenance = {"source": Path(source).name, "layout": "arXiv:2312.06017", "paper_cuts": True}
    write_catalogue(target, kept(), provenance=provenance)
    return dict(found)
