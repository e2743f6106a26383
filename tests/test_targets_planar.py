"""Targets in the plane: normalisers, samplers, scores, modes; what is derived from them; checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from galflow_lite.targets import (
    NAMED,
    Affine,
    CircleOfGaussians,
    CorrelatedGaussian,
    Donut,
    FromLogDensity,
    Funnel,
    GaussianMixture,
    Noised,
    RingOfGaussians,
    Rosenbrock,
    Squiggle,
    Target,
    Tempered,
    TwoGaussians,
    TwoMoons,
    check_score,
)

every_name = pytest.mark.parametrize("name", NAMED)

# Mean square scores of the fact sheet, to the digits it gives, and two normalisers.
MEAN_SQUARE_SCORES = {
    "gaussian": 5.55,
    "mog2": 1.73,
    "mog2_hard": 8.0,
    "rosenbrock": 16,
    "rosen_hard": 142,
    "donut": 3.99,
    "donut_hard": 60.8,
    "funnel": 3.15,
    "funnel_hard": 90.6,
    "squiggle": 4.98,
    "squiggle_hard": 29.3,
    "ring8": 7.75,
    "ring8_hard": 22.2,
}


def naive(name: str, x: np.ndarray) -> np.ndarray:
    """Unnormalised log density as the formulas are usually written."""
    a, b = x.T
    kind, hard = name.partition("_")[0], "_hard" in name
    if kind == "gaussian":
        return -(a**2 - 1.6 * a * b + b**2) / (2 * 0.36)
    if kind == "mog2":
        two_variances = 0.5 if hard else 2.0
        return np.logaddexp(*(-((a - c) ** 2 + b**2) / two_variances for c in (-2, 2))) - math.log(
            2
        )
    if kind in ("rosenbrock", "rosen"):
        return -((1 - a) ** 2) - (10 if hard else 1) * (b - a**2) ** 2
    if kind == "donut":
        return -((np.hypot(a, b) - 2.6) ** 2) / (0.033 if hard else 0.5)
    if kind == "funnel":
        return -(b**2) / (18 if hard else 2) - b / 2 - a**2 * np.exp(-b) / 2
    if kind == "squiggle":
        y = np.stack([a, b + np.sin((5 if hard else 1.5) * a)], axis=1)
        precision = np.linalg.inv([[2, 0.25], [0.25, 0.5]])
        return -np.einsum("ni,ij,nj->n", y, precision, y) / 2
    angle = 2 * np.pi * np.arange(8) / 8
    square = (a[:, None] - 4 * np.cos(angle)) ** 2 + (b[:, None] - 4 * np.sin(angle)) ** 2
    return np.log(np.exp(-square / (0.18 if hard else 0.5)).mean(1) + 1e-320)


def grid(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature of its own: equal steps, for the funnel along e^{v/2}."""
    if name.startswith("funnel"):
        t = 3.0 if "hard" in name else 1.0
        v, u = np.meshgrid(np.arange(-11 * t, 11 * t, t / 20), np.arange(-9, 9, 0.1))
        points = np.stack([u * np.exp(v / 2), v], axis=-1).reshape(-1, 2)
        return points, (np.exp(v / 2) * t / 20 * 0.1).ravel()
    width = {
        "gaussian": 0.4,
        "mog2": 1,
        "mog2_hard": 0.5,
        "rosenbrock": 0.2,
        "rosen_hard": 0.07,
        "donut": 0.4,
        "donut_hard": 0.12,
        "squiggle": 0.3,
        "squiggle_hard": 0.12,
        "ring8": 0.5,
        "ring8_hard": 0.3,
    }[name]
    low, high = {
        "rosenbrock": ((-4.5, -5), (6.5, 36)),
        "rosen_hard": ((-4.5, -2), (6.5, 38)),
        "squiggle": ((-12, -8), (12, 8)),
        "squiggle_hard": ((-12, -8), (12, 8)),
    }.get(name, ((-9, -9), (9, 9)))
    step = width / 4
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    return points, np.full(len(points), step**2)


