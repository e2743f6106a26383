"""Real simulated galaxies through the table, the cuts and the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
from real_galaxies import COLUMNS, eagle, illustris

from galflow_lite.galaxies import Catalogue, clean, conditions

pytestmark = pytest.mark.realdata


def test_eagle_conditions(real_data):
    galaxy = eagle(real_data)
    assert (len(galaxy), galaxy.columns) == (54860, COLUMNS)
    found = conditions(galaxy)
    assert found["M_stars"] == pytest.approx(6.70e10, rel=1e-3)
    assert found["tau50"] == pytest.approx(10.66, abs=0.005)
    assert found["tau10"] == pytest.approx(6.58, abs=0.005)
    assert found["Z_av"] == pytest.approx(0.0163, abs=5e-5)


def test_illustris_conditions_and_rest_frame(real_data):
    galaxies = illustris(real_data)
    assert [len(g) for g in galaxies] == [7635, 13143, 15386, 13475]
    expected = {
        "M_stars": [6.99e9, 1.21e10, 1.39e10, 1.22e10],
        "tau50": [5.83, 3.91, 4.74, 4.87],
        "tau10": [0.58, 0.74, 0.91, 1.20],
        "Z_av": [0.0085, 0.0091, 0.0092, 0.0108],
    }
    # Half a unit of the last digit that is known.
    digits = {"M_stars": [5e6, 5e7, 5e7, 5e7], "tau50": 0.005, "tau10": 0.005, "Z_av": 5e-5}
    for name, values in expected.items():
        found = np.array([conditions(g)[name] for g in galaxies])
        assert (np.abs(found - values) <= digits[name]).all(), name
    for galaxy in galaxies:
        assert np.abs(galaxy.stars[:, 3:6].mean(axis=0, dtype=np.float64)).max() < 1e-4


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


def test_real_galaxies_in_a_catalogue(real_data, tmp_path):
    galaxies = [clean(g) for g in [eagle(real_data), *illustris(real_data)]]
    path = Catalogue.write(tmp_path / "real.h5", galaxies)
    with Catalogue.open(path) as catalogue:
        assert catalogue.columns == COLUMNS
        for galaxy in galaxies:
            read = catalogue[galaxy.id]
            np.testing.assert_array_equal(read.stars, galaxy.stars)
            assert read.conditions == galaxy.conditions
        stars, table = catalogue.batches(1024, conditions=("M_stars", "tau50"))(0)
        assert stars.shape == (1024, 8)
        assert len(table.unique(dim=0)) == 5
