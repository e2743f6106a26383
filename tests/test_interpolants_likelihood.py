"""Log-likelihood of data under the flow, whole and of a hole given the known pixels."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import ExactMixture, figure_two, from_noise, seeded
from torch import nn

from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    inpainting,
    log_likelihood,
)

LINEAR = Schedule.linear()
# x1 = (u, v) normal, unit variances, correlation 0.8: v | u = 1 is N(0.8, 0.36).
KNOWN_U = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
EXACT = -0.5 * (0.5 / 0.6) ** 2 - math.log(0.6) - 0.5 * math.log(2 * math.pi)
MASK = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def hole_of_a_normal(x, t, condition):
    t = t[:, None]
    variance = (1 - t) ** 2 + 0.36 * t**2
    return 0.8 + (0.36 * t - (1 - t)) / variance * (x - 0.8 * t)


def conditional(**options):
    base = inpainting().base(KNOWN_U, MASK)
    return log_likelihood(MaskedVelocity(hole_of_a_normal), KNOWN_U, MASK, base=base, **options)


def test_conditional_likelihood_of_a_hole():
    assert pytest.approx(-0.755335, abs=1e-6) == EXACT
    found = conditional()
    assert found.log_prob.item() == pytest.approx(EXACT, abs=1e-6)
    assert found.x0[0, 1].item() == pytest.approx(-0.8333333, abs=1e-6)
    assert found.x0[0, 0].item() == 1.0
    assert found.standard_error is None


def test_one_probe_is_exact_in_one_dimension():
    """In one moving dimension a sign squared is 1."""
    found = conditional(trace="hutchinson").log_prob
    assert torch.allclose(found, conditional().log_prob, atol=1e-12)


@pytest.mark.parametrize("panel", ["dependent", "independent"])
@pytest.mark.parametrize("gamma", ["zero", "brownian"])
def test_likelihood_of_a_mixture(panel, gamma):
    mixture = figure_two(Schedule.linear(gamma=gamma), panel)
    x1 = mixture.sample_pairs(60, generator=seeded(0))[1]
    found = log_likelihood(
        mixture.velocity,
        x1,
        base=lambda x0: mixture.log_density(x0, 0.0),
    )
    assert torch.allclose(found.log_prob, mixture.log_density(x1, 1.0), atol=1e-4)
    assert found.evaluations > 0


def test_likelihood_with_a_gaussian_base_in_float32():
    mixture = from_noise(LINEAR)
    x1 = mixture.sample_pairs(60, generator=seeded(0))[1]
    single = x1.float()
    found = log_likelihood(mixture.velocity, single, base=GaussianBase(torch.zeros_like(single)))
    assert found.log_prob.dtype == torch.float32
    assert torch.allclose(found.log_prob.double(), mixture.log_density(x1, 1.0), atol=5e-3)


@pytest.fixture(scope="module")
def eight() -> ExactMixture:
    """N(0, I) to three modes in 8 dimensions."""
    modes = 2 * torch.randn(3, 8, generator=seeded(3))
    return ExactMixture(LINEAR, torch.zeros(1, 8), modes, data_width=0.5)


def test_exact_trace_in_eight_dimensions(eight):
    x1 = eight.sample_pairs(20, generator=seeded(1))[1]
    found = log_likelihood(eight.velocity, x1, base=eight.base(x1))
    assert torch.allclose(found.log_prob, eight.log_density(x1, 1.0), atol=1e-4)


def test_hutchinson_is_unbiased_and_knows_its_error(eight):
    x1 = eight.sample_pairs(40, generator=seeded(1))[1]
    exact = eight.log_density(x1, 1.0)
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


def test_a_base_without_a_density_is_refused():
    x = torch.zeros(2, 1, 4, 4)
    for base, message in ((GaussianBase(x, 0.0), "sigma is 0"), (GaussianBase(x[:1]), "shape")):
        with pytest.raises(ValueError, match=message):
            log_likelihood(lambda x, t, c: 0 * x, x, base=base)