@every_name
def test_density_is_its_formula(name):
    x = np.random.default_rng(0).uniform(-3, 3, (1000, 2))
    clear = naive(name, x) > -600
    assert clear.sum() > 500
    np.testing.assert_allclose(
        NAMED[name]().log_density(x).numpy()[clear], naive(name, x)[clear], rtol=1e-10, atol=1e-10
    )


@every_name
def test_normaliser_entropy_and_mean_square_score_agree_with_quadrature(name):
    target = NAMED[name]()
    points, weights = grid(name)
    log_f = naive(name, points)
    kept = log_f > -700
    points, weights, log_f = points[kept], weights[kept], log_f[kept]
    f = weights * np.exp(log_f)
    assert target.log_normalizer == pytest.approx(math.log(f.sum()), abs=1e-8)
    entropy = -(f / f.sum()) @ (log_f - math.log(f.sum()))
    assert target.entropy == pytest.approx(entropy, abs=1e-7)
    # The second way: |score|^2 and -div score have the same mean.
    square = target.score(points).square().sum(1).numpy()
    assert target.mean_square_score == pytest.approx((f / f.sum()) @ square, rel=1e-6)


@every_name
def test_mean_square_score_agrees_with_samples_and_the_fact_sheet(name):
    target = NAMED[name]()
    # Its values are rounded, and some are means of draws.
    assert target.mean_square_score == pytest.approx(MEAN_SQUARE_SCORES[name], rel=4e-3)
    square = target.score(target.sample(100_000, seed=1)).square().sum(1)
    error = float(square.std()) / math.sqrt(len(square))
    assert abs(float(square.mean()) - target.mean_square_score) < 4.5 * error


def test_normalisers_of_the_fact_sheet():
    assert math.exp(Donut().log_normalizer) == pytest.approx(20.47449, abs=5e-6)
    assert math.exp(Donut(spread=0.033).log_normalizer) == pytest.approx(5.25999, abs=5e-6)
    assert math.exp(Rosenbrock(10).log_normalizer) == pytest.approx(math.pi / math.sqrt(10))
    assert math.exp(Funnel(3).log_normalizer) == pytest.approx(6 * math.pi)


@every_name
def test_samples_have_the_moments_of_the_density(name):
    target = NAMED[name]()
    n = 100_000
    x = target.sample(n, seed=2).numpy()
    points, weights = grid(name)
    share = weights * np.exp(np.maximum(naive(name, points), -700))
    share /= share.sum()
    # Bounded, so that heavy tails do not widen the errors; blind to no reflection.
    for moment in (
        lambda x: np.tanh(x[:, 0]),
        lambda x: np.tanh(x[:, 1]),
        lambda x: np.tanh(x[:, 0] - 0.5) * np.tanh(x[:, 1] - 0.5),
        lambda x: np.exp(-((np.hypot(*x.T) - 2.5) ** 2)),
        lambda x: np.sin(2 * x[:, 0] + 1) * np.cos(x[:, 1] + 0.5),
    ):
        mean = share @ moment(points)
        error = math.sqrt((share @ moment(points) ** 2 - mean**2) / n)
        assert abs(moment(x).mean() - mean) < 4.5 * error


@every_name
def test_mean_log_prob_of_samples_is_minus_the_entropy(name):
    target = NAMED[name]()
    log_p = target.log_prob(target.sample(100_000, seed=3))
    assert abs(float(log_p.mean()) + target.entropy) < 4.5 * float(log_p.std()) / math.sqrt(1e5)


