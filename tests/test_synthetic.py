"""The family of synthetic galaxies: populations, scaling relations, reproducibility, errors."""

from __future__ import annotations

import numpy as np
import pytest

from galflow_lite.galaxies import COLUMNS, Galaxy, clean, conditions
from galflow_lite.synthetic import galaxy, galaxy_family
from galflow_lite.synthetic.family import GalaxyParameters, draw_parameters
from galflow_lite.synthetic.galaxy_model import (
    COMPONENTS,
    SOLAR_IRON,
    SOLAR_OXYGEN,
    GalaxyModel,
    metal_fraction,
)


def median_galaxy(log_mass: float, n: int, seed: int) -> dict[str, Galaxy]:
    """Stars of a galaxy without scatter in its parameters: all, and those of each component."""
    rng = np.random.default_rng(seed)
    stars, component = GalaxyModel(draw_parameters(log_mass)).sample(n, rng=rng)
    parts = {name: Galaxy(stars[component == i]) for i, name in enumerate(COMPONENTS)}
    return {"all": Galaxy(stars), **parts}


@pytest.fixture(scope="module")
def family():
    return galaxy_family(90, seed=0)


def test_galaxies_are_tables_like_the_papers(family):
    assert [g.id for g in family[:2]] == ["synthetic_000", "synthetic_001"]
    assert len({g.id for g in family}) == 90
    for g in family:
        assert g.columns == COLUMNS
        assert g.stars.dtype == np.float32
        assert np.isfinite(g.stars).all()
        assert g.conditions == conditions(g)
        assert len(g) >= 500
        assert 0 <= g["age"].min() <= g["age"].max() <= 13.5
        assert g["Z"].min() > 0
        assert np.sqrt((g.stars[:, :3] ** 2).sum(1)).max() <= 27.71


def test_a_seed_gives_the_same_galaxies_however_many_and_no_two_alike():
    few, many = galaxy_family(2, 700, seed=5), galaxy_family(4, 700, seed=np.int64(5))
    for a, b in zip(few, many[:2], strict=True):
        np.testing.assert_array_equal(a.stars, b.stars)
        assert (a.conditions, a.id) == (b.conditions, b.id)
    for a, b in (few, (few[0], galaxy_family(1, 700, seed=6)[0])):
        assert not np.array_equal(a.stars[:100], b.stars[:100])
        assert a.attributes["concentration"] != b.attributes["concentration"]


def test_masses_add_up_and_attributes_rebuild_the_model():
    g = galaxy(10.0, 2000, seed=3)
    assert g.masses * 2000 == pytest.approx(1e10)
    assert GalaxyParameters(**g.attributes) == draw_parameters(10.0, rng=np.random.default_rng(3))


def test_masses_cover_the_range_and_lean_to_massive_galaxies(family):
    log_mass = np.array([g.attributes["log_mass"] for g in family])
    assert 6.5 <= log_mass.min() <= log_mass.max() <= 11.0
    counts, _ = np.histogram(log_mass, bins=9, range=(6.5, 11.0))
    assert counts.min() >= 4  # every half dex has dwarfs to learn from
    assert counts[-3:].sum() > 1.5 * counts[:3].sum()


def test_conditions_hold_information_beyond_mass(family):
    rows = np.array([list(g.conditions.values()) for g in family])
    rows[:, [0, 3]] = np.log10(rows[:, [0, 3]])
    correlation = np.corrcoef(rows.T)
    assert 0.3 < correlation[0, 1] < 0.7  # log M* and tau50: giants older, not by rule
    assert 0.1 < correlation[0, 2] < 0.7
    assert correlation[1, 2] < 0.92  # tau10 is not a copy of tau50
    assert correlation[0, 3] < 0.97
    # At fixed mass the median age spreads by a gigayear or more.
    residual = rows[:, 1] - np.polyval(np.polyfit(rows[:, 0], rows[:, 1], 2), rows[:, 0])
    assert residual.std() > 0.8


def test_family_resembles_the_papers_simulations(family):
    # Star-weighted means over the 90 NIHAO galaxies of arXiv:2312.06017 (saved output of the
    # authors' notebook). Bands: what a tuned analytic family can be expected to meet.
    stars = np.concatenate([g.stars for g in family]).astype(float)
    mean = dict(zip(COLUMNS, stars.mean(0), strict=True))
    tau50 = np.average([g.conditions["tau50"] for g in family], weights=[len(g) for g in family])
    assert mean["feh"] == pytest.approx(-0.40, abs=0.15)
    assert mean["ofe"] == pytest.approx(0.17, abs=0.04)
    assert mean["age"] == pytest.approx(6.3, abs=0.8)
    assert tau50 == pytest.approx(6.4, abs=0.6)


def test_mass_metallicity_relation_of_dwarfs():
    # Kirby et al. (2013), arXiv:1310.0814: <[Fe/H]> = -1.69 + (0.30 +- 0.02) log(M*/10^6 Msun).
    log_mass = np.linspace(6.5, 9.5, 7)
    mean = [clean(median_galaxy(m, 8000, 1)["all"])["feh"].mean() for m in log_mass]
    slope, _ = np.polyfit(log_mass, mean, 1)
    assert slope == pytest.approx(0.30, abs=0.03)
    assert np.abs(mean - (-1.69 + 0.30 * (log_mass - 6))).max() < 0.17  # their scatter


def test_ten_coordinates_are_not_degenerate(family):
    stars = np.concatenate([g.stars for g in family[:30]]).astype(float)
    assert np.linalg.eigvalsh(np.corrcoef(stars.T)).min() > 0.05
    # Z given the other abundances keeps its own scatter: no sheet in ten dimensions.
    z, feh, ofe = stars[:, 6:9].T
    rule = metal_fraction(SOLAR_OXYGEN * 10 ** (ofe + feh), SOLAR_IRON * 10**feh)
    residual = np.log10(z / rule)
    assert residual.std() == pytest.approx(0.05, rel=0.05)
