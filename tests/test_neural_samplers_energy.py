"""The energy model of images: long samples, distances, and chains of equal quality.

About 40 s on a busy core: two energy models of eight columns are fitted.
"""

from __future__ import annotations

import math

import pytest
import torch

from galflow_lite.metrics import energy_distance
from galflow_lite.neural_samplers import energy, energy_problem, geometric

CURVES = {
    0.1: {1: 9.0, 10: 5.0, 100: 2.0, 1000: 2.5},
    0.01: {1: 9.5, 10: 8.0, 100: 6.0, 1000: 1.0},
}
COSTS = {"seconds_per_step": 0.01, "sampling_seconds": 0.02, "training_seconds": 30.0}


@pytest.fixture
def small(monkeypatch) -> str:
    """Points about two centres in eight dimensions, a small energy model, short trainings."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-0.4], [0.4]]).expand(2, 8)
    labels = torch.randint(2, (2000,), generator=generator)
    x = centres[labels] + 0.1 * torch.randn(2000, 8, generator=generator)
    monkeypatch.setitem(energy_problem._DATA, "small", lambda: x)
    monkeypatch.setitem(energy_problem._MODELS, "small", {"hidden": (32, 32)})
    monkeypatch.setitem(energy_problem._CHAINS, "small", {})
    short = {
        "method": "kl",
        "steps": 150,
        "pretrain": 100,
        "tempering": geometric(0.5, 1.0, 75),
    }
    monkeypatch.setitem(energy.ONE_STEP, "kl", (short,))
    monkeypatch.setitem(energy.ONE_STEP, "kl_then_dft", (short, {"method": "dft", "steps": 5}))
    return "small"


@pytest.mark.parametrize(
    ("quality", "steps", "size"),
    [
        (5.0, 10, 0.1),
        # Halfway between 5 and 2 is halfway in log(steps).
        (3.5, 10**1.5, 0.1),
        (1.5, 10**2.5, 0.01),
        (20.0, 1, 0.1),
    ],
)
def test_steps_of_equal_quality(quality, steps, size):
    found = energy.equal_quality(CURVES, quality, **COSTS)
    assert found.steps == pytest.approx(steps)
    assert (found.beyond, found.step_size) == (False, size)
    assert found.cost_ratio == pytest.approx(steps / 2)


def test_quality_beyond_the_longest_chain():
    found = energy.equal_quality(CURVES, 0.5, **COSTS)
    assert (found.steps, found.beyond) == (1000, True)
    assert found.cost_ratio == pytest.approx(500)
    # A chain takes 10 s for 1,000 samples, one step 0.02 s: 9.98 s saved of 30.
    assert found.samples_to_pay_off == pytest.approx(30 / 9.98 * 1000)


def test_a_longer_chain_that_is_worse_does_not_undo_a_shorter_one():
    """A large step is biased: its curve turns up again."""
    curve = {0.1: {10: 5.0, 100: 2.0, 1000: 2.5, 10_000: 1.9}}
    found = energy.equal_quality(curve, 1.95, **COSTS)
    assert found.steps == pytest.approx(1000 * 10**0.5)
    assert energy.equal_quality(curve, 2.2, **COSTS).steps < 100


def test_chains_that_diverge_and_samplers_that_never_pay():
    curve = {0.5: {1: math.inf, 10: math.inf}, 0.1: {1: math.inf, 10: 1.0}}
    found = energy.equal_quality(curve, 2.0, **COSTS)
    assert (found.steps, found.step_size) == (10, 0.1)
    slow = {**COSTS, "sampling_seconds": 1.0}
    assert energy.equal_quality(CURVES, 5.0, **slow).samples_to_pay_off == math.inf


def test_curves_that_cannot_be_compared():
    with pytest.raises(ValueError, match="found 2 curves that do not share their numbers of steps"):
        energy.equal_quality({0.1: {1: 1.0}, 0.2: {2: 1.0}}, 1.0, **COSTS)
    with pytest.raises(ValueError, match="found 0 curves"):
        energy.equal_quality({}, 1.0, **COSTS)
    with pytest.raises(ValueError, match="found the quality nan and the seconds 0.01"):
        energy.equal_quality(CURVES, math.nan, **COSTS)
    with pytest.raises(ValueError, match="times above 0: measure them again"):
        energy.equal_quality(CURVES, 1.0, **{**COSTS, "sampling_seconds": 0.0})


def test_curves_of_a_result():
    found = {"energy_distance_0.1_10": 3.0, "energy_distance_0.003_1": 4.0, "frechet_0.1_10": 5.0}
    found |= {"energy_distance": 1.0, "energy_distance_error": 2.0, "denoised_frechet": 6.0}
    assert energy.curves(found) == {0.1: {10: 3.0}, 0.003: {1: 4.0}}
    assert energy.curves(found, measure="frechet") == {0.1: {10: 5.0}}


def test_frechet_of_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    # A constant column, sd 1 and 3, means 2 apart: 2^2 + (3 - 1)^2.
    x[:, 2] = 1.0
    y = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    y[:, 0], y[:, 1], y[:, 2] = y[:, 0] + 2, 3 * y[:, 1], 1.0
    assert energy.frechet(x, y) == pytest.approx(8, rel=0.01)
    assert energy.frechet(x, x) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="at least 2 rows in each and the same columns"):
        energy.frechet(x[:1], y)
    with pytest.raises(ValueError, match="the same columns"):
        energy.frechet(x[:, :2], y)


def test_images():
    assert energy.digits().shape == (1797, 64)
    assert (float(energy.digits().min()), float(energy.digits().max())) == (-1, 1)
    galaxies = energy.drawn_galaxies(16, n=20)
    assert galaxies.shape == (20, 256)
    assert galaxies.mean(0).abs().max() < 1e-5
    assert float(galaxies.std()) == pytest.approx(0.5, rel=1e-3)


def test_long_samples_forget_their_start_and_know_the_noised_data(small):
    given = energy.problem(data=small, seed=0)
    assert given is energy.problem(data=small, seed=0, device="cpu")
    assert given.reference.shape == (2000, 8)
    assert given.again.shape == (1000, 8)
    assert abs(given.agreement.value) < 5 * given.agreement.standard_error + 0.01
    found = energy.compare_energy_sampler(method="again", seed=0, data=small)
    assert abs(found["energy_distance"]) < 5 * found["energy_distance_error"] + 0.005
    noise = torch.randn(given.data.shape, generator=torch.Generator().manual_seed(1))
    noised = given.data + given.model.sigma * noise
    start = energy_distance(torch.randn(2000, 8), noised).value
    assert energy_distance(given.reference, noised).value < 0.1 * start


def test_methods_and_their_costs(small):
    def run(method, **options):
        return energy.compare_energy_sampler(method=method, seed=0, data=small, **options)

    chains = run("langevin", steps=(1, 20, 100), step_sizes=(0.05, 5.0))
    table = energy.curves(chains)
    assert set(table) == {0.05, 5.0}
    assert table[0.05][1] > table[0.05][20] > table[0.05][100] - 0.05
    # A step of that size throws the chains out; the score grows at least as x / 4.
    assert table[5.0][100] > 10 * table[0.05][100]
    assert chains["energy_distance"] == table[0.05][100]
    assert chains["gradients_per_sample"] == 100
    assert chains["sampling_seconds"] == pytest.approx(100 * chains["seconds_per_step"])
    other = run("langevin", steps=(1,), step_sizes=(0.05,), start="pixels")
    assert energy.curves(other)[0.05][1] < table[0.05][1]

    one = run("kl")
    assert one["training_gradients"] >= 150 * 256
    assert one["training_seconds"] > 0
    assert 0 < one["sampling_seconds"] < 20 * chains["seconds_per_step"]
    assert one["energy_distance"] < 0.5 * table[0.05][1]
    both = run("kl_then_dft")
    assert both["training_gradients"] > one["training_gradients"]

    hmc = run("hmc")
    assert hmc["gradients_per_sample"] > 400
    assert abs(hmc["energy_distance"]) < 0.05
    mala = run("mala", steps=(1, 50))
    assert mala["energy_distance_50"] < mala["energy_distance_1"]


def test_chains_that_are_lost_are_counted(small):
    found = energy.compare_energy_sampler(
        method="langevin", seed=0, data=small, steps=(1, 300), step_sizes=(50.0, 0.05)
    )
    assert found["lost_50_300"] == 1
    assert found["energy_distance_50_300"] == math.inf
    assert found["lost_0.05_300"] == 0


def test_chains_that_are_all_lost_are_not_judged_by_where_they_began(small):
    found = energy.compare_energy_sampler(
        method="langevin", seed=0, data=small, steps=(1, 300), step_sizes=(50.0,), pictures=2
    )
    assert found["energy_distance"] == found["denoised_frechet"] == math.inf
    assert "pictures" not in found


def test_the_noise_of_a_sampler_is_that_of_the_model(small):
    model = energy.problem(data=small, seed=0).model
    assert energy.train("kl", model, seed=0).sigma == model.sigma


def test_unknown_names():
    with pytest.raises(ValueError, match="found the method 'nuts', expected one of again, kl"):
        energy.compare_energy_sampler(method="nuts", seed=0)
    with pytest.raises(ValueError, match="found the start 'here', expected one of normal, pixels"):
        energy.compare_energy_sampler(method="hmc", seed=0, start="here")
    with pytest.raises(ValueError, match="found the data 'cats', expected one of digits, galaxies"):
        energy.problem(data="cats", seed=0)
    with pytest.raises(ValueError, match="found the method 'nuts', expected one of kl, dft"):
        energy.train("nuts", None, seed=0)


def test_cases():
    cases = energy.paper_cases(seeds=2)
    assert len({case.name for case in cases}) == len(cases) == 2 * (len(energy.METHODS) + 1)