@every_name
def test_closed_score_agrees_with_automatic_differentiation(name):
    target = NAMED[name]()
    x = target.sample(200, seed=4)
    x = torch.cat([x, torch.rand(200, 2, dtype=torch.float64) * 6 - 3]).requires_grad_()
    (expected,) = torch.autograd.grad(target.log_density(x).sum(), x, create_graph=True)
    closed = target.differentiable_score(x)
    detached = target.score(x)
    assert not detached.requires_grad
    torch.testing.assert_close(detached, closed.detach(), rtol=0, atol=0)
    torch.testing.assert_close(closed, expected, rtol=1e-9, atol=1e-9)
    # Second derivatives as well: training needs them.
    along = torch.tensor([0.6, -0.8], dtype=torch.float64)
    (slope,) = torch.autograd.grad((closed @ along).sum(), x)
    (expected_slope,) = torch.autograd.grad((expected @ along).sum(), x)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-8, atol=1e-7)


@every_name
def test_box_holds_all_but_a_negligible_part_and_is_not_wasteful(name):
    target = NAMED[name]()
    x = target.sample(1_000_000, seed=5).abs().amax(1)
    assert int((x > target.box).sum()) == 0
    # 2e-9 lies outside, at most; of a box a fifth as wide a visible part does.
    assert int((x > 0.2 * target.box).sum()) > 0


def test_box_of_the_funnel_is_a_quantile():
    target = Funnel(1.0)
    v = np.linspace(-12, 12, 20_001)
    tail = 2 * stats.norm.sf(target.box * np.exp(-v / 2))
    outside = np.trapezoid(stats.norm.pdf(v) * tail, v)
    assert outside == pytest.approx(math.erfc(6 / math.sqrt(2)), rel=1e-3)


@every_name
def test_types_far_points_and_score_with_gradients_off(name):
    target = NAMED[name]()
    x = target.sample(20, seed=6)
    assert x.dtype == torch.float64
    single = target.score(x.float())
    assert single.dtype == target.log_density(x.float()).dtype == torch.float32
    expected = target.score(x)
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)
    with torch.inference_mode():
        assert torch.equal(target.score(x.clone()), expected)
    if not name.startswith("funnel"):
        far = torch.tensor([[1e4, 0.0], [0.0, 1e4], [-1e4, 1e4]]).double()
        assert target.log_density(far).isfinite().all()
        assert ((target.score(far) * far).sum(1) < 0).all()


# Mixtures: modes and assignment


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
    drawn = target.sample(200_000, seed=7)
    share = (target.assign(drawn) == 0).double().mean()
    exact = torch.cat([MultivariateNormal(m, covariance).sample((100_000,)) for m in means])
    first = (target.assign(exact) == 0).double().view(2, -1).mean(1)
    assert abs(float(share) - float(0.75 * first[0] + 0.25 * first[1])) < 0.006
    whole = covariance + torch.tensor([0.75 * 0.25]).double() * torch.outer(
        means[0] - means[1], means[0] - means[1]
    )
    torch.testing.assert_close(torch.cov(drawn.T), whole, rtol=0.02, atol=0.02)
    with pytest.raises(NotImplementedError, match="GaussianMixture has no mean_square_score"):
        _ = target.mean_square_score


@pytest.mark.parametrize("name", ["mog2", "mog2_hard", "ring8", "ring8_hard"])
def test_assignment_gives_true_weights_on_exact_samples(name):
    target = NAMED[name]()
    n = 40_000
    x = target.sample(n, seed=8)
    assert torch.equal(target.assign(x), torch.cdist(x, target.modes).argmin(1))
    assert torch.equal(target.assign(target.modes), torch.arange(len(target.modes)))
    counts = target.assign(x).bincount(minlength=len(target.modes)).tolist()
    for count, weight in zip(counts, target.mode_weights.tolist(), strict=True):
        assert stats.binomtest(count, n, weight).pvalue > 1e-4 / len(counts)


def test_ring_of_eight_lies_where_the_fact_sheet_puts_it():
    ring = RingOfGaussians()
    expected = torch.tensor([[4, 0], [math.sqrt(8), math.sqrt(8)], [0, 4]]).double()
    torch.testing.assert_close(ring.modes[:3], expected)


