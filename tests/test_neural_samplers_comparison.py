"""Methods on the same terms: what is drawn, judged and counted."""

from __future__ import annotations

import math

import pytest
import torch
from small_samplers import Cliff

from galflow_lite.neural_samplers import SamplerDiverged, comparison
from galflow_lite.neural_samplers.noise import value_at
from galflow_lite.targets import BENCHMARKS


@pytest.fixture
def quick(monkeypatch):
    """Two short stages, to see that one goes on from the other."""
    stage = {"method": "kl", "steps": 3, "pretrain": 2, "batch": 8}
    monkeypatch.setitem(comparison.ONE_STEP, "kl", (stage, {**stage, "method": "dft"}))
    monkeypatch.setattr(comparison, "_CHAIN_STEPS", 5)
    monkeypatch.setattr(comparison, "_FLOW_STEPS", 5)
    for method in ("dft", "fisher"):
        monkeypatch.setitem(comparison.ONE_STEP, method, ({**stage, "method": method},))


@pytest.mark.parametrize(
    "method", [*comparison.METHODS[:4], "langevin", "mala", "hmc", "svgd", "flow"]
)
def test_methods_give_points_and_their_cost(quick, method):
    target = BENCHMARKS["mog2"]()
    x, cost = comparison.draw(method, target, n=600, seed=1)
    assert x.shape == (500 if method == "svgd" else 600, 2)
    assert x.dtype == torch.float64
    assert cost["lost"] == 0
    assert (cost["gradient_evaluations"] > 0) == (method != "exact")
    trained = ("dft", "fisher", "kl", "flow")
    assert math.isnan(cost["sampling_seconds"]) == (method not in trained)
    again, _ = comparison.draw(method, target, n=600, seed=1)
    assert torch.equal(x, again)


def test_stages_go_on_from_one_another_and_their_costs_add(quick):
    target = BENCHMARKS["mog2"]()
    found = comparison.train("kl", target, seed=0)
    # Two stages of (2 + 3 * 3) score steps and 3 steps of the sampler; only these see the target.
    assert found.history.gradient_evaluations > 0
    comparison.ONE_STEP["kl"] = comparison.ONE_STEP["kl"][:1]
    alone = comparison.train("kl", target, seed=0)
    assert found.history.gradient_evaluations == 2 * alone.history.gradient_evaluations
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    one, two = (sampler.network(z) for sampler in (alone, found))
    assert not torch.equal(one, two)
    assert (one - two).abs().max() < 0.1


def test_chains_that_diverge_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(comparison, "_step", lambda target: 0.3)
    x, cost = comparison.draw("langevin", BENCHMARKS["rosenbrock"](), n=200, seed=0)
    assert 0 < cost["lost"] <= 1
    assert len(x) == round(200 * (1 - cost["lost"]))
    assert x.isfinite().all()


def test_exact_samples_are_judged_as_such():
    found = comparison.compare_sampler(target="mog2_hard", method="exact", seed=0)
    assert abs(found["energy_distance"]) < 4 * found["energy_distance_error"]
    assert abs(found["ksd_squared"]) < 4 * found["ksd_squared_error"]
    assert found["mode_deviation"] < 0.05
    assert sum(found["shares"]) == pytest.approx(1)
    # One mode alone: the energy distance and the weights see it.
    target = BENCHMARKS["mog2_hard"]()
    x = target.sample(comparison.SAMPLES, seed=3)
    one = comparison.judge(x[x[:, 0] > 0], target)
    assert one["energy_distance"] > 10 * one["energy_distance_error"]
    assert one["mode_deviation"] == pytest.approx(0.5, abs=0.01)


def test_targets_without_modes_have_no_shares():
    assert "shares" not in comparison.compare_sampler(target="donut", method="exact", seed=0)


def test_starts():
    target = BENCHMARKS["gaussian"]()
    centre, away = (comparison.chain_start(target, 5000, 0, v) for v in (False, True))
    assert torch.allclose(away - centre, torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert centre.mean(0).abs().max() < 0.06


def test_cases():
    cases = comparison.paper_cases(seeds=2, names=("mog2", "ring8"))
    # Four kinds of chains, each from two starts; the remedies on the harder of the two targets, and
    # the first recipe on both.
    assert len(cases) == 2 * (2 * (len(comparison.METHODS) + 4) + len(comparison.REMEDIES) + 1)
    assert len({case.name for case in cases}) == len(cases)
    # A target whose noised law is not known goes without.
    donut = [case.settings["method"] for case in comparison.paper_cases(seeds=1, names=("donut",))]
    assert "dft_tempered" in donut
    assert not [method for method in donut if "noised" in method]


@pytest.mark.parametrize("method", ["recipe", *comparison.REMEDIES])
def test_recipes_are_ones_that_can_be_trained(monkeypatch, method):
    """A few steps of each stage, with a ramp that ends where the stage does."""
    shorter = [{**stage, "steps": 3, "pretrain": 2} for stage in comparison.ONE_STEP[method]]
    monkeypatch.setitem(comparison.ONE_STEP, method, shorter)
    x, cost = comparison.draw(method, BENCHMARKS["mog2_hard"](), n=50, seed=0)
    assert x.shape == (50, 2)
    assert cost["gradient_evaluations"] > 0


@pytest.mark.parametrize("method", comparison.ONE_STEP)
def test_tempered_stages_end_at_the_target_itself(method):
    """A ramp that is longer than its stage would leave the sampler at another density."""
    for stage in comparison.ONE_STEP[method]:
        tempering = stage.get("tempering", 1.0)
        last = [value_at(tempering, step) for step in range(stage["steps"] - 100, stage["steps"])]
        assert last == [1.0] * 100


def test_trainings_that_diverge_are_counted_and_judged_by_their_last_good_weights(monkeypatch):
    stage = {"method": "kl", "steps": 6, "pretrain": 3, "batch": 16}
    monkeypatch.setitem(comparison.ONE_STEP, "kl", (stage,))
    with pytest.raises(SamplerDiverged):
        comparison.train("kl", Cliff(4), seed=0)
    x, cost = comparison.draw("kl", Cliff(4), n=50, seed=0)
    assert cost["diverged"] == 1
    assert x.isfinite().all()
    assert comparison.draw("kl", Cliff(100), n=50, seed=0)[1]["diverged"] == 0


def test_chains_that_are_all_lost_leave_nothing_to_judge(monkeypatch):
    monkeypatch.setattr(comparison, "_step", lambda target: 100.0)
    found = comparison.compare_sampler(target="rosenbrock", method="langevin", seed=0)
    assert found["lost"] == 1
    assert "energy_distance" not in found


def test_unknown_names():
    with pytest.raises(ValueError, match="found the method 'nuts', expected one of exact"):
        comparison.draw("nuts", BENCHMARKS["mog2"]())
    with pytest.raises(ValueError, match="found the method 'nuts', expected one of dft"):
        comparison.train("nuts", BENCHMARKS["mog2"](), seed=0)
    with pytest.raises(ValueError, match="found the target 'moon', expected one of gaussian"):
        comparison.compare_sampler(target="moon", method="kl", seed=0)
