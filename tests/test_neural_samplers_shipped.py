"""The numbers that ship: what is kept of every run, and that the reference agrees with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from galflow_lite import reproduction
from galflow_lite.neural_samplers import comparison, energy, posteriors, shipped

RESULTS = {
    "ring8-dft-100": {"energy_distance": 0.123456789, "shares": [0.5, 0.5], "lost": 0},
    "ring8-dft-101": {"energy_distance": math.inf, "lost": 0.25, "diverged": 1.0},
    "digits-kl_then_dft-100": {"sampling_seconds": math.nan},
}


def test_numbers_come_back_by_case_and_seed(tmp_path):
    shipped.ship(RESULTS, tmp_path / "numbers.json")
    found = shipped.shipped_numbers(tmp_path / "numbers.json")
    assert set(found) == {"ring8-dft", "digits-kl_then_dft"}
    assert set(found["ring8-dft"]) == {"energy_distance", "lost", "diverged"}
    np.testing.assert_array_equal(found["ring8-dft"]["energy_distance"], [0.12346, np.nan])
    np.testing.assert_array_equal(found["ring8-dft"]["lost"], [0, 0.25])
    np.testing.assert_array_equal(found["ring8-dft"]["diverged"], [np.nan, 1])
    assert np.isnan(found["digits-kl_then_dft"]["sampling_seconds"]).all()


def test_a_file_that_is_not_there_or_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*gone.json, which belongs to the pa"):
        shipped.shipped_numbers(tmp_path / "gone.json")
    for text in ("{", "[]", '{"format": 99}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="does not hold numbers of format 1: restore it"):
            shipped.shipped_numbers(tmp_path / "other.json")


def test_every_run_of_the_reference_is_there():
    found = shipped.shipped_numbers()
    suites = (comparison, posteriors, energy)
    cases = {case.name.rpartition("-")[0] for suite in suites for case in suite.paper_cases()}
    assert set(found) == cases
    for case, row in found.items():
        distance = row.get("energy_distance", row.get("accuracy"))
        assert len(distance) == 10, case
        assert np.isfinite(distance).all(), case


def test_the_reference_has_the_means_of_these_numbers():
    found = shipped.shipped_numbers()
    rows = reproduction.Results.stored("04", "paper").rows
    compared = 0
    for name, entry in rows.items():
        part = name.split(".")
        if part[1] == "energy":
            case, quantity, unit = f"{part[2]}-{part[3]}", "energy_distance", 1
        elif part[1] == "weights":
            case, quantity, unit = f"{part[2]}-{part[3]}", "mode_deviation", 100
        elif part[1] == "posterior":
            case, quantity, unit = f"breast_cancer-{part[2]}", part[3], 1
        else:
            continue
        values = found[case.replace("_off_centre", "-off_centre")][quantity]
        assert entry["value"] == pytest.approx(unit * np.nanmean(values), rel=1e-3, abs=1e-4), name
        compared += 1
    assert compared > 100
