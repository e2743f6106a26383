"""The two baselines against direct computations."""

from __future__ import annotations

import numpy as np
import pytest

from galflow_lite import synthetic
from galflow_lite.galaxies import (
    Catalogue,
    ConditionalMixture,
    Galaxy,
    NearestGalaxy,
    compare,
    condition_errors,
)

# Masses over decades and very unequal numbers of stars: what is closest depends on the
# logarithm, on the standardisation and on whether stars or galaxies count in it.
GALAXIES = {
    "light": ({"M_stars": 1e8, "tau50": 2.0}, 40),
    "young": ({"M_stars": 3e9, "tau50": 3.0}, 50),
    "old": ({"M_stars": 1e10, "tau50": 9.0}, 60),
    "large": ({"M_stars": 1e11, "tau50": 8.0}, 900),
}


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Catalogue:
    rng, galaxies = np.random.default_rng(1), []
    for number, (name, (conditions, n)) in enumerate(GALAXIES.items()):
        stars, masses = rng.normal(size=(n, 2)) + number, rng.uniform(1e4, 1e6, n)
        galaxies.append(Galaxy(stars, conditions, id=name, columns=("x", "age"), masses=masses))
    return Catalogue.open(Catalogue.write(tmp_path_factory.mktemp("four") / "g.h5", galaxies))


def test_nearest_in_standardised_conditions(four):
    """Against plain arithmetic: log10 of the mass, each galaxy counts once."""
    nearest = NearestGalaxy().fit(four)
    rows = np.array([(np.log10(c["M_stars"]), c["tau50"]) for c, _ in GALAXIES.values()])
    rng, found = np.random.default_rng(0), set()
    for _ in range(200):
        aim = rng.uniform((7.5, 1), (11.5, 10))
        expected = list(GALAXIES)[(((rows - aim) / rows.std(0)) ** 2).sum(1).argmin()]
        assert nearest.sample({"tau50": aim[1], "M_stars": 10 ** aim[0]}, 1).id == expected
        found.add(expected)
    assert found == set(GALAXIES)


@pytest.mark.parametrize("n", [7, 60, 500])
def test_a_sample_has_the_mass_asked_for_and_stars_of_the_galaxy(four, n):
    wanted = {"M_stars": 1.2e10, "tau50": 9.1}
    nearest = NearestGalaxy().fit(four)
    sample = nearest.sample(wanted, n, seed=np.int64(3))
    np.testing.assert_array_equal(sample.stars, nearest.sample(wanted, n, seed=3).stars)
    assert not np.array_equal(sample.stars, nearest.sample(wanted, n, seed=4).stars)
    rows = [tuple(star) for star in sample.stars]
    assert set(rows) <= {tuple(star) for star in four["old"].stars}
    # Without replacement as long as there are enough.
    assert len(set(rows)) == n if n <= 60 else len(set(rows)) <= 60
    assert sample.masses * n == pytest.approx(1.2e10)
    assert (sample.conditions, sample.id, sample.columns) == (wanted, "old", ("x", "age"))


# --- mixture ----------------------------------------------------------------------------------


SLOPE = np.array([[0.7, -1.2], [0.4, 0.9]])
INTERCEPT = np.array([3.0, 10.0])
NOISE = np.array([[0.5, 0.2], [0.2, 0.8]])


def linear(n_galaxies: int, stars: int) -> list[Galaxy]:
    """Stars whose mean is linear in two conditions."""
    rng = np.random.default_rng(5)
    galaxies = []
    for number in range(n_galaxies):
        c, d = rng.normal(size=2)
        table = INTERCEPT + SLOPE @ [c, d] + rng.multivariate_normal([0, 0], NOISE, stars)
        galaxies.append(Galaxy(table, {"c": c, "d": d}, id=str(number), columns=("a", "b")))
    return galaxies


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Catalogue:
    path = tmp_path_factory.mktemp("many") / "galaxies.h5"
    return Catalogue.open(Catalogue.write(path, linear(300, 20)))


def mixture(catalogue: Catalogue, names=("c", "d"), **options) -> ConditionalMixture:
    return ConditionalMixture(("a", "b"), names, **options).fit(catalogue)


def on_a_grid(model: ConditionalMixture, conditions: dict) -> tuple[np.ndarray, np.ndarray]:
    """Stars (cells, 2) at the middle of the cells of a grid, and the probability in each."""
    a, b = np.linspace(-6, 12, 500), np.linspace(-2, 22, 500)
    table = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(model.log_prob(Galaxy(table, conditions, columns=("a", "b"))))
    return table, density * (a[1] - a[0]) * (b[1] - b[0])


@pytest.mark.parametrize("names", [("c", "d"), ("d",), ()])
def test_density_integrates_to_one_and_samples_follow_it(many, names):
    model = mixture(many, names, components=3)
    wanted = {name: 0.5 for name in names}
    table, share = on_a_grid(model, wanted)
    assert share.sum() == pytest.approx(1, abs=1e-3)
    n = 20_000
    sample = model.sample(wanted or None, n, seed=1)
    assert sample.stars.shape == (n, 2)
    assert sample.conditions == wanted
    assert sample.masses is None
    mean = share @ table
    covariance = (table - mean).T @ ((table - mean) * share[:, None])
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(sample.stars.mean(axis=0) - mean) < 4.5 * error).all()
    np.testing.assert_allclose(np.cov(sample.stars.T), covariance, atol=0.05 * covariance.max())


def test_one_gaussian_recovers_a_linear_model(many):
    model = mixture(many, components=1)
    for c, d in [(0.0, 0.0), (1.5, -1.0), (-1.0, 2.0)]:
        drawn = model.sample([c, d], 40_000, seed=2).stars
        # From 6000 stars the mean has a standard error of about 0.025 at these places.
        expected = INTERCEPT + SLOPE @ [c, d]
        np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.1)
        np.testing.assert_allclose(np.cov(drawn.T), NOISE, atol=0.06)


# --- scores -----------------------------------------------------------------------------------


def test_another_half_of_a_galaxy_scores_as_a_perfect_model_would():
    whole = synthetic.galaxy(10.0, 3000, seed=0)
    half, other = whole.take(slice(0, None, 2)), whole.take(slice(1, None, 2))
    std = whole.stars.std(axis=0)
    good = compare(half, other, std=std)
    bad = compare(half, synthetic.galaxy(7.5, 1500, seed=1), std=std)
    assert good["c2st"] < 0.55 < 0.9 < bad["c2st"]
    assert good["mmd"] < 0.05 < bad["mmd"]
    assert good["profiles"] < 0.5 < bad["profiles"]


def test_conditions_of_samples_in_units_of_counting_noise():
    """A model that has the galaxies themselves is off by about one; a year too old by more."""

    class Itself:
        def sample(self, conditions, n, *, seed):
            stars = by_mass[conditions["M_stars"]].take(
                np.random.default_rng(seed).integers(0, 900, n)
            )
            stars.stars[:, stars.columns.index("age")] += self.older
            return stars

    family = [synthetic.galaxy(mass, 1000, seed=i) for i, mass in enumerate(np.linspace(8, 10, 20))]
    by_mass, model = {g.conditions["M_stars"]: g for g in family}, Itself()
    found = {}
    for model.older in (0.0, 1.0):
        found[model.older] = condition_errors(model, family, stars=900)
    assert set(found[0.0]) == {"tau50", "tau10", "Z_av"}
    assert all(0.5 < value < 2 for value in found[0.0].values())
    assert found[1.0]["tau50"] > 4 > 2 > found[1.0]["Z_av"]
