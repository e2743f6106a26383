"""Real simulated galaxies, where they are present: table, cuts, catalogue, flow and baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galflow_lite.galaxies import (
    Catalogue,
    ConditionalMixture,
    Galaxy,
    GalaxyFlow,
    clean,
    profile_distance,
)

pytestmark = pytest.mark.realdata

# Both sources have eight of the columns: no abundances.
COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "Z", "age")


def eagle(folder: Path) -> Galaxy:
    """A disc galaxy of the EAGLE simulation: centred, face-on, 54,860 stars within 30 kpc."""
    return _read(folder / "eagle_gsf_sim1_stars_r30_f32.npz", "eagle")


def illustris(folder: Path) -> list[Galaxy]:
    """Four Illustris-1 analogues of M31, face-on, mean velocity subtracted, 7,635 stars and more.

    The files give the stars out to beyond 200 kpc: apply the radius cut.
    """
    files = sorted(folder.glob("illustris1_*_stars_f32.npz"))
    return [_at_rest(_read(file, file.name.split("_stars")[0])) for file in files]


def _read(file: Path, name: str) -> Galaxy:
    with np.load(file, allow_pickle=False) as table:
        return Galaxy(dict(table), columns=COLUMNS, id=name, masses=table["mass"])


def _at_rest(galaxy: Galaxy) -> Galaxy:
    """Subtract the mean velocity: these files keep that of the galaxy in its surroundings."""
    for name in ("vx", "vy", "vz"):
        galaxy[name][:] -= galaxy[name].mean(dtype=np.float64)
    return galaxy


QUANTITIES = ("rotation", "sigma_R", "sigma_phi", "sigma_z", "age")


def likelihood_and_profile(model, galaxy: Galaxy) -> tuple[float, float]:
    """Mean log-likelihood of the stars, and the largest distance of a profile."""
    sample = model.sample(galaxy, 4000, seed=0)
    profiles = [profile_distance(galaxy, sample, quantity) for quantity in QUANTITIES]
    return model.log_prob(galaxy).mean(), max(profiles)


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
    training = {"learning_rate": 3e-3, "optimizer": "adam", "schedule": "cosine", "clip_norm": 5.0}
    flow.fit(catalogue, steps=300, batch_size=512, **training, progress=False)
    mixture = ConditionalMixture(COLUMNS, names, components=8, max_stars=6_000).fit(catalogue)
    of = {
        model: np.mean([likelihood_and_profile(model, g) for g in test], axis=0)
        for model in (flow, mixture)
    }
    assert of[flow][0] > of[mixture][0] + 0.1
    assert of[flow][1] < of[mixture][1]
