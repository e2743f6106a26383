"""Shuffled batches of stars from a catalogue that may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_whole

# What a random stream is for. Streams must differ in more than zeros at the end of their key,
# which numpy's SeedSequence does not tell apart.
_ORDER, _WINDOW, _SHARE, _ROWS = 1, 2, 3, 4


class StarStream:
    """Callable ``batches(step) -> (stars, conditions)`` with random access in ``step``.

    Every epoch shows every star once, except for the last ``n mod batch_size`` ones of its
    order, in batches that mix galaxies in proportion to their star numbers, as the paper does
    (arXiv:2312.06017). What a step returns depends on the settings alone and not on the steps
    before it, so that training can be resumed anywhere.

    How: an epoch takes the chunks of the file in an order drawn from (seed, epoch) and joins
    them to windows of at most ``window`` stars. A window is read, shuffled with (seed, epoch,
    window) and cut in batches; a batch across a border takes from both sides. At most two
    windows are in memory. Where all stars fit into one window they are read only once, and
    each epoch is a permutation of all of them.

    Args:
        read: Reads stars: ``read(galaxy, start, stop)``, shape (stop - start, width).
        segments: Rows (galaxy, start, stop): how the file is cut, shape (segments, 3).
        table: Conditions of each galaxy, float32, shape (galaxies, conditions).
        width: Number of columns.
        batch_size: Stars in a batch, over all processes.
        seed: Seed of the order.
        window: Most stars in a window; 2,000,000 stars in 10 columns take 88 MB. The larger it
            is, the closer to a perfect shuffle.
        stars_per_galaxy: At most so many stars of each galaxy, a random subset that is the same
            in all epochs. **This changes the target density**: galaxies above the cap count
            equally, instead of in proportion to their star numbers.
        rank: Number of this process, which gets the rows rank::world of every batch.
        world: Number of processes. Each reads the whole window.

    Attributes:
        n_stars: Stars in an epoch.
        steps_per_epoch: Batches in an epoch, also ``len(batches)``.
        windows_read: Windows read from the file so far.

    Raises:
        ValueError: If the batch is larger than the catalogue or the window, the window smaller
            than a chunk of the file, or the processes cannot share a batch.
    """

    def __init__(
        self,
        read: Callable[[int, int, int], np.ndarray],
        segments: np.ndarray,
        table: np.ndarray,
        width: int,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = 2_000_000,
        stars_per_galaxy: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._read, self._segments, self._table, self._width = read, segments, table, width
        self.batch_size = as_whole(batch_size, "batch_size", least=1)
        self.seed, self.window = as_whole(seed, "seed"), as_whole(window, "window", least=1)
        self.rank, self.world = rank, world
        lengths = segments[:, 2] - segments[:, 1]
        self._counts = lengths
        if stars_per_galaxy is not None:
            self._counts = self._draw(as_whole(stars_per_galaxy, "stars_per_galaxy", least=1))
        self.n_stars = int(self._counts.sum())
        largest, chunk = min(self.n_stars, self.window), lengths.max(initial=0)
        if self.batch_size > largest or chunk > self.window or self.batch_size % world:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected a multiple of {world} up to {largest}, "
                f"and window is {self.window}, expected at least {chunk}: change them"
            )
        self.steps_per_epoch = self.n_stars // self.batch_size
        self.windows_read = 0
        self._plan: tuple | None = None
        self._loaded: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            step: Number of the batch, from 0, counted over all epochs.

        Returns:
            Stars, float32, shape (batch_size / world, columns), and the conditions of their
            galaxies, float32, shape (batch_size / world, conditions), in physical units.
        """
        epoch, batch = divmod(as_whole(step, "step"), self.steps_per_epoch)
        places = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        places = places[self.rank :: self.world]
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, *self._epoch_plan(epoch)
        _, windows, ends, order = self._plan
        places = places if order is None else order[places]
        owner = np.searchsorted(ends, places, side="right")
        stars = np.empty((len(places), self._width), dtype=np.float32)
        galaxies = np.empty(len(places), dtype=np.int32)
        for number in np.unique(owner).tolist():
            here = owner == number
            rows = places[here] - (ends[number - 1] if number else 0)
            # Where all stars are in memory, all epochs take from the same window.
            window = self._load(epoch if order is None else 0, number, windows[number])
            stars[here], galaxies[here] = window[0][rows], window[1][rows]
        return torch.from_numpy(stars), torch.from_numpy(self._table[galaxies])

    def _random(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *key])

    def _epoch_plan(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
        """Segments of each window of an epoch, where each window ends, and the order of stars.

        The order is None where it is that of the windows.
        """
        rng = self._random(_ORDER, epoch)
        if self.n_stars <= self.window:
            everything, end = np.arange(len(self._segments)), np.array([self.n_stars])
            return [everything], end, rng.permutation(self.n_stars)
        order = rng.permutation(len(self._segments))
        windows, begin, filled = [], 0, 0
        for position, count in enumerate(self._counts[order]):
            if filled + count > self.window:
                windows.append(order[begin:position])
                begin, filled = position, 0
            filled += count
        windows.append(order[begin:])
        return windows, np.cumsum([self._counts[window].sum() for window in windows]), None

    def _load(self, epoch: int, number: int, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, its rows shuffled, unless it is one of the last two read."""
        key = (epoch, number)
        if key in self._loaded:
            return self._loaded[key]
        while len(self._loaded) > 1:
            self._loaded.pop(next(iter(self._loaded)))
        total = int(self._counts[segments].sum())
        stars = np.empty((total, self._width), dtype=np.float32)
        galaxies = np.empty(total, dtype=np.int32)
        # The rows are put in their shuffled places as they come: no second copy.
        order = self._random(_WINDOW, epoch, number).permutation(total)
        begin = 0
        for segment in segments[self._counts[segments] > 0]:
            galaxy, start, stop = self._segments[segment].tolist()
            rows, count = self._read(galaxy, start, stop), int(self._counts[segment])
            if count < len(rows):
                chosen = self._random(_ROWS, galaxy, start)
                rows = rows[chosen.choice(len(rows), count, replace=False)]
            target = order[begin : begin + count]
            stars[target], galaxies[target] = rows, galaxy
            begin += count
        self._loaded[key] = stars, galaxies
        self.windows_read += 1
        return stars, galaxies

    def _draw(self, cap: int) -> np.ndarray:
        """Stars to take of each segment so that a galaxy gives a uniform subset of ``cap``."""
        owner, lengths = self._segments[:, 0], self._segments[:, 2] - self._segments[:, 1]
        counts = lengths.copy()
        for galaxy in np.flatnonzero(np.bincount(owner, weights=lengths) > cap):
            own = np.flatnonzero(owner == galaxy)
            draw = self._random(_SHARE, int(galaxy))
            counts[own] = draw.multivariate_hypergeometric(lengths[own], cap)
        return counts
