"""Real simulated galaxies, where they are present: table, cuts, catalogue, flow and baselines."""

from __future__ import annotations

import numpy as np
import pytest
from real_galaxies import COLUMNS, eagle, illustris

from galflow_lite.galaxies import (
    Catalogue,
    ConditionalMixture,
    Galaxy,
    GalaxyFlow,
    clean,
    conditions,
    profile_distance,
)

pytestmark = pytest.mark.realdata


def test_cuts_on_real_galaxies(real_data):
    for raw in [eagle(real_data), *illustris(real_data)]:
        kept = clean(raw)
        radius, kept_radius = (
            np.sqrt((g.stars[:, :3].astype(np.float64) ** 2).sum(axis=1)) for g in (raw, kept)
        )
        # Of the stars within the cap, the second cut and the ten richest may take 5 % and 10.
        within = min(np.count_nonzero(radius <= 27.7), 0.95 * len(raw))
        assert 0.95 * within - 11 <= len(kept) <= within
        assert kept_radius.max() <= 27.7
        assert kept.conditions["M_stars"] < conditions(raw)["M_stars"]
        # Turning about z changes neither heights nor the spin of the disc.
        spin = np.median(kept["x"] * kept["vy"] - kept["y"] * kept["vx"])
        assert spin > 0


TRAINING = {
    "learning_rate": 3e-3,
    "optimizer": "adam",
    "schedule": "cosine",
    "clip_norm": 5.0,
    "progress": False,
}
QUANTITIES = ("rotation", "sigma_R", "sigma_phi", "sigma_z", "age")


def worst_profile(data: Galaxy, model: Galaxy) -> float:
    return max(profile_distance(data, model, quantity) for quantity in QUANTITIES)


def test_eagle_and_illustris_by_mass_and_age(real_data, tmp_path):
    """Half of the stars of five galaxies, eight columns, two conditions; judged by the others."""
    train, test = [], []
    for galaxy in (clean(galaxy) for galaxy in (eagle(real_data), *illustris(real_data))):
        order = np.random.default_rng(0).permutation(len(galaxy))
        # The halves share the conditions of the whole galaxy.
        train.append(galaxy.take(order[::2]))
        test.append(galaxy.take(order[1:8000:2]))
    catalogue = Catalogue.open(Catalogue.write(tmp_path / "five.h5", train))
    names = ("M_stars", "tau50")
    flow = GalaxyFlow(COLUMNS, names, layers=4, hidden=32, tail_bound=5.0)
    flow.fit(catalogue, steps=300, batch_size=512, **TRAINING)
    mixture = ConditionalMixture(COLUMNS, names, components=8, max_stars=6_000).fit(catalogue)
    likelihood, profiles = (
        np.array(
            [
                [
                    (
                        m.log_prob(galaxy).mean(),
                        worst_profile(galaxy, m.sample(galaxy, 4000, seed=0)),
                    )
                    for m in (flow, mixture)
                ]
                for galaxy in test
            ]
        )
        .mean(axis=0)
        .T
    )
    assert likelihood[0] > likelihood[1] + 0.1
    assert profiles[0] < profiles[1]
