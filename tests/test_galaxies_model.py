"""GalaxyFlow: physical units in and out, streaming, saving, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from galflow_lite.files import read_state, write_state
from galflow_lite.galaxies import Catalogue, Galaxy, GalaxyFlow, OutsideTrainingRange
from galflow_lite.galaxies.model import paper_schedule
from galflow_lite.galaxies.scaling import Scaling
from galflow_lite.synthetic import galaxy_family

SMALL = {"layers": 2, "hidden": 16}
QUICK = {
    "steps": 60,
    "batch_size": 256,
    "learning_rate": 3e-3,
    "optimizer": "adam",
    "schedule": "cosine",
    "progress": False,
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Catalogue:
    path = tmp_path_factory.mktemp("catalogue") / "galaxies.h5"
    Catalogue.write(path, galaxy_family(6, 700, seed=4))
    return Catalogue.open(path)


@pytest.fixture(scope="module")
def fitted(catalogue) -> GalaxyFlow:
    flow = GalaxyFlow(**SMALL)
    flow.fit(catalogue, **QUICK)
    return flow


def test_training_lowers_the_loss_and_is_reproducible(catalogue, fitted):
    again = GalaxyFlow(**SMALL)
    history = again.fit(catalogue, **QUICK)
    assert np.mean(history.loss[-5:]) < np.mean(history.loss[:5]) - 2
    for a, b in zip(again.flow.parameters(), fitted.flow.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "scales", [{"log": ("M_stars",)}, {"log": ("Z", "M_stars"), "bounds": {"age": (-0.1, 14.0)}}]
)
def test_density_is_per_physical_unit(catalogue, scales):
    """Over a grid of two physical columns the density integrates to one."""
    flow = GalaxyFlow(("age", "Z"), **SMALL, **scales)
    flow.fit(catalogue, **QUICK)
    galaxy = catalogue[5]
    n = 700
    # Log spacing in Z: the density spreads over decades.
    age = np.linspace(-0.1, 14.0, n + 1) if "bounds" in scales else np.linspace(-20, 35, n + 1)
    z = np.logspace(-9, 0, n + 1) if "Z" in scales["log"] else np.linspace(-0.15, 0.2, n + 1)
    middles = [(edges[1:] + edges[:-1]) / 2 for edges in (age, z)]
    grid = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(flow.log_prob(grid, galaxy.conditions)).reshape(n, n)
    total = (density * np.diff(age)[:, None] * np.diff(z)).sum()
    assert total == pytest.approx(1.0, abs=0.01)


def test_log_prob_in_other_units_differs_by_the_jacobian(tmp_path, catalogue):
    """Metres for kilometres: the same flow, and a density lower by log(1000) for each column."""
    galaxies = list(catalogue)
    scaled = []
    for galaxy in galaxies:
        stars = galaxy.stars.astype(np.float64)
        stars[:, 3:6] *= 1000
        scaled.append(Galaxy(stars, galaxy.conditions, galaxy.id, masses=galaxy.masses))
    Catalogue.write(tmp_path / "metres.h5", scaled)
    flow, other = GalaxyFlow(**SMALL), GalaxyFlow(**SMALL)
    flow.fit(catalogue, **QUICK | {"steps": 1})
    with Catalogue.open(tmp_path / "metres.h5") as metres:
        other.fit(metres, **QUICK | {"steps": 1})
    difference = flow.log_prob(galaxies[0]) - other.log_prob(scaled[0])
    np.testing.assert_allclose(difference, 3 * np.log(1000), atol=1e-3)


def test_published_density_is_off_by_the_conditions_scale(catalogue, fitted):
    """The public code subtracts log std of the conditions too: a constant, which we do not."""
    galaxy = catalogue[0]
    with torch.no_grad():
        standardised = fitted.flow.log_prob(
            fitted.stars.forward(galaxy.stars),
            fitted.conditions.scaling.forward(fitted.conditions.rows(galaxy)),
        ).numpy()
    ours = fitted.log_prob(galaxy)
    np.testing.assert_allclose(ours, standardised - np.log(fitted.stars.std).sum(), rtol=1e-5)
    published = standardised - np.log(fitted.stars.std).sum()
    published = published - np.log(fitted.conditions.scaling.std).sum()
    constant = np.log(fitted.conditions.scaling.std).sum()
    assert abs(constant) > 1
    np.testing.assert_allclose(ours - published, constant, rtol=1e-4)


def test_rows_of_conditions_and_one_for_all_agree(catalogue, fitted):
    galaxy = catalogue[2]
    row = [galaxy.conditions[name] for name in fitted.condition_columns]
    once = fitted.log_prob(galaxy.stars, row)
    each = fitted.log_prob(galaxy.stars, np.tile(row, (len(galaxy), 1)), batch_size=100)
    np.testing.assert_allclose(once, each, rtol=1e-4, atol=1e-4)


def test_sample_is_a_galaxy_with_the_conditions_asked_for(catalogue, fitted):
    wanted = catalogue[1].conditions
    sample = fitted.sample(wanted, np.int64(333), batch_size=100, seed=1)
    assert sample.stars.shape == (333, 10)
    assert sample.conditions == {name: wanted[name] for name in fitted.condition_columns}
    assert sample.masses * len(sample) == pytest.approx(wanted["M_stars"])
    again = fitted.sample(wanted, 333, batch_size=100, seed=1)
    assert np.array_equal(sample.stars, again.stars)
    assert not np.array_equal(sample.stars, fitted.sample(wanted, 333, seed=2).stars)
    sizes = [len(b) for b in fitted.sample_batches(wanted, 333, batch_size=100)]
    assert sizes == [100, 100, 100, 33]


def test_any_columns_and_no_conditions(catalogue):
    flow = GalaxyFlow(("vx", "vy", "age"), (), **SMALL)
    flow.fit(catalogue, **QUICK)
    sample = flow.sample(None, 50)
    assert sample.columns == ("vx", "vy", "age")
    assert flow.log_prob(sample).shape == (50,)


def test_validation_follows_held_out_galaxies(catalogue):
    train, held = catalogue.split(held_out=1, seed=0)
    flow = GalaxyFlow(**SMALL)
    history = flow.fit(train, validation=held, validate_every=20, **QUICK)
    assert history.validation_steps == [20, 40, 60]
    assert history.best_loss == min(history.validation_loss)


def test_resumed_fit_equals_one_without_a_pause(catalogue, fitted, tmp_path):
    class Stop(Exception):
        pass

    flow, calls = GalaxyFlow(**SMALL), 0
    options = QUICK | {"checkpoint": tmp_path / "fit.safetensors", "checkpoint_every": 15}
    forward = flow.stars.forward

    def failing(stars):
        nonlocal calls
        calls += 1
        if calls == 40:
            raise Stop
        return forward(stars)

    flow.stars.forward = failing
    with pytest.raises(Stop):
        flow.fit(catalogue, **options)
    resumed = GalaxyFlow(**SMALL)
    resumed.fit(catalogue, **options)
    for a, b in zip(resumed.flow.parameters(), fitted.flow.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_refuses_other_stars(catalogue, tmp_path):
    options = QUICK | {"steps": 4, "schedule": "constant", "checkpoint": tmp_path / "fit.st"}
    GalaxyFlow(**SMALL).fit(catalogue, **options)
    for changed in ({"seed": 1}, {"batch_size": 128}, {"stars_per_galaxy": 500}):
        with pytest.raises(ValueError, match="batches"):
            GalaxyFlow(**SMALL).fit(catalogue, **options | {"steps": 8} | changed)
    with pytest.raises(ValueError, match="batches"):
        GalaxyFlow(**SMALL).fit(catalogue.subset(catalogue.ids[:4]), **options | {"steps": 8})


def test_warns_outside_the_training_range_and_says_by_how_much(catalogue, fitted):
    low, high = fitted.conditions.range["M_stars"]
    wanted = dict(catalogue[0].conditions, M_stars=high * 10)
    with pytest.warns(OutsideTrainingRange, match=r"M_stars = .* by 1 dex \(\d+% of its width\)"):
        fitted.sample(wanted, 5)
    tau_low, tau_high = fitted.conditions.range["tau50"]
    wanted = dict(catalogue[0].conditions, tau50=tau_low - 1)
    with pytest.warns(OutsideTrainingRange, match="tau50 = .* Gyr by 1 Gyr") as caught:
        fitted.sample(wanted, 5)
    assert caught[0].filename == __file__
    with pytest.warns(OutsideTrainingRange) as caught:
        next(fitted.sample_batches(wanted, 5))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.sample(catalogue[0].conditions, 5)


def test_save_and_load_without_pickle(catalogue, fitted, tmp_path):
    path = tmp_path / "flow.safetensors"
    fitted.save(path)
    loaded = GalaxyFlow.load(path)
    assert loaded.conditions.range == fitted.conditions.range
    np.testing.assert_array_equal(loaded.log_prob(catalogue[0]), fitted.log_prob(catalogue[0]))
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["galflow_lite"])["kind"] == "a galaxy flow"
    assert [p.name for p in tmp_path.iterdir()] == ["flow.safetensors"]


def test_scaling_with_bounds_and_log_is_inverted(tmp_path, catalogue):
    flow = GalaxyFlow(**SMALL, log=("M_stars", "Z"), bounds={"age": (-0.5, 14.5)})
    flow.fit(catalogue, **QUICK | {"steps": 1})
    stars = catalogue[0].stars.astype(np.float64)
    np.testing.assert_allclose(flow.stars.inverse(flow.stars.forward(stars)), stars, rtol=1e-9)
    flow.save(tmp_path / "bounded.safetensors")
    loaded = GalaxyFlow.load(tmp_path / "bounded.safetensors")
    np.testing.assert_array_equal(loaded.log_prob(catalogue[0]), flow.log_prob(catalogue[0]))
    ages = loaded.sample(catalogue[0].conditions, 2000)["age"]
    assert ages.min() >= -0.5
    assert ages.max() <= 14.5


def test_jacobian_of_the_scales_is_that_of_finite_differences():
    scaling = Scaling(("a", "b", "c"), log=("a",), bounds={"b": (-1.0, 2.0)})
    scaling.set_moments([0.1, -0.2, 3.0], [0.7, 1.3, 2.0])
    x = np.array([[2.0, 0.5, 4.0], [0.1, 1.9, -1.0]])
    step = 1e-6
    slopes = (scaling.forward(x + step) - scaling.forward(x - step)) / (2 * step)
    np.testing.assert_allclose(scaling.log_abs_det(x), np.log(slopes).sum(axis=1), rtol=1e-6)


def test_paper_schedule():
    assert paper_schedule(0) == paper_schedule(9) == 1
    assert paper_schedule(10) == pytest.approx(0.998)
    floor = next(step for step in range(0, 30_000, 10) if 9e-5 * paper_schedule(step) <= 3e-6)
    assert floor == 16_990  # about 17,000 steps, as in the public code's settings
    # From there one factor every 120 steps; about 4e-8 at the end of 272,000 steps.
    assert paper_schedule(floor + 120) == pytest.approx(0.998 * paper_schedule(floor))
    assert 3e-8 < 9e-5 * paper_schedule(272_000) < 5e-8


PROGRAM = """
import json, sys
from galflow_lite.galaxies import Catalogue, GalaxyFlow
from galflow_lite.training import process_rank

