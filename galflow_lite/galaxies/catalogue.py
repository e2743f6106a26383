"""A catalogue of galaxies in one HDF5 file, written as a stream and read lazily.

Layout of the file, format version 1::

    /                      attributes: format, format_version, chunk_stars, significant_bits
                           (0: all) and, as JSON, columns, condition_names, units, provenance
    /galaxies/<id>         one group a galaxy; its conditions are attributes
    /galaxies/<id>/stars   float32, (n, columns), one chunk a column and ``chunk_stars`` stars,
                           with shuffle and gzip, whose checksum notices damage
    /galaxies/<id>/masses  float32 [Msun], (n,), or one float64 that all stars share; may be absent
    /index                 ids, n_stars, conditions (galaxies, conditions), attributes (JSON):
                           what is known of each galaxy without reading a star

A file is never changed in place, so that any number of processes may read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..inputs import as_array, as_whole
from .catalogue_writer import FORMAT, FORMAT_VERSION, write_catalogue
from .galaxy import Galaxy, positions, with_units
from .star_stream import StarStream


class CatalogueError(ValueError):
    """A file is no catalogue, is damaged, or is of a newer format."""


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """The open file; what goes wrong with it becomes one sentence that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise CatalogueError(
            f"{path} cannot be read ({error}), expected a complete catalogue of galaxies of a "
            "format that this galflow_lite knows: fetch or write it anew"
        ) from error


