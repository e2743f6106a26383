"""Densities in the plane on a Cartesian grid: their integral, and samples against them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# A test at this level fails for one seed in ten thousand when all is well.
LEVEL = 1e-4


class Grid:
    """Density at the middle of equal squares, with the mass of each square.

    Args:
        log_prob: Points of shape (n, 2), float64, to log-densities.
        low, high: Corners of the box.
        n: Squares along each side.
    """

    def __init__(
        self, log_prob: Callable[[Tensor], Tensor], low: float, high: float, n: int = 600
    ) -> None:
        self.low, self.n, self.step = low, n, (high - low) / n
        axis = low + self.step * (torch.arange(n, dtype=torch.float64) + 0.5)
        self.points = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            parts = [log_prob(part) for part in self.points.split(100_000)]
        self.mass = torch.cat(parts).double().exp() * self.step**2

    @property
    def total(self) -> float:
        return float(self.mass.sum())

    def p_value(self, samples: Tensor, *, cells: int = 30) -> float:
        """Chi-square of the counts in blocks of squares, those with few points put together."""
        n = len(samples)
        width = self.n // cells
        index = ((samples.double() - self.low) / (self.step * width)).floor().long().numpy()
        inside = ((index >= 0) & (index < cells)).all(axis=1)
        counts = np.zeros((cells, cells))
        np.add.at(counts, tuple(index[inside].T), 1)
        blocks = self.mass.numpy().reshape(cells, width, cells, width).sum((1, 3))
        expected = n * blocks.ravel() / blocks.sum()
        counts = counts.ravel()
        many = expected >= 20
        found = np.append(counts[many], counts[~many].sum() + (~inside).sum())
        wanted = np.append(expected[many], expected[~many].sum())
        # The rest is few points or none: it belongs to the last block then.
        if wanted[-1] < 20:
            found, wanted = (np.append(v[:-2], v[-2] + v[-1]) for v in (found, wanted))
        return float(stats.chi2.sf(((found - wanted) ** 2 / wanted).sum(), len(found) - 1))
