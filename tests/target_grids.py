"""The targets under test and their densities on Cartesian grids, which the package does not use."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from galflow_lite.targets import CircleOfGaussians, TwoMoons, TwoRings

# Each with its smallest width, the scale of the Cartesian grids.
TARGETS = {
    "moons": (TwoMoons(), 0.2),
    **{f"circle {n}": (CircleOfGaussians(n), 2 / 3 * math.sin(math.pi / n)) for n in (2, 3, 8, 25)},
    **{f"rings {n}": (TwoRings(n), 1 / (4 * n)) for n in (1, 2, 3, 6)},
}
every_target = pytest.mark.parametrize("name", TARGETS)


@cache
def grid(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Cartesian points, density there normalised by its own sum, and that sum.

    Equal steps of an eighth of the smallest width converge geometrically for these densities.
    """
    target, width = TARGETS[name]
    edge = 2 + 11 * width
    axis = np.arange(-edge, edge, width / 8)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    parts = np.array_split(points, len(points) // 20_000 + 1)
    density = np.exp(np.concatenate([naive(name, part) for part in parts]))
    z = density.sum() * (width / 8) ** 2
    return points, density / density.sum(), z


def naive(name: str, x: np.ndarray) -> np.ndarray:
    """log f as the paper writes it, with no care for far points."""
    kind, *number = name.split()
    r = np.hypot(*x.T)
    if kind == "moons":
        right, left = (np.exp(-0.5 * ((x[:, 0] - side) / 0.3) ** 2) for side in (2, -2))
        return -0.5 * ((r - 2) / 0.2) ** 2 + np.log(right + left)
    n = int(number[0])
    total = 0
    for i in range(n):
        if kind == "circle":
            angle, s = 2 * np.pi * i / n, 2 / 3 * np.sin(np.pi / n)
            gaussian = stats.multivariate_normal(2 * np.array([np.sin(angle), np.cos(angle)]), s**2)
            total = total + gaussian.pdf(x) / n
        else:
            total = total + np.exp(-((r - 2 * (i + 1) / n) ** 2) * 8 * n**2)
    return np.log(np.maximum(total, 1e-300))
