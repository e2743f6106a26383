"""A catalogue of galaxies in one HDF5 file, written as a stream and read lazily.

Layout of the file, format version 1::

    each group             attribute: checksum (CRC-32), of its name, other attributes and arrays
    /                      attributes: format, format_version, chunk_stars, significant_bits
                           (0: all) and, as JSON, columns, condition_names, units, provenance
    /galaxies/<id>         one group a galaxy; its conditions are attributes
    /galaxies/<id>/stars   float32, (n, columns), one chunk a column and 8192 stars, with shuffle
                           and gzip, whose checksum notices damage
    /galaxies/<id>/masses  float32 [Msun], (n,), or one float64 that all stars share; may be absent
    /index                 ids, n_stars, conditions (galaxies, conditions), attributes (JSON):
                           what is known of each galaxy without reading a star

A file is never changed in place, so that any number of processes may read it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..files import reading, require_own_data
from ..inputs import as_array, as_whole
from .catalogue_writer import FORMAT, FORMAT_VERSION, read_group, write_catalogue
from .galaxy import Galaxy, positions

# What a random stream is for. Streams must differ in more than zeros at the end of their key,
# which numpy's SeedSequence does not tell apart.
_EPOCH, _ORDER, _ROWS = 1, 2, 4
_EXPECTED = f"a complete catalogue of galaxies of format {FORMAT_VERSION}"


class StarStream:
    """Callable ``batches(step) -> (stars, conditions)`` with random access in ``step``.

    Every epoch shows every star once, except for the last ``n mod batch_size`` ones of its
    order, in batches that mix galaxies in proportion to their star numbers, as the paper does
    (arXiv:2312.06017): a permutation of all stars, drawn from the seed and the epoch. What a step
    returns depends on the settings alone and not on the steps before it, so that training can be
    resumed anywhere.

    The stars are read from the catalogue once, into a temporary file that is mapped to memory:
    in memory are the numbers of the stars, 20 bytes each, and as much of the file as there is room.

    Args:
        catalogue: Source of the stars.
        batch_size: Stars in a batch.
        columns: Star columns; None takes all.
        conditions: Conditions; None takes all, an empty tuple none.
        seed: Seed of the order.
        stars_per_galaxy: At most so many stars of each galaxy, a random subset that is the same
            in all epochs. **This changes the target density**: galaxies above the cap count
            equally, instead of in proportion to their star numbers.

    Attributes:
        n_stars: Stars in an epoch.
        stars: All of them, float32, shape (n_stars, columns), as they lie in the file.
        galaxies: The galaxy of each, int32, shape (n_stars,).
        table: Conditions of each galaxy, float32, shape (galaxies, conditions).

    Raises:
        ValueError: If a name is missing, or the batch is larger than the catalogue.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] | None = None,
        seed: int = 0,
        stars_per_galaxy: int | None = None,
    ) -> None:
        self.batch_size = as_whole(batch_size, "batch_size", least=1)
        self.seed = as_whole(seed, "seed")
        counts = catalogue.n_stars
        if stars_per_galaxy is not None:
            counts = np.minimum(counts, as_whole(stars_per_galaxy, "stars_per_galaxy", least=1))
        self.n_stars = int(counts.sum())
        if self.batch_size > self.n_stars:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected at most {self.n_stars}, the number of "
                "stars: change it"
            )
        names = catalogue.condition_names if conditions is None else tuple(conditions)
        table = catalogue.condition_table(names)
        self.table = as_array(table, "the conditions", dtype=np.float32, columns=names)
        self.galaxies = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        with tempfile.TemporaryFile() as file:
            for galaxy, count in enumerate(counts):
                rows = catalogue.read_stars(galaxy, columns)
                if count < len(rows):
                    chosen = self._random(_ROWS, galaxy, 0)
                    rows = rows[chosen.choice(len(rows), count, replace=False)]
                file.write(rows.tobytes())
            file.flush()
            shape = self.n_stars, rows.shape[1]
            self.stars = np.memmap(file, np.float32, "r", shape=shape)
        self._order = np.argsort(self._random(_ORDER, 0, 0).permutation(self.n_stars))
        self._epoch: tuple[int, np.ndarray] = -1, self._order

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n_stars // self.batch_size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            step: Number of the batch, from 0, counted over all epochs.

        Returns:
            Stars, float32, shape (batch_size, columns), and the conditions of their
            galaxies, float32, shape (batch_size, conditions), in physical units.
        """
        rows = self.rows(step)
        stars, conditions = np.asarray(self.stars[rows]), self.table[self.galaxies[rows]]
        return torch.from_numpy(stars), torch.from_numpy(conditions)

    def rows(self, step: int) -> np.ndarray:
        """Where the stars of a batch stand in `stars`, int64, shape (batch_size,)."""
        epoch, batch = divmod(as_whole(step, "step"), len(self))
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._random(_EPOCH, epoch).permutation(self.n_stars)
        places = self._epoch[1][batch * self.batch_size : (batch + 1) * self.batch_size]
        return self._order[places]

    def _random(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *key])


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
        provenance: What the writer noted: recipe, seed, source.
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
    provenance: Mapping[str, Any]
    ids: tuple[str, ...]
    n_stars: np.ndarray
    table: np.ndarray
    attributes: tuple[Mapping[str, Any], ...]

    write = staticmethod(write_catalogue)

    @classmethod
    def open(cls, path: Path | str) -> Catalogue:
        """Read what a file says of its galaxies; the working folder may change after.

        Raises:
            OSError: If there is no such file, or it may not be read.
            ValueError: If the file is not HDF5, is cut short or damaged, is no catalogue, has
                a newer format version, or leads to other files.
        """
        path = Path(path).absolute()
        with reading(path, _EXPECTED), h5py.File(path, "r") as file:
            require_own_data(file)
            (about, _, _), (_, index, _) = read_group(file), read_group(file["index"])
            if about["format"] != FORMAT or about["format_version"] > FORMAT_VERSION:
                raise ValueError(f"its format is {about['format']} {about['format_version']}")
            names = [tuple(json.loads(about[name])) for name in ("columns", "condition_names")]
            ids, texts = map(bytes.decode, index["ids"]), map(json.loads, index["attributes"])
            found, provenance = dict(zip(ids, texts, strict=True)), json.loads(about["provenance"])
            counts = as_array(index["n_stars"], "n_stars", (len(found),), dtype=np.int64)
            shape = len(found), len(names[1])
            table = as_array(index["conditions"], "the conditions", shape, columns=names[1])
        return cls(path, *names, provenance, tuple(found), counts, table, tuple(found.values()))

    def _part(self, rows: Sequence[int]) -> Catalogue:
        """The catalogue of the galaxies at these positions, on the same file."""
        rows = np.asarray(rows, dtype=np.int64)
        ids, attributes = (tuple(part[row] for row in rows) for part in (self.ids, self.attributes))
        arrays = {"n_stars": self.n_stars[rows], "table": self.table[rows]}
        return replace(self, ids=ids, attributes=attributes, **arrays)

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
        stars, masses = self._read(position)
        named = dict(zip(self.condition_names, self.table[position].tolist(), strict=True))
        about = dict(id=self.ids[position], attributes=dict(self.attributes[position]))
        return Galaxy(stars, named, columns=self.columns, masses=masses, **about)

    def _position(self, key: int | str) -> int:
        known = self.ids if isinstance(key, str) else range(-len(self), len(self))
        if key not in known:
            error = LookupError if isinstance(key, str) else IndexError
            raise error(f"{self.path} has no galaxy {key!r} among its {len(self)}: see .ids")
        return self.ids.index(key) if isinstance(key, str) else int(key) % len(self)

    def read_stars(self, position: int, columns: Sequence[str] | None = None) -> np.ndarray:
        """Read the stars of the galaxy at a position, float32, shape (n, columns)."""
        names = self.columns if columns is None else tuple(columns)
        places = positions(names, self.columns, str(self.path))
        found = self._read(position)[0]
        return found if names == self.columns else found[:, places]

    def _read(self, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Stars and masses of the galaxy at a position."""
        id, shape = self.ids[position], (int(self.n_stars[position]), len(self.columns))
        name = f"the table of galaxy {id!r}"
        with reading(self.path, _EXPECTED), h5py.File(self.path, "r") as file:
            _, arrays, _ = read_group(file["galaxies"][id])
            options = dict(dtype=np.float32, columns=self.columns)
            stars, masses = as_array(arrays["stars"], name, shape, **options), arrays.get("masses")
            as_array(0.0 if masses is None else masses, f"the mass [Msun] in {name}")
        return stars, masses

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

    def moments(
        self, columns: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and standard deviation of the columns over all stars, and their farthest values.

        Every star counts once, so that large galaxies weigh more, as in the paper. The stars are
        read galaxy by galaxy and the moments merged pairwise (Chan, Golub & LeVeque 1983), which
        loses no digits where the mean is large against the spread. All is in float64.

        Args:
            columns: Columns to read; None takes all.

        Returns:
            Mean, standard deviation (division by n) and the value that lies farthest from the mean,
            each of shape (columns,).

        Raises:
            ValueError: If a column is missing or there are no galaxies.
        """
        if not len(self):
            raise ValueError(f"this part of {self.path} has no galaxies, expected at least one")
        count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
        for position in range(len(self)):
            stars = self.read_stars(position, columns).astype(np.float64)
            n, centre = len(stars), stars.mean(axis=0)
            shift = centre - mean
            within = ((stars - centre) ** 2).sum(axis=0)
            squares = squares + (within + shift**2 * (count * n / (count + n)))
            mean = mean + shift * (n / (count + n))
            count += n
            low, high = np.minimum(low, stars.min(0)), np.maximum(high, stars.max(0))
        farthest = np.where(mean - low > high - mean, low, high)
        return mean, np.sqrt(squares / count), farthest

    def batches(self, batch_size: int, **options: Any) -> StarStream:
        """Shuffled batches of stars for training, read in a stream: arguments as `StarStream`."""
        return StarStream(self, batch_size, **options)
