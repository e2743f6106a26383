"""Shuffled batches of stars from a catalogue that may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .catalogue import Catalogue

__all__ = ["CatalogueBatches"]

# What a random stream is for. Streams must differ in more than zeros at the end of their key,
# which numpy's SeedSequence does not tell apart.
_ORDER, _WINDOW, _SHARE, _ROWS = 1, 2, 3, 4


class CatalogueBatches:
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
        catalogue: Source of stars.
        batch_size: Stars in a batch, over all processes.
        columns: Star columns; None takes all.
        conditions: Conditions; None takes all, an empty tuple none.
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
        ValueError: If a name is missing, the batch is larger than the catalogue or the window,
            rank and world do not fit, or a number is out of range.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] | None = None,
        seed: int = 0,
        window: int = 2_000_000,
        stars_per_galaxy: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._catalogue = catalogue
        self.columns = catalogue.check_columns(columns)
        self.condition_names = catalogue.check_conditions(conditions)
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self.rank, self.world = rank, world
        if seed < 0:
            raise ValueError(f"found seed={seed}, expected 0 or more.")
        if stars_per_galaxy is not None and stars_per_galaxy < 1:
            raise ValueError(
                f"found stars_per_galaxy={stars_per_galaxy}, expected at least 1, or None for "
                "all stars."
            )
        self._segments = catalogue.segments()
        lengths = self._segments[:, 2] - self._segments[:, 1]
        self._counts = lengths if stars_per_galaxy is None else self._draw(stars_per_galaxy)
        self.n_stars = int(self._counts.sum())
        if not 0 < batch_size <= min(self.n_stars, window):
            raise ValueError(
                f"found batch_size={batch_size} for {self.n_stars} stars and a window of "
                f"{window}, expected 1 to {min(self.n_stars, window)}: choose a smaller batch "
                "or a larger window."
            )
        if not 0 <= rank < world or batch_size % world:
            raise ValueError(
                f"found rank={rank}, world={world}, batch_size={batch_size}, expected 0 <= rank "
                "< world and a batch that the processes can share evenly."
            )
        if lengths.max() > window:
            raise ValueError(
                f"found window={window}, expected at least {lengths.max()}, the stars in one "
                "chunk of the file: choose a larger window."
            )
        self.steps_per_epoch = self.n_stars // batch_size
        self.windows_read = 0
        self._table = catalogue.condition_table(self.condition_names).astype(np.float32)
        self._plan: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._loaded: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._permutation: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            step: Number of the batch, counted over all epochs.

        Returns:
            Stars, float32, shape (batch_size / world, columns), and the conditions of their
            galaxies, float32, shape (batch_size / world, conditions), in physical units.

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"found step={step}, expected 0 or more.")
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        places = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        places = places[self.rank :: self.world]
        stars, galaxies = self._gather(epoch, places)
        return torch.from_numpy(stars), torch.from_numpy(self._table[galaxies])

    def _random(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *key])

    def _gather(self, epoch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stars and galaxy positions at these places of the epoch's order."""
        if self.n_stars <= self.window:
            stars, galaxies = self._load(0, 0, np.arange(len(self._segments)))
            if self._permutation is None or self._permutation[0] != epoch:
                order = self._random(_ORDER, epoch).permutation(self.n_stars)
                self._permutation = (epoch, order)
            rows = self._permutation[1][places]
            return stars[rows], galaxies[rows]
        windows, ends = self._epoch_plan(epoch)
        owner = np.searchsorted(ends, places, side="right")
        stars = np.empty((len(places), len(self.columns)), dtype=np.float32)
        galaxies = np.empty(len(places), dtype=np.int32)
        for number in np.unique(owner):
            here = owner == number
            first = ends[number - 1] if number else 0
            window_stars, window_galaxies = self._load(epoch, int(number), windows[number])
            stars[here] = window_stars[places[here] - first]
            galaxies[here] = window_galaxies[places[here] - first]
        return stars, galaxies

    def _epoch_plan(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Segments of each window of an epoch, and the place where each window ends."""
        if self._plan is None or self._plan[0] != epoch:
            order = self._random(_ORDER, epoch).permutation(len(self._segments))
            windows: list[np.ndarray] = []
            begin, filled = 0, 0
            for position, count in enumerate(self._counts[order]):
                if filled + count > self.window:
                    windows.append(order[begin:position])
                    begin, filled = position, 0
                filled += count
            windows.append(order[begin:])
            ends = np.cumsum([self._counts[window].sum() for window in windows])
            self._plan = (epoch, windows, ends)
        return self._plan[1], self._plan[2]

    def _load(self, epoch: int, number: int, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, its rows shuffled, unless it is one of the last two read."""
        key = (epoch, number)
        if key in self._loaded:
            return self._loaded[key]
        while len(self._loaded) > 1:
            self._loaded.pop(next(iter(self._loaded)))
        total = int(self._counts[segments].sum())
        stars = np.empty((total, len(self.columns)), dtype=np.float32)
        galaxies = np.empty(total, dtype=np.int32)
        # The rows are put in their shuffled places as they come: no second copy.
        order = self._random(_WINDOW, epoch, number).permutation(total)
        begin = 0
        for segment in segments:
            position, start, stop = (int(value) for value in self._segments[segment])
            count = int(self._counts[segment])
            if not count:
                continue
            rows = self._catalogue.read_stars(position, start, stop, self.columns)
            if count < len(rows):
                chosen = self._random(_ROWS, position, start)
                rows = rows[chosen.choice(len(rows), count, replace=False)]
            target = order[begin : begin + count]
            stars[target] = rows
            galaxies[target] = position
            begin += count
        self._loaded[key] = (stars, galaxies)
        self.windows_read += 1
        return stars, galaxies

    def _draw(self, cap: int) -> np.ndarray:
        """Stars to take of each segment so that a galaxy gives a uniform subset of ``cap``."""
        lengths = self._segments[:, 2] - self._segments[:, 1]
        counts = lengths.copy()
        for position in np.flatnonzero(self._catalogue.n_stars > cap):
            own = np.flatnonzero(self._segments[:, 0] == position)
            draw = self._random(_SHARE, int(position))
            counts[own] = draw.multivariate_hypergeometric(lengths[own], cap)
        return counts
