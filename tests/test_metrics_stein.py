"""KSD, energy distance and mode weights: against slow double loops and over repeated draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor

from galflow_lite.metrics import (
    energy_distance,
    ksd,
    ksd_floor,
    mode_weights,
    sliced_wasserstein,
)
from galflow_lite.targets import BayesianLogisticRegression, Target


class Pair(Target):
    """Two round Gaussians at (-m, 0) and (m, 0); a single one for m = 0."""

    dim = 2

    def __init__(self, m: float, std: float = 1.0, mean_square_score: float | None = None) -> None:
        self.modes = torch.tensor([[-m, 0.0], [m, 0.0]], dtype=torch.float64)
        self.mode_weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
        self.std = std
        if mean_square_score is not None:
            self.mean_square_score = mean_square_score

    def _log_density(self, x: Tensor) -> Tensor:
        squared = (x[:, None] - self.modes.to(x)).square().sum(-1)
        return torch.logsumexp(-squared / (2 * self.std**2), dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(2, (n,), generator=generator)
        noise = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        return self.modes[mode] + self.std * noise

    def assign(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.modes.to(x)).argmin(1)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stein_matrix(x: np.ndarray, s: np.ndarray, c: float, beta: float) -> np.ndarray:
    """The Stein kernel from its definition, a pair at a time, with derivatives of the kernel."""
    n, d = x.shape
    matrix = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            r = x[i] - x[j]
            base = c**2 + r @ r
            gradient = 2 * beta * base ** (beta - 1) * r  # in x_i; in x_j with the other sign
            trace = -2 * d * beta * base ** (beta - 1)
            trace -= 4 * beta * (beta - 1) * base ** (beta - 2) * (r @ r)
            matrix[i, j] = s[i] @ s[j] * base**beta - s[i] @ gradient + s[j] @ gradient + trace
    return matrix


@pytest.mark.parametrize(("c", "beta", "d"), [(1.0, -0.5, 2), (0.7, -0.3, 3), (2.0, -0.9, 1)])
def test_ksd_is_the_double_loop(c, beta, d, monkeypatch):
    # Blocks of 7 rows, the last one short.
    monkeypatch.setattr("galflow_lite.metrics.stein.PAIRS", 7 * 40)
    x = normal(40, d, 0) + 50
    s = normal(40, d, 1)
    matrix = stein_matrix(x.numpy(), s.numpy(), c, beta)
    off = matrix.sum() - matrix.trace()
    v = ksd(x, s, c=c, beta=beta)
    u = ksd(x, s, c=c, beta=beta, statistic="U")
    assert v.value == pytest.approx(math.sqrt(matrix.mean()), rel=1e-10)
    assert u.value == pytest.approx(off / (40 * 39), rel=1e-10)
    assert u.null == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_stein_kernel_is_that_of_the_derivatives():
    """The loop's closed forms against automatic differentiation of the kernel itself."""
    target, beta, c = Pair(1.0), -0.5, 1.0

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (c**2 + (a - b).square().sum()) ** beta

    x = normal(2, 2, 3)
    s = target.score(x)
    a, b = x
    in_a, in_b = torch.func.grad(kernel, 0)(a, b), torch.func.grad(kernel, 1)(a, b)
    trace = torch.func.jacfwd(torch.func.grad(kernel, 0), 1)(a, b).trace()
    expected = s[0] @ s[1] * kernel(a, b) + s[0] @ in_b + s[1] @ in_a + trace
    assert stein_matrix(x.numpy(), s.numpy(), c, beta)[0, 1] == pytest.approx(float(expected))


def test_mean_square_of_exact_samples_is_the_floor():
    """E[V^2] = (J + d) / n, for a J that is known: a standard Gaussian has J = 2."""
    target = Pair(0.0, mean_square_score=2.0)
    n, draws = 100, 400
    found = [ksd(target.sample(n, seed=k), target) for k in range(draws)]
    squares = np.array([estimate.value**2 for estimate in found])
    floor = ksd_floor(2.0, 2, n)
    assert floor == pytest.approx(math.sqrt(4 / n))
    assert found[0].null == floor
    error = squares.std(ddof=1) / math.sqrt(draws)
    assert error < 0.05 * floor**2  # sharp enough to tell J + d from J or d
    assert abs(squares.mean() - floor**2) < 4 * error


