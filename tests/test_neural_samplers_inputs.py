"""Bad input of train_sampler: each is refused in one sentence before anything is trained."""

from __future__ import annotations

import math

import pytest
import torch
from small_samplers import GAUSSIAN, Cliff, Detached, Noisy, train
from torch import Tensor

from galflow_lite.networks import MLP
from galflow_lite.neural_samplers import (
    ImplicitSampler,
    LogUniform,
    SamplerNetwork,
    ScoreNetwork,
    geometric,
)
from galflow_lite.neural_samplers.loop import Loop
from galflow_lite.targets import Donut, FromLogDensity


def flat(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=x.dtype)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (GAUSSIAN, {"method": "sm"}, "method is 'sm', expected one of dft, fisher, kl: choose one"),
        (GAUSSIAN, {"steps": 0}, "steps is 0, expected a whole number of at least 1"),
        (GAUSSIAN, {"steps": 2.5}, "steps is 2.5, expected a whole number of at least 1"),
        (GAUSSIAN, {"sigma": 0.0}, "sigma is 0.0 at step 0, expected a finite number above 0"),
        (GAUSSIAN, {"sigma": -1}, "sigma is -1.0 at step 0, expected a finite number above 0"),
        (GAUSSIAN, {"sigma": lambda k: 4.5 - k}, "sigma is -0.5 at step 5, expected a finite"),
        (GAUSSIAN, {"sigma": lambda k: abs(k - 3.0)}, "sigma is 0.0 at step 3, expected a finite"),
        (GAUSSIAN, {"sigma": LogUniform(0.0, 1.0)}, "sigma is drawn between 0.0 and 1.0 at step"),
        (GAUSSIAN, {"sigma": LogUniform(2.0, 1.0)}, "sigma is drawn between 2.0 and 1.0 at step"),
        (GAUSSIAN, {"tempering": 0.0}, "tempering is 0.0 at step 0, expected a finite number abov"),
        (GAUSSIAN, {"batch": 15}, "batch is 15, expected an even number for antithetic pairs"),
        (GAUSSIAN, {"learning_rate": 0.0}, "learning_rate is 0.0, expected a finite number above"),
        (GAUSSIAN, {"warmup": -1}, "warmup is -1, expected a whole number of at least 0"),
        (GAUSSIAN, {"score_steps": 1.5}, "score_steps is 1.5, expected a whole number of at least"),
        (
            GAUSSIAN,
            {"score_steps": lambda step: 0.5},
            "score_steps at step 0 is 0.5, expected a whole number of at least 0",
        ),
        (GAUSSIAN, {"betas": (0, 1)}, r"betas is \(0, 1\), expected two numbers from 0 up to"),
        (GAUSSIAN, {"decay": 2.0}, "decay is 2.0, expected a share from 0 to 1: change it"),
        (GAUSSIAN, {"clip_norm": 0.0}, "clip_norm is 0.0, expected a number above 0, or None"),
        (GAUSSIAN, {"ema_decay": 1.0}, "ema_decay is 1.0, expected 0 <= ema_decay < 1, or None"),
        (GAUSSIAN, {"latent_dim": 0}, "latent_dim is 0, expected a whole number of at least 1"),
        (
            GAUSSIAN,
            {"sampler": MLP(2, 3, hidden=(8,))},
            r"maps latent points to shape \(8, 3\), expected \(8, 2\) for the target Correlated",
        ),
        (
            GAUSSIAN,
            {"sampler": MLP(3, 2, hidden=(8,))},
            r"the sampler network fails on inputs of shape \(8, 2\) .* match its input to the lat",
        ),
        (
            GAUSSIAN,
            {"score_network": MLP(2, 1, hidden=(8,))},
            r"the score network maps points of shape \(8, 2\) to \(8, 1\), expected the same",
        ),
        (
            GAUSSIAN,
            {"score_network": ScoreNetwork(2), "sigma": LogUniform(0.1, 1.0)},
            "the score network is given a noise level with each point, expected none: build it",
        ),
        (
            GAUSSIAN,
            {"score_network": ScoreNetwork(2, conditional=True)},
            "the score network is given no noise level with each point, expected one: build it",
        ),
        (
            GAUSSIAN,
            {"warm_start": ImplicitSampler(SamplerNetwork(2, 3), latent_dim=2, dim=3)},
            "warm_start maps 2 to 3 coordinates, expected any to 2: train one for this target",
        ),
        (
            GAUSSIAN,
            {
                "warm_start": ImplicitSampler(SamplerNetwork(2, 2), latent_dim=2, dim=2),
                "sampler": SamplerNetwork(2, 2),
            },
            "found sampler and warm_start, expected one of them: drop one",
        ),
        (
            GAUSSIAN,
            {"independent_scores": True, "method": "kl"},
            "found independent_scores with method 'kl', expected 'dft'",
        ),
        (
            GAUSSIAN,
            {"distance": "pseudo-huber", "alpha": 1.0},
            "found distance 'pseudo-huber' with alpha 1.0",
        ),
        (GAUSSIAN, {"tempering": lambda k: 1.0 - k / 5}, "tempering is 0.0 at step 5, expected a"),
        (GAUSSIAN, {"tempering": "x"}, "tempering at step 0 is 'x', expected a number: change it"),
        (GAUSSIAN, {"alpha": lambda k: 0.5 / (5 - k or math.nan)}, "alpha is nan at step 5, expe"),
        (GAUSSIAN, {"alpha": None}, "alpha at step 0 is None, expected a number: change it"),
        (GAUSSIAN, {"sigma": "x"}, "sigma at step 0 is 'x', expected a number: change it"),
        (GAUSSIAN, {"sigma": LogUniform(0.1, "x")}, "high of sigma at step 0 is 'x', expected a"),
        (GAUSSIAN, {"score_steps": lambda k: 5 - k if k < 5 else -1}, "score_steps at step 5 is"),
        (GAUSSIAN, {"distance": "l1"}, "distance is 'l1', expected one of squared, pseudo-huber"),
        (GAUSSIAN, {"distance": "l1", "method": "kl"}, "distance is 'l1', expected one of squared"),
        (GAUSSIAN, {"trace": "none"}, "trace is 'none', expected one of exact, hutchinson: choo"),
        (GAUSSIAN, {"c": 0.0}, "c is 0.0, expected a finite number above 0: change it"),
        (GAUSSIAN, {"c": -1, "method": "fisher"}, "c is -1, expected a finite number above 0"),
        (GAUSSIAN, {"decay": "x"}, "decay is 'x', expected a share from 0 to 1: change it"),
        (GAUSSIAN, {"decay_to": None}, "decay_to is None, expected a share from 0 to 1: change"),
        (GAUSSIAN, {"clip_norm": "x"}, "clip_norm is 'x', expected a number above 0, or None"),
        (GAUSSIAN, {"ema_decay": "x"}, "ema_decay is 'x', expected 0 <= ema_decay < 1, or None"),
        (GAUSSIAN, {"noise_weight": math.inf}, "noise_weight is inf, expected a finite power of"),
        (GAUSSIAN, {"betas": 0.9}, "betas is 0.9, expected two numbers from 0 up to below 1"),
        (GAUSSIAN, {"steps": "x"}, "steps is 'x', expected a whole number of at least 1"),
        (GAUSSIAN, {"hidden": (8, 0)}, "a width of hidden is 0, expected a whole number of at le"),
        (GAUSSIAN, {"checkpoint_every": 0}, "checkpoint_every is 0, expected a whole number of at"),
        (
            GAUSSIAN,
            {"distance": "pseudo-huber", "alpha": lambda k: 0.5 + k},
            "found distance 'pseudo-huber' with alpha 1.5, expected 0.5: use",
        ),
        (
            GAUSSIAN,
            {"distance": "pseudo-huber", "independent_scores": True},
            "found independent_scores with distance 'pseudo-huber', expected 'squared': drop one",
        ),
        (Noisy(), {"method": "fisher"}, "score is stochastic, which biases method 'fisher': use"),
        (
            Noisy(),
            {"distance": "pseudo-huber"},
            "score is stochastic, which biases distance 'pseudo-huber': use 'squared' or the score",
        ),
        (
            Noisy(),
            {"distance": "pseudo-huber", "independent_scores": False},
            "score is stochastic, which biases distance 'pseudo-huber': use",
        ),
        (Cliff(0), {}, "the score of Cliff is NaN or infinite at 8 of 8 points of the sampler as"),
        (
            FromLogDensity(lambda x: -(x.detach() ** 2).sum(1), 2),
            {},
            "log.density of FromLogDensity .*differentia",
        ),
        (FromLogDensity(flat, 2), {"method": "kl"}, "log.density of FromLogDensity .*differentia"),
        (Detached(), {}, "the score of Detached does not depend on the points differentiably"),
        (
            FromLogDensity(lambda x: x.sum(1), 2, score=lambda x: x[:, :1]),
            {},
            r"the score of FromLogDensity has shape \(8, 1\) for points of shape \(8, 2\)",
        ),
    ],
)
def test_bad_input_is_named_before_the_first_step(target, options, message, monkeypatch):
    def trained(loop: Loop) -> None:
        raise AssertionError("the first step was taken")

    monkeypatch.setattr(Loop, "pretrain", trained)
    with pytest.raises(ValueError, match=message):
        train(target, **options)


def test_a_target_without_a_noised_law_is_named():
    with pytest.raises(NotImplementedError, match="the noised law of Donut is not known in closed"):
        train(Donut(), noised=True)


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 5), (1.0, -1.0, 5), (1.0, 2.0, 0)])
def test_bad_ramps_are_named(arguments):
    with pytest.raises(ValueError, match="found a ramp from"):
        geometric(*arguments)


def test_options_that_a_method_does_not_read_are_free():
    for options in ({"distance": "pseudo-huber", "alpha": 1.0}, {"trace": "hutchinson"}):
        assert train(method="kl", **options).history.stopped == "finished"
