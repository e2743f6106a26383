"""Densities, samples and scores of targets, against quadrature and torch's distributions."""

from __future__ import annotations

import copy
import math
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from galflow_lite.metrics import mode_weights
from galflow_lite.targets import (
    BENCHMARKS,
    CircleOfGaussians,
    FromLogDensity,
    GaussianMixture,
    Noised,
    Target,
    TwoMoons,
    TwoRings,
    check_score,
)

MAKERS = {
    **BENCHMARKS,
    "moons": TwoMoons,
    "circle": CircleOfGaussians,
    "rings": TwoRings,
}
every_target = pytest.mark.parametrize("name", MAKERS)


def naive(name: str, x: np.ndarray) -> np.ndarray:
    """Unnormalised log density as the formulas are usually written, with no care for far points."""
    a, b = x.T
    r, hard = np.hypot(a, b), "_hard" in name
    kind = name.removesuffix("_hard")
    if kind == "gaussian":
        return -(a**2 - 1.6 * a * b + b**2) / (2 * 0.36)
    if kind in ("rosenbrock", "rosen"):
        return -((1 - a) ** 2) - (10 if hard else 1) * (b - a**2) ** 2
    if kind == "donut":
        return -((r - 2.6) ** 2) / (0.033 if hard else 0.5)
    if kind == "funnel":
        return -(b**2) / (18 if hard else 2) - b / 2 - a**2 * np.exp(-b) / 2
    if kind == "squiggle":
        y = np.stack([a, b + np.sin((5 if hard else 1.5) * a)], axis=1)
        precision = np.linalg.inv([[2, 0.25], [0.25, 0.5]])
        return -np.einsum("ni,ij,nj->n", y, precision, y) / 2
    if kind == "moons":
        right, left = (np.exp(-0.5 * ((a - side) / 0.3) ** 2) for side in (2, -2))
        return -0.5 * ((r - 2) / 0.2) ** 2 + np.log(right + left)
    angle = 2 * np.pi * np.arange(8) / 8
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind == "rings":
        terms = [np.exp(-((r - i) ** 2) * 32) for i in (1, 2)]
    elif kind == "circle":
        law = stats.multivariate_normal(cov=(2 / 3 * np.sin(np.pi / 8)) ** 2 * np.eye(2))
        terms = [law.pdf(x - 2 * c[::-1]) / 8 for c in centres]
    else:
        centres = np.array([[-2, 0], [2, 0]]) if kind == "mog2" else 4 * centres
        double = {"mog2": 2.0, "mog2_hard": 0.5, "ring8": 0.5, "ring8_hard": 0.18}[name]
        terms = [np.exp(-((x - c) ** 2).sum(1) / double) / len(centres) for c in centres]
    return np.log(np.maximum(sum(terms), 1e-300))