@pytest.mark.parametrize(("c", "beta"), [(2.0, -0.5), (1.0, -0.25)])
def test_floor_of_other_kernels(c, beta):
    target, n, draws = Pair(0.0), 100, 400
    squares = np.array(
        [ksd(target.sample(n, seed=k), target, c=c, beta=beta).value ** 2 for k in range(draws)]
    )
    floor = ksd_floor(2.0, 2, n, c=c, beta=beta)
    assert abs(squares.mean() - floor**2) < 4 * squares.std(ddof=1) / math.sqrt(draws)
    assert abs(floor**2 - ksd_floor(2.0, 2, n) ** 2) > 4 * squares.std(ddof=1) / math.sqrt(draws)


@pytest.mark.parametrize(
    ("name", "target", "mean_square", "value", "spread"),
    [
        ("mog2", Pair(2.0), 1.73, 0.087, 0.013),
        ("mog2_hard", Pair(2.0, 0.5), 8.0, 0.141, 0.035),
    ],
)
def test_exact_samples_score_as_measured_before(name, target, mean_square, value, spread):
    """Mean of V at n = 500 from an independent implementation (mean and spread of 40 draws)."""
    draws = np.array([ksd(target.sample(500, seed=k), target).value for k in range(40)])
    # Both means have the error spread / sqrt(40); the digits printed add half a unit.
    assert abs(draws.mean() - value) < 4 * spread * math.sqrt(2 / 40) + 5e-4
    assert ksd_floor(mean_square, 2, 500) == pytest.approx(value, rel=0.02)
    scores = target.score(target.sample(100_000, seed=0)).square().sum(1)
    assert float(scores.mean()) == pytest.approx(mean_square, rel=0.02)


def require_calibrated(found: list, *, largest: float = 1.15) -> np.ndarray:
    """Values whose stated errors are right in the middle and cover; returns the values.

    Where the null holds, the stated error itself scatters upwards, so its median is compared.
    """
    values = np.array([estimate.value for estimate in found])
    stated = np.array([estimate.standard_error for estimate in found])
    assert 0.85 < np.median(stated) / values.std(ddof=1) < largest
    within = (np.abs(values - values.mean()) < 2 * stated).mean()
    # 95 % for a normal variable with a known error; 4 binomial errors less.
    assert within > 0.95 - 4 * math.sqrt(0.05 * 0.95 / len(found)) - 0.03
    return values


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("statistic", ["U", "V"])
def test_standard_errors_of_ksd(shift, statistic):
    target, draws = Pair(0.0, mean_square_score=2.0), 400
    found = [
        ksd(target.sample(150, seed=k) + shift, target, statistic=statistic) for k in range(draws)
    ]
    # A root close to its floor: the slope overstates the spread by up to a third.
    largest = 1.35 if statistic == "V" and not shift else 1.15
    values = require_calibrated(found, largest=largest)
    error = values.std(ddof=1) / math.sqrt(draws)
    if shift:
        assert values.mean() - found[0].null > 4 * error
    elif statistic == "U":
        assert abs(values.mean()) < 4 * error


def test_ksd_misses_a_lost_mode_and_the_energy_distance_does_not():
    target = Pair(2.0, 0.5)
    x = target.sample(1200, seed=0)
    one = x[x[:, 0] > 0][:500]
    # Within the spread of exact samples about their floor: 4 times .035 at n = 500.
    assert abs(ksd(one, target, mean_square_score=8.0).value - 0.141) < 4 * 0.05
    assert energy_distance(one, target.sample(500, seed=1)).value > 1
    assert mode_weights(one, target).largest_deviation == 0.5


def test_known_mean_square_score_gives_the_null():
    class Shy(Pair):
        @property
        def mean_square_score(self) -> float:
            raise NotImplementedError("not known")

    x = Pair(0.0).sample(50, seed=0)
    own = float(x.square().sum(1).mean())
    assert ksd(x, Shy(0.0)).null == pytest.approx(ksd_floor(own, 2, 50))
    assert ksd(x, lambda points: -points).null == pytest.approx(ksd_floor(own, 2, 50))
    assert ksd(x, -x, mean_square_score=3.0).null == ksd_floor(3.0, 2, 50)
    assert ksd(x, Pair(0.0, mean_square_score=2.0)).null == ksd_floor(2.0, 2, 50)


