"""Baselines: exact identities of each step, exact moments of long runs, counts, lost chains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

from galflow_lite.mcmc import hmc, langevin, leapfrog, stein_direction, svgd
from galflow_lite.mcmc.langevin import log_transition
from galflow_lite.targets import (
    NAMED,
    BayesianLogisticRegression,
    Donut,
    FromLogDensity,
    GaussianMixture,
    Rosenbrock,
    Target,
)


class Counted(Target):
    """A target that counts the points at which its score is computed."""

    def __init__(self, target: Target) -> None:
        self.target, self.dim, self.points = target, target.dim, 0

    def _log_density(self, x):
        return self.target._log_density(x)

    def score(self, x):
        self.points += len(x)
        return self.target.score(x)


def unit_gaussian(dim: int = 1) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, dim), 1.0)


def require_moments(x: torch.Tensor, exact: torch.Tensor | None = None, **moments: float) -> None:
    """Ends of independent chains are independent: the error of a mean is that of draws."""
    for name, expected in moments.items():
        values = {
            "first": x[:, 0],
            "second": x[:, 1],
            "first_square": x[:, 0] ** 2,
            "second_square": x[:, 1] ** 2,
            "product": x[:, 0] * x[:, 1],
        }[name]
        error = float(values.std()) / math.sqrt(len(x))
        assert abs(float(values.mean()) - expected) < 4.5 * error, name


METHODS = {
    "mala": lambda target, start, **options: langevin(
        target, start, steps=options.pop("steps", 400), adjust=True, **options
    ),
    "hmc": lambda target, start, **options: hmc(
        target, start, steps=options.pop("steps", 40), warmup=60, **options
    ),
}


# Langevin


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.5])
def test_bias_of_the_unadjusted_chain_in_closed_form(epsilon):
    # x' = (1 - eps) x + sqrt(2 eps) xi has the variance 1 / (1 - eps / 2).
    n = 20_000
    chains = langevin(unit_gaussian(2), n, steps=200, step_size=epsilon, seed=1)
    variance = float(chains.samples.var())
    expected = 1 / (1 - epsilon / 2)
    error = expected * math.sqrt(2 / (2 * n))
    assert abs(variance - expected) < 4.5 * error
    if epsilon >= 0.5:
        assert abs(variance - 1) > 20 * error


def test_one_unadjusted_step_is_its_formula():
    target = NAMED["rosenbrock"]()
    start = target.sample(50, seed=2)
    chains = langevin(target, start, steps=1, step_size=0.02, seed=3)
    noise = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = start + 0.02 * target.score(start) + math.sqrt(0.04) * noise
    torch.testing.assert_close(chains.samples, expected)


def test_transition_density_of_the_proposal():
    target = NAMED["squiggle"]()
    x, y = target.sample(20, seed=4), target.sample(20, seed=5)
    law = Normal(x + 0.3 * target.score(x), math.sqrt(0.6))
    constant = math.log(2 * math.pi * 0.6)
    found = log_transition(x, y, target.score(x), 0.3)
    torch.testing.assert_close(found - constant, law.log_prob(y).sum(1))


def test_flow_of_probability_of_mala_balances_on_a_grid():
    # The kernel of one step on a fine grid keeps the target: integral of q(x) K(x, y) is q(y).
    target = FromLogDensity(lambda x: -x[:, 0].square() / 2 - (2 * x[:, 0]).cos(), 1)
    grid = torch.linspace(-7, 7, 1201, dtype=torch.float64)[:, None]
    log_q, score, epsilon = target.log_density(grid), target.score(grid), 0.4
    n = len(grid)
    x, y = grid.repeat_interleave(n, 0), grid.repeat(n, 1)
    forward = log_transition(x, y, score.repeat_interleave(n, 0), epsilon).view(n, n)
    log_ratio = log_q[None] - log_q[:, None] + forward.T - forward
    move = forward.exp() * log_ratio.clamp(max=0).exp()
    move = move * float(grid[1] - grid[0]) / math.sqrt(4 * math.pi * epsilon)
    flow = log_q.exp()[:, None] * move
    torch.testing.assert_close(flow, flow.T, rtol=1e-9, atol=1e-12)
    # The chain accepts as often as this kernel says.
    q = log_q.exp() / log_q.exp().sum()
    expected = float((q[:, None] * move).sum())
    start = grid[torch.multinomial(q, 4000, True, generator=torch.Generator().manual_seed(0))]
    chains = langevin(target, start, steps=20, step_size=epsilon, adjust=True, seed=6)
    error = float(chains.acceptance_by_chain.std()) / math.sqrt(4000)
    assert abs(chains.acceptance - expected) < 4.5 * error
    # At equilibrium they stay there, which the unadjusted chain does not.
    cdf = q.cumsum(0)
    uniform = np.interp(chains.samples[:, 0].numpy(), grid[:, 0].numpy(), cdf.numpy())
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    loose = langevin(target, start, steps=20, step_size=epsilon, seed=6)
    biased = np.interp(loose.samples[:, 0].numpy(), grid[:, 0].numpy(), cdf.numpy())
    assert stats.kstest(biased, "uniform").pvalue < 1e-4


def test_mini_batch_scores_and_a_falling_step_size():
    # Stochastic-gradient Langevin: the noise of the score adds little where the steps are small.
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(400, 1, dtype=torch.float64, generator=generator)
    labels = (design[:, 0] + torch.randn(400, generator=generator) > 0).long()
    posterior = BayesianLogisticRegression(design, labels)
    exact = hmc(posterior, 1000, steps=20, warmup=60, seed=7).samples
    chains = langevin(
        posterior.with_batches(100),
        exact,
        steps=300,
        step_size=lambda step: 2e-3 * (1 + step / 50) ** -0.55,
        seed=8,
    )
    assert chains.step_size == pytest.approx(2e-3 * (1 + 299 / 50) ** -0.55)
    shift = (chains.samples.mean(0) - exact.mean(0)) / exact.std(0)
    assert float(shift.abs().max()) < 0.2
    for adjusted in (
        lambda t: langevin(t, 5, steps=2, step_size=0.1, adjust=True),
        lambda t: hmc(t, 5, steps=2),
    ):
        with pytest.raises(ValueError, match="BayesianLogisticRegression gives a fresh estimate"):
            adjusted(posterior.with_batches(10))


# Long runs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", ["centre", "off centre"])
def test_correlated_gaussian(method, start):
    begin = 2000 if start == "centre" else torch.full((2000, 2), 6.0).double()
    options = {"step_size": 0.15} if method == "mala" else {}
    chains = METHODS[method](NAMED["gaussian"](), begin, seed=9, **options)
    moments = {"first_square": 1, "second_square": 1, "product": 0.8}
    require_moments(chains.samples, first=0, second=0, **moments)
    assert not chains.diverged.any()


@pytest.mark.parametrize("method", METHODS)
def test_rosenbrock(method):
    options = {"step_size": 0.08, "steps": 1500} if method == "mala" else {"steps": 80}
    chains = METHODS[method](Rosenbrock(), 2000, seed=10, **options)
    # x1 ~ N(1, 1/2): moments 3/2, 5/2 (third) and 19/4 (fourth); x2 adds its variance 1/2.
    require_moments(
        chains.samples,
        first=1,
        first_square=1.5,
        second=1.5,
        second_square=4.75 + 0.5,
        product=2.5,
    )


def test_long_run_of_one_start_on_modes_off_centre():
    # From one mode of two separated ones, weights are wrong, and that is seen.
    target = NAMED["mog2_hard"]()
    start = target.modes[[0]].repeat(500, 1)
    chains = langevin(target, start, steps=300, step_size=0.01, seed=11)
    assert float((target.assign(chains.samples) == 0).double().mean()) > 0.95
    symmetric = langevin(target, 2000, steps=300, step_size=0.01, seed=11)
    share = int((target.assign(symmetric.samples) == 0).sum())
    assert stats.binomtest(share, 2000, 0.5).pvalue > 1e-4


# Hamiltonian


def test_leapfrog_is_reversible_and_keeps_volume():
    target = NAMED["rosenbrock"]()
    x = target.sample(20, seed=12)
    momentum = torch.randn(20, 2, dtype=torch.float64)
    options = {"step_size": 0.05, "steps": 25}
    end, end_momentum, score = leapfrog(target.score, x, momentum, target.score(x), **options)
    torch.testing.assert_close(score, target.score(end))
    assert float((end - x).norm(dim=1).min()) > 0.05
    back, back_momentum, _ = leapfrog(target.score, end, -end_momentum, score, **options)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_momentum, -momentum)

    def flow(state):
        part = state.view(1, 4)
        score_of = target.differentiable_score
        end, end_momentum, _ = leapfrog(
            score_of, part[:, :2], part[:, 2:], score_of(part[:, :2]), step_size=0.05, steps=10
        )
        return torch.cat([end, end_momentum], dim=1).flatten()

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([x[0], momentum[0]]))
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-10)


def test_error_of_the_energy_falls_as_the_square_of_the_step():
    target = NAMED["squiggle"]()
    x = target.sample(500, seed=13)
    momentum = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def error(step_size, steps):
        end, p, _ = leapfrog(
            target.score, x, momentum, target.score(x), step_size=step_size, steps=steps
        )
        change = target.log_density(end) - target.log_density(x)
        return float((change - (p.square() - momentum.square()).sum(1) / 2).square().mean().sqrt())

    errors = [error(0.1 / 2**k, 10 * 2**k) for k in range(4)]
    ratios = [a / b for a, b in zip(errors[1:-1], errors[2:], strict=True)]
    assert ratios == pytest.approx([4, 4], rel=0.05)


@pytest.mark.parametrize("name", ["gaussian", "rosenbrock", "donut_hard"])
@pytest.mark.parametrize("wanted", [0.65, 0.9])
def test_warm_up_finds_the_wanted_acceptance(name, wanted):
    # Also from a step size ten thousand times too small or too large. Acceptance drops steeply
    # at the edge of stability, where the mean of the trials lies on the safe side.
    for first in (None, 1e-4, 1e3):
        chains = hmc(
            NAMED[name](),
            300,
            steps=30,
            warmup=200,
            leapfrog_steps=5,
            target_acceptance=wanted,
            step_size=first,
            seed=14,
        )
        assert wanted - 0.05 < chains.acceptance < wanted + 0.6 * (1 - wanted)


def test_step_size_is_kept_without_a_warm_up():
    chains = hmc(unit_gaussian(3), 20, steps=5, warmup=0, step_size=0.3, seed=0)
    assert (chains.step_size, chains.warmup) == (0.3, 0)
    assert chains.acceptance > 0.9


def test_jitter_breaks_a_period():
    # A trajectory of half a period maps a unit Gaussian onto its mirror image, again and again.
    start = torch.full((200, 1), 2.0).double()
    options = {"steps": 10, "warmup": 0, "leapfrog_steps": 31, "step_size": math.pi / 31, "seed": 1}
    stuck = hmc(unit_gaussian(), start, jitter=0.0, **options)
    mixed = hmc(unit_gaussian(), start, jitter=0.5, **options)
    assert float((stuck.samples.abs() - 2).abs().max()) < 0.1
    assert stats.kstest(mixed.samples[:, 0].numpy(), "norm").pvalue > 1e-4


# Stein


def test_stein_direction_is_its_formula():
    target = NAMED["donut"]()
    x = target.sample(12, seed=16)
    score = target.score(x)
    pairs = torch.pdist(x)
    h = float(pairs.median()) ** 2 / math.log(12)
    for bandwidth in (None, 0.7):
        width = h if bandwidth is None else bandwidth
        expected = torch.zeros(12, 2, dtype=torch.float64)
        for i in range(12):
            for j in range(12):
                other = x[j].clone().requires_grad_()
                kernel = torch.exp(-(other - x[i]).square().sum() / width)
                (slope,) = torch.autograd.grad(kernel, other)
                expected[i] += (kernel.detach() * score[j] + slope) / 12
        torch.testing.assert_close(stein_direction(x, score, bandwidth=bandwidth), expected)


@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_stein_direction_in_single_precision_far_from_the_origin(bandwidth):
    generator = torch.Generator().manual_seed(3)
    x = 1000 + torch.randn(200, 2, generator=generator)
    score = 1000 - x
    exact = stein_direction(x.double(), score.double(), bandwidth=bandwidth)
    found = stein_direction(x, score, bandwidth=bandwidth)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    # The direction is that of the particles about any origin; their coordinates are exact here.
    moved = stein_direction(x.double() - 1000, score.double(), bandwidth=bandwidth)
    torch.testing.assert_close(exact, moved, rtol=0, atol=1e-13)


def test_one_particle_climbs_to_the_mode():
    start = torch.tensor([[3.0, -2.0]]).double()
    chains = svgd(NAMED["gaussian"](), start, steps=400, step_size=0.2, decay=None)
    torch.testing.assert_close(chains.samples, torch.zeros(1, 2).double(), atol=1e-6, rtol=0)


def test_fixed_point_of_the_particles():
    target = NAMED["gaussian"]()
    chains = svgd(target, 8, steps=4000, step_size=0.5, bandwidth=1.0, decay=None, seed=17)
    x = chains.samples
    rest = stein_direction(x, target.score(x), bandwidth=1.0)
    draws = target.sample(8, seed=1)
    start = stein_direction(draws, target.score(draws), bandwidth=1.0)
    assert float(rest.abs().max()) < 1e-8 < 1e-2 < float(start.abs().max())
    # There the mean force vanishes by the symmetry of the kernel's gradient: sum_ij k s_j = 0.
    kernel = (-torch.cdist(x, x).square()).exp()
    force = (kernel @ target.score(x)).mean(0)
    assert float(force.abs().max()) < 1e-8


def test_direction_vanishes_on_exact_samples():
    target = NAMED["mog2"]()
    n = 2000
    sizes = []
    for part in (n // 16, n):
        x = target.sample(part, seed=18)
        direction = stein_direction(x, target.score(x), bandwidth=1.0)
        sizes.append(float(direction.square().mean().sqrt()))
    # Stein's identity: a mean of zero-mean terms, so a quarter of it with 16 times the samples.
    assert sizes[1] / sizes[0] == pytest.approx(0.25, abs=0.1)


def test_particles_reach_moments():
    chains = svgd(NAMED["gaussian"](), 200, steps=400, step_size=0.05, seed=19)
    x = chains.samples
    assert float(x.mean(0).abs().max()) < 0.1
    torch.testing.assert_close(torch.cov(x.T), NAMED["gaussian"]().covariance, atol=0.1, rtol=0)


# Counts and what is returned


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


RUNS = {
    "ula": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, **o),
    "mala": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, adjust=True, **o),
    "hmc": lambda t, start, **o: hmc(t, start, steps=12, warmup=5, **o),
    "svgd": lambda t, start, **o: svgd(t, start, steps=12, **o),
}
every_run = pytest.mark.parametrize("name", RUNS)


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


# Bad input


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
