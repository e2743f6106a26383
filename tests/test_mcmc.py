"""Langevin and Hamiltonian chains: exact identities of each step, exact moments of long runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

from galflow_lite.mcmc import hmc, langevin
from galflow_lite.mcmc.chains import leapfrog, log_transition
from galflow_lite.targets import (
    BENCHMARKS,
    BayesianLogisticRegression,
    FromLogDensity,
    GaussianMixture,
    Rosenbrock,
)


def unit_gaussian(dim: int = 1) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, dim), 1.0)


def require_moments(x: torch.Tensor, means: list[float]) -> None:
    """Means of x1, x2, x1^2, x2^2 and x1 x2; the ends of independent chains are independent."""
    first, second = x.unbind(1)
    values = torch.stack([first, second, first**2, second**2, first * second], dim=1)
    error = values.std(0) / math.sqrt(len(x))
    assert float(((values.mean(0) - torch.tensor(means)) / error).abs().max()) < 4.5


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
    target = BENCHMARKS["rosenbrock"]()
    start = target.sample(50, seed=2)
    chains = langevin(target, start, steps=1, step_size=0.02, seed=3)
    noise = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = start + 0.02 * target.score(start) + math.sqrt(0.04) * noise
    torch.testing.assert_close(chains.samples, expected)


def test_transition_density_of_the_proposal():
    target = BENCHMARKS["squiggle"]()
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
    # A bound: the 20 steps of a chain are counted as one trial.
    error = math.sqrt(expected * (1 - expected) / 4000)
    assert abs(chains.acceptance - expected) < 4.5 * error < 0.04
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
    with pytest.raises(ValueError, match="BayesianLogisticRegression gives a fresh estimate"):
        hmc(posterior.with_batches(10), 5, steps=2)


# Long runs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", ["centre", "off centre"])
def test_correlated_gaussian(method, start):
    begin = 2000 if start == "centre" else torch.full((2000, 2), 6.0).double()
    options = {"step_size": 0.15} if method == "mala" else {}
    chains = METHODS[method](BENCHMARKS["gaussian"](), begin, seed=9, **options)
    require_moments(chains.samples, [0, 0, 1, 1, 0.8])
    assert not chains.diverged.any()


@pytest.mark.parametrize("method", METHODS)
def test_rosenbrock(method):
    options = {"step_size": 0.08, "steps": 1500} if method == "mala" else {"steps": 80}
    chains = METHODS[method](Rosenbrock(), 2000, seed=10, **options)
    # x1 ~ N(1, 1/2): moments 3/2, 5/2 (third) and 19/4 (fourth); x2 adds its variance 1/2.
    require_moments(chains.samples, [1, 1.5, 1.5, 4.75 + 0.5, 2.5])


# Hamiltonian


def test_leapfrog_is_reversible_and_keeps_volume():
    target = BENCHMARKS["rosenbrock"]()
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
    target = BENCHMARKS["squiggle"]()
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


@pytest.mark.parametrize(("name", "wanted"), [("gaussian", 0.9), ("donut_hard", 0.65)])
def test_warm_up_finds_the_wanted_acceptance(name, wanted):
    # Also from a step size ten thousand times too small or too large. Acceptance drops steeply
    # at the edge of stability, where the mean of the trials lies on the safe side.
    for first in (None, 1e-4, 1e3):
        chains = hmc(
            BENCHMARKS[name](),
            300,
            steps=30,
            warmup=200,
            leapfrog_steps=5,
            target_acceptance=wanted,
            step_size=first,
            seed=14,
        )
        assert wanted - 0.05 < chains.acceptance < wanted + 0.6 * (1 - wanted)


def test_step_size_is_kept_without_a_warm_up_and_varies_by_a_tenth():
    # A trajectory of half a period maps a unit Gaussian onto its mirror image, again and again;
    # a random length breaks that.
    start = torch.full((200, 1), 2.0).double()
    options = {"warmup": 0, "leapfrog_steps": 31, "step_size": math.pi / 31}
    chains = hmc(unit_gaussian(), start, steps=60, **options, seed=1)
    assert chains.step_size == math.pi / 31
    assert chains.acceptance > 0.9
    assert float((chains.samples.abs() - 2).abs().max()) > 0.5
