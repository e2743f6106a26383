"""Targets: published integrals, quadrature in other coordinates, scores and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from target_grids import TARGETS, every_target, grid, naive
from torch import Tensor

from galflow_lite import targets
from galflow_lite.metrics import mode_weights
from galflow_lite.targets import CircleOfGaussians, Target, TwoMoons, TwoRings
from galflow_lite.targets.multimodal import polar_rule

# log Z and entropy (nats), from sums over Cartesian grids in [-3, 3]^2 that are not this code.
PUBLISHED = {
    "moons": (0.8042144486, 1.571062),
    "circle 8": (0.0, 2.177596),
    "rings 2": (1.7759863466, 2.275893),
}


@every_target
def test_density_is_the_formula_of_the_paper(name):
    target, _ = TARGETS[name]
    x = np.random.default_rng(0).uniform(-3, 3, (2000, 2))
    expected = naive(name, x)
    clear = expected > -600
    assert clear.sum() > 500
    found = target.log_density(x).numpy()
    np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-11, atol=1e-11)
    assert (found[~clear] < -590).all()


@every_target
def test_normaliser_and_entropy_agree_with_a_cartesian_grid(name):
    target, width = TARGETS[name]
    points, share, z = grid(name)
    assert target.log_normalizer == pytest.approx(math.log(z), abs=1e-12)
    log_p = np.log(np.maximum(share, 1e-300)) - 2 * math.log(width / 8)
    assert target.entropy == pytest.approx(-(share * log_p).sum(), abs=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_normaliser_and_entropy_agree_with_the_published_table(name):
    target, _ = TARGETS[name]
    log_z, entropy = PUBLISHED[name]
    assert target.log_normalizer == pytest.approx(log_z, abs=1e-10)
    assert target.entropy == pytest.approx(entropy, abs=1e-6)


@every_target
def test_box_holds_all_but_a_negligible_part_and_is_not_wasteful(name):
    target, _ = TARGETS[name]
    points, share, _ = grid(name)

    def outside(half_width: float) -> float:
        return share[np.abs(points).max(1) > half_width].sum()

    assert outside(target.box) < 2e-8
    assert outside(0.6 * target.box) > 1e-4


def test_polar_rule_integrates_polynomials_over_an_annulus():
    points, weights = polar_rule(1.0, 3.0, panel=0.7, angles=12)
    sectors, parts = polar_rule(1.0, 3.0, panel=0.7, angles=4, sectors=3)
    x, y = points.T
    assert float(weights.sum()) == pytest.approx(math.pi * 8)
    assert float(weights @ (x**2 * y**4)) == pytest.approx(math.pi / 8 * (3**8 - 1) / 8)
    assert float(parts @ sectors.square().sum(1)) == pytest.approx(math.pi * 80 / 2)
    assert float(parts.sum()) == pytest.approx(math.pi * 8)


def test_gaussians_lie_where_the_paper_puts_them():
    circle = CircleOfGaussians(4)
    expected = torch.tensor([[0, 2], [2, 0], [0, -2], [-2, 0]], dtype=torch.float64)
    torch.testing.assert_close(circle.means, expected)
    assert CircleOfGaussians(8).std == pytest.approx(0.25512, abs=1e-5)
    for n in (2, 5, 8):
        circle = CircleOfGaussians(n)
        neighbours = torch.linalg.vector_norm(circle.means[0] - circle.means[1])
        assert float(neighbours) == pytest.approx(6 * circle.std)


@pytest.mark.parametrize("count", [2, 3, 8, 25])
def test_modes_of_the_circle(count):
    circle = CircleOfGaussians(count)
    assert circle.count == count
    assert circle.modes.shape == (count, 2)
    assert torch.equal(circle.modes, circle.means)
    assert torch.equal(circle.assign(circle.modes), torch.arange(count))
    x = circle.sample(20_000, seed=11)
    assert torch.equal(circle.assign(x), torch.cdist(x, circle.modes).argmin(1))
    assert torch.equal(circle.assign(x.float()), circle.assign(x.float().double()))
    found = mode_weights(x, circle)
    assert found.expected.tolist() == pytest.approx([1 / count] * count)
    assert float(((found.shares - found.expected) / found.standard_errors).abs().max()) < 4.5
    # Borders are 3 widths from a mean: nine of those of a narrower Gaussian.
    one = circle.means[1] + (x[:500] - circle.means[circle.assign(x[:500])]) / 3
    assert mode_weights(one, circle).shares[1] == 1
    with pytest.raises(ValueError, match="x has NaN in 1 of 1 points"):
        circle.assign([[math.nan, 0.0]])


@pytest.mark.parametrize("rings", [1, 2, 3, 6])
def test_shares_of_the_rings(rings):
    shares = TwoRings(rings).shares
    expected = torch.arange(1, rings + 1) / (rings * (rings + 1) / 2)
    torch.testing.assert_close(shares, expected.double(), rtol=1e-6, atol=0)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-14)


# Scores, far points, types


@every_target
def test_score_agrees_with_finite_differences(name):
    target, width = TARGETS[name]
    x = torch.cat([target.sample(50, seed=8), 6 * torch.rand(50, 2, dtype=torch.float64) - 3])
    score = target.score(x)
    assert not score.requires_grad
    step = 1e-4 * width
    for column in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[column] = step
        rise = target.log_density(x + shift) - target.log_density(x - shift)
        torch.testing.assert_close(
            score[:, column], rise / (2 * step), rtol=1e-5, atol=1e-5 / width
        )


@every_target
def test_score_with_gradients_off_and_gradient_of_log_prob(name):
    target, _ = TARGETS[name]
    x = target.sample(10, seed=9)
    expected = target.score(x)
    with torch.no_grad():
        assert torch.equal(target.score(x), expected)
    with torch.inference_mode():
        assert torch.equal(target.score(x.clone()), expected)
    x.requires_grad_()
    target.log_prob(x).sum().backward()
    assert torch.equal(x.grad, expected)


@every_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_and_the_origin_are_finite(name, dtype):
    target, width = TARGETS[name]
    far = [[1e6, 0], [0, 1e6], [-1e6, 1e6], [0, 0], [-0.0, 1e-30], [40, -40]]
    x = torch.tensor(far, dtype=dtype)
    log_f, score = target.log_density(x), target.score(x)
    assert log_f.isfinite().all()
    assert score.isfinite().all()
    assert log_f.dtype == score.dtype == dtype
    # Far out the score points home.
    assert ((score * x).sum(1)[[0, 1, 2, 5]] < 0).all()
    outside = target.log_density(torch.tensor([[math.inf, 0.0], [0.0, -math.inf]], dtype=dtype))
    assert (outside == -math.inf).all()


def test_far_moons_in_closed_form():
    # One term of the bracket is left: nothing underflows to log 0.
    found = TwoMoons().log_density([[1e6, 0.0], [-1e6, 0.0]])
    expected = -0.5 * ((1e6 - 2) / 0.2) ** 2 - 0.5 * ((1e6 - 2) / 0.3) ** 2
    torch.testing.assert_close(found, torch.full((2,), expected, dtype=torch.float64))
    assert float(TwoMoons().log_density([[0.0, 2.0]])) == pytest.approx(-200 / 9 + math.log(2))


@every_target
def test_types_of_input(name):
    target, _ = TARGETS[name]
    x = target.sample(20, seed=10)
    expected = target.log_prob(x)
    assert expected.dtype == torch.float64
    assert expected.shape == (20,)
    assert torch.equal(target.log_prob(x.numpy()), expected)
    assert torch.equal(target.log_prob(x.tolist()), expected)
    single = target.log_prob(x.float())
    assert single.dtype == target.score(x.float()).dtype == torch.float32
    # A float32 point is off by 1e-7, which a narrow mode turns into more.
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    assert target.log_density(x.float().numpy()).dtype == torch.float64
    assert torch.equal(target.log_density([[1, 2]]), target.log_density(torch.tensor([[1, 2]])))
    assert target.log_density(np.empty((0, 2))).shape == (0,)


def test_read_only_arrays_raise_no_warning(recwarn):
    x = np.ones((2, 2))
    x.setflags(write=False)
    TwoMoons().score(x)
    assert not recwarn.list


def test_names():
    assert [repr(t) for t in (TwoMoons(), CircleOfGaussians(), TwoRings(np.int64(3)))] == [
        "TwoMoons()",
        "CircleOfGaussians(modes=8)",
        "TwoRings(rings=3)",
    ]
    assert set(targets.__all__) >= {"CircleOfGaussians", "Target", "TwoMoons", "TwoRings"}


def test_many_modes_and_rings():
    # Rings 8 widths apart hardly overlap: log f is then -z^2/2 of a normal z.
    assert TwoRings(400).entropy == pytest.approx(TwoRings(400).log_normalizer + 0.5, abs=2e-3)
    circle = CircleOfGaussians(300)
    # Far more modes than one can meet: the entropy is that of a mode and of the choice, less the
    # overlap of neighbours 6 s apart, which does not depend on their number.
    few, many = CircleOfGaussians(100), circle
    change = math.log(many.count / few.count) + 2 * math.log(many.std / few.std)
    assert many.entropy - few.entropy == pytest.approx(change, abs=1e-4)


# Bad input


@every_target
@pytest.mark.parametrize("method", ["log_density", "log_prob", "score"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(2), r"x has shape \(2,\), expected \(n, 2\): give one point a row"),
        (torch.zeros(4, 3), r"x has shape \(4, 3\), expected \(n, 2\)"),
        (np.zeros((2, 2, 2)), r"x has shape \(2, 2, 2\), expected \(n, 2\)"),
        ([[0, 1], [math.nan, 2], [3, math.nan]], "x has NaN in 2 of 3 points, expected numbers"),
    ],
)
def test_bad_points(name, method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(TARGETS[name][0], method)(x)


def test_score_at_infinity():
    with pytest.raises(
        ValueError, match="x has infinite values in 1 of 2 points, where a gradient"
    ):
        TwoRings().score([[0.0, 1.0], [math.inf, 0.0]])


@pytest.mark.parametrize("value", [1, 0, -3, 2.5, "8", None, True])
def test_bad_number_of_modes(value):
    with pytest.raises(
        ValueError, match=f"modes is {value!r}, expected a whole number of at lea.* 2"
    ):
        CircleOfGaussians(value)


@pytest.mark.parametrize("value", [0, -1, 1.0, "2", None, True])
def test_bad_number_of_rings(value):
    with pytest.raises(
        ValueError, match=f"rings is {value!r}, expected a whole number of at lea.* 1"
    ):
        TwoRings(value)


@every_target
def test_bad_draws(name):
    target, _ = TARGETS[name]
    for n in (-1, 2.0, None):
        with pytest.raises(ValueError, match=f"n is {n!r}, expected a whole number of at least 0"):
            target.sample(n)
    with pytest.raises(ValueError, match="seed is 1.5, expected a whole number of at least 0"):
        target.sample(3, seed=1.5)
    with pytest.raises(ValueError, match="found both seed and generator, expected one of them"):
        target.sample(3, seed=0, generator=torch.Generator())


# A target that knows its density alone


class Saddle(Target):
    dim = 3

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.pow(4).sum(1) + x[:, 0] * x[:, 1]


def test_an_unnormalised_target_has_density_and_score():
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert float(Saddle().log_density(x)) == -96
    assert Saddle().score(x).tolist() == [[-2, -31, -108]]
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\), expected \(n, 3\)"):
        Saddle().score([[1, 2]])


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("log_normalizer", lambda target: target.log_normalizer),
        ("log_normalizer", lambda target: target.log_prob(np.zeros((1, 3)))),
        ("sample", lambda target: target.sample(3)),
        ("entropy", lambda target: target.entropy),
        ("box", lambda target: target.box),
    ],
)
def test_an_unnormalised_target_says_what_it_does_not_know(name, ask):
    with pytest.raises(NotImplementedError, match=f"Saddle has no {name}: only log_density and sc"):
        ask(Saddle())


def test_a_target_without_density():
    class Empty(Target):
        dim = 1

    with pytest.raises(NotImplementedError, match="Empty has no _log_density: write it"):
        Empty().log_density([[0.0]])
