"""Trainings of samplers that diverge: what is said, and what is kept."""

from __future__ import annotations

import pickle

import pytest
import torch
from small_samplers import Cliff, Fenced, train

from galflow_lite.neural_samplers import SamplerDiverged, SamplerNetwork
from galflow_lite.targets import Donut


def test_a_score_that_turns_nan_stops_and_keeps_good_weights():
    with pytest.raises(SamplerDiverged, match="the target's score is NaN or infinite at 16 of 16"):
        train(Cliff(4))
    with pytest.raises(SamplerDiverged) as caught:
        train(Cliff(4))
    error = caught.value
    assert error.step == len(error.history.loss) == 3
    assert error.history.stopped == "diverged"
    assert error.sampler.sample(10).isfinite().all()
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.step == 3


@pytest.mark.parametrize("method", ["dft", "kl", "fisher"])
def test_a_score_that_is_nan_where_the_noise_leads_is_named(method):
    inside = SamplerNetwork(2, 2, hidden=(8,), scale=0.01)
    with pytest.raises(SamplerDiverged, match=r"the target's score is NaN or infinite at \d+ of"):
        train(Fenced(), method=method, sampler=inside, sigma=1.0)


@pytest.mark.parametrize(
    "options",
    [
        # Above all bounds after the first step.
        {"learning_rate": 1e6, "warmup": 0},
        {"learning_rate": 1e6, "warmup": 0, "ema_decay": None},
        # After some.
        {"learning_rate": 50.0, "steps": 400},
    ],
)
def test_an_exploding_training_stops_and_goes_back_to_weights_that_were_good(options):
    with pytest.raises(SamplerDiverged, match="lower learning_rate, raise score_steps") as caught:
        train(Donut(), **options, clip_norm=None)
    sampler = caught.value.sampler
    assert caught.value.step > 0
    assert sampler.sample(1000, seed=0).abs().max() < 100
    with torch.no_grad():
        assert sampler.score_network(sampler.sample(100, seed=0)).abs().max() < 100


def test_a_score_network_that_explodes_goes_back_as_well():
    with pytest.raises(SamplerDiverged) as caught:
        train(score_learning_rate=1e30)
    with torch.no_grad():
        assert caught.value.sampler.score_network(torch.randn(100, 2)).abs().max() < 100
