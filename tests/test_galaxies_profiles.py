"""Profiles against plain loops and known galaxies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from galflow_lite.galaxies import Galaxy, profile_distance, radial_profile

QUANTITIES = ("rotation", "sigma_R", "sigma_phi", "sigma_z", "age", "feh")


def disc(n: int = 4000, seed: int = 0) -> Galaxy:
    """An exponential disc that turns faster, and is hotter and older, towards its centre."""
    rng = np.random.default_rng(seed)
    radius, phi = rng.gamma(2.0, 2.0, n), rng.uniform(0, 2 * np.pi, n)
    v_r, v_phi = rng.normal(0, 30 + 200 / (1 + radius)), rng.normal(200 - 10 * radius, 20)
    stars = {
        "x": radius * np.cos(phi),
        "y": radius * np.sin(phi),
        "z": rng.normal(0, 0.3, n),
        "vx": v_r * np.cos(phi) - v_phi * np.sin(phi),
        "vy": v_r * np.sin(phi) + v_phi * np.cos(phi),
        "vz": rng.normal(0, 80 * np.exp(-radius / 5)),
        "Z": rng.uniform(0, 0.03, n),
        "feh": -0.05 * radius + rng.normal(0, 0.1, n),
        "ofe": rng.normal(0, 0.1, n),
        "age": 12 * np.exp(-radius / 8) + rng.normal(0, 0.3, n),
    }
    return Galaxy(stars, masses=2e5)


def by_loop(galaxy: Galaxy, quantity: str, low: float, high: float) -> float:
    """Value of one ring, star by star."""
    values = []
    for star in galaxy.stars:
        row = dict(zip(galaxy.columns, star.tolist(), strict=True))
        r = math.hypot(row["x"], row["y"])
        if low <= r < high:
            row["v_R"] = (row["vx"] * row["x"] + row["vy"] * row["y"]) / r
            row["v_phi"] = (row["vy"] * row["x"] - row["vx"] * row["y"]) / r
            values.append(row)
    name = {"rotation": "v_phi", "sigma_R": "v_R", "sigma_phi": "v_phi", "sigma_z": "vz"}
    taken = [row[name.get(quantity, quantity)] for row in values]
    mean = sum(taken) / len(taken)
    spread = math.sqrt(sum((v - mean) ** 2 for v in taken) / len(taken))
    return spread if quantity.startswith("sigma") else mean


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_profile_equals_a_loop_over_the_stars(quantity):
    galaxy, edges = disc(600), [0.0, 2.0, 3.5, 7.0]
    found = radial_profile(galaxy, quantity, edges)
    for ring, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        expected = by_loop(galaxy, quantity, low, high)
        assert found.value[ring] == pytest.approx(expected, rel=1e-9)
    inside = np.hypot(galaxy["x"], galaxy["y"])
    assert found.radius[0] == pytest.approx(np.median(inside[inside < 2]))


def test_rings_with_few_stars_are_nan():
    profile = radial_profile(disc(500), "age", [0, 3, 500, 1000])
    assert np.isfinite(profile.value[:2]).all()
    assert np.isnan(profile.value[2])


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_distance_to_itself_to_another_draw_and_to_shuffled_stars(quantity):
    galaxy = disc()
    assert profile_distance(galaxy, galaxy, quantity) == 0
    assert 0 < profile_distance(galaxy, disc(seed=1), quantity) < 0.3
    stars = galaxy.stars.copy()
    stars[:, 3:] = np.random.default_rng(0).permutation(stars[:, 3:])
    assert profile_distance(galaxy, replace(galaxy, stars=stars), quantity) > 0.5


def test_distance_leaves_out_rings_that_one_side_lacks():
    galaxy = disc()
    inner = galaxy.take(np.hypot(galaxy["x"], galaxy["y"]) < 4)
    assert profile_distance(galaxy, inner, "feh") < 0.1
    galaxy["age"][:] = 5.0  # a flat profile has no spread to measure by
    assert math.isnan(profile_distance(galaxy, disc(seed=1), "age"))
