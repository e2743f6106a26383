"""Bayesian logistic regression: density, mini-batches, Laplace coordinates, predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch.distributions import Bernoulli, Gamma, Normal

from galflow_lite.mcmc import hmc
from galflow_lite.targets import BayesianLogisticRegression, check_score


def small(rows: int = 60, columns: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    slope = torch.tensor([1.5, -1.0, 0.5], dtype=torch.float64)[:columns]
    chance = (design @ slope + 0.3).sigmoid()
    return design, (torch.rand(rows, dtype=torch.float64, generator=generator) < chance).long()


@pytest.fixture(scope="module")
def cancer() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    table = load_breast_cancer()
    x = (table.data - table.data.mean(0)) / table.data.std(0)
    rows = np.random.default_rng(0).permutation(len(x))
    train, test = rows[:450], rows[450:]
    return x[train], table.target[train], x[test], table.target[test]


# Density and score


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


def test_closed_score_agrees_with_automatic_differentiation():
    posterior = BayesianLogisticRegression(*small(), bias=True)
    x = torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(posterior.log_density(x).sum(), x)
    torch.testing.assert_close(posterior.score(x), expected)
    check_score(posterior, x)
    single = posterior.score(x.detach().float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)


def test_labels_of_any_two_values_and_types():
    design, labels = small()
    first = BayesianLogisticRegression(design, labels)
    x = torch.randn(5, 4, dtype=torch.float64)
    for other in (labels.bool(), 2 * labels - 1, labels.numpy(), (labels + 3).tolist()):
        again = BayesianLogisticRegression(design.numpy(), other)
        assert torch.equal(first.log_density(x), again.log_density(x))
    assert again.classes == (3.0, 4.0)


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


# Mini-batches


def test_mini_batch_scores_are_unbiased_and_independent():
    posterior = BayesianLogisticRegression(*small(), bias=True)
    stochastic = posterior.with_batches(8, seed=1)
    assert stochastic.stochastic
    assert not posterior.stochastic
    x = torch.randn(2, 5, dtype=torch.float64)
    draws = torch.stack([stochastic.score(x) for _ in range(4000)])
    error = draws.std(0) / math.sqrt(4000)
    shift = (draws.mean(0) - posterior.score(x)) / error.clamp(min=1e-12)
    # The column of log alpha holds no data and no noise.
    assert float(shift[:, :-1].abs().max()) < 4.5
    torch.testing.assert_close(draws[:, :, -1], posterior.score(x)[:, -1].expand(4000, 2))
    # Two calls are two independent batches; one call has one batch for all points.
    first, second = draws[::2, 0, 0].numpy(), draws[1::2, 0, 0].numpy()
    assert stats.pearsonr(first, second).pvalue > 1e-4
    same = stochastic.score(x[[0, 0]])
    torch.testing.assert_close(same[0], same[1])


def test_mini_batches_by_differentiable_score_seed_and_size():
    design, labels = small()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    full, runs = BayesianLogisticRegression(design, labels), []
    for seed in (3, 3, 4):
        posterior = full.with_batches(16, seed=seed)
        runs.append(posterior.differentiable_score(x))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    (slope,) = torch.autograd.grad(runs[0].sum(), x)
    assert slope.abs().min() > 0
    assert torch.equal(full.score(x), full.score(x))
    assert torch.equal(full.log_density(x), posterior.log_density(x))
    # Coordinates keep what the score is.
    assert posterior.whitened().stochastic
    with pytest.raises(ValueError, match="the score of Bayesian.* is a fresh estimate on each cal"):
        check_score(posterior, x)


# Laplace coordinates


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


def test_whitened_breast_cancer_has_about_unit_widths(cancer):
    x, y, x_test, y_test = cancer
    posterior = BayesianLogisticRegression(x, y, bias=True)
    whitened = posterior.whitened()
    check_score(whitened, torch.randn(5, 32, dtype=torch.float64))
    chains = hmc(whitened, 100, steps=30, warmup=60, seed=2)
    widths = chains.samples.std(0)
    assert 0.7 < float(widths.min()) < float(widths.max()) < 2.5
    # Before, they differ by much more.
    samples = whitened.to_original(chains.samples)
    rotated = torch.linalg.eigvalsh(torch.cov(samples[:, :-1].T)).sqrt()
    assert float(rotated.max() / rotated.min()) > 2 * float(widths.max() / widths.min())
    found = posterior.evaluate(samples, x_test, y_test)
    constant = posterior.constant_classifier(y_test)
    assert found.accuracy > 0.93 > constant.accuracy
    assert found.log_likelihood > -0.15 > constant.log_likelihood


# Predictions


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


def test_a_sure_mistake_has_a_finite_log_likelihood():
    # 1 - 1 / (1 + exp(-60)) is 0 by rounding; the probability of the label is exp(-60).
    posterior = BayesianLogisticRegression([[1.0], [-1.0]], [1, 0])
    for design, labels in (([[1.0]], [0]), ([[-1.0]], [1])):
        found = posterior.evaluate([[60.0, 0.0]], design, labels)
        assert found.accuracy == 0
        assert found.log_likelihood == pytest.approx(-60, rel=1e-12)
    # Averaged over samples is the probability, not its logarithm.
    samples = [[60.0, 0.0], [50.0, 0.0], [800.0, 0.0]]
    found = posterior.evaluate(samples, [[1.0], [1.0], [-1.0], [0.0], [1.0]], [0, 1, 0, 1, 0])
    wrong = -50 + math.log1p(math.exp(-10)) - math.log(3)
    assert found.log_likelihood == pytest.approx((2 * wrong - math.log(2)) / 5, rel=1e-12)
    assert found.accuracy == pytest.approx(2 / 5)


def test_constant_classifier_of_the_fact_sheet():
    # A share of .19 in the training and .188 in the test gives an accuracy of .812 and -.483 nats.
    train = torch.arange(1000) < 190
    posterior = BayesianLogisticRegression(torch.randn(1000, 1), train)
    test = torch.arange(1000) < 188
    found = posterior.constant_classifier(test)
    assert found.accuracy == pytest.approx(0.812)
    assert found.log_likelihood == pytest.approx(-0.483, abs=5e-4)
    expected = 0.188 * math.log(0.19) + 0.812 * math.log(0.81)
    assert found.log_likelihood == pytest.approx(expected)


def test_labels_that_are_not_two():
    design, _ = small()
    with pytest.raises(ValueError, match="labels has 3 different values, expected 2"):
        BayesianLogisticRegression(design, torch.arange(60) % 3)
