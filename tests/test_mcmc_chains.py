"""What chains return: counted gradients, types, seeds, paths, and which chains were lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_chains import RUNS, every_run

from galflow_lite.mcmc import hmc, langevin, svgd
from galflow_lite.targets import NAMED, FromLogDensity, Rosenbrock, Target


class Counted(Target):
    """A target that counts the points at which its score is computed."""

    def __init__(self, target: Target) -> None:
        self.target, self.dim, self.points = target, target.dim, 0

    def _log_density(self, x):
        return self.target._log_density(x)

    def score(self, x):
        self.points += len(x)
        return self.target.score(x)


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
        assert chains.gradient_evaluations == 7 * expected
        assert chains.gradient_evaluations_per_sample == expected
    assert chains.seconds > 0


@every_run
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_and_start_are_kept(name, dtype):
    start = NAMED["donut"]().sample(10, seed=20).to(dtype)
    kept = start.clone()
    chains = RUNS[name](NAMED["donut"](), start, seed=1)
    assert chains.samples.dtype == dtype
    assert chains.samples.shape == (10, 2)
    assert torch.equal(start, kept)
    assert not chains.samples.requires_grad
    assert (chains.acceptance is None) == (name in ("ula", "svgd"))
    if chains.acceptance is not None:
        assert chains.acceptance == pytest.approx(float(chains.acceptance_by_chain.mean()))


@every_run
def test_seeds(name):
    state = torch.get_rng_state()
    first = RUNS[name](NAMED["donut"](), 10, seed=1).samples
    assert torch.equal(state, torch.get_rng_state())
    assert first.dtype == torch.float64
    assert torch.equal(first, RUNS[name](NAMED["donut"](), np.int64(10), seed=1).samples)
    assert not torch.equal(first, RUNS[name](NAMED["donut"](), 10, seed=2).samples)
    torch.manual_seed(5)
    free = RUNS[name](NAMED["donut"](), 10).samples
    torch.manual_seed(5)
    assert torch.equal(free, RUNS[name](NAMED["donut"](), 10).samples)


@every_run
def test_path(name):
    chains = RUNS[name](NAMED["donut"](), 10, seed=1, keep_every=5)
    plain = RUNS[name](NAMED["donut"](), 10, seed=1)
    assert chains.path.shape == (2, 10, 2)
    assert plain.path is None
    assert torch.equal(chains.samples, plain.samples)
    every = RUNS[name](NAMED["donut"](), 10, seed=1, keep_every=1)
    assert torch.equal(every.path[-1], every.samples)
    assert torch.equal(every.path[[4, 9]], chains.path)
    assert RUNS[name](NAMED["donut"](), 10, seed=1, keep_every=13).path.shape == (0, 10, 2)


# Lost chains


def test_diverged_chains_are_reported():
    target = NAMED["rosen_hard"]()
    start = torch.tensor([[1.0, 1.0]] * 30 + [[30.0, -30.0]] * 10).double()
    chains = langevin(target, start, steps=60, step_size=0.001, seed=21)
    assert chains.diverged.tolist() == [False] * 30 + [True] * 10
    assert chains.samples[chains.diverged].isnan().all()
    assert chains.finite.shape == (30, 2)
    assert chains.finite.isfinite().all()
    # The lost chains do not disturb the others.
    start[30:] = 1.0
    sound = langevin(target, start, steps=60, step_size=0.001, seed=21)
    assert not sound.diverged.any()
    assert torch.equal(sound.samples[:30], chains.samples[:30])
    assert str(chains).startswith("40 chains of 60 steps, 60 gradients a sample")
    assert str(chains).endswith("10 diverged")


def test_adjusted_chains_reject_what_would_diverge():
    target = NAMED["rosen_hard"]()
    chains = langevin(target, 50, steps=30, step_size=10.0, adjust=True, seed=22)
    assert chains.samples.isfinite().all()
    assert not chains.diverged.any()
    assert chains.acceptance < 0.05
    trajectories = hmc(target, 50, steps=5, warmup=0, step_size=5.0, seed=23)
    assert trajectories.samples.isfinite().all()
    assert trajectories.rejected_as_divergent == 250
    assert trajectories.acceptance == 0
    assert (trajectories.acceptance_by_chain == 0).all()


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
