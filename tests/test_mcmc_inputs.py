"""Starts, targets and settings that chains refuse."""

from __future__ import annotations

import math

import pytest
import torch
from small_chains import RUNS, every_run

from galflow_lite.mcmc import hmc, langevin, leapfrog, stein_direction, svgd
from galflow_lite.mcmc.langevin import log_transition
from galflow_lite.targets import Donut, FromLogDensity, Target


@every_run
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (0, "start is 0, expected a whole number of at least 1"),
        (2.5, r"start has shape \(\), expected \(n, 2\)"),
        (torch.zeros(4, 3), r"start has shape \(4, 3\), expected \(n, 2\)"),
        (torch.zeros(0, 2), r"start has shape \(0, 2\), expected at least one point"),
        ([[0.0, math.nan]], "start has NaN in 1 of 1 points"),
        ([[0.0, math.inf]], "start has infinite values in 1 of 1 points"),
    ],
)
def test_bad_start(name, start, message):
    with pytest.raises(ValueError, match=message):
        RUNS[name](Donut(), start)


@every_run
def test_score_that_is_nan_at_the_start(name):
    target = FromLogDensity(
        lambda x: -x.square().sum(1), 2, score=lambda x: torch.where(x > 0, x, torch.nan)
    )
    start = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    with pytest.raises(ValueError, match="the score of the target is not finite at 1 of 2 starti"):
        RUNS[name](target, start)


class Written(Target):
    """A target that writes its two methods itself, past the checks of `Target`."""

    dim = 2

    def __init__(self, log_density, score):
        self.log_density, self.score = log_density, score


def _normal(x):
    return -x.square().sum(1) / 2


@every_run
@pytest.mark.parametrize("chains", [1, 5])
@pytest.mark.parametrize(
    "make", [lambda f, s: FromLogDensity(f, 2, score=s), Written], ids=["function", "methods"]
)
def test_a_score_of_another_shape(name, chains, make):
    # Broadcasting makes (n, 1), (2,) and () a score of its own for each sampler.
    for score, shape in (
        (lambda x: -x[:, :1], rf"\({chains}, 1\)"),
        (lambda x: -x[0], r"\(2,\)"),
        (lambda x: -x.sum(), r"\(\)"),
    ):
        target = make(_normal, score)
        message = (
            rf"the score of {type(target).__name__} has shape {shape} for points of shape "
            rf"\({chains}, 2\), expected the same: return one value a coordinate"
        )
        with pytest.raises(ValueError, match=message):
            RUNS[name](target, chains)


# A closed score leaves "ula" and "svgd" without need of a log density.
@pytest.mark.parametrize("chains", [1, 5])
@pytest.mark.parametrize(
    ("name", "closed"), [*((name, False) for name in RUNS), ("mala", True), ("hmc", True)]
)
def test_a_log_density_of_another_shape(name, closed, chains):
    for log_density, shape in (
        (lambda x: _normal(x)[:, None], rf"\({chains}, 1\)"),
        (lambda x: -x.square(), rf"\({chains}, 2\)"),
        (lambda x: -x.square().sum(), r"\(\)"),
    ):
        target = FromLogDensity(log_density, 2, score=(lambda x: -x) if closed else None)
        message = (
            rf"the log density of FromLogDensity has shape {shape}, expected \({chains},\): return "
            "one value a point"
        )
        with pytest.raises(ValueError, match=message):
            RUNS[name](target, chains)
        if closed:
            with pytest.raises(ValueError, match=message.replace("FromLogDensity", "Written")):
                RUNS[name](Written(log_density, lambda x: -x), chains)


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_log_density_that_is_infinite_at_the_start(name):
    target = FromLogDensity(lambda x: x[:, 0].log(), 1)
    with pytest.raises(ValueError, match="the log density .* is not finite at 1 of 2 starting poi"):
        RUNS[name](target, [[1.0], [-1.0]])


