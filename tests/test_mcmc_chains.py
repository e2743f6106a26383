"""What chains return: counted gradients, types, seeds, paths, diagnostics, and lost chains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from galflow_lite.mcmc import hmc, langevin, split_r_hat, svgd
from galflow_lite.targets import BENCHMARKS, FromLogDensity, Rosenbrock, Target

RUNS = {
    "ula": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, **o),
    "mala": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, adjust=True, **o),
    "hmc": lambda t, start, **o: hmc(t, start, steps=12, warmup=5, **o),
    "svgd": lambda t, start, **o: svgd(t, start, steps=12, **o),
}
every_run = pytest.mark.parametrize("name", RUNS)
DONUT = BENCHMARKS["donut"]()


class Counted(Target):
    """A target that counts the points at which its score is computed."""

    def __init__(self, target: Target) -> None:
        self.target, self.dim, self.points = target, target.dim, 0

    def _log_density(self, x):
        return self.target._log_density(x)

    def _closed_score(self, x):
        self.points += len(x)
        return self.target._closed_score(x)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda t: langevin(t, 7, steps=13, step_size=0.01), 13),
        (lambda t: langevin(t, 7, steps=13, step_size=0.01, adjust=True), 14),
        (lambda t: hmc(t, 7, steps=4, warmup=3, leapfrog_steps=5, step_size=0.1), 1 + 7 * 5),
        (lambda t: hmc(t, 7, steps=4, warmup=0, leapfrog_steps=2, step_size=0.1), 1 + 4 * 2),
        (lambda t: hmc(t, 7, steps=2, warmup=3, leapfrog_steps=2), None),
        (lambda t: svgd(t, 7, steps=9), 9),
    ],
)
def test_gradients_are_counted(run, expected):
    target = Counted(Rosenbrock())
    chains = run(target)
    assert chains.gradient_evaluations == target.points
    if expected is not None:
        assert chains.gradient_evaluations_per_sample == expected
    assert chains.seconds > 0


@every_run
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_start_and_path(name, dtype):
    start = DONUT.sample(10, seed=20).to(dtype)
    kept = start.clone()
    chains = RUNS[name](DONUT, start, seed=1)
    assert (chains.samples.dtype, chains.samples.shape) == (dtype, (10, 2))
    assert torch.equal(start, kept)
    assert not chains.samples.requires_grad
    assert (chains.acceptance is None) == (name in ("ula", "svgd"))
    every = RUNS[name](DONUT, start, seed=1, keep_every=1).path
    assert torch.equal(every[-1], chains.samples)
    assert torch.equal(every[[4, 9]], RUNS[name](DONUT, start, seed=1, keep_every=5).path)


@every_run
def test_seeds(name):
    state = torch.get_rng_state()
    first = RUNS[name](DONUT, 10, seed=1).samples
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, RUNS[name](DONUT, np.int64(10), seed=np.int64(1)).samples)
    assert not torch.equal(first, RUNS[name](DONUT, 10, seed=2).samples)
    torch.manual_seed(5)
    free = RUNS[name](DONUT, 10).samples
    torch.manual_seed(5)
    assert torch.equal(free, RUNS[name](DONUT, 10).samples)


def test_split_r_hat():
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(1001, 8, 3, dtype=torch.float64, generator=generator)
    # A shift of one chain in the second column, a drift of all of them in the third.
    path[:, 0, 1] += 3
    path[:, :, 2] += torch.linspace(0, 3, 1001, dtype=torch.float64)[:, None]
    found = split_r_hat(path)
    assert float(found[0]) == pytest.approx(1, abs=2e-3)
    halves = path[1:].view(2, 500, 8, 3).transpose(0, 1).reshape(500, 16, 3)
    for column in (1, 2):
        x = halves[:, :, column].numpy()
        within, between = x.var(0, ddof=1).mean(), x.mean(0).var(ddof=1)
        assert float(found[column]) == pytest.approx(math.sqrt(499 / 500 + between / within))
        assert float(found[column]) > 1.1


# Lost chains


def test_diverged_chains_are_reported():
    target = BENCHMARKS["rosen_hard"]()
    start = torch.tensor([[1.0, 1.0]] * 30 + [[30.0, -30.0]] * 10).double()
    chains = langevin(target, start, steps=60, step_size=0.001, seed=21)
    assert chains.diverged.tolist() == [False] * 30 + [True] * 10
    assert chains.samples[chains.diverged].isnan().all()
    assert chains.samples[:30].isfinite().all()
    # The lost chains do not disturb the others.
    start[30:] = 1.0
    sound = langevin(target, start, steps=60, step_size=0.001, seed=21)
    assert not sound.diverged.any()
    assert torch.equal(sound.samples[:30], chains.samples[:30])
    assert str(chains).startswith("40 chains of 60 steps, 60 gradients a sample")
    assert str(chains).endswith("10 diverged")


def test_adjusted_chains_reject_what_would_diverge():
    target = BENCHMARKS["rosen_hard"]()
    chains = langevin(target, 50, steps=30, step_size=10.0, adjust=True, seed=22)
    assert chains.samples.isfinite().all()
    assert not chains.diverged.any()
    assert chains.acceptance < 0.05
    trajectories = hmc(target, 50, steps=5, warmup=0, step_size=5.0, seed=23)
    assert trajectories.samples.isfinite().all()
    assert trajectories.rejected_as_divergent == 250
    assert trajectories.acceptance == 0


def test_a_score_that_turns_nan_loses_the_chain():
    target = FromLogDensity(
        lambda x: -x.square().sum(1) / 2, 1, score=lambda x: torch.where(x < 1, -x, torch.nan)
    )
    start = torch.zeros(200, 1).double()
    loose = langevin(target, start, steps=50, step_size=0.5, seed=24)
    assert 0 < int(loose.diverged.sum())
    kept = langevin(target, start, steps=50, step_size=0.5, adjust=True, seed=24)
    assert float(kept.samples.max()) < 1
    swung = hmc(target, start, steps=20, warmup=0, step_size=0.3, leapfrog_steps=3, seed=24)
    assert float(swung.samples.max()) < 1


def test_an_infinite_density_holds_no_chain():
    target = FromLogDensity(
        lambda x: torch.where(x[:, 0] > 1, torch.inf, -x.square().sum(1) / 2),
        1,
        score=lambda x: -x,
    )
    chains = langevin(target, torch.zeros(100, 1), steps=50, step_size=0.5, adjust=True, seed=25)
    assert float(chains.samples.max()) <= 1


@every_run
def test_scores_and_densities_that_are_none(name):
    def normal(x):
        return -x.square().sum(1) / 2

    nan = FromLogDensity(normal, 2, score=lambda x: torch.where(x > 0, x, torch.nan))
    with pytest.raises(ValueError, match="the score of the target is not finite at 1 of 2 starti"):
        RUNS[name](nan, [[1.0, 1.0], [-1.0, 1.0]])
    # Broadcasting would take these for a score, or for a log density.
    for shaped in (lambda x: -x[:, :1], lambda x: -x[0], lambda x: -x.sum()):
        with pytest.raises(ValueError, match="the score of FromLogDensity has shape"):
            RUNS[name](FromLogDensity(normal, 2, score=shaped), 5)
    for shaped in (lambda x: normal(x)[:, None], lambda x: -x.square().sum()):
        with pytest.raises(ValueError, match="the log density of FromLogDensity has shape"):
            RUNS[name](FromLogDensity(shaped, 2), 5)
    with pytest.raises(ValueError, match="wrap its log density, targets.FromLogDensity"):
        RUNS[name](normal, 5)


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_log_density_that_is_infinite_at_the_start(name):
    target = FromLogDensity(lambda x: x[:, 0].log(), 1)
    with pytest.raises(ValueError, match="the log density .* is not finite at 1 of 2 starting poi"):
        RUNS[name](target, [[1.0], [-1.0]])
