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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .batches import CatalogueBatches
from .reading import CatalogueError, Index, Reader
from .table import Galaxy
from .writing import write_catalogue

__all__ = ["Catalogue", "CatalogueError"]


class Catalogue:
    """Galaxies in an HDF5 file, or some of them; stars are read only when asked for.

    Make one with `Catalogue.open`. It is a sequence of `Galaxy`: ``catalogue[3]``,
    ``catalogue["g1.05e11"]``, ``len(catalogue)``, iteration; a slice is a catalogue again, on
    the same file. It can be sent to another process, which then opens the file itself.

    Attributes:
        path: The file.
        columns: Names of the star columns.
        condition_names: Names of the conditions.
        units: Unit of every column and condition, and of ``mass``; "" where unknown.
        ids: Names of the galaxies, in the order of the file.
        n_stars: Stars of each galaxy, int64, shape (galaxies,).
        conditions: Name to float64 array, shape (galaxies,).
        provenance: What the writer noted: recipe, seed, source.

    Example:
        >>> with Catalogue.open("galaxies.h5") as catalogue:  # doctest: +SKIP
        ...     train, held_out = catalogue.split(held_out=5, seed=0)
        ...     stars, conditions = train.batches(1024)(0)
    """

    def __init__(self, reader: Reader, index: Index, rows: np.ndarray) -> None:
        self._reader, self._index, self._rows = reader, index, rows
        self.path = reader.path
        self.columns: tuple[str, ...] = index.columns
        self.condition_names: tuple[str, ...] = index.condition_names
        self.units: dict[str, str] = dict(index.units)
        self.provenance: dict[str, Any] = dict(index.provenance)
        self.ids: tuple[str, ...] = tuple(index.ids[row] for row in rows)
        self.n_stars: np.ndarray = index.n_stars[rows]
        self.conditions: dict[str, np.ndarray] = {
            name: index.conditions[rows, column]
            for column, name in enumerate(index.condition_names)
        }
        self._positions = {name: position for position, name in enumerate(self.ids)}

    write = staticmethod(write_catalogue)

    @classmethod
    def open(cls, path: Path | str) -> Catalogue:
        """Open a file for reading. No star is read yet.

        Raises:
            FileNotFoundError: If there is no such file.
            CatalogueError: If the file is not HDF5, is cut short or damaged, is no catalogue,
                or has a newer format version (a ValueError).
        """
        reader = Reader(Path(path))
        index = Index(reader)
        return cls(reader, index, np.arange(len(index.ids)))

    def close(self) -> None:
        """Close the file, for all catalogues that were split off this one too."""
        self._reader.close()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Catalogue({str(self.path)!r}: {len(self)} galaxies, {self.n_stars.sum()} stars, "
            f"columns {', '.join(self.columns)})"
        )

    def __iter__(self) -> Iterator[Galaxy]:
        return (self.galaxy(position) for position in range(len(self)))

    def __getitem__(self, key: int | str | slice) -> Galaxy | Catalogue:
        if isinstance(key, slice):
            return Catalogue(self._reader, self._index, self._rows[key])
        return self.galaxy(key)

    def galaxy(self, key: int | str, *, columns: Sequence[str] | None = None) -> Galaxy:
        """Read one galaxy by position or id; with ``columns``, read only these from the file.

        Raises:
            IndexError: If the position is out of range.
            LookupError: If there is no galaxy of that id.
            ValueError: If a column is not in the catalogue.
            CatalogueError: If the file is damaged there.
        """
        columns = self.check_columns(columns)
        position = self._position(key)
        name = self.ids[position]
        masses = self._reader.masses(name)
        row = self._rows[position]
        return Galaxy(
            self.read_stars(position, 0, int(self.n_stars[position]), columns),
            conditions={c: float(values[position]) for c, values in self.conditions.items()},
            id=name,
            columns=columns,
            masses=masses,
            attributes=json.loads(self._index.attributes[row]),
        )

    def _position(self, key: int | str) -> int:
        if isinstance(key, str):
            if key not in self._positions:
                raise LookupError(
                    f"{self.path} has no galaxy {key!r}, expected one of its {len(self)} ids "
                    f"({', '.join(self.ids[:3])}, ...): see catalogue.ids."
                )
            return self._positions[key]
        if not -len(self) <= key < len(self):
            raise IndexError(
                f"galaxy number {key} was asked for, expected {-len(self)} to {len(self) - 1}: "
                f"{self.path} holds {len(self)} galaxies here."
            )
        return int(key) % len(self)

    def check_columns(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        """Return the columns (None: all) if the catalogue has them.

        Raises:
            ValueError: If it has not; all missing ones are named.
        """
        return self._check("column(s)", columns, self.columns)

    def check_conditions(self, conditions: Sequence[str] | None) -> tuple[str, ...]:
        """Return the condition names (None: all) if the catalogue has them.

        Raises:
            ValueError: If it has not; all missing ones are named.
        """
        return self._check("condition(s)", conditions, self.condition_names)

    def _check(
        self, what: str, names: Sequence[str] | None, known: tuple[str, ...]
    ) -> tuple[str, ...]:
        names = known if names is None else tuple(names)
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"{self.path} has no {what} {', '.join(missing)}, it has "
                f"{', '.join(known) or 'none'}: choose among these."
            )
        return names

    def read_stars(
        self, position: int, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> np.ndarray:
        """Read rows ``start`` to ``stop`` of a galaxy, float32, shape (stop - start, columns)."""
        columns = self.columns if columns is None else tuple(columns)
        numbers = [self.columns.index(name) for name in columns]
        return self._reader.stars(self.ids[position], start, stop, numbers, len(self.columns))

    def segments(self) -> np.ndarray:
        """Rows (galaxy position, start, stop) that cut the stars along the file's chunks."""
        size = self._index.chunk_stars
        found = [
            (position, start, min(start + size, int(n)))
            for position, n in enumerate(self.n_stars)
            for start in range(0, int(n), size)
        ]
        return np.asarray(found, dtype=np.int64).reshape(-1, 3)

    def condition_table(self, conditions: Sequence[str] | None = None) -> np.ndarray:
        """Conditions of all galaxies, float64, shape (galaxies, conditions).

        Raises:
            ValueError: If a condition is missing.
        """
        names = self.check_conditions(conditions)
        table = np.empty((len(self), len(names)))
        for column, name in enumerate(names):
            table[:, column] = self.conditions[name]
        return table

    def subset(self, ids: Iterable[str | int]) -> Catalogue:
        """Return the catalogue of these galaxies, in the given order, on the same file.

        Raises:
            LookupError: If an id is unknown.
            ValueError: If one is named twice.
        """
        positions = [self._position(key) for key in ids]
        twice = sorted({self.ids[p] for p in positions if positions.count(p) > 1})
        if twice:
            raise ValueError(
                f"the galaxies {', '.join(twice)} were named more than once, expected each "
                "once: stars that count twice would distort the density."
            )
        return Catalogue(self._reader, self._index, self._rows[positions])

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
        if isinstance(held_out, str):
            held_out = [held_out]
        drawn = isinstance(held_out, int | np.integer)
        number = int(held_out) if drawn else len(set(held_out))
        if not 0 < number < len(self):
            raise ValueError(
                f"{number} of {len(self)} galaxies were to be held out, expected 1 to "
                f"{len(self) - 1}: both parts need a galaxy."
            )
        out = np.zeros(len(self), dtype=bool)
        if drawn:
            out[np.random.default_rng(seed).permutation(len(self))[:number]] = True
        else:
            out[[self._position(key) for key in held_out]] = True
        return (
            Catalogue(self._reader, self._index, self._rows[~out]),
            Catalogue(self._reader, self._index, self._rows[out]),
        )

    def stack(
        self, *, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read all stars into memory, each with the conditions of its galaxy.

        Returns:
            Stars, float32, shape (n, columns), and conditions, float64, shape (n, conditions).

        Raises:
            ValueError: If a column or condition is missing.
        """
        columns = self.check_columns(columns)
        self.check_conditions(conditions)
        stars = np.empty((int(self.n_stars.sum()), len(columns)), dtype=np.float32)
        end = np.cumsum(self.n_stars)
        for position, n in enumerate(self.n_stars):
            stars[end[position] - n : end[position]] = self.read_stars(position, 0, n, columns)
        return stars, np.repeat(self.condition_table(conditions), self.n_stars, axis=0)

    def moments(
        self,
        columns: Sequence[str] | None = None,
        *,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns over all stars, in float64.

        Every star counts once, so that large galaxies weigh more, as in the paper. The stars
        are read chunk by chunk and the moments merged pairwise (Chan, Golub & LeVeque 1983),
        which loses no digits where the mean is large against the spread.

        Args:
            columns: Columns to read; None takes all.
            transform: Applied to the stars first, (n, columns) to an array of the same shape.

        Returns:
            Mean and standard deviation (division by n), each of shape (columns,).

        Raises:
            ValueError: If a column is missing or there are no stars.
        """
        columns = self.check_columns(columns)
        count, mean, squares = 0, np.zeros(len(columns)), np.zeros(len(columns))
        for position, start, stop in self.segments():
            stars = self.read_stars(position, start, stop, columns).astype(np.float64)
            if transform is not None:
                stars = transform(stars)
            n, centre = len(stars), stars.mean(axis=0)
            shift = centre - mean
            squares += ((stars - centre) ** 2).sum(axis=0) + shift**2 * (count * n / (count + n))
            mean += shift * (n / (count + n))
            count += n
        if not count:
            raise ValueError(f"this part of {self.path} has no galaxies, expected at least one.")
        return mean, np.sqrt(squares / count)

    def batches(self, batch_size: int, **options: Any) -> CatalogueBatches:
        """Batches of shuffled stars for training; arguments as in `CatalogueBatches`."""
        return CatalogueBatches(self, batch_size, **options)

    def fingerprint(self) -> str:
        """SHA-256 of the content: ids, names, conditions, stars and masses, as hexadecimals.

        It does not depend on how the file was compressed, nor on provenance.

        Raises:
            CatalogueError: If the file is damaged.
        """
        digest = hashlib.sha256(json.dumps([self.columns, self.condition_names]).encode())
        for galaxy in self:
            digest.update(json.dumps([galaxy.id, galaxy.conditions, len(galaxy)]).encode())
            digest.update(galaxy.stars.astype("<f4").tobytes())
            if galaxy.masses is not None:
                digest.update(np.asarray(galaxy.masses, dtype="<f8").tobytes())
        return digest.hexdigest()