@dataclass(frozen=True, eq=False, repr=False)
class Catalogue:
    """Galaxies in an HDF5 file, or some of them; stars are read only when asked for.

    Make one with `Catalogue.open`. It is a sequence of `Galaxy`: ``catalogue[3]``,
    ``catalogue["g1.05e11"]``, ``len(catalogue)``, iteration; a slice is a catalogue again, on
    the same file. The file is open only while it is read: a catalogue can be kept, copied and
    sent to other processes.

    Attributes:
        path: The file, absolute.
        columns: Names of the star columns.
        condition_names: Names of the conditions.
        units: Unit of every column and condition, and of ``mass``; "" where unknown.
        provenance: What the writer noted: recipe, seed, source.
        chunk_stars: Stars in a chunk of the file.
        ids: Names of the galaxies, in the order of the file.
        n_stars: Stars of each galaxy, int64, shape (galaxies,).
        table: Conditions, float64, shape (galaxies, conditions); see also `conditions`.
        attributes: Anything else that was kept with each galaxy.

    Example:
        >>> catalogue = Catalogue.open("galaxies.h5")  # doctest: +SKIP
        >>> train, held_out = catalogue.split(held_out=5, seed=0)  # doctest: +SKIP
        >>> stars, conditions = train.batches(1024)(0)  # doctest: +SKIP
    """

    path: Path
    columns: tuple[str, ...]
    condition_names: tuple[str, ...]
    units: Mapping[str, str]
    provenance: Mapping[str, Any]
    chunk_stars: int
    ids: tuple[str, ...]
    n_stars: np.ndarray
    table: np.ndarray
    attributes: tuple[Mapping[str, Any], ...]

    write = staticmethod(write_catalogue)

    @classmethod
    def open(cls, path: Path | str) -> Catalogue:
        """Read what a file says of its galaxies; the working folder may change after.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not HDF5, is cut short or damaged, is no catalogue, or has
                a newer format version.
        """
        path = Path(path).absolute()
        with _reading(path) as file:
            about, index = file.attrs, file["index"]
            if about["format"] != FORMAT or about["format_version"] > FORMAT_VERSION:
                raise KeyError(f"its format is {about['format']} {about['format_version']}")
            names = [tuple(json.loads(about[name])) for name in ("columns", "condition_names")]
            notes = [json.loads(about[name]) for name in ("units", "provenance")]
            attributes = tuple(map(json.loads, index["attributes"].asstr()[:]))
            ids, chunk_stars = tuple(index["ids"].asstr()[:].tolist()), int(about["chunk_stars"])
            arrays = index["n_stars"][:], index["conditions"][:]
        return cls(path, *names, *notes, chunk_stars, ids, *arrays, attributes)

    def _part(self, rows: Sequence[int]) -> Catalogue:
        """The catalogue of the galaxies at these positions, on the same file."""
        rows = np.asarray(rows, dtype=np.int64)
        ids, attributes = (tuple(part[row] for row in rows) for part in (self.ids, self.attributes))
        arrays = {"n_stars": self.n_stars[rows], "table": self.table[rows]}
        return replace(self, ids=ids, attributes=attributes, **arrays)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is open between reads."""

    @property
    def conditions(self) -> dict[str, np.ndarray]:
        """Name to float64 array, shape (galaxies,)."""
        return dict(zip(self.condition_names, self.table.T, strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        contents = f"{len(self)} galaxies, {self.n_stars.sum()} stars"
        return f"Catalogue({str(self.path)!r}: {contents}, columns {', '.join(self.columns)})"

    def __iter__(self) -> Iterator[Galaxy]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, key: int | str | slice) -> Galaxy | Catalogue:
        if isinstance(key, slice):
            return self._part(range(len(self))[key])
        position = self._position(key)
        name, conditions = self.ids[position], self.table[position].tolist()
        with _reading(self.path) as file:
            group = file["galaxies"][name]
            masses = group["masses"][()] if "masses" in group else None
        stars = self.read_stars(position, 0, int(self.n_stars[position]))
        named = dict(zip(self.condition_names, conditions, strict=True))
        attributes = dict(self.attributes[position])
        return Galaxy(stars, named, name, self.columns, masses, attributes)

    def _position(self, key: int | str) -> int:
        known = self.ids if isinstance(key, str) else range(-len(self), len(self))
        if key not in known:
            error = LookupError if isinstance(key, str) else IndexError
            raise error(f"{self.path} has no galaxy {key!r} among its {len(self)}: see .ids")
        return self.ids.index(key) if isinstance(key, str) else int(key) % len(self)

    def read_stars(
        self, position: int, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> np.ndarray:
        """Read rows ``start`` to ``stop`` of a galaxy, float32, shape (stop - start, columns)."""
        names = self.columns if columns is None else tuple(columns)
        places = positions(names, self.columns, str(self.path))
        with _reading(self.path) as file:
            stars = file["galaxies"][self.ids[position]]["stars"]
            if stars.shape != (self.n_stars[position], len(self.columns)):
                raise KeyError(f"galaxy {self.ids[position]!r} has the shape {stars.shape}")
            found = stars[start:stop]
        return found if names == self.columns else found[:, places]

    def segments(self) -> np.ndarray:
        """Rows (galaxy position, start, stop) that cut the stars along the file's chunks."""
        size = self.chunk_stars
        cuts = [(k, s) for k, n in enumerate(self.n_stars) for s in range(0, n, size)]
        position, start = np.array(cuts, dtype=np.int64).reshape(-1, 2).T
        return np.stack([position, start, np.minimum(start + size, self.n_stars[position])], 1)

    def condition_table(self, conditions: Sequence[str] | None = None) -> np.ndarray:
        """Conditions of all galaxies, float64, shape (galaxies, conditions); None takes all.

        Raises:
            ValueError: If a condition is missing.
        """
        names = self.condition_names if conditions is None else conditions
        return self.table[:, positions(names, self.condition_names, str(self.path))]

    def subset(self, ids: Iterable[str | int]) -> Catalogue:
        """Return the catalogue of these galaxies, in the given order, on the same file.

        Raises:
            LookupError: If an id is unknown.
        """
        return self._part([self._position(key) for key in ids])

    def split(
        self, *, held_out: int | str | Sequence[str] = 5, seed: int = 0
    ) -> tuple[Catalogue, Catalogue]:
        """Split by galaxy, never within one, into a training part and a held-out part.

        The stars of a galaxy share its conditions: a split within galaxies would test on
        conditions that were trained on. The paper holds out 5 of 90 (arXiv:2312.06017).

        Args:
            held_out: Number of galaxies, drawn with ``seed``, or their ids, or one id.
            seed: Seed of the draw.

        Returns:
            Training part and held-out part, each in the order of this catalogue.

        Raises:
            ValueError: If either part would be empty.
            LookupError: If an id is unknown.
        """
        out = np.zeros(len(self), dtype=bool)
        if np.ndim(held_out) or isinstance(held_out, str):
            out[[self._position(key) for key in np.atleast_1d(held_out).tolist()]] = True
        else:
            rng = np.random.default_rng(as_whole(seed, "seed"))
            out[rng.permutation(len(self))[: as_whole(held_out, "held_out")]] = True
        if out.all() or not out.any():
            raise ValueError(f"held_out is {out.sum()} of {len(self)}: leave some on either side")
        return self._part(np.flatnonzero(~out)), self._part(np.flatnonzero(out))

    def stack(
        self, *, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read all stars into memory, each with the conditions of its galaxy.

        Returns:
            Stars, float32, shape (n, columns), and conditions, float64, shape (n, conditions).

        Raises:
            ValueError: If a column or condition is missing.
        """
        table = self.condition_table(conditions)
        stars = [self.read_stars(place, 0, n, columns) for place, n in enumerate(self.n_stars)]
        return np.concatenate(stars), np.repeat(table, self.n_stars, axis=0)

    def moments(
        self,
        columns: Sequence[str] | None = None,
        *,
        transform: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns over all stars, and the largest deviation.

        Every star counts once, so that large galaxies weigh more, as in the paper. The stars
        are read chunk by chunk and the moments merged pairwise (Chan, Golub & LeVeque 1983),
        which loses no digits where the mean is large against the spread. All is in float64.

        Args:
            columns: Columns to read; None takes all.
            transform: Applied to the stars first, (n, columns) to an array of the same shape.

        Returns:
            Mean, standard deviation (division by n) and the largest distance of a star from the
            mean, each of shape (columns,).

        Raises:
            ValueError: If a column is missing or there are no galaxies.
        """
        if not len(self):
            raise ValueError(f"this part of {self.path} has no galaxies, expected at least one")
        count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
        for segment in self.segments().tolist():
            stars = transform(self.read_stars(*segment, columns).astype(np.float64))
            n, centre = len(stars), stars.mean(axis=0)
            shift = centre - mean
            within = ((stars - centre) ** 2).sum(axis=0)
            squares = squares + (within + shift**2 * (count * n / (count + n)))
            mean = mean + shift * (n / (count + n))
            count += n
            low, high = np.minimum(low, stars.min(0)), np.maximum(high, stars.max(0))
        return mean, np.sqrt(squares / count), np.maximum(mean - low, high - mean)

    def batches(
        self,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] | None = None,
        **options: Any,
    ) -> StarStream:
        """Shuffled batches of stars for training, read in a stream.

        Args:
            batch_size: Stars in a batch, over all processes.
            columns: Star columns; None takes all.
            conditions: Conditions; None takes all, an empty tuple none.
            **options: As in `StarStream`: ``seed``, ``stars_per_galaxy``, ``rank``, ``world``.

        Raises:
            ValueError: If a name is missing, or a number is out of range.
        """
        names = self.condition_names if conditions is None else tuple(conditions)
        found, units = self.condition_table(names), with_units(names, self.units)
        table = as_array(found, "the conditions", dtype=np.float32, columns=units)
        columns = self.columns if columns is None else tuple(columns)
        return StarStream(self, table, columns, batch_size, **options)

    def fingerprint(self) -> str:
        """SHA-256 of the content: ids, names, conditions, stars and masses, as hexadecimals.

        It does not depend on how the file was compressed, nor on provenance.

        Raises:
            ValueError: If the file is damaged.
        """
        digest = hashlib.sha256(json.dumps([self.columns, self.condition_names]).encode())
        for galaxy in self:
            digest.update(json.dumps([galaxy.id, galaxy.conditions, len(galaxy)]).encode())
            digest.update(galaxy.stars.astype("<f4").tobytes())
            if galaxy.masses is not None:
                digest.update(np.asarray(galaxy.masses, dtype="<f8").tobytes())
        return digest.hexdigest()
