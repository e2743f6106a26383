"""Distances between samples: closed forms, slow double loops, errors calibrated over repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import kurtosis
from torch import Tensor

from galflow_lite.metrics import (
    c2st,
    energy_distance,
    ksd,
    ksd_floor,
    linear_mmd,
    mode_weights,
    sliced_wasserstein,
)
from galflow_lite.targets import BayesianLogisticRegression, GaussianMixture

METRICS = {
    "linear_mmd": linear_mmd,
    "energy_distance": energy_distance,
    "sliced_wasserstein": lambda x, y: sliced_wasserstein(x, y, n_projections=20),
    "sliced_wasserstein, p = 1": lambda x, y: sliced_wasserstein(x, y, n_projections=20, p=1),
    "c2st": c2st,
}
every_metric = pytest.mark.parametrize("name", METRICS)


def normal(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def repeated(name: str, x_rows: int, y_rows: int, change=lambda y: y):
    """Estimates over independent pairs of samples; the first column has the heaviest tails."""
    found = []
    for k in range(20 if name == "c2st" else 40):
        x, y = normal(x_rows, 4, 2 * k), normal(y_rows, 4, 2 * k + 1)
        x[:, 0], y[:, 0] = (x[:, 0] / 2).exp(), (y[:, 0] / 2).exp()
        found.append(METRICS[name](x, change(y)))
    return found


# --- errors of two-sample metrics -------------------------------------------------------------


@every_metric
def test_one_distribution_stays_within_its_errors(name):
    found = repeated(name, 150, 400)
    z = np.array([estimate.z for estimate in found])
    assert (np.abs(z) <= 3).mean() >= 0.95
    # The error of c2st errs on the safe side: 0.86 +- 0.17 over seeds.
    assert (0.3 if name == "c2st" else 0.5) <= z.std(ddof=1) <= 1.6
    # The null is the mean: 4 standard errors of their mean.
    assert abs(z.mean()) <= 4 / math.sqrt(len(z))


@every_metric
def test_standard_error_is_the_spread_of_the_value_when_distributions_differ(name):
    found = repeated(name, 250, 250, lambda y: 1.3 * y + 0.4)
    spread = np.std([estimate.value for estimate in found], ddof=1)
    claimed = np.mean([estimate.standard_error for estimate in found])
    # The spread of 40 values is itself known to 11 %, that of 20 to 16 %; the log-normal column
    # adds to that. Of c2st it is 0.76 +- 0.17 over seeds.
    assert (0.3 if name == "c2st" else 0.6) <= spread / claimed <= 1.5


@every_metric
@pytest.mark.parametrize("change", ["shift", "scale"])
def test_another_distribution_is_detected(name, change):
    x, y = normal(2000, 4, 0), normal(1500, 4, 1)
    estimate = METRICS[name](x, y + 0.5 if change == "shift" else 1.8 * y)
    if (name, change) == ("linear_mmd", "scale"):
        assert abs(estimate.z) < 3
    else:
        assert estimate.z > 5


# --- maximum mean discrepancy -----------------------------------------------------------------


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
    with pytest.raises(ValueError, match="drop constant columns"):
        linear_mmd(np.ones((60, 2)), np.ones((60, 2)))


# --- energy distance --------------------------------------------------------------------------


def require_calibrated(found: list, *, most: float = 1.0) -> np.ndarray:
    """Values whose stated errors are right in the middle and cover; returns the values.

    Where the null holds, the stated error itself scatters upwards, so its median is compared; it
    may be `most` times the spread. Both bounds leave four errors of what they are compared with.
    """
    values = np.array([estimate.value for estimate in found])
    stated = np.array([estimate.standard_error for estimate in found])
    # The relative error of a standard deviation, which grows with the kurtosis.
    error = math.sqrt((kurtosis(values, fisher=False) - 1) / (4 * len(values)))
    assert 1 - 4 * error < np.median(stated) / values.std(ddof=1) < most + 4 * error
    within = (np.abs(values - values.mean()) < 2 * stated).mean()
    # 95 % for a normal variable with a known error, 91 % for so few rows, in 4,400 repeats.
    assert within > 0.91 - 4 * math.sqrt(0.09 * 0.91 / len(found))
    return values


def test_the_energy_distance_is_the_u_statistic(monkeypatch):
    # Blocks of 7 rows, the last one short.
    monkeypatch.setattr("galflow_lite.metrics.kernels.PAIRS", 7 * 30)
    x, y = normal(30, 3, 0) + 20, 1.5 * normal(25, 3, 1) + 20.5
    within = sum(cdist(z, z)[~np.eye(len(z), dtype=bool)].mean() for z in (x, y))
    expected = 2 * cdist(x, y).mean() - within
    assert energy_distance(x, y).value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_energy_distance_of_one_column_by_sorting_is_that_by_pairs():
    x, y = 100 + normal(300, 1, 0).round(decimals=1), 100.3 + 2 * normal(200, 1, 1)
    # A second column that is constant takes all pairs of rows.
    wide = energy_distance(*(torch.cat([v, torch.ones_like(v)], dim=1) for v in (x, y)))
    found = energy_distance(x, y)
    assert found.value == pytest.approx(wide.value, rel=1e-8)
    assert found.standard_error == pytest.approx(wide.standard_error, rel=1e-8)


@pytest.mark.parametrize(("shift", "rows"), [(0.0, (80, 80)), (0.0, (60, 200)), (0.4, (80, 120))])
def test_energy_distance_is_unbiased_and_knows_its_error(shift, rows):
    draws = 400
    pairs = ([normal(rows[i], 2, 2 * k + i) + i * shift for i in (0, 1)] for k in range(draws))
    values = require_calibrated([energy_distance(x, y) for x, y in pairs])
    # Exact: |x - y| of Gaussians at distance m in the plane is a Rice variable of scale sqrt 2.
    t = torch.tensor(shift**2 * 2 / 8, dtype=torch.float64)
    bessel = (1 + 2 * t) * torch.special.i0e(t) + 2 * t * torch.special.i1e(t)
    expected = 2 * math.sqrt(math.pi) * float(bessel - 1)
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(draws)


# --- sliced Wasserstein distance --------------------------------------------------------------


def test_sliced_wasserstein_of_a_shift_is_exact():
    x = normal(500, 6, 0)
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.5]).double()
    estimate = sliced_wasserstein(x, x + shift, n_projections=12)
    assert estimate.value == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 73), (6, 500)])
def test_one_column_is_the_distance_of_quantile_functions(n, m):
    # In one dimension every direction is the axis; a common multiple of both sizes aligns them.
    x, y = normal(n, 1, 0), 2 * normal(m, 1, 1) + 0.4
    common = math.lcm(n, m)
    gaps = np.repeat(np.sort(x[:, 0]), common // n) - np.repeat(np.sort(y[:, 0]), common // m)
    for p in (1, 2):
        expected = (np.abs(gaps) ** p).mean() ** (1 / p)
        assert sliced_wasserstein(x[:, 0], y, p=p).value == pytest.approx(expected, rel=1e-9)


# --- kernel Stein discrepancy -----------------------------------------------------------------


ROUND = GaussianMixture([[0.0, 0.0]], 1.0)


def stein_matrix(x: Tensor, s: Tensor) -> Tensor:
    """The Stein kernel from its definition, with automatic derivatives of the kernel."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (1 + (a - b).square().sum()) ** -0.5

    def entry(a: Tensor, b: Tensor, s_a: Tensor, s_b: Tensor) -> Tensor:
        in_a, in_b = torch.func.grad(kernel, 0), torch.func.grad(kernel, 1)(a, b)
        trace = torch.func.jacfwd(in_a, 1)(a, b).trace()
        return s_a @ s_b * kernel(a, b) + s_a @ in_b + s_b @ in_a(a, b) + trace

    row = torch.vmap(entry, (None, 0, None, 0))
    return torch.vmap(row, (0, None, 0, None))(x, x, s, s)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("d", [1, 3])