def test_targets_without_modes_say_so():
    for ask in (
        lambda t: t.modes,
        lambda t: t.mode_weights,
        lambda t: t.assign([[0, 0]]),
        lambda t: TwoMoons().mean_square_score,
    ):
        with pytest.raises(NotImplementedError, match="has no (modes|mode_weights|assign|mean_s)"):
            ask(Donut())


# Derived targets


def test_tempered():
    target = TwoGaussians()
    warm = Tempered(target, 0.25)
    x = target.sample(20, seed=9).requires_grad_()
    torch.testing.assert_close(warm.log_density(x), 0.25 * target.log_density(x))
    torch.testing.assert_close(warm.score(x), 0.25 * target.score(x))
    torch.testing.assert_close(warm.differentiable_score(x), 0.25 * target.differentiable_score(x))
    check_score(warm, x)
    assert torch.equal(warm.assign(x), target.assign(x))
    with pytest.raises(NotImplementedError, match="Tempered has no sample"):
        warm.sample(2)


@pytest.mark.parametrize("name", ["gaussian", "mog2_hard", "ring8"])
@pytest.mark.parametrize("sigma", [0.1, 1.5])
def test_noised_law_is_the_convolution(name, sigma):
    target = NAMED[name]()
    noised = Noised(target, sigma)
    x = noised.sample(30, seed=10)
    # Convolution by Gauss-Hermite nodes would need care at small sigma: a fine grid needs none.
    axis = torch.arange(-11, 11, min(sigma, 0.3) / 3, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    density = target.log_prob(points).exp() * (axis[1] - axis[0]) ** 2
    kernel = (-torch.cdist(x, points).square() / (2 * sigma**2)).exp() / (2 * math.pi * sigma**2)
    torch.testing.assert_close(noised.log_prob(x).exp(), kernel @ density, rtol=1e-6, atol=0)
    check_score(noised, x)
    assert noised.entropy > target.entropy
    expected = target.sample(50_000, seed=11).var(0) + sigma**2
    torch.testing.assert_close(noised.sample(50_000, seed=12).var(0), expected, rtol=0.04, atol=0)


def test_one_sigma_a_point():
    target = RingOfGaussians()
    sigma = torch.tensor([0.1, 0.7, 3.0]).double()
    x = target.sample(3, seed=13)
    several = Noised(target, sigma)
    for i in range(3):
        one = Noised(target, float(sigma[i]))
        part = x[i : i + 1]
        torch.testing.assert_close(several.log_prob(x)[i], one.log_prob(part)[0])
        torch.testing.assert_close(several.score(x)[i], one.score(part)[0])
    score = several.differentiable_score(x.requires_grad_())
    (expected,) = torch.autograd.grad(several.log_prob(x).sum(), x)
    torch.testing.assert_close(score.detach(), expected)
    assert score.requires_grad
    with pytest.raises(ValueError, match="x has 2 points and sigma 3 values, expected as many"):
        several.score(x.detach()[:2])
    with pytest.raises(NotImplementedError, match="Noised has no mean_square_score"):
        _ = several.mean_square_score


def test_noised_circle_and_other_targets():
    circle = CircleOfGaussians(4)
    noised = Noised(circle, 1e-6)
    x = circle.sample(50, seed=14)
    torch.testing.assert_close(noised.log_prob(x), circle.log_prob(x), rtol=0, atol=1e-6)
    with pytest.raises(NotImplementedError, match="the noised law of Donut is not known in closed"):
        Noised(Donut(), 0.1)


def test_affine_coordinates():
    target = GaussianMixture([[1.0, -2.0], [2.0, 0.0]], [[2.0, 0.3], [0.3, 0.5]])
    factor = torch.tensor([[1.5, 0.0], [0.4, -0.5]]).double()
    moved = Affine(target, [1.0, 1.0], factor)
    x = target.sample(30, seed=15)
    u = moved.from_original(x)
    torch.testing.assert_close(moved.to_original(u), x)
    volume = math.log(abs(float(torch.linalg.det(factor))))
    torch.testing.assert_close(moved.log_prob(u), target.log_prob(x) + volume)
    assert moved.entropy == pytest.approx(target.entropy - volume)
    check_score(moved, u)
    torch.testing.assert_close(moved.to_original(moved.sample(5, seed=1)), target.sample(5, seed=1))
    torch.testing.assert_close(moved.to_original(moved.modes), target.modes)
    assert torch.equal(moved.assign(u), target.assign(x))


# The default score, by automatic differentiation


class Quartic(Target):
    dim = 2

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.pow(4).sum(1) + x[:, 0] * x[:, 1]


def test_differentiable_score_by_automatic_differentiation():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    # Through a network's output, not only a leaf.
    points = 2 * x
    score = Quartic().differentiable_score(points)
    assert score.tolist() == [[-4 * 8 + 4, -4 * 64 + 2]]
    score.sum().backward()
    assert x.grad.tolist() == [[2 * (-12 * 4 + 1), 2 * (-12 * 16 + 1)]]
    with torch.no_grad():
        assert Quartic().differentiable_score(points.detach()).tolist() == score.tolist()


# Check of scores


@every_name
def test_check_score_passes(name):
    target = NAMED[name]()
    check_score(target, target.sample(100, seed=16))


def test_check_score_passes_in_single_precision_and_by_autograd():
    check_score(Quartic(), torch.randn(50, 2))
    check_score(FromLogDensity(lambda x: -x.square().sum(1) / 2, 5), torch.randn(20, 5))


def _wrong(log_density, score=None):
    return FromLogDensity(log_density, 2, score=score)


def _half(x):
    return -x.square().sum(1) / 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            _wrong(_half, lambda x: -1.01 * x),
            "score and log density of FromLogDensity do not match at .* expected the score to be",
        ),
        (_wrong(_half, lambda x: -x.flip(1)), "score and log density of .* do not match"),
        (
            _wrong(_half, lambda x: -x[:, :1]),
            r"the score of FromLogDensity has shape \(9, 1\) for points of shape \(9, 2\), expe",
        ),
        (
            _wrong(_half, lambda x: torch.where(x > 0, -x, torch.nan)),
            "the score of FromLogDensity is NaN or infinite at .* of 9 points, expected finite",
        ),
        (_wrong(lambda x: (x - x).sum(1) / 0), "the log density .* is not finite at 9 of 9"),
        (_wrong(lambda x: -x.square() / 2), r"log density .* has shape \(9, 2\), expected \(9,\)"),
        (_wrong(lambda x: _half(x.detach())), "has no gradient with respect to x, expected one"),
        (
            _wrong(lambda x: torch.from_numpy(-(x.numpy() ** 2).sum(1))),
            "the log density of FromLogDensity cannot be differentiated .*expected torch operati",
        ),
        (
            # Flat where it does not jump: no slope at a point shows it.
            _wrong(lambda x: -(2 * x + 0.3).floor().sum(1) + 0 * x.sum(1)),
            "do not match over 8 of 8 distances .* look for jumps in its formula",
        ),
        (
            _wrong(_half, lambda x: -x.detach()),
            "gradients through differentiable_score of FromLogDensity are wrong at 9 of 9 points",
        ),
    ],
)
def test_check_score_finds(target, message):
    x = torch.linspace(-2, 2.1, 18, dtype=torch.float64).view(9, 2)
    with pytest.raises(ValueError, match=message):
        check_score(target, x)


