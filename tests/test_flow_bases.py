"""Base distributions: the resampled one with its normaliser, and the mixture of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from planar_densities import LEVEL, Grid
from torch import Tensor

from galflow_lite import flows


def resampled(truncation: int = 100) -> flows.ResampledBase:
    """In double precision, its acceptance far from constant, its Z that of the network."""
    torch.manual_seed(3)
    base = flows.ResampledBase(2, hidden=(16, 16)).double()
    base.truncation = truncation
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.6 * torch.randn_like(parameter)
    base.refine(200_000)
    return base.eval()


def normal(z: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)


def exact_normalizer(base: flows.ResampledBase) -> tuple[float, float]:
    """Mean and standard deviation of the acceptance under N(0, I), by quadrature."""
    grid = Grid(normal, -9, 9, n=420)
    with torch.no_grad():
        accepted = base.acceptance(grid.points)
    mean = float((grid.mass * accepted).sum())
    return mean, math.sqrt(float((grid.mass * accepted**2).sum()) - mean**2)


def textbook(base: flows.ResampledBase, z: Tensor, normalizer: Tensor | float) -> Tensor:
    """The formula of the paper, as it stands there."""
    accepted = torch.sigmoid(base.network(z)[:, 0])
    alpha = (1 - normalizer) ** (base.truncation - 1)
    return normal(z) + torch.log((1 - alpha) * accepted / normalizer + alpha)


def test_refine_finds_the_normaliser_and_its_error():
    base = resampled()
    mean, spread = exact_normalizer(base)
    assert 0.1 < mean < 0.9
    assert spread > 0.1  # else any draws would do
    error = base.refine(1_000_000, generator=torch.Generator().manual_seed(0))
    assert error == pytest.approx(spread / 1000, rel=0.02)
    assert abs(float(base.normalizer) - mean) < 4.5 * error


@pytest.mark.parametrize("truncation", [2, 3, 100])
def test_resampled_density_is_the_formula_and_has_the_samples(truncation):
    base = resampled(truncation)
    z = 2 * torch.randn(500, 2, dtype=torch.float64)
    expected = textbook(base, z, base.normalizer)
    torch.testing.assert_close(base.log_prob(z), expected, rtol=1e-10, atol=1e-10)
    base.normalizer.fill_(exact_normalizer(base)[0])
    grid = Grid(base.log_prob, -9, 9, n=420)
    assert grid.total == pytest.approx(1, abs=1e-6)
    samples = base.draw(100_000, generator=torch.Generator().manual_seed(0))
    assert grid.p_value(samples, cells=60) > LEVEL
    if truncation == 3:  # the term (1 - Z)^(T - 1) is seen
        others = (Grid(resampled(t).log_prob, -9, 9, n=420) for t in (2, 4, 100))
        assert all(other.p_value(samples, cells=60) < 1e-6 for other in others)


@pytest.mark.parametrize("truncation", [2, 3, 100])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_the_gradient_in_training_includes_that_of_the_normaliser(truncation, momentum):
    base = resampled(truncation).train()
    base.momentum, base.draws = momentum, 256
    z = torch.randn(40, 2, dtype=torch.float64)
    before = base.normalizer.clone()
    torch.manual_seed(7)
    log_prob = base.log_prob(z)
    found = torch.autograd.grad(log_prob.mean(), list(base.parameters()))

    torch.manual_seed(7)
    draws = torch.randn(256, 2, dtype=torch.float64)
    latest = torch.sigmoid(base.network(draws)).mean()
    value = (1 - momentum) * before + momentum * latest.detach()
    torch.testing.assert_close(base.normalizer, value)
    slow = textbook(base, z, value + latest - latest.detach())
    torch.testing.assert_close(log_prob, slow)
    expected = torch.autograd.grad(slow.mean(), list(base.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    without = torch.autograd.grad(textbook(base, z, value).mean(), list(base.parameters()))
    assert max((a - b).abs().max() for a, b in zip(found, without, strict=True)) > 1e-3


@pytest.mark.parametrize("bias", [-60.0, 60.0])
def test_acceptance_of_nothing_and_of_all(bias):
    """Both ends: practically no proposal is accepted, or each is. The rest is a normal again."""
    base = resampled()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.zero_()
        base.network.layers[-1].bias.fill_(bias)
    base.refine(1000)
    far = torch.logspace(0, 8, 20, dtype=torch.float64)[:, None]
    z = far * torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(base.log_prob(z), normal(z), rtol=1e-5, atol=1e-5)
    base.train().log_prob(z).sum().backward()
    assert all(p.grad.isfinite().all() for p in base.parameters())
    assert base.draw(50).isfinite().all()


def test_mixture_in_closed_form_with_its_samples():
    torch.manual_seed(0)
    means = 2 * torch.randn(4, 2)
    base = flows.GaussianMixtureBase(means, scale=0.7).double()
    torch.testing.assert_close(base.means.detach(), means.double())
    torch.testing.assert_close(base.log_scales.exp().detach(), torch.full_like(base.means, 0.7))
    with torch.no_grad():
        base.log_scales += 0.4 * torch.randn_like(base.log_scales)
        base.logits += torch.randn_like(base.logits)
    each = torch.distributions.Normal(base.means, base.log_scales.exp())
    closed_form = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=base.logits),
        torch.distributions.Independent(each, 1),
    )
    z = 3 * torch.randn(200, 2, dtype=torch.float64, requires_grad=True)
    values = []
    for log_prob in (base.log_prob(z), closed_form.log_prob(z)):
        values.append([log_prob, *torch.autograd.grad(log_prob.mean(), [z, *base.parameters()])])
    assert len(values[0]) == 5
    for mine, other in zip(*values, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        samples = base.draw(100_000, generator=torch.Generator().manual_seed(1))
    grid = Grid(base.log_prob, -14, 14, n=420)
    assert grid.total == pytest.approx(1, abs=1e-6)
    assert grid.p_value(samples, cells=60) > LEVEL
    base.logits.data.zero_()
    assert Grid(base.log_prob, -14, 14, n=420).p_value(samples, cells=60) < 1e-10