def test_ksd_is_the_mean_over_pairs(d, monkeypatch):
    monkeypatch.setattr("galflow_lite.metrics.kernels.PAIRS", 7 * 40)
    x, s = normal(40, d, 0) + 50, normal(40, d, 1)
    matrix = stein_matrix(x, s)
    assert ksd(x, s).value == pytest.approx(math.sqrt(matrix.mean()), rel=1e-10)


def test_mean_square_of_exact_samples_is_the_floor():
    """E[V^2] = (J + d) / n, for a J that is known: a standard Gaussian has J = 2."""
    target, n, draws = ROUND, 100, 400
    found = [ksd(target.sample(n, seed=k), target) for k in range(draws)]
    squares = np.array([estimate.value**2 for estimate in found])
    floor = ksd_floor(2.0, 2, n)
    assert floor == pytest.approx(math.sqrt(4 / n))
    assert found[0].null == floor
    error = squares.std(ddof=1) / math.sqrt(draws)
    assert error < 0.05 * floor**2  # sharp enough to tell J + d from J or d
    assert abs(squares.mean() - floor**2) < 4 * error
    x = target.sample(50, seed=0)
    own = float(x.square().sum(1).mean())
    assert ksd(x, lambda points: -points).null == pytest.approx(ksd_floor(own, 2, 50))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_standard_errors_of_ksd(shift):
    target, draws = ROUND, 400
    samples = (target.sample(150, seed=k) + shift for k in range(draws))
    found = [ksd(x, target) for x in samples]
    # A root close to its floor: the slope overstates the spread, 1.21 times in 2,000 repeats.
    values = require_calibrated(found, most=1.0 if shift else 1.21)
    error = values.std(ddof=1) / math.sqrt(draws)
    assert (values.mean() - found[0].null > 4 * error) == bool(shift)


def test_stochastic_scores_are_refused():
    design, x = normal(50, 2, 0), normal(20, 3, 1)
    whole = BayesianLogisticRegression(design, design[:, 0] > 0)
    assert ksd(x, whole) == ksd(x, whole.score)
    for score in (whole.with_batches(10), whole.with_batches(10).score):
        with pytest.raises(ValueError, match="is a fresh estimate on each call"):
            ksd(x, score)


# --- shares of modes, and memory --------------------------------------------------------------


def test_mode_weights_and_their_errors():
    target = GaussianMixture([[-4.0, 0.0], [4.0, 0.0]], 1.0)
    found = mode_weights(target.sample(1000, seed=0), target)
    assert found.shares.sum() == 1
    share = float(found.shares[0])
    expected = math.sqrt(share * (1 - share) / 1000)
    assert found.standard_errors.tolist() == pytest.approx([expected] * 2)
    assert found.largest_deviation == pytest.approx(abs(share - 0.5))
    shares = [mode_weights(target.sample(200, seed=k), target).shares[0] for k in range(200)]
    assert np.std(shares, ddof=1) == pytest.approx(math.sqrt(0.25 / 200), rel=0.2)
    one = mode_weights(torch.tensor([[4.0, 0.0]] * 100), target)
    assert one.shares.tolist() == [0, 1]
    assert one.standard_errors.tolist() == pytest.approx([0.05, 0.05])
    assert str(one) == "0/100 % (off by up to 50.0 points)"