def test_check_score_finds_a_kink_at_a_point_and_passes_beside_it():
    kinked = _wrong(lambda x: -x.abs().sum(1))
    check_score(kinked, [[1.0, 1.0], [-2.0, 0.5]])
    with pytest.raises(ValueError, match="log density of .* is not differentiable at 1 of 2 poin"):
        check_score(kinked, [[1.0, 1.0], [0.0, 0.5]])


def test_check_score_with_other_dimension():
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\), expected \(n, 2\)"):
        check_score(Donut(), torch.zeros(4, 3))


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CorrelatedGaussian(1.0), "correlation is 1.0, expected a number between -1 and 1"),
        (lambda: TwoGaussians(std=0), "std is 0, expected a finite number above 0"),
        (lambda: TwoGaussians(distance=-1), "distance is -1, expected a finite number above 0"),
        (lambda: Rosenbrock(math.nan), "curvature is nan, expected a finite number above 0"),
        (lambda: Donut(spread="wide"), "spread is 'wide', expected a finite number above 0"),
        (lambda: Donut(radius=math.inf), "radius is inf, expected a finite number above 0"),
        (lambda: Funnel(True), "std is True, expected a finite number above 0"),
        (lambda: Squiggle(0.0), "frequency is 0.0, expected a finite number above 0"),
        (lambda: RingOfGaussians(1), "count is 1, expected a whole number of at least 2"),
        (lambda: Tempered(Donut(), 0), "beta is 0, expected a finite number above 0"),
        (lambda: Noised(TwoGaussians(), 0.0), "sigma is 0.0, expected a finite number above 0"),
        (lambda: Noised(TwoGaussians(), -0.1), "sigma is -0.1, expected a finite number above 0"),
        (
            lambda: Noised(TwoGaussians(), torch.tensor([0.1, 0.0])),
            r"sigma has shape \(2,\) and 1 values that are not positive",
        ),
        (lambda: GaussianMixture([1.0, 2.0], 1.0), r"means has shape \(2,\), expected finite"),
        (
            lambda: GaussianMixture([[0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]),
            "covariance has the smallest eigenvalue -1, expected a positive definite matrix",
        ),
        (lambda: GaussianMixture([[0.0, 0.0]], -1.0), "covariance has the smallest eigenvalue -1"),
        (
            lambda: GaussianMixture([[0.0, 0.0]], [[1.0, 0.2], [0.1, 1.0]]),
            "expected a symmetric matrix",
        ),
        (
            lambda: GaussianMixture([[0.0]], 1.0, [1.0, 2.0]),
            r"weights has shape \(2,\) and only positive numbers, expected 1 positive",
        ),
        (
            lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0, 0.0]),
            r"weights has shape \(2,\) and not only positive numbers, expected 2 positive",
        ),
        (lambda: FromLogDensity(torch.sum, 0), "dim is 0, expected a whole number of at least 1"),
        (
            lambda: Affine(Donut(), [0, 0, 0], np.eye(2)),
            r"mean has shape \(3,\) and factor \(2, 2\), expected \(2,\) and \(2, 2\)",
        ),
        (lambda: Affine(Donut(), [0, 0], np.ones((2, 2))), "factor cannot be inverted, expected"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_name
def test_bad_points(name):
    target = NAMED[name]()
    for ask in (target.score, target.differentiable_score):
        with pytest.raises(ValueError, match=r"x has shape \(4, 3\), expected \(n, 2\)"):
            ask(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="x has infinite values in 1 of 1 points"):
            ask([[math.inf, 0.0]])


def test_names_and_seeds():
    for name, make in NAMED.items():
        target = make()
        assert torch.equal(target.sample(5, seed=3), make().sample(5, seed=3)), name
        assert target.sample(0, seed=3).shape == (0, 2)
        assert repr(target).startswith(type(target).__name__)
    assert repr(NAMED["donut_hard"]()) == "Donut(radius=2.6, spread=0.033)"
    assert repr(Tempered(Funnel(), 0.5)) == "Tempered(Funnel(std=1.0), beta=0.5)"
