"""Mixtures, targets made from others, and the check of a score against its density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from galflow_lite.targets import (
    BENCHMARKS,
    Donut,
    FromLogDensity,
    GaussianMixture,
    Noised,
    check_score,
)
from galflow_lite.targets.logistic_regression import Affine


def test_mixture_agrees_with_torch_distributions():
    means = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]]).double()
    root = torch.tensor([[1.0, 0, 0], [0.4, 0.7, 0], [-0.3, 0.2, 0.5]]).double()
    covariance = root @ root.T
    target = GaussianMixture(means, covariance, [3, 1])
    x = torch.randn(50, 3, dtype=torch.float64) * 2
    parts = torch.stack([MultivariateNormal(m, covariance).log_prob(x) for m in means], dim=1)
    expected = torch.logsumexp(parts + torch.tensor([0.75, 0.25]).double().log(), dim=1)
    torch.testing.assert_close(target.log_prob(x), expected)
    assert target.mode_weights.tolist() == [0.75, 0.25]
    check_score(target, x)
    drawn = target.sample(200_000, seed=7)
    share = (target.assign(drawn) == 0).double().mean()
    exact = torch.cat([MultivariateNormal(m, covariance).sample((100_000,)) for m in means])
    first = (target.assign(exact) == 0).double().view(2, -1).mean(1)
    assert abs(float(share) - float(0.75 * first[0] + 0.25 * first[1])) < 0.006
    apart = means[0] - means[1]
    whole = covariance + 0.75 * 0.25 * torch.outer(apart, apart)
    torch.testing.assert_close(torch.cov(drawn.T), whole, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("covariance", "weights"),
    [([[1.0, 2.0], [2.0, 1.0]], None), (-1.0, None), ([[1.0, 0.2], [0.1, 1.0]], None), (1.0, [0])],
)
def test_mixtures_that_are_none(covariance, weights):
    with pytest.raises(ValueError, match="positive"):
        GaussianMixture([[0.0, 0.0]], covariance, weights)


@pytest.mark.parametrize("name", ["gaussian", "mog2_hard", "ring8"])
@pytest.mark.parametrize("sigma", [0.1, 1.5])
def test_noised_law_is_the_convolution(name, sigma):
    target = BENCHMARKS[name]()
    noised = Noised(target, sigma)
    x = target.sample(30, seed=10)
    # Convolution by Gauss-Hermite nodes would need care at small sigma: a fine grid needs none.
    axis = torch.arange(-11, 11, min(sigma, 0.3) / 3, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    density = target.log_prob(points).exp() * (axis[1] - axis[0]) ** 2
    kernel = (-torch.cdist(x, points).square() / (2 * sigma**2)).exp() / (2 * math.pi * sigma**2)
    torch.testing.assert_close(noised.log_prob(x).exp(), kernel @ density, rtol=1e-6, atol=0)
    check_score(noised, x)
    with pytest.raises(NotImplementedError, match="the noised law of Donut is not known in closed"):
        Noised(Donut(), 0.1)


def test_one_sigma_a_point():
    target = BENCHMARKS["ring8"]()
    sigma = torch.tensor([0.1, 0.7, 3.0]).double()
    x = target.sample(3, seed=13)
    several = Noised(target, sigma)
    for i in range(3):
        one, part = Noised(target, float(sigma[i])), x[i : i + 1]
        torch.testing.assert_close(several.log_prob(x)[i], one.log_prob(part)[0])
        torch.testing.assert_close(several.score(x)[i], one.score(part)[0])
    score = several.differentiable_score(x.requires_grad_())
    (expected,) = torch.autograd.grad(several.log_prob(x).sum(), x)
    torch.testing.assert_close(score.detach(), expected)
    assert score.requires_grad


def test_affine_coordinates():
    target = GaussianMixture([[1.0, -2.0], [2.0, 0.0]], [[2.0, 0.3], [0.3, 0.5]])
    moved = Affine(target, [1.0, 1.0], [[1.5, 0.0], [0.4, -0.5]])
    u = torch.randn(30, 2, dtype=torch.float64)
    x = torch.stack([1 + 1.5 * u[:, 0], 1 + 0.4 * u[:, 0] - 0.5 * u[:, 1]], dim=1)
    torch.testing.assert_close(moved.to_original(u), x)
    torch.testing.assert_close(moved.log_density(u), target.log_density(x))
    check_score(moved, u)


# Check of scores


@pytest.mark.parametrize("name", BENCHMARKS)
def test_check_score_passes(name):
    target = BENCHMARKS[name]()
    check_score(target, target.sample(100, seed=16))


def test_check_score_passes_by_automatic_differentiation():
    check_score(_wrong(lambda x: -x.pow(4).sum(1) + x[:, 0] * x[:, 1]), torch.randn(50, 2))
    check_score(_wrong(lambda x: -x.abs().sum(1)), [[1.0, 1.0], [-2.0, 0.5]])
    check_score(FromLogDensity(_half, 5), np.random.default_rng(0).normal(size=(20, 5)))


def _wrong(log_density, score=None):
    return FromLogDensity(log_density, 2, score=score)


def _half(x):
    return -x.square().sum(1) / 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (_wrong(_half, lambda x: -1.01 * x), "do not match"),
        (_wrong(_half, lambda x: -x.flip(1)), "do not match"),
        (_wrong(_half, lambda x: -x[:, :1]), r"the score of .* has shape \(9, 1\)"),
        (_wrong(_half, lambda x: torch.where(x > 0, -x, torch.nan)), "do not match"),
        (_wrong(lambda x: (x - x).sum(1) / 0), "do not match"),
        (_wrong(lambda x: -x.square() / 2), r"the log density of .* has shape \(9, 2\)"),
        (_wrong(lambda x: _half(x.detach())), "has no gradient with respect to x"),
        (_wrong(lambda x: torch.from_numpy(-(x.numpy() ** 2).sum(1))), "do not match"),
        (_wrong(lambda x: -x.square().sum(1).detach() / 2 + 0 * x.sum(1)), "do not match"),
        # The score is right, and nothing flows back through it.
        (_wrong(_half, lambda x: -x.detach()), "do not match"),
    ],
)
def test_check_score_finds(target, message):
    x = torch.linspace(-2, 2.1, 18, dtype=torch.float64).view(9, 2)
    with pytest.raises(ValueError, match=message):
        check_score(target, x)