def test_energy_distance_is_the_double_loop(monkeypatch):
    monkeypatch.setattr("galflow_lite.metrics.pairs.PAIRS", 7 * 30)
    x, y = normal(30, 3, 0) + 20, 1.5 * normal(25, 3, 1) + 20.5
    n, m = len(x), len(y)
    xx = sum(math.dist(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(math.dist(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(math.dist(a, b) for a in x for b in y) / (n * m)
    assert energy_distance(x, y).value == pytest.approx(2 * xy - xx - yy, abs=1e-9)


@pytest.mark.parametrize(("shift", "rows"), [(0.0, (80, 80)), (0.0, (60, 200)), (0.4, (80, 120))])
def test_energy_distance_is_unbiased_and_knows_its_error(shift, rows):
    draws = 400
    found = [
        energy_distance(normal(rows[0], 2, 2 * k), normal(rows[1], 2, 2 * k + 1) + shift)
        for k in range(draws)
    ]
    values = require_calibrated(found)
    # Exact: |x - y| of Gaussians at distance m in the plane is a Rice variable of scale sqrt 2.
    t = shift**2 * 2 / 8
    rice = math.sqrt(math.pi) * math.exp(-t) * ((1 + 2 * t) * np.i0(t) + 2 * t * bessel_i1(t))
    expected = 2 * rice - 2 * math.sqrt(math.pi)
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(draws)


def bessel_i1(t: float) -> float:
    return float(torch.special.i1(torch.tensor(t, dtype=torch.float64)))


def peak_memory(call: Callable[[], object]) -> int:
    """Largest number of bytes that the tensors made in a call hold at one time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    # Each operator's own balance; what is freed between operators is an event of its own.
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    return max(accumulate(event.self_cpu_memory_usage for event in events))


def test_peak_memory_is_measured():
    x = normal(1000, 1, 0)
    # Three matrices of 8 MB, of which two at a time.
    found = peak_memory(lambda: ((x * x.T).exp() + 1).sum())
    assert 16e6 <= found < 16.1e6


@pytest.mark.parametrize(
    "measure",
    [
        lambda x, y: ksd(x, -x),
        energy_distance,
        lambda x, y: sliced_wasserstein(x, y, n_projections=8),
        lambda x, y: mode_weights(x, Pair(1.0)),
    ],
    ids=["ksd", "energy_distance", "sliced_wasserstein", "mode_weights"],
)
def test_memory_is_linear_in_the_rows(measure):
    few, many = (
        peak_memory(lambda n=n: measure(normal(n, 2, 0), normal(n, 2, 1))) for n in (1500, 6000)
    )
    # Quadratic, it would be 16 times, and one matrix of pairs 288 MB.
    assert few < many < 4.1 * few
    assert many < 20e6


def test_stochastic_scores_are_refused():
    design = normal(50, 2, 0)
    whole = BayesianLogisticRegression(design, design[:, 0] > 0)
    x = normal(20, 3, 1)
    assert ksd(x, whole) == ksd(x, whole.score)
    for score in (whole.with_batches(10), whole.with_batches(10).score):
        with pytest.raises(
            ValueError, match="the score of BayesianLogisticRegression is a fresh estimate on each"
        ):
            ksd(x, score)


def test_mode_weights_and_their_errors():
    target = Pair(4.0)
    found = mode_weights(target.sample(1000, seed=0), target)
    assert found.n == 1000
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


X = normal(20, 2, 0)
HOLES = X.clone().index_fill_(0, torch.tensor([3]), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ksd(X[:3], -X[:3]), "x has 3 rows, expected at least 4: use a larger"),
        (lambda: ksd(X[:, 0], X), r"x has shape \(20,\), expected \(rows, columns\): reshape"),
        (lambda: ksd(HOLES, X), "x has 1 of 20 rows with NaN or infinite values, expected none"),
        (lambda: ksd(X, HOLES), "the score has 1 of 20 rows with NaN or infinite values"),
        (lambda: ksd(X, X[:, :1]), r"the scores have shape \(20, 1\), expected that of x"),
        (lambda: ksd(X, -X, statistic="W"), "statistic is 'W', expected 'V' or 'U': choose one"),
        (lambda: ksd(X, -X, c=0.0), "c is 0.0, expected a number above 0: use 1"),
        (lambda: ksd(X, -X, beta=0.5), "beta is 0.5, expected -1 < beta < 0: use -0.5"),
        (lambda: ksd_floor(-1.0, 2, 5), "mean_square_score is -1.0, expected a finite number"),
        (lambda: ksd_floor(1.0, 2, 0), "found dim 2 and n 0, expected both at least 1"),
        (lambda: energy_distance(X, X[:, :1]), "x has 2 columns and y has 1, expected the same"),
        (lambda: energy_distance(X, HOLES), "y has 1 of 20 rows with NaN or infinite values"),
        (lambda: mode_weights(X[:0], Pair(1.0)), r"x has shape \(0, 2\), expected \(rows, columns"),
        (lambda: mode_weights(HOLES, Pair(1.0)), "x has 1 of 20 rows with NaN or infinite values"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_wrong_assignment_is_named():
    target = Pair(1.0)
    target.assign = lambda x: torch.full((len(x),), 2)
    with pytest.raises(ValueError, match=r"assign gave indices of shape \(20,\) from 2 to 2, exp"):
        mode_weights(X, target)
