"""Galaxies for the tests of the catalogue."""

from __future__ import annotations

import numpy as np

from galflow_lite.galaxies import Galaxy, conditions


def some_galaxies(number: int = 7, stars: int = 40, seed: int = 0) -> list[Galaxy]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(number):
        n = stars + 10 * i
        table = rng.normal(size=(n, 10)).astype(np.float32)
        masses = rng.uniform(1e4, 1e6, n).astype(np.float32) if i % 2 else 1e5 / 3
        galaxy = Galaxy(table, id=f"g{i}", masses=masses, attributes={"M_dm": 1e11 + i})
        galaxy.conditions = conditions(galaxy)
        found.append(galaxy)
    return found
