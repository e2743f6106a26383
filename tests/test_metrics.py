"""Metrics: values known in closed form, errors calibrated over repeated samples."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from galflow_lite.metrics import (
    Estimate,
    c2st,
    column_distances,
    gaussian_mmd,
    linear_mmd,
    sliced_wasserstein,
)

METRICS = {
    "linear_mmd": linear_mmd,
    "gaussian_mmd": gaussian_mmd,
    "sliced_wasserstein": lambda x, y: sliced_wasserstein(x, y, n_projections=20),
    "sliced_wasserstein, p = 1": lambda x, y: sliced_wasserstein(x, y, n_projections=20, p=1),
    "column_distances": lambda x, y: column_distances(x, y)[0],
    "c2st": c2st,
    "c2st, auc": lambda x, y: c2st(x, y, score="auc"),
    "c2st, logistic": lambda x, y: c2st(x, y, classifier="logistic"),
}
every_metric = pytest.mark.parametrize("name", METRICS)


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()


def repeated(name: str, x_rows: int, y_rows: int, change=lambda y: y, times: int = 40):
    """Estimates over independent pairs of samples; the first column has the heaviest tails."""
    found = []
    for k in range(times):
        x, y = normal(x_rows, 4, 2 * k), normal(y_rows, 4, 2 * k + 1)
        x[:, 0], y[:, 0] = x[:, 0].exp(), y[:, 0].exp()
        found.append(METRICS[name](x, change(y)))
    return found


@every_metric
@pytest.mark.parametrize(("x_rows", "y_rows"), [(200, 200), (150, 400)])
def test_one_distribution_stays_within_its_errors(name, x_rows, y_rows):
    found = repeated(name, x_rows, y_rows)
    z = np.array([estimate.z for estimate in found])
    assert (np.abs(z) <= 3).mean() >= 0.95
    assert 0.5 <= z.std(ddof=1) <= 1.6
    # The null is the mean: 4 standard errors of the mean of 40 values.
    assert abs(z.mean()) <= 4 / math.sqrt(len(z))


@every_metric
def test_standard_error_is_the_spread_of_the_value_when_distributions_differ(name):
    found = repeated(name, 250, 250, lambda y: 1.3 * y + 0.4)
    spread = np.std([estimate.value for estimate in found], ddof=1)
    claimed = np.mean([estimate.standard_error for estimate in found])
    # The spread of 40 values is itself known to 11 %; the log-normal column adds to that.
    assert 0.6 <= spread / claimed <= 1.5


@every_metric
@pytest.mark.parametrize("change", ["shift", "scale"])
def test_another_distribution_is_detected(name, change):
    x, y = normal(2000, 4, 0), normal(1500, 4, 1)
    y = y + 0.5 if change == "shift" else 1.8 * y
    estimate = METRICS[name](x, y)
    blind = {"linear_mmd": ("scale",), "c2st, logistic": ("scale",)}
    if change in blind.get(name, ()):
        assert abs(estimate.z) < 3
    else:
        assert estimate.z > 5


def test_linear_mmd_by_hand():
    x = np.array([[0.0, 1.0], [2.0, 5.0], [4.0, 3.0]])
    y = np.array([[1.0, 1.0], [5.0, 1.0]])
    estimate = linear_mmd(x, y, std=[2.0, 4.0])
    assert estimate.value == pytest.approx((1 / 2) ** 2 + (2 / 4) ** 2)
    # E|mean x - mean y|^2 = sum of var / rows: (4 / 3 + 8 / 2) / 4 and (4 / 3 + 0) / 16.
    assert estimate.null == pytest.approx((4 / 3 + 4) / 4 + (4 / 3) / 16)
    pooled = linear_mmd(x, y)
    assert pooled.value == pytest.approx(1 / 6 + 4 / 2)  # variances (4 + 8) / 2 and (4 + 0) / 2
    shifted = linear_mmd(x + 1e6, y + 1e6, std=[2.0, 4.0])
    assert shifted.value == pytest.approx(estimate.value, rel=1e-6)


def test_linear_mmd_sees_means_only():
    x = normal(4000, 2, 0)
    ring = normal(4000, 2, 1)
    ring = 3 * ring / ring.norm(dim=1, keepdim=True)
    two_modes = (
        normal(4000, 2, 2)
        + 4 * torch.tensor([1.0, 1.0]) * (-1.0) ** torch.arange(4000)[:, None].double()
    )
    for other in (5 * normal(4000, 2, 3), ring, two_modes):
        assert abs(linear_mmd(x, other).z) < 3
        assert gaussian_mmd(x, other).z > 20


@pytest.mark.parametrize("dimensions", [1, 5])
def test_gaussian_mmd_of_two_normals(dimensions):
    shift, scale, h = 0.7, 1.5, 1.3
    rows = 4000
    x = normal(rows, dimensions, 0)
    y = scale * normal(rows, dimensions, 1) + shift

    def mean_kernel(variance, distance):  # of a Gaussian kernel over a normal difference
        total = h**2 + variance
        size = (h**2 / total) ** (dimensions / 2)
        return size * math.exp(-(distance**2) * dimensions / (2 * total))

    exact = mean_kernel(2, 0) + mean_kernel(2 * scale**2, 0) - 2 * mean_kernel(1 + scale**2, shift)
    estimate = gaussian_mmd(x, y, bandwidth=h)
    assert abs(estimate.value - exact) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.1 * exact


def test_gaussian_mmd_is_the_u_statistic():
    x, y = normal(30, 3, 0).numpy(), normal(20, 3, 1).numpy() + 0.3

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 0.8**2))

    off = ~np.eye(30, dtype=bool)
    expected = (
        kernel(x, x)[off].mean() + kernel(y, y)[off[:20, :20]].mean() - 2 * kernel(x, y).mean()
    )
    assert gaussian_mmd(x, y, bandwidth=0.8).value == pytest.approx(expected, rel=1e-9)
    median = np.median(torch.pdist(torch.cat([torch.tensor(x), torch.tensor(y)])))
    assert gaussian_mmd(x, y).value == pytest.approx(
        gaussian_mmd(x, y, bandwidth=float(median)).value, rel=1e-2
    )


def test_gaussian_mmd_memory_is_linear():
    rows = 12_000  # the kernel matrix would take 1.15 GB
    x, y = normal(rows, 2, 0), normal(rows, 2, 1)
    with torch.profiler.profile(profile_memory=True) as profile:
        gaussian_mmd(x, y, max_samples=None, bandwidth=1.0)
    largest = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert largest < 100e6


def test_sliced_wasserstein_of_a_shift_is_exact():
    x = normal(500, 6, 0)
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.5]).double()
    estimate = sliced_wasserstein(x, x + shift, n_projections=12)
    assert estimate.value == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_of_a_scaled_normal(p):
    d, scale = 3, 2.0
    x, y = normal(8000, d, 0), scale * normal(6000, d, 1)
    # Along each direction W_p is |scale - 1| times (E|z|^p)^(1/p).
    exact = (scale - 1) * (1.0 if p == 2 else math.sqrt(2 / math.pi))
    estimate = sliced_wasserstein(x, y, p=p)
    assert abs(estimate.value - exact) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.05 * exact


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 73), (6, 500)])
def test_column_distances_agree_with_scipy(n, m):
    x, y = normal(n, 3, 0).numpy(), (normal(m, 3, 1) * torch.tensor([1, 2, 0.5]) + 0.4).numpy()
    found = column_distances(x, y, columns=["x", "feh", "age"])
    assert list(found) == ["x", "feh", "age"]
    for k, estimate in enumerate(found.values()):
        expected = wasserstein_distance(x[:, k], y[:, k]) / x[:, k].std(ddof=1)
        assert estimate.value == pytest.approx(expected, rel=1e-9)


@every_metric
def test_symmetry_and_kinds_of_input(name):
    x, y = normal(120, 3, 0), normal(120, 3, 1) + 0.2
    metric = METRICS[name]
    there, back = metric(x, y), metric(x.numpy(), y.numpy())
    assert there == back
    assert isinstance(there, Estimate)
    assert all(isinstance(v, float) for v in (there.value, there.standard_error, there.null))
    if name in ("linear_mmd", "gaussian_mmd"):
        back = metric(y, x)
        assert there.value == pytest.approx(back.value, rel=1e-9)
        assert there.standard_error == pytest.approx(back.standard_error, rel=1e-9)


@every_metric
def test_order_of_rows_and_units(name):
    x, y = normal(300, 3, 0), normal(300, 3, 1) + 0.3
    metric = METRICS[name]
    before = metric(x, y)
    if "c2st" not in name:  # its folds are drawn by row
        assert metric(x.flip(0), y).value == pytest.approx(before.value, rel=1e-9)
    power = 1 if "sliced" in name else 0
    # Powers of two change no digit of the mantissa.
    after = metric(1024 * x, 1024 * y)
    assert after.value == pytest.approx(before.value * 1024**power, rel=1e-9)
    assert after.standard_error == pytest.approx(before.standard_error * 1024**power, rel=1e-6)


def test_one_column_may_be_flat():
    x, y = normal(100, 1, 0), normal(100, 1, 1)
    assert linear_mmd(x[:, 0], y[:, 0]) == linear_mmd(x, y)


def test_c2st_limits():
    x, y = normal(300, 2, 0), normal(900, 2, 1) + 50
    for score in ("accuracy", "auc"):
        for classifier in ("hist_gradient_boosting", "logistic"):
            estimate = c2st(x, y, score=score, classifier=classifier)
            # The trees bin each column, and the bin at the gap may hold a row of the other class.
            assert estimate.value >= (1.0 if classifier == "logistic" else 0.995)
            assert 0 < estimate.standard_error < 0.01


def test_c2st_accuracy_reaches_that_of_the_best_classifier():
    # Two normals at distance 2: the best accuracy is Phi(1), the best area Phi(sqrt(2)).
    x, y = normal(4000, 1, 0), normal(4000, 1, 1) + 2
    for score, exact in (("accuracy", 0.841345), ("auc", 0.921350)):
        estimate = c2st(x, y, score=score, classifier="logistic")
        assert abs(estimate.value - exact) < 3 * estimate.standard_error


def test_c2st_is_fast_enough():
    x, y = normal(5000, 10, 0), normal(5000, 10, 1)
    start = time.process_time()
    c2st(x, y)
    assert time.process_time() - start < 6


def test_estimate_prints_and_standardises():
    estimate = Estimate(1.5, 0.25, 1.0)
    assert estimate.z == 2.0
    assert str(estimate) == "1.5 ± 0.25 (by chance 1)"
    assert str(Estimate(1.5, 0.25)) == "1.5 ± 0.25"


@every_metric
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((60, 2, 2)), np.zeros((60, 2)), r"x has shape \(60, 2, 2\), expected \(rows, co"),
        (np.zeros((60, 2)), np.zeros((60, 3)), "x has 2 columns and y has 3"),
        (np.zeros((60, 2)), np.zeros((1, 2)), "y has 1 rows, expected at least"),
        (np.full((60, 2), np.nan), np.zeros((60, 2)), "x has 60 of 60 rows with NaN or infinite"),
    ],
)
def test_bad_samples(name, x, y, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name](x, y)


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (linear_mmd, {"std": [1.0]}, r"std is \[1.0\], expected 2 positive numbers"),
        (linear_mmd, {"std": [1.0, 0.0]}, "expected 2 positive numbers: drop constant columns"),
        (gaussian_mmd, {"bandwidth": 0.0}, "bandwidth is 0.0, expected a positive number"),
        (gaussian_mmd, {"bandwidth": "mean"}, "bandwidth is 'mean', expected a positive number"),
        (sliced_wasserstein, {"p": 0.5}, "p is 0.5, expected at least 1"),
        (sliced_wasserstein, {"n_permutations": 1}, "n_permutations is 1, expected at least 2"),
        (column_distances, {"columns": ["x"]}, "columns has 1 names, expected 2"),
        (column_distances, {"std": [1.0, -1.0]}, "expected 2 positive numbers"),
        (c2st, {"classifier": "forest"}, "classifier is 'forest', expected 'hist_gradient"),
        (c2st, {"score": "f1"}, "score is 'f1', expected 'accuracy' or 'auc'"),
        (c2st, {"folds": 1}, "folds is 1, expected at least 2"),
    ],
)
def test_bad_options(metric, options, message):
    with pytest.raises(ValueError, match=message):
        metric(normal(60, 2, 0), normal(60, 2, 1), **options)


def test_constant_columns_have_no_unit():
    x = np.ones((60, 2))
    for metric in (linear_mmd, column_distances):
        with pytest.raises(ValueError, match="expected 2 positive numbers: drop constant columns"):
            metric(x, x)
    with pytest.raises(ValueError, match="rows that are not all equal"):
        gaussian_mmd(x, x)
