"""Divergences: closed forms of Gaussians, errors against the scatter of repeats, and failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from galflow_lite.metrics import (
    Estimate,
    effective_sample_size,
    forward_kl,
    reverse_kl,
    self_normalised_kl,
)

GAUSSIANS = {
    "1-D, shifted": (([0.0], [[1.0]]), ([0.7], [[1.0]])),
    "1-D, narrower": (([0.0], [[1.0]]), ([0.3], [[1.7]])),
    "2-D": (([0.0, 1.0], [[1.0, 0.3], [0.3, 0.8]]), ([0.2, 0.7], [[1.4, -0.2], [-0.2, 1.1]])),
}
TWO_DENSITIES = {
    "forward": (forward_kl, "log_p", "log_q"),
    "reverse": (reverse_kl, "log_q", "log_p"),
    "self-normalised": (self_normalised_kl, "log_q", "log_f"),
}
every_estimator = pytest.mark.parametrize("kind", TWO_DENSITIES)


def closed_form(p, q) -> float:
    """KL(p || q) of two Gaussians."""
    (mean_p, cov_p), (mean_q, cov_q) = [map(np.array, gaussian) for gaussian in (p, q)]
    inverse = np.linalg.inv(cov_q)
    apart = mean_q - mean_p
    trace, determinants = np.trace(inverse @ cov_p), np.linalg.det(cov_q) / np.linalg.det(cov_p)
    return 0.5 * (trace + apart @ inverse @ apart - len(apart) + math.log(determinants))


def log_densities(p, q, n: int, seed: int):
    """Both log-densities at samples of the first."""
    p, q = multivariate_normal(*p), multivariate_normal(*q)
    x = p.rvs(n, random_state=np.random.default_rng(seed)).reshape(n, -1)
    return p.logpdf(x), q.logpdf(x)


@pytest.mark.parametrize("pair", GAUSSIANS)
def test_both_directions_agree_with_the_closed_form(pair):
    p, q = GAUSSIANS[pair]
    forward = forward_kl(*log_densities(p, q, 20_000, 0))
    reverse = reverse_kl(*log_densities(q, p, 20_000, 1))
    assert abs(forward.value - closed_form(p, q)) < 4 * forward.standard_error
    assert abs(reverse.value - closed_form(q, p)) < 4 * reverse.standard_error
    assert forward.robust
    assert reverse.robust
    assert forward.standard_error < 0.1 * forward.value


def test_divergence_is_an_estimate_with_the_plain_statistics():
    log_p, log_q = log_densities(*GAUSSIANS["2-D"], 1000, 0)
    found = forward_kl(log_p, log_q)
    ratios = log_p - log_q
    squares = np.sort((ratios - ratios.mean()) ** 2)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(ratios.mean(), abs=1e-14)
    assert found.standard_error == pytest.approx(ratios.std(ddof=1) / math.sqrt(1000), rel=1e-12)
    assert found.median == pytest.approx(np.median(ratios), abs=1e-14)
    assert found.top_share == pytest.approx(squares[-5:].sum() / squares.sum(), rel=1e-12)
    assert found.z == found.value / found.standard_error
    assert (found.n, found.infinite, found.null) == (1000, 0, None)


def test_equal_densities_give_zero_without_error():
    log_p = np.linspace(-5, 0, 50)
    for found in (forward_kl(log_p, log_p), reverse_kl(log_p, log_p)):
        assert (found.value, found.standard_error, found.top_share) == (0, 0, 0)
        assert found.z == 0
        assert found.robust
    # A constant is no KL of normalised densities, but its variance is none either.
    assert self_normalised_kl(log_p, log_p + 3).value == pytest.approx(0, abs=1e-13)


def test_self_normalised_is_the_public_formula():
    log_q, log_f = log_densities(*GAUSSIANS["2-D"], 200, 0)
    difference = log_q - np.log(np.exp(log_q).sum()) - log_f + np.log(np.exp(log_f).sum())
    found = self_normalised_kl(log_q, log_f)
    assert found.value == pytest.approx(difference.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(difference.std(ddof=1) / math.sqrt(200), rel=1e-9)


def test_effective_sample_size_of_known_weights():
    assert effective_sample_size(np.full(7, -3.0)) == 1
    assert effective_sample_size([0.0, *[-math.inf] * 9]) == pytest.approx(0.1)
    assert effective_sample_size([0.0, *[-900.0] * 9]) == pytest.approx(0.1)
    assert effective_sample_size(np.log([3.0, 1.0])) == pytest.approx(16 / 20)
    # Neither the scale of the weights nor its overflow matters.
    assert effective_sample_size(np.log([3.0, 1.0]) + 1e4) == pytest.approx(16 / 20, rel=1e-10)
    assert effective_sample_size(torch.tensor([0.0, 1e-3]) - 1e4) == pytest.approx(1, rel=1e-5)


def test_one_far_point_is_noticed_and_the_median_kept():
    ratios = np.random.default_rng(0).standard_normal(10_000) * 0.1
    ratios[17] = 1e13
    found = reverse_kl(ratios, np.zeros(10_000))
    assert not found.robust
    # The other points lie 1e13 / n from the mean, which takes 1/n of the sum.
    assert found.top_share == pytest.approx(1, abs=2e-4)
    assert abs(found.median) < 0.01
    assert "not robust: 5 of 10000 points carry 100% of the variance; median" in str(found)
    assert "robust" not in str(reverse_kl(np.delete(ratios, 17), np.zeros(9_999)))


def test_log_ratios_near_the_largest_number_do_not_overflow():
    found = forward_kl(np.zeros(100), np.array([-1e200] + [0.0] * 99))
    # One outlier among n equal points, worked out: it and four others, and the standard error.
    assert found.top_share == pytest.approx((99**2 + 4) / (99**2 + 99))
    assert found.standard_error == pytest.approx(1e198)
    assert not found.robust


@every_estimator
def test_no_density_at_a_sample_is_an_infinite_divergence(kind):
    own = np.linspace(-3, 0, 100)
    other = own - 0.1
    other[[3, 60]] = -math.inf
    found = TWO_DENSITIES[kind][0](own, other)
    assert found.value == math.inf
    assert math.isnan(found.standard_error)
    assert not found.robust
    assert (found.infinite, found.top_share) == (2, 1)
    assert math.isfinite(found.median)
    assert str(found).startswith("inf ± nan (not robust: infinite at 2 of 100 points; median ")


@every_estimator
def test_what_is_no_log_density_is_refused(kind):
    estimate, own, other = TWO_DENSITIES[kind]
    values = np.linspace(-5, 0, 10)
    nan, more, less = (np.where(values > -2.5, v, values) for v in (np.nan, np.inf, -np.inf))
    for pair, name in (
        ((values, nan), other),
        ((more, values), own),
        ((values, more), other),
        ((less, values), own),  # no sample of a density lies where it is zero
        ((values, values[:7]), other),
        ((values[:1], values[:1]), own),
    ):
        with pytest.raises(ValueError, match=name):
            estimate(*pair)


def test_no_mass_at_all():
    nothing = np.full(4, -np.inf)
    with pytest.raises(ValueError, match="log_f is -inf at all 4 points, expected some mass"):
        self_normalised_kl(np.zeros(4), nothing)
    with pytest.raises(ValueError, match="log_weights is -inf at all 4 points, expected some mass"):
        effective_sample_size(nothing)
