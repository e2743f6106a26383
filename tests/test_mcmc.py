"""Langevin and Hamiltonian chains and Stein's particles: identities of a step, moments, losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from galflow_lite.mcmc import (
    hmc,
    langevin,
    leapfrog,
    log_transition,
    split_r_hat,
    stein_direction,
    svgd,
)
from galflow_lite.targets import (
    BENCHMARKS,
    FromLogDensity,
    Rosenbrock,
)


def require_moments(x: torch.Tensor, means: list[float]) -> None:
    """Means of x1, x2, x1^2, x2^2 and x1 x2; the ends of independent chains are independent."""
    first, second = x.unbind(1)
    values = torch.stack([first, second, first**2, second**2, first * second], dim=1)
    error = values.std(0) / math.sqrt(len(x))
    assert float(((values.mean(0) - torch.tensor(means)) / error).abs().max()) < 4.5


# Langevin


def test_one_unadjusted_step_and_its_density():
    target = BENCHMARKS["rosenbrock"]()
    start = target.sample(50, seed=2)
    score = target.score(start)
    chains = langevin(target, start, steps=1, step_size=0.02, seed=3)
    noise = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(chains.samples, start + 0.02 * score + math.sqrt(0.04) * noise)
    law = Normal(start + 0.02 * score, math.sqrt(0.04))
    found = log_transition(start, chains.samples, score, 0.02) - math.log(2 * math.pi * 0.04)
    torch.testing.assert_close(found, law.log_prob(chains.samples).sum(1))


# Long runs


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        (langevin, {"steps": 400, "step_size": 0.15}, {"steps": 1500, "step_size": 0.08}),
        (hmc, {"steps": 40}, {"steps": 80}),
    ],
)
def test_moments_of_long_runs(method, first, second):
    # From off the centre; x1 ~ N(1, 1/2) of Rosenbrock has the moments 3/2, 5/2 (third) and 19/4
    # (fourth), x2 adds its variance 1/2.
    options = {"adjust": True} if method is langevin else {"warmup": 60}
    begin = torch.full((2000, 2), 6.0).double()
    chains = method(BENCHMARKS["gaussian"](), begin, seed=9, **first, **options)
    require_moments(chains.samples, [0, 0, 1, 1, 0.8])
    chains = method(Rosenbrock(), 2000, seed=10, **second, **options)
    require_moments(chains.samples, [1, 1.5, 1.5, 4.75 + 0.5, 2.5])


# Hamiltonian


def test_leapfrog_is_reversible():
    target = BENCHMARKS["rosenbrock"]()
    x = target.sample(20, seed=12)
    momentum = torch.randn(20, 2, dtype=torch.float64)
    options = {"step_size": 0.05, "steps": 25}
    end, end_momentum, score = leapfrog(target.score, x, momentum, target.score(x), **options)
    torch.testing.assert_close(score, target.score(end))
    assert float((end - x).norm(dim=1).median()) > 0.1
    back, back_momentum, _ = leapfrog(target.score, end, -end_momentum, score, **options)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_momentum, -momentum)


@pytest.mark.parametrize(("name", "wanted"), [("gaussian", 0.9), ("donut_hard", 0.65)])
def test_warm_up_finds_the_wanted_acceptance(name, wanted):
    # Acceptance drops steeply at the edge of stability, where the mean of the trials lies on the
    # safe side. Bounds of six standard deviations over seeds; without a warm-up 0 or 1.
    options = {"steps": 30, "warmup": 200, "leapfrog_steps": 5, "target_acceptance": wanted}
    chains = hmc(BENCHMARKS[name](), 300, seed=14, **options)
    assert wanted - 0.15 < chains.acceptance < wanted + 0.9 * (1 - wanted)


# Stein's particles


def test_stein_direction_is_its_formula():
    target = BENCHMARKS["donut"]()
    x = target.sample(12, seed=16)
    score = target.score(x)
    width = float(torch.pdist(x).median()) ** 2 / math.log(12)
    expected = torch.zeros(12, 2, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            other = x[j].clone().requires_grad_()
            kernel = torch.exp(-(other - x[i]).square().sum() / width)
            (slope,) = torch.autograd.grad(kernel, other)
            expected[i] += (kernel.detach() * score[j] + slope) / 12
    torch.testing.assert_close(stein_direction(x, score), expected)


def test_stein_direction_in_single_precision_far_from_the_origin():
    x = 1000 + torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    found, exact = stein_direction(x, 1000 - x), stein_direction(x.double(), 1000 - x.double())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_particles_reach_moments():
    chains = svgd(BENCHMARKS["gaussian"](), 200, steps=400, step_size=0.05, seed=19)
    assert float(chains.samples.mean(0).abs().max()) < 0.1
    expected = BENCHMARKS["gaussian"]().covariance
    torch.testing.assert_close(torch.cov(chains.samples.T), expected, atol=0.1, rtol=0)
    lone = torch.tensor([[3.0, -2.0]]).double()
    torch.testing.assert_close(stein_direction(lone, -lone), -lone)


# What chains return


RUNS = {
    "ula": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, **o),
    "mala": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, adjust=True, **o),
    "hmc": lambda t, start, **o: hmc(t, start, steps=12, warmup=5, **o),
    "svgd": lambda t, start, **o: svgd(t, start, steps=12, **o),
}
every_run = pytest.mark.parametrize("name", RUNS)
DONUT = BENCHMARKS["donut"]()


def half_square(x):
    return -x.square().sum(1) / 2


@every_run
def test_gradients_are_counted(name):
    points = []

    def score(x):
        points.append(len(x))
        return -x

    chains = RUNS[name](FromLogDensity(half_square, 2, score=score), 7)
    assert chains.gradient_evaluations == sum(points)
    assert chains.gradient_evaluations_per_sample == sum(points) / 7


@every_run
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_start_path_and_seeds(name, dtype):
    start = DONUT.sample(10, seed=20).to(dtype)
    kept, state = start.clone(), torch.get_rng_state()
    chains = RUNS[name](DONUT, start, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (chains.samples.dtype, chains.samples.shape) == (dtype, (10, 2))
    assert torch.equal(start, kept)
    assert (chains.acceptance is None) == (name in ("ula", "svgd"))
    every = RUNS[name](DONUT, start, seed=1, keep_every=1).path
    assert torch.equal(every[-1], chains.samples)
    assert torch.equal(every[[4, 9]], RUNS[name](DONUT, start, seed=1, keep_every=5).path)
    free = [RUNS[name](DONUT, 10, seed=seed).samples for seed in (1, 1, 2)]
    assert torch.equal(free[0], free[1])
    assert not torch.equal(free[0], free[2])


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
    # A mixture, by products of matrices, likewise: at this step all grow, and some overflow.
    ends = []
    for far in (1e300, 1.0):
        start = torch.full((40, 2), 1.0).double()
        start[30:] = far
        ends.append(langevin(BENCHMARKS["mog2_hard"](), start, steps=40, step_size=1.0, seed=2))
    assert ends[0].diverged.tolist() == [False] * 30 + [True] * 10
    assert torch.equal(ends[0].samples[:30], ends[1].samples[:30])


def test_a_score_that_turns_nan_loses_the_chain():
    target = FromLogDensity(half_square, 1, score=lambda x: torch.where(x < 1, -x, torch.nan))
    start = torch.zeros(200, 1).double()
    loose = langevin(target, start, steps=50, step_size=0.5, seed=24)
    assert 0 < int(loose.diverged.sum())
    kept = langevin(target, start, steps=50, step_size=0.5, adjust=True, seed=24)
    assert float(kept.samples.max()) < 1
    swung = hmc(target, start, steps=20, warmup=5, leapfrog_steps=3, seed=24)
    assert float(swung.samples.max()) < 1


@every_run
def test_scores_and_densities_that_are_none(name):
    nan = FromLogDensity(half_square, 2, score=lambda x: torch.where(x > 0, x, torch.nan))
    with pytest.raises(ValueError, match="not finite at 1 of 2 starti"):
        RUNS[name](nan, [[1.0, 1.0], [-1.0, 1.0]])
    # Broadcasting would take these for a score, or for a log density.
    flat = FromLogDensity(half_square, 2, score=lambda x: -x[:, :1])
    for wrong in (flat, FromLogDensity(lambda x: half_square(x)[:, None], 2)):
        with pytest.raises(ValueError, match="of FromLogDensity has shape"):
            RUNS[name](wrong, 5)
    if name in ("mala", "hmc"):
        with pytest.raises(ValueError, match="not finite at 1 of 2 starting"):
            RUNS[name](FromLogDensity(lambda x: x[:, 0].log(), 1), [[1.0], [-1.0]])
