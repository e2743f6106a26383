"""Targets made from data: the posterior of a logistic regression, and an energy model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.distributions import Bernoulli, Gamma, Normal

from galflow_lite.mcmc import hmc
from galflow_lite.targets import (
    BayesianLogisticRegression,
    EnergyModel,
    GaussianMixture,
    Noised,
    Target,
    check_score,
)

DIGITS, UNSEEN = (torch.from_numpy(load_digits().data / 8 - 1).float()).split(1400)


def small(rows: int = 60, columns: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    slope = torch.tensor([1.5, -1.0, 0.5], dtype=torch.float64)[:columns]
    chance = (design @ slope + 0.3).sigmoid()
    return design, (torch.rand(rows, dtype=torch.float64, generator=generator) < chance).long()


# Logistic regression


@pytest.mark.parametrize("bias", [False, True])
def test_density_is_that_of_torch_distributions(bias):
    design, labels = small()
    posterior = BayesianLogisticRegression(design, labels, bias=bias)
    assert posterior.dim == 4 + bias
    theta = torch.randn(20, posterior.dim, dtype=torch.float64)
    rows = torch.cat([design, torch.ones(60, 1).double()], dim=1) if bias else design
    w, log_alpha = theta[:, :-1], theta[:, -1]
    alpha = log_alpha.exp()
    expected = Bernoulli(logits=w @ rows.T).log_prob(labels.double()).sum(1)
    expected = expected + Normal(0, alpha[:, None] ** -0.5).log_prob(w).sum(1)
    # The density of log alpha is that of alpha times alpha.
    prior = Gamma(torch.tensor(1.0).double(), torch.tensor(0.01).double())
    expected = expected + prior.log_prob(alpha) + log_alpha
    difference = posterior.log_density(theta) - expected
    torch.testing.assert_close(difference, difference[:1].expand(20))
    check_score(posterior, theta)
    assert posterior.score(theta.float()).dtype == torch.float32
    # Labels are any two values.
    for other in (labels.bool(), 2 * labels - 1, (labels + 3).tolist()):
        again = BayesianLogisticRegression(design.numpy(), other, bias=bias)
        assert torch.equal(posterior.log_density(theta), again.log_density(theta))


def test_moments_against_quadrature():
    design, labels = small(30, 1)
    posterior = BayesianLogisticRegression(design, labels)
    w, log_alpha = torch.linspace(-3, 8, 500), torch.linspace(-9, 7, 500)
    points = torch.cartesian_prod(w, log_alpha).double()
    share = torch.softmax(posterior.log_density(points), 0)
    exact = share @ points
    spread = (share @ (points - exact).square()).sqrt()
    chains = hmc(posterior.whitened(), 3000, steps=40, warmup=60, seed=1)
    samples = posterior.whitened().to_original(chains.samples)
    error = spread / math.sqrt(3000)
    assert float(((samples.mean(0) - exact) / error).abs().max()) < 4.5
    variances = (samples - exact).square()
    error = variances.std(0) / math.sqrt(3000)
    assert float(((variances.mean(0) - spread.square()) / error).abs().max()) < 4.5


def test_mini_batch_scores_are_unbiased_and_independent():
    full = BayesianLogisticRegression(*small(), bias=True)
    stochastic, again, other = (full.with_batches(8, seed=seed) for seed in (1, 1, 2))
    assert (full.stochastic, stochastic.stochastic) == (False, True)
    # Coordinates keep what the score is.
    assert stochastic.whitened().stochastic
    x = torch.randn(2, 5, dtype=torch.float64)
    draws = torch.stack([stochastic.score(x) for _ in range(4000)])
    error = draws.std(0) / math.sqrt(4000)
    shift = (draws.mean(0) - full.score(x)) / error.clamp(min=1e-12)
    # The column of log alpha holds no data and no noise.
    assert float(shift[:, :-1].abs().max()) < 4.5
    torch.testing.assert_close(draws[:, :, -1], full.score(x)[:, -1].expand(4000, 2))
    # Two calls are two independent batches; one call has one batch for all points.
    first, second = draws[::2, 0, 0].numpy(), draws[1::2, 0, 0].numpy()
    assert stats.pearsonr(first, second).pvalue > 1e-4
    same = stochastic.score(x[[0, 0]])
    torch.testing.assert_close(same[0], same[1])
    assert torch.equal(again.differentiable_score(x), draws[0])
    assert not torch.equal(other.score(x), draws[0])
    assert torch.equal(full.log_density(x), stochastic.log_density(x))


def test_whitened_is_the_laplace_fit_at_a_precision_that_is_a_fixed_point():
    design, labels = small()
    fit = BayesianLogisticRegression(design, labels, bias=True).whitened()
    alpha = float(fit.mean[-1].exp())
    rows = torch.cat([design, torch.ones(60, 1).double()], dim=1)
    model = LogisticRegression(C=1 / alpha, fit_intercept=False, tol=1e-12, max_iter=10_000)
    w = torch.from_numpy(model.fit(rows.numpy(), labels.numpy()).coef_[0])
    torch.testing.assert_close(fit.mean[:-1], w, rtol=1e-4, atol=1e-4)
    chance = (rows @ w).sigmoid()
    hessian = rows.T @ ((chance * (1 - chance))[:, None] * rows) + alpha * torch.eye(4).double()
    covariance = fit.factor @ fit.factor.T
    eye = torch.eye(4).double()
    torch.testing.assert_close(covariance[:-1, :-1] @ hessian, eye, atol=1e-3, rtol=0)
    assert covariance[-1, :-1].abs().max() == 0
    determined = 4 - alpha * float(covariance[:-1, :-1].trace())
    expected = (determined + 2) / (float(w.square().sum()) + 0.02)
    assert alpha == pytest.approx(expected, rel=5e-4)
    assert float(fit.factor[-1, -1]) == pytest.approx(math.sqrt(2 / (determined + 2)), rel=1e-3)


def test_predictions_are_averages_over_samples():
    design, labels = small()
    posterior = BayesianLogisticRegression(design, labels, bias=True)
    theta = torch.randn(7, 5, dtype=torch.float64)
    chance = np.zeros(60)
    for sample in theta.numpy():
        chance += 1 / (1 + np.exp(-(design.numpy() @ sample[:3] + sample[3]))) / 7
    judged = posterior.evaluate(theta, design, labels)
    right = (chance > 0.5) == (labels.numpy() == 1)
    assert judged.accuracy == pytest.approx(right.mean())
    expected = np.where(labels.numpy() == 1, np.log(chance), np.log(1 - chance)).mean()
    assert judged.log_likelihood == pytest.approx(expected)
    # 1 - 1 / (1 + exp(-60)) is 0 by rounding; the probability of the label is exp(-60).
    sure = BayesianLogisticRegression([[1.0], [-1.0]], [1, 0])
    for row, label in ((1.0, 0), (-1.0, 1)):
        found = sure.evaluate([[60.0, 0.0]], [[row]], [label])
        assert found == pytest.approx((0, -60), rel=1e-12)
    # A share of .19 in the training and .188 in the test gives .812 and -.483 nats (fact sheet).
    posterior = BayesianLogisticRegression(torch.randn(1000, 1), torch.arange(1000) < 190)
    found = posterior.constant_classifier(torch.arange(1000) < 188)
    assert found == pytest.approx((0.812, 0.188 * math.log(0.19) + 0.812 * math.log(0.81)))
    assert found.log_likelihood == pytest.approx(-0.483, abs=5e-4)


# Energy model


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    """Trained on the digits for a short time: a few seconds."""
    model = EnergyModel(hidden=(128, 128), seed=1)
    model.fit(DIGITS, steps=600, seed=1, progress=False)
    return model


def test_density_is_network_and_quadratic_term():
    model = EnergyModel(5, hidden=(8, 7))
    x = torch.randn(6, 5)
    expected = (model.network(x)[:, 0] - x.square().sum(1) / 2) / 0.3**2
    torch.testing.assert_close(model.log_density(x), expected)


def test_score_is_differentiable_and_trains_nothing(model):
    x = UNSEEN[:5].clone()
    check_score(model, x + 0.3 * torch.randn(5, 64))
    x.requires_grad_()
    score = model.differentiable_score(x)
    score.square().sum().backward()
    assert float(x.grad.abs().max()) > 0.1
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())
    torch.testing.assert_close(model.score(x), score.detach())


@pytest.mark.parametrize("hidden", [(), (9,), (8, 7, 6)])
def test_score_by_hand_is_that_of_autograd(hidden):
    model, x = EnergyModel(5, hidden=hidden), 3 * torch.randn(20, 5, dtype=torch.float64)
    exact = Target._gradient(model, x, create_graph=False)
    torch.testing.assert_close(model.score(x), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.score(x.float()).double(), exact, rtol=1e-4, atol=1e-4)
    # A lost point does not disturb the others.
    x[3], x[7] = torch.nan, torch.inf
    lost = model._score(x)
    assert not lost[[3, 7]].isfinite().any()
    torch.testing.assert_close(lost[8:], exact[8:], rtol=1e-12, atol=1e-12)


def test_training_finds_the_noised_law():
    law = GaussianMixture([[-0.8, 0.0], [0.8, 0.0]], 0.04)
    model = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    history = model.fit(law.sample(4000, seed=1), steps=1000, progress=False)
    noised = Noised(law, 0.4)
    x = law.sample(4000, seed=2) + 0.4 * torch.randn(4000, 2, dtype=torch.float64)
    exact = noised.score(x)
    error = float((model.score(x) - exact).square().sum(1).mean())
    assert error < 0.05 * float(exact.square().sum(1).mean())
    untrained = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    assert float((untrained.score(x) - exact).square().sum(1).mean()) > 10 * error
    # The loss tends to dim - sigma^2 E|s|^2, what the noise leaves open.
    floor = 2 - 0.16 * float(exact.square().sum(1).mean())
    assert sum(history.loss[-300:]) / 300 == pytest.approx(floor, abs=0.15)
    # One step of denoising: the mean of the data at each noisy point, by the formula of Tweedie.
    torch.testing.assert_close(model.denoise(x), x + 0.16 * model.score(x))