@every_run
def test_a_log_density_that_cannot_be_differentiated(name):
    target = FromLogDensity(lambda x: torch.from_numpy(-(x.numpy() ** 2).sum(1)), 2)
    message = "the log density of FromLogDensity cannot be differentiated .*requires grad.*rewrite"
    with pytest.raises(ValueError, match=message):
        RUNS[name](target, 5)
    # An error of the formula itself is not taken for that.
    target = FromLogDensity(lambda x: -(x @ torch.eye(3).to(x)).square().sum(1), 2)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        RUNS[name](target, 5)


X = torch.arange(8.0).view(4, 2)


def leap(target, momentum=X, score=X, steps=3):
    """Leapfrog steps of a target, or of a function for its score."""
    return leapfrog(
        target if callable(target) else target.score, X, momentum, score, step_size=0.1, steps=steps
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda t: langevin(t, 5, steps=0, step_size=0.1), "steps is 0, expected a whole number"),
        (lambda t: langevin(t, 5, steps=2, step_size=0.0), "step_size is 0.0, expected a finite"),
        (lambda t: langevin(t, 5, steps=2, step_size=lambda k: -k), "step_size is 0, expected a f"),
        (lambda t: langevin(t, 5, steps=2, step_size=1, seed=-1), "seed is -1, expected a whole"),
        (lambda t: langevin(t, 5, steps=2, step_size=1, keep_every=0), "keep_every is 0, expected"),
        (lambda t: hmc(t, 5, steps=2.0), "steps is 2.0, expected a whole number of at least 1"),
        (lambda t: hmc(t, 5, steps=2, warmup=-1), "warmup is -1, expected a whole number of at"),
        (lambda t: hmc(t, 5, steps=2, leapfrog_steps=0), "leapfrog_steps is 0, expected a whole"),
        (lambda t: hmc(t, 5, steps=2, warmup=0), "step_size is None and warmup 0, expected one of"),
        (lambda t: hmc(t, 5, steps=2, step_size=-1), "step_size is -1, expected a finite number"),
        (lambda t: hmc(t, 5, steps=2, target_acceptance=1), r"target_acceptance is 1, expected a"),
        (lambda t: hmc(t, 5, steps=2, target_acceptance=0), r"target_acceptance is 0, expected a"),
        (lambda t: hmc(t, 5, steps=2, jitter=1.0), r"jitter is 1.0, expected a number from 0"),
        (lambda t: svgd(t, 5, steps=0), "steps is 0, expected a whole number of at least 1"),
        (lambda t: svgd(t, 5, steps=2, step_size=0), "step_size is 0, expected a finite number"),
        (lambda t: svgd(t, 5, steps=2, bandwidth=0), "bandwidth is 0, expected a finite number"),
        (lambda t: svgd(t, 5, steps=2, decay=1.0), "decay is 1.0, expected None or a number"),
        (lambda t: leap(t, steps=0), "steps is 0, expected a whole number of at least 1"),
        (lambda t: leap(t, steps=2.0), "steps is 2.0, expected a whole number of at least 1"),
        (
            lambda t: leap(t, momentum=X[:, :1]),
            r"momentum has shape \(4, 1\) for points of shape \(4",
        ),
        (
            lambda t: leap(t, score=X[0]),
            r"score has shape \(2,\) for points of shape \(4, 2\), exp",
        ),
        (
            lambda t: leap(lambda x: x[:, :1]),
            r"score has shape \(4, 1\) for points of shape \(4, 2",
        ),
        (
            lambda t: log_transition(X, X[:1], X, 0.1),
            r"y has shape \(1, 2\) for points of shape \(4",
        ),
        (lambda t: log_transition(X, X, X[:, :1], 0.1), r"score has shape \(4, 1\) for points of"),
        (lambda t: stein_direction(X, X[:, :1]), r"score has shape \(4, 1\) for points of shape"),
        (lambda t: stein_direction(X, X, bandwidth=0), "bandwidth is 0, expected a finite number"),
        (lambda t: stein_direction(X[:0], X[:0]), r"x has shape \(0, 2\), expected at least one"),
        (lambda t: svgd(t, torch.zeros(3, 2), steps=2), "all 3 particles start at one point"),
    ],
)
def test_bad_arguments(run, message):
    with pytest.raises(ValueError, match=message):
        run(Donut())
