"""Losses, transport costs (Proposition 3.1, Figure 2), likelihoods, and a small trained network."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import (
    ExactMixture,
    figure_two,
    hole_of_a_normal,
    seeded,
    trigonometric,
)
from torch import nn

from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    custom,
    flow_costs,
    inpainting,
    log_likelihood,
    optimal_transport,
    transport_bound,
    velocity_loss,
)
from galflow_lite.interpolants.velocities import draw_interpolant

LINEAR = Schedule.linear()
N = 4000


@pytest.mark.parametrize(("panel", "energy"), [("dependent", 0.1813), ("independent", 24.156)])
def test_numbers_of_figure_2(panel, energy):
    mixture = figure_two(LINEAR, panel)
    x0 = mixture.sample_pairs(N, generator=seeded())[0]
    found = flow_costs(mixture.velocity, x0, method="heun", steps=100)
    assert abs(found.kinetic_energy.value - energy) < 4 * found.kinetic_energy.standard_error
    # Same base and target: the flow returns to where it began.
    assert found.transport_cost.value < 0.01


@pytest.mark.parametrize("schedule", [LINEAR, trigonometric()])
def test_bound_is_the_mean_of_the_squared_rate(schedule):
    x1 = torch.randn(20_000, 3, dtype=torch.float64, generator=seeded(1)) + 1
    coupling = custom(lambda x1, c: 0.5 * x1 + torch.randn(x1.shape, generator=seeded(2)).double())
    draw = draw_interpolant(x1, schedule=schedule, coupling=coupling, generator=seeded(3))
    direct = draw.rate.square().sum(1)
    found = transport_bound(schedule, draw.pair)
    error = math.hypot(float(direct.std()) / math.sqrt(len(x1)), found.standard_error)
    assert abs(float(direct.mean()) - found.value) < 4 * error


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_and_constant_make_the_mean_squared_error(reduction):
    x1 = torch.randn(50, 3, dtype=torch.float64, generator=seeded())
    options = {"schedule": LINEAR, "coupling": optimal_transport()}
    loss = velocity_loss(
        lambda x, t, c: x * t[:, None], x1, reduction=reduction, generator=seeded(1), **options
    )
    draw = draw_interpolant(x1, generator=seeded(1), **options)
    each = (draw.x * draw.t[:, None] - draw.rate).square()
    constant = draw.rate.square()
    per_sample = [getattr(part, reduction)(1).mean() for part in (each, constant)]
    assert torch.allclose(loss + per_sample[1], per_sample[0])


# x1 = (u, v) normal, unit variances, correlation 0.8: v | u = 1 is N(0.8, 0.36).
KNOWN_U = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
EXACT = -0.5 * (0.5 / 0.6) ** 2 - math.log(0.6) - 0.5 * math.log(2 * math.pi)
MASK = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def conditional(**options):
    base = inpainting().base(KNOWN_U, MASK)
    return log_likelihood(MaskedVelocity(hole_of_a_normal), KNOWN_U, MASK, base=base, **options)


def test_conditional_likelihood_of_a_hole():
    found = conditional()
    assert found.log_prob.item() == pytest.approx(EXACT, abs=1e-6)
    assert found.x0[0, 1].item() == pytest.approx(-0.8333333, abs=1e-6)
    assert found.x0[0, 0].item() == 1.0
    assert found.standard_error is None


class StartOf(GaussianBase):
    """Law of x0 of a mixture."""

    def log_prob(self, x0):
        return self.mean.log_density(x0, 0.0)


class ColumnOf(StartOf):
    """Its densities would be broadcast: the same number for every sample."""

    def log_prob(self, x0):
        return super().log_prob(x0)[:, None]


@pytest.mark.parametrize("panel", ["dependent", "independent"])
def test_likelihood_of_a_mixture(panel):
    mixture = figure_two(LINEAR, panel)
    x1 = mixture.sample_pairs(60, generator=seeded(0))[1]
    found = log_likelihood(mixture.velocity, x1, base=StartOf(mixture))
    assert torch.allclose(found.log_prob, mixture.log_density(x1, 1.0), atol=1e-4)
    assert found.evaluations > 0
    with pytest.raises(ValueError, match=r"log_prob of the base returns \(60, 1\), expected"):
        log_likelihood(mixture.velocity, x1, base=ColumnOf(mixture))


@pytest.fixture(scope="module")
def eight() -> ExactMixture:
    """N(0, I) to three modes in 8 dimensions."""
    modes = 2 * torch.randn(3, 8, generator=seeded(3))
    return ExactMixture(LINEAR, torch.zeros(1, 8), modes, data_width=0.5)


def test_the_exact_trace_and_hutchinson_which_is_unbiased_and_knows_its_error(eight):
    x1 = eight.sample_pairs(40, generator=seeded(1))[1]
    exact = eight.log_density(x1, 1.0)
    found = log_likelihood(eight.velocity, x1[:20], base=eight.base(x1[:20]))
    assert torch.allclose(found.log_prob, exact[:20], atol=1e-4)
    options = {"base": eight.base(x1), "trace": "hutchinson", "method": "rk4", "steps": 20}
    found = log_likelihood(eight.velocity, x1, probes=64, seed=1, **options)
    z = (found.log_prob - exact) / found.standard_error
    assert (z.abs() < 5).all()
    # Mean square of 40 normal scores: 1 with standard deviation sqrt(2 / 40).
    assert abs(z.square().mean() - 1) < 4 * math.sqrt(2 / 40)
    again = log_likelihood(eight.velocity, x1, probes=64, seed=1, **options)
    other = log_likelihood(eight.velocity, x1, probes=64, seed=2, **options)
    assert torch.equal(again.log_prob, found.log_prob)
    assert not torch.equal(other.log_prob, found.log_prob)


def test_trace_of_a_network_over_the_hole_only():
    """Holes that differ from sample to sample, against the full Jacobian of each sample."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    velocity = MaskedVelocity(lambda x, t, condition: layer(x) * (1 + t[:, None]))
    x1 = torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).double()
    base = inpainting().base(x1, mask)
    found = log_likelihood(velocity, x1, mask, base=base, method="euler", steps=1)
    jacobians = [torch.autograd.functional.jacobian(lambda u: layer(u) * 2, x) for x in x1]
    traces = torch.stack(
        [(j.diagonal() * (m == 0)).sum() for j, m in zip(jacobians, mask, strict=True)]
    )
    assert torch.allclose(found.log_prob, base.log_prob(found.x0) - traces, atol=1e-12)
    assert found.log_prob[2] == 0
    assert torch.equal(found.x0[mask == 1], x1[mask == 1])