options = json.loads(sys.argv[2])
history = GalaxyFlow(layers=2, hidden=16).fit(Catalogue.open(sys.argv[1]), **options)
if process_rank()[0] == 0:
    print(json.dumps([process_rank()[1], history.loss]))
"""


def test_two_processes_under_torchrun_train_as_one(catalogue, tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    options = json.dumps(QUICK | {"steps": 20})
    program = [str(tmp_path / "train.py"), str(catalogue.path), options]
    runs = []
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        run = subprocess.run(
            [sys.executable, *start, *program],
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        runs.append(json.loads(run.stdout.strip().splitlines()[-1]))
    assert [world for world, _ in runs] == [1, 2]
    # float32: the sums over the batch are taken in another order.
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-3)


WANTED = {"M_stars": 1e9, "tau50": 5.0, "tau10": 1.0, "Z_av": 0.01}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.sample([1e9, 5.0], 5), r"conditions of shape \(2,\), expected 4 values"),
        (lambda f: f.sample({"M_stars": 1e9}, 5), r"condition\(s\) tau50, tau10, Z_av"),
        (lambda f: f.sample(None, 5), "found no conditions, expected M_stars"),
        (lambda f: f.sample(dict(WANTED, tau50=np.nan), 5), "NaN or infinite condition"),
        (lambda f: f.sample(dict(WANTED, M_stars=-1.0), 5), "'M_stars' out of range"),
        (lambda f: f.sample(WANTED, -5), "n=-5, expected a positive number"),
        (lambda f: f.sample(WANTED, 0), "n=0, expected a positive number"),
        (lambda f: f.sample(WANTED, 1.5), "n=1.5, expected a positive number"),
        (lambda f: f.sample(WANTED, 5, batch_size=0), "batch_size=0, expected a positive number"),
        (lambda f: f.sample(np.ones((2, 4)), 5), "conditions of 2 galaxies, expected one"),
        (lambda f: f.log_prob(np.zeros((3, 9)), WANTED), r"stars of shape \(3, 9\)"),
        (lambda f: f.log_prob(np.full((3, 10), np.nan), WANTED), "3 of 3 stars with NaN"),
        (lambda f: f.log_prob(np.zeros((3, 10)), np.ones((2, 4))), "2 rows of conditions for 3"),
        (
            lambda f: f.log_prob(Galaxy(np.zeros((3, 2)), columns=("x", "y")), WANTED),
            r"no column\(s\) z",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_before_fit():
    with pytest.raises(ValueError, match="has not been trained yet"):
        GalaxyFlow(**SMALL).sample(WANTED, 5)


def test_catalogue_without_a_column_or_condition(catalogue):
    with pytest.raises(ValueError, match="mg"):
        GalaxyFlow(("x", "mg"), **SMALL).fit(catalogue, **QUICK)
    with pytest.raises(ValueError, match="spin"):
        GalaxyFlow(("x", "y"), ("spin",), **SMALL).fit(catalogue, **QUICK)


def test_a_condition_that_does_not_vary(catalogue):
    with pytest.raises(ValueError, match="same value everywhere in M_stars, tau50, tau10, Z_av"):
        GalaxyFlow(**SMALL).fit(catalogue.subset([catalogue.ids[0]]), **QUICK)


def test_bounds_that_stars_overstep(catalogue):
    flow = GalaxyFlow(**SMALL, bounds={"age": (5.0, 6.0)})
    with pytest.raises(ValueError, match=r"values of 'age' out of range, expected .* \(5, 6\)"):
        flow.fit(catalogue, **QUICK)


def test_file_of_another_architecture(fitted, tmp_path):
    path = tmp_path / "flow.safetensors"
    fitted.save(path)
    state = read_state(path, kind="a galaxy flow")
    state["settings"]["hidden"] = 32
    write_state(path, state, kind="a galaxy flow")
    with pytest.raises(ValueError, match="weights of another architecture than it states"):
        GalaxyFlow.load(path)


def test_damaged_foreign_or_absent_file(fitted, tmp_path):
    path = tmp_path / "flow.safetensors"
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated"):
        GalaxyFlow.load(path)
    write_state(path, {"x": 1}, kind="a training checkpoint")
    with pytest.raises(ValueError, match="holds a training checkpoint, expected a galaxy flow"):
        GalaxyFlow.load(path)
    with pytest.raises(FileNotFoundError):
        GalaxyFlow.load(Path("nowhere.safetensors"))
