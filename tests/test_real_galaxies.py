"""GalaxyFlow on real simulated galaxies, where they are present, against both baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from real_galaxies import COLUMNS, eagle, illustris

from galflow_lite.galaxies import (
    Catalogue,
    ConditionalMixture,
    Galaxy,
    GalaxyFlow,
    clean,
    profile_distance,
)
from galflow_lite.metrics import c2st

pytestmark = pytest.mark.realdata

TRAINING = {
    "batch_size": 512,
    "learning_rate": 3e-3,
    "optimizer": "adam",
    "schedule": "cosine",
    "clip_norm": 5.0,
    "progress": False,
}
QUANTITIES = ("surface_density", "rotation", "sigma_R", "sigma_phi", "sigma_z", "age")


def halves(galaxy: Galaxy) -> tuple[Galaxy, Galaxy]:
    order = np.random.default_rng(0).permutation(len(galaxy))
    return galaxy.take(order[::2]), galaxy.take(order[1::2])


def worst_profile(data: Galaxy, model: Galaxy) -> float:
    return max(profile_distance(data, model, quantity) for quantity in QUANTITIES)


def test_one_eagle_galaxy_in_eight_columns(real_data, tmp_path):
    """No conditions: trained on half of the stars, compared with the other half."""
    train, test = halves(clean(eagle(real_data)))
    catalogue = Catalogue.open(Catalogue.write(tmp_path / "eagle.h5", [replace(train, id="a")]))
    flow = GalaxyFlow(COLUMNS, (), layers=4, hidden=32, tail_bound=5.0)
    flow.fit(catalogue, steps=600, **TRAINING)
    sample = flow.sample(None, len(test), seed=0)
    mixture = ConditionalMixture(COLUMNS, (), components=8, max_stars=10_000).fit(catalogue)
    rival = mixture.sample({}, len(test), seed=0)

    mine, theirs = (c2st(test.stars, other.stars, seed=0) for other in (sample, rival))
    assert mine.value < theirs.value - 3 * (mine.standard_error + theirs.standard_error)
    assert np.mean(flow.log_prob(test)) > np.mean(mixture.log_prob(test))
    assert worst_profile(test, sample) < worst_profile(test, rival)


def test_eagle_and_illustris_by_mass_and_age(real_data, tmp_path):
    """Five galaxies under two conditions: each galaxy's own half is the nearest galaxy's rival."""
    galaxies = [clean(galaxy) for galaxy in (eagle(real_data), *illustris(real_data))]
    parts = [halves(galaxy) for galaxy in galaxies]
    # The halves share the conditions of the whole galaxy.
    train = [
        replace(one, conditions=g.conditions) for g, (one, _) in zip(galaxies, parts, strict=True)
    ]
    catalogue = Catalogue.open(Catalogue.write(tmp_path / "five.h5", train))
    names = ("M_stars", "tau50")
    flow = GalaxyFlow(COLUMNS, names, layers=4, hidden=32, tail_bound=5.0)
    flow.fit(catalogue, steps=900, **TRAINING)
    mixture = ConditionalMixture(COLUMNS, names, components=12, max_stars=15_000).fit(catalogue)

    results = []
    for galaxy, (_, test) in zip(galaxies, parts, strict=True):
        others = [g for g in galaxies if g.id != galaxy.id]
        nearest = min(
            others,
            key=lambda g: abs(np.log(g.conditions["M_stars"] / galaxy.conditions["M_stars"])),
        )
        n = min(len(test), 4000)
        models = (
            flow.sample(galaxy.conditions, n, seed=0),
            nearest.take(slice(n)),
            mixture.sample(galaxy.conditions, n, seed=0),
        )
        results.append(
            [(c2st(test.stars[:n], m.stars, seed=0).value, worst_profile(test, m)) for m in models]
        )
    mean = np.mean(results, axis=0)
    assert mean[0, 0] < mean[1, 0], "C2ST: flow against the nearest galaxy"
    assert mean[0, 0] < mean[2, 0], "C2ST: flow against the mixture"
    assert mean[0, 1] < mean[1, 1], "profiles: flow against the nearest galaxy"
    assert mean[0, 1] < mean[2, 1], "profiles: flow against the mixture"
