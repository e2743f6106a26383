"""The star table, the cuts of the paper and the conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galflow_lite.galaxies import COLUMNS, CONDITIONS, UNITS, Galaxy, clean, conditions


def random_galaxy(n: int = 3000, seed: int = 0, **options) -> Galaxy:
    rng = np.random.default_rng(seed)
    scale = [4, 4, 1, 100, 100, 50, 0.01, 0.3, 0.1, 3]
    shift = [0, 0, 0, 0, 0, 0, 0.02, -0.4, 0.2, 6]
    stars = rng.normal(size=(n, 10)) * scale + shift
    return Galaxy(stars, id="g1", masses=rng.uniform(1e5, 2e5, n), **options)


# --- the table --------------------------------------------------------------------------------


def test_columns_by_name_and_selection():
    galaxy = random_galaxy()
    assert set(COLUMNS) | set(CONDITIONS) <= set(UNITS)
    np.testing.assert_array_equal(galaxy["feh"], galaxy.stars[:, 7])
    part = galaxy.select(("age", "x")).take(np.array([5, 2]))
    np.testing.assert_array_equal(part.stars, galaxy.stars[[5, 2]][:, [9, 0]])
    np.testing.assert_array_equal(part.masses, galaxy.masses[[5, 2]])
    assert part.id == "g1"
    assert repr(part).startswith("Galaxy('g1': 2 stars, columns age, x")
    assert Galaxy(galaxy.stars, masses=2.0).take(slice(3)).masses == 2.0
    with pytest.raises(ValueError, match="'g1' has no mgfe, choose among x, y"):
        galaxy["mgfe"]


def test_tables_with_names_are_matched_by_name():
    galaxy = random_galaxy(50)
    by_name = {name: galaxy[name] for name in reversed(COLUMNS)} | {"extra": np.ones(50)}
    structured = np.zeros(50, [(name, ">f8") for name in by_name])
    for name, values in by_name.items():
        structured[name] = values
    for table in (by_name, structured, galaxy.stars.astype(">f8")[::-1][::-1]):
        np.testing.assert_array_equal(Galaxy(table).stars, galaxy.stars)
    with pytest.raises(ValueError, match="no column 'age'"):
        Galaxy({name: by_name[name] for name in COLUMNS[:-1]})
    with pytest.raises(ValueError, match="expected each once"):
        Galaxy(galaxy.stars[:, :2], columns=("x", "x"))


def test_identifiers_that_lose_their_differences_are_noticed():
    numbers = np.arange(2**53, 2**53 + 4)
    for table, columns in (
        (numbers[:, None], ("number",)),
        ({"x": np.ones(4), "number": numbers}, ("x", "number")),
    ):
        with pytest.warns(RuntimeWarning, match="float64 resolves to less than three digits"):
            Galaxy(table, columns=columns)


def test_masked_values_are_invalid_and_dropped_only_when_asked():
    galaxy = random_galaxy()
    stars = np.ma.masked_array(galaxy.stars.copy(), np.zeros(galaxy.stars.shape, bool))
    stars[3, 0], stars[3, 9] = np.ma.masked, np.inf
    stars[7, 9] = -np.inf
    masses = galaxy.masses.copy()
    masses[8] = np.nan
    broken = Galaxy(stars, id="g1", masses=masses)
    with pytest.raises(ValueError, match=r"'g1' has NaN.* in 2 of 3000 rows in column x.*age"):
        broken.require_finite()
    kept = broken.require_finite(drop_invalid=True)
    np.testing.assert_array_equal(kept.stars, np.delete(galaxy.stars, [3, 7, 8], axis=0))
    with pytest.raises(ValueError, match="NaN"):
        clean(broken)
    with pytest.raises(ValueError, match=r"mass \[Msun\]"):
        Galaxy(galaxy.stars, masses=float("nan")).require_finite()


# --- conditions -------------------------------------------------------------------------------


def test_conditions_are_unweighted_and_of_what_is_there():
    galaxy = random_galaxy()
    expected = {
        "M_stars": galaxy.masses.sum(),
        "tau50": np.median(galaxy["age"]),
        "tau10": np.percentile(galaxy["age"], 10),
        "Z_av": galaxy["Z"].mean(),
    }
    assert tuple(conditions(galaxy)) == CONDITIONS
    assert conditions(galaxy) == pytest.approx(expected, rel=1e-12)
    assert set(conditions(galaxy.select(("x", "age")))) == {"M_stars", "tau50", "tau10"}
    assert set(conditions(Galaxy(galaxy.stars))) == {"tau50", "tau10", "Z_av"}
    assert conditions(Galaxy(galaxy.stars, masses=1e5))["M_stars"] == pytest.approx(3e8)
    with pytest.raises(ValueError, match="has no stars"):
        conditions(galaxy.take(slice(0)))


# --- the cuts ---------------------------------------------------------------------------------


def on_a_line(radii: np.ndarray, **columns: np.ndarray) -> Galaxy:
    """Stars at these radii along x; every other column is zero unless given."""
    stars = np.zeros((len(radii), 10))
    stars[:, 0] = radii
    for name, values in columns.items():
        stars[:, COLUMNS.index(name)] = values
    return Galaxy(stars, id="line", masses=1.0)


only_radius = {"n_top_metallicity": 0, "min_stars": 1, "align_bar": False}


def test_radius_cut_at_the_percentile_when_it_lies_within_the_cap():
    radii = np.arange(1.0, 101.0) / 10  # 95th percentile: 9.505
    kept = clean(on_a_line(radii), **only_radius)
    assert kept["x"].max() == 9.5
    # One cut only: a second percentile would have gone below 9.5.
    assert len(kept) == 95


def test_second_percentile_only_when_the_cap_was_the_smaller_limit():
    radii = np.arange(1.0, 101.0)  # 95th percentile 95.05, cap 27.7: 27 stars, then 25.7
    kept = clean(on_a_line(radii), **only_radius)
    assert kept["x"].max() == 25.0
    assert len(kept) == 25


def test_richest_stars_are_found_before_the_radius_cut():
    radii = np.arange(1.0, 101.0) / 10
    metallicity = np.zeros(100)
    metallicity[[99, 98, 0, 1]] = [9, 8, 7, 6]
    kept = clean(on_a_line(radii, Z=metallicity), **{**only_radius, "n_top_metallicity": 3})
    # Of the three richest, two lie outside the radius cut anyway; the fourth stays.
    assert len(kept) == 94
    assert kept["Z"].max() == 6


def test_abundance_limits_are_inclusive_and_stars_without_metals_are_cut():
    feh = np.array([-8.0, -8.01, -np.inf, 0.0, 0.0, 0.0])
    ofe = np.array([0.0, 0.0, np.nan, -1.0, -1.01, -np.inf])
    galaxy = on_a_line(np.full(6, 1.0), feh=feh, ofe=ofe)
    kept = clean(galaxy, **only_radius)
    assert kept["feh"].tolist() == [-8.0, 0.0]
    assert kept["ofe"].tolist() == [0.0, -1.0]
    assert np.isneginf(galaxy["feh"][2])  # the given table is unchanged


def test_too_few_stars_are_refused():
    with pytest.raises(ValueError, match="'g1' keeps 48[0-9] of 520 stars after the cuts, expec"):
        clean(random_galaxy(520))
    assert len(clean(random_galaxy(520), min_stars=400)) >= 400
    with pytest.raises(ValueError, match="keeps 0 of 0"):
        clean(Galaxy(np.zeros((0, 10))), min_stars=0)


def bar(angle: float, n: int = 40_000) -> Galaxy:
    """A bar 3 times as long as wide within a round disc, at an angle [rad]; 1 star in 5 in the
    disc. The stars stream along the bar."""
    rng = np.random.default_rng(1)
    along, across = rng.uniform(-6, 6, n), rng.uniform(-2, 2, n)
    radius, azimuth = 8 * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
    disc = rng.uniform(size=n) < 0.2
    along = np.where(disc, radius * np.cos(azimuth), along)
    across = np.where(disc, radius * np.sin(azimuth), across)
    cos, sin = np.cos(angle), np.sin(angle)
    stars = np.zeros((n, 10))
    stars[:, 0], stars[:, 1] = cos * along - sin * across, sin * along + cos * across
    stars[:, 3], stars[:, 4] = 100 * cos, 100 * sin
    return Galaxy(stars, masses=1.0)


@pytest.mark.parametrize("degrees", [-80.0, -45.0, -10.0, 0.0, 30.0, 45.0, 88.0])
def test_major_axis_is_turned_onto_x(degrees):
    kept = clean(bar(np.radians(degrees)), percentile=100.0)
    direction = np.degrees(np.arctan2(kept["vy"], kept["vx"]))
    # The bar lies along the stream, of 100 km/s; which end points to +x is not defined.
    np.testing.assert_allclose(np.hypot(kept["vx"], kept["vy"]), 100)
    assert np.abs((direction + 90) % 180 - 90).max() < 2.0
    assert kept["x"].std() > 1.5 * kept["y"].std()


def test_small_galaxies_are_turned_by_their_stars_and_not_by_empty_pixels():
    # 600 stars in 10,000 pixels: the published rule would take the whole square.
    kept = clean(bar(np.radians(40), n=700), percentile=100.0)
    assert kept["x"].std() > 1.4 * kept["y"].std()


@pytest.mark.parametrize(
    "columns",
    [COLUMNS, COLUMNS[:7] + ("age",), ("x", "y", "z"), ("feh", "ofe", "age"), ("age",)],
)
def test_cuts_without_some_columns(columns):
    galaxy = random_galaxy().select(columns)
    kept = clean(galaxy)
    assert kept.columns == columns
    assert 2500 < len(kept) <= 3000
    assert (len(kept) < 3000) == ("z" in columns or "Z" in columns)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(50, 100), st.floats(4, 30))
def test_what_is_kept_satisfies_every_cut(seed, percentile, r_max):
    galaxy = random_galaxy(800, seed=seed, conditions={"M_stars": 1.0, "spin": 0.3})
    kept = clean(galaxy, percentile=percentile, r_max=r_max, min_stars=0)
    radius = np.sqrt((kept.stars[:, :3] ** 2).sum(axis=1))
    assert radius.max() <= r_max + 1e-9
    assert kept["Z"].max() < np.sort(galaxy["Z"])[-10]
    assert kept.conditions == conditions(kept) | {"spin": 0.3}
