"""Checkpoints of sampler trainings: what they give back, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_samplers import Noisy, train, weights
from torch import Tensor

from galflow_lite.files import read_state, write_state
from galflow_lite.neural_samplers import ImplicitSampler, LogUniform, geometric
from galflow_lite.targets import FromLogDensity, GaussianMixture, Target


def test_a_resumed_training_gives_the_same_result(tmp_path):
    path = tmp_path / "state.safetensors"
    whole = train(sigma=LogUniform(0.1, 1.0), checkpoint=tmp_path / "whole.safetensors")

    class Stop(Exception):
        pass

    def stop(step: int, sampler: ImplicitSampler) -> None:
        if step == 5:
            raise Stop

    options = {"sigma": LogUniform(0.1, 1.0), "checkpoint": path, "checkpoint_every": 4}
    with pytest.raises(Stop):
        train(callback=stop, callback_every=1, **options)
    resumed = train(**options)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.loss == whole.history.loss
    assert resumed.history.gradient_evaluations == whole.history.gradient_evaluations
    # A finished one is read, not trained again.
    assert torch.equal(weights(train(**options)), weights(whole))
    with pytest.raises(ValueError, match="was written with batch = 16, but this call has 8: use"):
        train(**options, batch=8)
    with pytest.raises(ValueError, match="is of other networks"):
        train(**options, hidden=(9,))


def test_ctrl_c_keeps_what_was_reached():
    seen = {}

    def interrupt(step: int, sampler: ImplicitSampler) -> None:
        seen[step] = weights(sampler)
        if step == 4:
            raise KeyboardInterrupt

    sampler = train(callback=interrupt, callback_every=1)
    assert sampler.history.stopped == "interrupted"
    assert len(sampler.history.loss) == 4
    assert torch.equal(weights(sampler), seen[4])


def narrow(scale: float = 1.0) -> FromLogDensity:
    """A target that has no name of its own and is made anew in each call."""
    return FromLogDensity(lambda x: -scale * x.square().sum(1) / 2, 2)


def mixture(share: float = 0.5, distance: float = 4.0) -> GaussianMixture:
    return GaussianMixture([[0.0, 0.0], [distance, 0.0]], 1.0, [share, 1 - share])


# One call of each makes all arguments anew, as a second run of a script does.
SAME: dict[str, Callable[[], dict[str, Any]]] = {
    "a function as target": lambda: {"target": narrow()},
    "a mixture": lambda: {"target": mixture()},
    "a stochastic target": lambda: {"target": Noisy()},
    "a ramp": lambda: {"tempering": geometric(0.1, 1.0, 4)},
    "a law": lambda: {"sigma": LogUniform(geometric(1.0, 0.1, 4), 2.0)},
    "functions": lambda: {
        "alpha": lambda step: 0.5,
        "score_steps": lambda step: 2,
        "noised": lambda x, sigma: -x / (1 + sigma**2),
    },
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_made_anew_goes_on(name, tmp_path):
    path = tmp_path / "state.safetensors"
    first = train(**SAME[name](), checkpoint=path)
    steps = []
    again = train(**SAME[name](), checkpoint=path, callback=lambda step, s: steps.append(step))
    assert not steps
    assert torch.equal(weights(first), weights(again))
    assert again.history.stopped == "finished"


class Sharp(FromLogDensity):
    """The same law under another name."""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {"target": mixture()},
            {"target": mixture(distance=4.1)},
            "was written with another GaussianMixture, whose score differs from that of this call",
        ),
        (
            {"target": mixture(distance=40.0)},
            {"target": mixture(0.6, distance=40.0)},
            "was written with another GaussianMixture, whose log density differs",
        ),
        (
            {"target": narrow()},
            {"target": narrow(1.01)},
            "was written with another FromLogDensity, whose score differs",
        ),
        (
            {"target": narrow()},
            {"target": Sharp(lambda x: -x.square().sum(1) / 2, 2)},
            "was written with target = FromLogDensity, but this call has Sharp: use the same",
        ),
        (
            {"tempering": geometric(0.1, 1.0, 4)},
            {"tempering": geometric(0.1, 1.0, 3)},
            "was written with tempering = 0.177828 at step 1, but this call has 0.215443: use",
        ),
        (
            {"tempering": geometric(0.1, 1.0, 4)},
            {"tempering": 1.0},
            r"was written with tempering = \{0: 0.1, .*, but this call has 1.0: use",
        ),
        (
            {"sigma": LogUniform(0.1, 1.0)},
            {"sigma": LogUniform(0.1, geometric(2.0, 1.0, 2))},
            r"was written with high of sigma = 1.0, but this call has \{0: 2.0",
        ),
        (
            {"sigma": 0.2},
            {"sigma": LogUniform(0.1, 1.0)},
            "was written with sigma = 0.2, but this call has LogUniform: use",
        ),
        (
            {"score_steps": lambda step: 1 + step},
            {"score_steps": lambda step: 2},
            "was written with score_steps = 1.0 at step 0, but this call has 2.0: use",
        ),
        (
            {"noised": lambda x, sigma: -x / (1 + sigma**2)},
            {"noised": lambda x, sigma: -x},
            "was written with another GaussianMixture, whose score differs",
        ),
        ({}, {"seed": 1}, "was written with seed = 0, but this call has 1: use"),
    ],
)
def test_another_training_is_refused(before, after, message, tmp_path):
    path = tmp_path / "state.safetensors"
    train(**before, checkpoint=path)
    with pytest.raises(ValueError, match=message):
        train(**after, checkpoint=path)


def test_another_kind_of_device_is_refused(tmp_path):
    path, kind = tmp_path / "state.safetensors", "the training of an implicit sampler"
    train(checkpoint=path)
    state = read_state(path, kind=kind)
    state["settings"]["device"] = "cuda"
    write_state(path, state, kind=kind)
    with pytest.raises(ValueError, match="was written with device = cuda, but this call has cpu"):
        train(checkpoint=path)


class Walled(Target):
    """Not finite outside a disc."""

    dim = 2

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def _log_density(self, x: Tensor) -> Tensor:
        return (self.radius**2 - x.square().sum(1)).log()


def test_a_target_that_is_not_finite_everywhere_is_known_where_it_is(tmp_path):
    path = tmp_path / "state.safetensors"
    options = {"steps": 1, "sigma": 0.01, "warmup": 0, "learning_rate": 1e-9}
    first = train(Walled(6.0), checkpoint=path, **options)
    assert torch.equal(weights(train(Walled(6.0), checkpoint=path, **options)), weights(first))
    with pytest.raises(ValueError, match="was written with another Walled, whose"):
        train(Walled(6.1), checkpoint=path, **options)


def test_numbers_of_numpy_fit_into_a_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    plain = {
        "steps": 6,
        "batch": 16,
        "pretrain": 3,
        "score_steps": 2,
        "warmup": 2,
        "latent_dim": 2,
        "seed": 1,
        "checkpoint_every": 2,
        "callback_every": 2,
        "hidden": (8,),
        "sigma": 0.125,
        "tempering": 0.5,
        "alpha": 0.75,
        "c": 2.0,
        "learning_rate": 2**-10,
        "score_learning_rate": 2**-9,
        "betas": (0.0, 0.75),
        "decay": 0.5,
        "decay_to": 0.25,
        "clip_norm": 8.0,
        "ema_decay": 0.5,
        "noise_weight": 0.0,
        "antithetic": True,
        "independent_scores": False,
    }
    kinds = {bool: np.bool_, int: np.int64, float: np.float32}

    def of_numpy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(of_numpy(part) for part in value)
        return kinds[type(value)](value)

    sampler = train(**{name: of_numpy(value) for name, value in plain.items()}, checkpoint=path)
    assert torch.equal(weights(train(**plain)), weights(sampler))
    # Either kind goes on with the other.
    assert torch.equal(weights(train(**plain, checkpoint=path)), weights(sampler))
    file: Path = tmp_path / "sampler.safetensors"
    sampler.save(file)
    assert torch.equal(weights(ImplicitSampler.load(file)), weights(sampler))
