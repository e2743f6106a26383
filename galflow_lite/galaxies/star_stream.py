"""Shuffled batches of stars from a catalogue that may be larger than memory."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_whole

# What a random stream is for. Streams must differ in more than zeros at the end of their key,
# which numpy's SeedSequence does not tell apart.
_EPOCH, _ORDER, _SHARE, _ROWS = 1, 2, 3, 4


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
        table: Conditions of each galaxy, float32, shape (galaxies, conditions).
        columns: Columns of the stars.
        batch_size: Stars in a batch, over all processes.
        seed: Seed of the order.
        stars_per_galaxy: At most so many stars of each galaxy, a random subset that is the same
            in all epochs. **This changes the target density**: galaxies above the cap count
            equally, instead of in proportion to their star numbers.
        rank: Number of this process, which gets the rows rank::world of every batch.
        world: Number of processes.

    Attributes:
        n_stars: Stars in an epoch.

    Raises:
        ValueError: If the batch is larger than the catalogue, or the processes cannot share it.
    """

    def __init__(
        self,
        catalogue: Any,
        table: np.ndarray,
        columns: tuple[str, ...],
        batch_size: int,
        *,
        seed: int = 0,
        stars_per_galaxy: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size = as_whole(batch_size, "batch_size", least=1)
        self.seed, self.rank, self.world = as_whole(seed, "seed"), rank, world
        segments = catalogue.segments()
        counts = lengths = segments[:, 2] - segments[:, 1]
        if stars_per_galaxy is not None:
            cap = as_whole(stars_per_galaxy, "stars_per_galaxy", least=1)
            counts = self._shares(segments[:, 0], lengths, cap)
        self.n_stars = int(counts.sum())
        if self.batch_size > self.n_stars or self.batch_size % world:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected a multiple of {world} up to "
                f"{self.n_stars}, the number of stars: change it"
            )
        self._table, self._galaxies = table, np.repeat(segments[:, 0].astype(np.int32), counts)
        with tempfile.TemporaryFile() as file:
            for (galaxy, start, stop), count in zip(segments.tolist(), counts, strict=True):
                rows = catalogue.read_stars(galaxy, start, stop, columns)
                if count < len(rows):
                    chosen = self._random(_ROWS, galaxy, start)
                    rows = rows[chosen.choice(len(rows), count, replace=False)]
                file.write(rows.tobytes())
            file.flush()
            self._stars = np.memmap(file, np.float32, "r", shape=(self.n_stars, len(columns)))
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
            Stars, float32, shape (batch_size / world, columns), and the conditions of their
            galaxies, float32, shape (batch_size / world, conditions), in physical units.
        """
        epoch, batch = divmod(as_whole(step, "step"), len(self))
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._random(_EPOCH, epoch).permutation(self.n_stars)
        places = self._epoch[1][batch * self.batch_size : (batch + 1) * self.batch_size]
        rows = self._order[places[self.rank :: self.world]]
        stars, conditions = np.asarray(self._stars[rows]), self._table[self._galaxies[rows]]
        return torch.from_numpy(stars), torch.from_numpy(conditions)

    def _random(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *key])

    def _shares(self, owner: np.ndarray, lengths: np.ndarray, cap: int) -> np.ndarray:
        """Stars to take of each segment so that a galaxy gives a uniform subset of ``cap``."""
        counts = lengths.copy()
        for galaxy in np.flatnonzero(np.bincount(owner, weights=lengths) > cap):
            own = np.flatnonzero(owner == galaxy)
            draw = self._random(_SHARE, int(galaxy))
            counts[own] = draw.multivariate_hypergeometric(lengths[own], cap)
        return counts