@cache
def grid(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Points, shares of the density there, and its integral: equal steps of its own.

    Their error falls geometrically with the step for these densities. The funnel goes along e^v/2.
    """
    if name.startswith("funnel"):
        t = 3.0 if "hard" in name else 1.0
        v, u = np.meshgrid(np.arange(-11 * t, 11 * t, t / 20), np.arange(-9, 9, 0.1))
        points = np.stack([u * np.exp(v / 2), v], axis=-1).reshape(-1, 2)
        weights = (np.exp(v / 2) * t / 20 * 0.1).ravel()
    else:
        if name in BENCHMARKS:
            step = 0.07 / (3 if "_hard" in name else 1)
            edges = {"rosenbrock": ((-4.5, 6.5), (-5, 36)), "rosen_hard": ((-3.5, 5.5), (-2, 30))}
            edges = edges.get(name, ((-9, 9), (-8, 8)))
        else:
            step = {"moons": 0.2, "circle": 0.255, "rings": 1 / 8}[name] / 8
            edges = ((-2 - 88 * step, 2 + 88 * step),) * 2
        axes = [np.arange(low, high, step) for low, high in edges]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        weights = step**2
    mass = weights * np.exp(np.maximum(naive(name, points), -700))
    return points, mass / mass.sum(), mass.sum()


# Densities and integrals


@every_target
def test_density_is_its_formula_and_integrals_agree_with_a_grid(name):
    target = MAKERS[name]()
    x = np.random.default_rng(0).uniform(-3, 3, (2000, 2))
    clear = naive(name, x) > -600
    assert clear.sum() > 500
    found = target.log_density(x).numpy()
    np.testing.assert_allclose(found[clear], naive(name, x)[clear], rtol=1e-10, atol=1e-10)
    assert (found[~clear] < -590).all()
    points, share, z = grid(name)
    assert target.log_normalizer == pytest.approx(math.log(z), abs=1e-8)
    if name in BENCHMARKS:
        kept = share > 0
        square = target.score(points[kept]).square().sum(1).numpy()
        assert target.mean_square_score == pytest.approx(share[kept] @ square, rel=1e-6)


# Samples


@every_target
def test_samples_have_the_moments_of_the_density_and_fill_the_box(name):
    target = MAKERS[name]()
    n = 200_000
    drawn = target.sample(n, seed=2)
    x = drawn.numpy()
    points, share, _ = grid(name)
    # Bounded, so that heavy tails do not widen the errors; blind to no reflection.
    for moment in (
        lambda x: np.tanh(x[:, 0]),
        lambda x: np.tanh(x[:, 1]),
        lambda x: np.tanh(x[:, 0] - 0.5) * np.tanh(x[:, 1] - 0.5),
        lambda x: np.exp(-((np.hypot(*x.T) - 2.5) ** 2)),
        lambda x: np.sin(2 * x[:, 0] + 1) * np.cos(x[:, 1] + 0.5),
        lambda x: np.sin(3 * x[:, 0] + 1) * np.cos(2 * x[:, 1] + 0.5),
    ):
        mean = share @ moment(points)
        error = math.sqrt((share @ moment(points) ** 2 - mean**2) / n)
        assert abs(moment(x).mean() - mean) < 4.5 * error
    # The mouth of the funnel is wide and all but empty.
    assert (0.003 if "funnel" in name else 0.2) < np.abs(x).max() / target.box <= 1


@pytest.mark.parametrize("name", ["mog2", "mog2_hard", "ring8", "circle"])
def test_modes_have_their_shares(name):
    target = MAKERS[name]()
    x = target.sample(40_000, seed=8)
    assert torch.equal(target.assign(target.modes), torch.arange(len(target.modes)))
    assert torch.equal(target.assign(x), torch.cdist(x, target.modes).argmin(1))
    found = mode_weights(x, target)
    torch.testing.assert_close(found.expected, target.mode_weights)
    assert float(((found.shares - found.expected) / found.standard_errors).abs().max()) < 4.5


@every_target
def test_seeds_and_copies(name):
    target, again = MAKERS[name](), pickle.loads(pickle.dumps(copy.deepcopy(MAKERS[name]())))
    state = torch.get_rng_state()
    first = target.sample(50, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert (first.shape, first.dtype) == ((50, 2), torch.float64)
    assert torch.equal(first, again.sample(50, seed=3))
    assert torch.equal(target.score(first), again.score(first))
    assert not torch.equal(first, target.sample(50, seed=4))
    assert not torch.equal(target.sample(50), target.sample(50))


# Scores, far points, types


@every_target
def test_score_is_the_gradient_and_so_is_its_derivative(name):
    target = MAKERS[name]()
    x = target.sample(200, seed=4)
    x = torch.cat([x, torch.rand(200, 2, dtype=torch.float64) * 6 - 3]).requires_grad_()
    (expected,) = torch.autograd.grad(target.log_density(x).sum(), x)
    closed, detached = target.differentiable_score(x), target.score(x)
    assert not detached.requires_grad
    torch.testing.assert_close(detached, closed.detach(), rtol=0, atol=0)
    torch.testing.assert_close(detached, expected, rtol=1e-9, atol=1e-9)
    # Second derivatives as well: training needs them.
    check_score(target, x[:6])
    with torch.inference_mode():
        assert torch.equal(target.score(x.clone()), detached)


# The funnel overflows where its mouth closes.
@pytest.mark.parametrize("name", [name for name in MAKERS if "funnel" not in name])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_and_the_origin_are_finite(name, dtype):
    target = MAKERS[name]()
    size = 1e3 if "rosen" in name else 1e6
    far = [[size, 0], [0, size], [-size, size], [40, -40], [0, 0], [-0.0, 1e-30]]
    x = torch.tensor(far, dtype=dtype)
    log_f, score = target.log_density(x), target.score(x)
    assert log_f.dtype == score.dtype == dtype
    assert log_f.isfinite().all()
    assert score.isfinite().all()
    # Far out the score points home.
    assert ((score * x).sum(1)[:3] < 0).all()


def test_what_a_target_does_not_know():
    class Saddle(Target):
        dim = 3

        def _log_density(self, x):
            return -x.pow(4).sum(1) + x[:, 0] * x[:, 1]

    target = Saddle()
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert float(target.log_density(x)) == -96
    assert target.score(x).tolist() == [[-2, -31, -108]]
    # Through a network's output, not only a leaf.
    x.requires_grad_()
    target.differentiable_score(2 * x).sum().backward()
    assert x.grad.tolist() == [[2 * (-12 * 4 + 1), 2 * (-12 * 16 + 1), 2 * (-12 * 36)]]
    with torch.no_grad():
        assert target.differentiable_score(x.detach()).tolist() == [[-2, -31, -108]]
    for ask in ("log_prob", "assign"):
        with pytest.raises(NotImplementedError):
            getattr(target, ask)(x)
    assert TwoRings().log_density([[0.0, math.inf]]).tolist() == [-math.inf]


# Mixtures, and targets made from others


def test_mixture_agrees_with_torch_distributions():
    means = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]]).double()
    root = torch.tensor([[1.0, 0, 0], [0.4, 0.7, 0], [-0.3, 0.2, 0.5]]).double()
    covariance = root @ root.T
    target = GaussianMixture(means, covariance, [3, 1])
    parts = MultivariateNormal(means, covariance)
    law = MixtureSameFamily(Categorical(torch.tensor([0.75, 0.25]).double()), parts)
    x = torch.randn(50, 3, dtype=torch.float64) * 2
    torch.testing.assert_close(target.log_prob(x), law.log_prob(x))
    check_score(target, x)
    drawn = target.sample(200_000, seed=7)
    torch.testing.assert_close(drawn.mean(0), law.mean, rtol=0.02, atol=0.02)
    whole = covariance + torch.cov(means.T, aweights=torch.tensor([0.75, 0.25]), correction=0)
    torch.testing.assert_close(torch.cov(drawn.T), whole, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("modes", [1, 2, 9])
def test_score_of_chains_is_that_of_autograd(modes, dim):
    generator = torch.Generator().manual_seed(dim)
    draw = {"dtype": torch.float64, "generator": generator}
    # Far from the origin, where products of large numbers would lose the digits.
    means = 100 + 3 * torch.randn(modes, dim, **draw)
    root = torch.randn(dim, dim, **draw) / 3 + torch.eye(dim)
    target = GaussianMixture(means, root @ root.T, torch.rand(modes, **draw) + 0.1)
    x = 100 + 4 * torch.randn(60, dim, **draw)
    exact = target._gradient(x, create_graph=False)
    torch.testing.assert_close(target._loop_score(x), exact, rtol=1e-10, atol=1e-10)
    single = target._loop_score(x.float())
    assert single.dtype == torch.float32
    exact = target._gradient(x.float().double(), create_graph=False)
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["gaussian", "mog2_hard", "ring8"])
@pytest.mark.parametrize("sigma", [0.2, 1.5])
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


def test_one_sigma_a_point():
    target = BENCHMARKS["ring8"]()
    sigma = torch.tensor([0.1, 0.7, 3.0]).double()
    x = target.sample(3, seed=13).requires_grad_()
    several = Noised(target, sigma)
    for s, part, log_p in zip(sigma, x, several.log_prob(x), strict=True):
        torch.testing.assert_close(log_p, Noised(target, float(s)).log_prob(part[None])[0])
    (expected,) = torch.autograd.grad(several.log_prob(x).sum(), x)
    torch.testing.assert_close(several.differentiable_score(x).detach(), expected)


# Check of scores


def half_square(x):
    return -x.square().sum(1) / 2


def test_check_score_passes_by_automatic_differentiation():
    for log_density in (lambda x: -x.pow(4).sum(1) + x.prod(1), lambda x: -x.abs().sum(1)):
        check_score(FromLogDensity(log_density, 2), np.random.default_rng(0).normal(size=(20, 2)))


@pytest.mark.parametrize(
    ("log_density", "score"),
    [
        (half_square, lambda x: -1.01 * x),
        (half_square, lambda x: torch.where(x > 0, -x, torch.nan)),
        (lambda x: (x - x).sum(1) / 0, None),
        (lambda x: half_square(x.detach()), None),
        # The score is right, and nothing flows back through it.
        (half_square, lambda x: -x.detach()),
    ],
)
def test_check_score_finds(log_density, score):
    x = torch.linspace(-2, 2.1, 18, dtype=torch.float64).view(9, 2)
    with pytest.raises(ValueError, match="do not match"):
        check_score(FromLogDensity(log_density, 2, score=score), x)
