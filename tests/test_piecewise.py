"""PiecewiseFlow as a density: against closed forms, far from the data, and its samples."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from planar_densities import LEVEL, Grid
from scipy import stats
from small_pieces import gaussians, identity, log_prob
from torch import Tensor

from galflow_lite import flows
from galflow_lite.piecewise import PiecewiseFlow, choose_clusters
from galflow_lite.targets import TwoMoons


def by_hand(flow: PiecewiseFlow, x, labels, weights=None) -> np.ndarray:
    """log W_k + log N(x; mean, variances) of the training points of each cluster, (n, k)."""
    weights = np.ones(len(x)) if weights is None else weights
    terms = []
    for i in range(labels.max() + 1):
        member = labels == i
        train = member & ~flow._held_out & (weights > 0)
        w = weights[train] / weights[train].sum()
        mean = w @ x[train]
        std = np.sqrt(w @ (x[train] - mean) ** 2)
        share = weights[member].sum() / weights.sum()
        terms.append(math.log(share) + stats.norm.logpdf(x, mean, std).sum(1))
    return np.stack(terms, axis=1)


@pytest.fixture(scope="module")
def toy() -> tuple[PiecewiseFlow, np.ndarray, np.ndarray]:
    """Three pieces that are exactly Gaussian."""
    x, labels = gaussians()
    flow = PiecewiseFlow(identity)
    flow.fit(x, clusters=labels, epochs=1, learning_rate=0.0)
    return flow, x, labels


@pytest.fixture(scope="module")
def moons() -> tuple[PiecewiseFlow, Tensor]:
    x = TwoMoons().sample(3000, seed=0)
    flow = PiecewiseFlow(hidden=16, layers=2)
    flow.fit(x, clusters=2, epochs=15)
    return flow, x


# ---- density


def test_density_is_the_weighted_sum_over_all_pieces(toy):
    flow, x, labels = toy
    terms = by_hand(flow, x, labels)
    found = log_prob(flow, x).numpy()
    np.testing.assert_allclose(found, np.logaddexp.reduce(terms, axis=1), rtol=0, atol=1e-5)
    # Each of the usual errors would be seen.
    without_weights = np.logaddexp.reduce(terms - np.log(flow.weights), axis=1)
    own_piece_only = terms[np.arange(len(x)), labels]
    nearest_piece_only = terms.max(axis=1)
    equal_weights = without_weights - math.log(flow.k)
    for wrong in (without_weights, own_piece_only, nearest_piece_only, equal_weights):
        assert np.abs(found - wrong).mean() > 0.05


def test_weights_are_the_shares_of_all_points(toy):
    flow, _, _ = toy
    np.testing.assert_allclose(flow.weights, [0.06, 0.24, 0.7], rtol=1e-12)
    assert (flow.k, flow.features) == (3, 2)


def test_responsibilities_are_those_of_bayes(toy):
    flow, x, labels = toy
    terms = by_hand(flow, x, labels)
    expected = np.exp(terms - np.logaddexp.reduce(terms, axis=1, keepdims=True))
    with torch.no_grad():
        found = flow.responsibilities(x)
        parts = flow.responsibilities(x, batch_size=7)
    assert found.shape == (1000, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close(parts, found, rtol=1e-5, atol=1e-6)


def test_trained_density_by_hand_in_double_precision(moons):
    """Includes the Jacobian of each piece's own units."""
    flow, x = moons
    terms = []
    for i, piece in enumerate(flow.pieces):
        wide = copy.deepcopy(piece).double()
        rows = [wide.log_prob(((row - flow.shift[i]) / flow.scale[i])[None]) for row in x[:50]]
        log_det = sum(math.log(s) for s in flow.scale[i])
        terms.append(math.log(flow.weights[i]) + torch.cat(rows).detach() - log_det)
    expected = torch.logsumexp(torch.stack(terms), dim=0)
    found = log_prob(flow, x[:50])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert min(abs(sum(math.log(s) for s in flow.scale[i])) for i in range(2)) > 0.1


def test_trained_density_integrates_to_one(moons):
    flow, x = moons
    sample = flow.sample(20_000, seed=0)
    assert sample.abs().max() < 12  # what leaves the box would be missing
    assert Grid(flow.log_prob, -12, 12, n=900).total == pytest.approx(1, abs=2e-3)
    # It has learned something as well: the best Gaussian is five times as far from the moons.
    gaussian = np.log(np.linalg.det(2 * np.pi * np.e * np.cov(x.T))) / 2
    loss = -float(log_prob(flow, x).mean())
    assert loss - TwoMoons().entropy < (gaussian - TwoMoons().entropy) / 5


def test_resampled_pieces_integrate_to_one():
    x = TwoMoons().sample(1000, seed=0)
    flow = PiecewiseFlow("real_nvp", layers=2, hidden=8, resampled=8)
    flow.fit(x, clusters=2, epochs=5)
    assert Grid(flow.log_prob, -12, 12).total == pytest.approx(1, abs=5e-3)


def test_one_cluster_is_a_plain_flow():
    x, _ = gaussians(n=(200,))
    flow = PiecewiseFlow(hidden=8)
    flow.fit(x, clusters=1, epochs=2)
    assert flow.k == 1
    assert flow.weights.tolist() == [1.0]
    shift, scale = flow.shift[0].numpy(), flow.scale[0].numpy()
    with torch.no_grad():
        expected = flow.pieces[0].log_prob((x - shift) / scale).double() - np.log(scale).sum()
    torch.testing.assert_close(log_prob(flow, x), expected)


@pytest.mark.parametrize(("k", "layers"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1), (8, 1)])
def test_layers_of_the_paper(k, layers):
    """ceil(6 / k) MADEs: about as many parameters as one flow of six."""
    x, _ = gaussians(n=(400,))
    flow = PiecewiseFlow()
    flow.fit(x, clusters=np.arange(400) % k, epochs=1, batch_size=None)
    assert flow.n_parameters == k * layers * 2904


def test_gradient_with_respect_to_points(moons):
    flow, x = moons
    points = x[:4].clone().requires_grad_()
    (found,) = torch.autograd.grad(flow.log_prob(points).sum(), points)
    step = 1e-2
    for column in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[column] = step
        slope = (log_prob(flow, x[:4] + shift) - log_prob(flow, x[:4] - shift)) / (2 * step)
        torch.testing.assert_close(found[:, column], slope, rtol=0.05, atol=0.05)


# ---- far from the data


FAR = {
    "masked_autoregressive": {},
    "mixture base": {},
    "neural_spline": {"layers": 2, "hidden": 16},
    "neural_spline, residual": {"layers": 2, "hidden": 16, "conditioner": "residual"},
    "real_nvp": {},
    "real_nvp, resampled": {"resampled": 16},
}


@pytest.mark.parametrize("unit", [1.0, 1e-12])
@pytest.mark.parametrize("name", FAR)
def test_points_far_outside_have_a_finite_density(name, unit):
    """With data in a unit of 1e-12, a distance of 1e8 is 1e20 of them."""
    if name == "mixture base":
        architecture = lambda d: flows.masked_autoregressive_flow(  # noqa: E731
            d, layers=2, base=flows.GaussianMixtureBase(torch.randn(3, d))
        )
    else:
        architecture = name.split(",")[0]
    x = unit * TwoMoons().sample(400, seed=0)
    flow = PiecewiseFlow(architecture, **FAR[name])
    flow.fit(x, clusters=(x[:, 0] > 0).long(), epochs=20, learning_rate=1e-2)
    angle = torch.linspace(0, 2 * math.pi, 33, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    worst = []
    for radius in (1e3, 1e6, 1e8):
        found = log_prob(flow, radius * circle)
        assert found.isfinite().all()
        assert found.max() < -100
        with torch.no_grad():
            shares = flow.responsibilities(radius * circle)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(33, dtype=torch.float64))
        worst.append(float(found.mean()))
    assert worst[0] > worst[1] > worst[2]
    assert flow.sample(20_000, seed=0).isfinite().all()


# ---- samples


def test_pieces_are_drawn_by_their_shares(toy):
    flow, _, _ = toy
    points, pieces = flow.sample(20_000, seed=0, return_pieces=True)
    assert points.shape == (20_000, 2)
    assert points.dtype == torch.float64
    assert pieces.dtype == torch.int64
    counts = np.bincount(pieces, minlength=3)
    assert stats.chisquare(counts, 20_000 * flow.weights).pvalue > LEVEL
    for i in range(3):
        own = points[pieces == i].numpy()
        for column in range(2):
            mean, std = float(flow.shift[i, column]), float(flow.scale[i, column])
            assert stats.kstest(own[:, column], "norm", (mean, std)).pvalue > LEVEL
    # In the order of the draw, not piece after piece.
    assert (pieces.diff() != 0).float().mean() > 0.2


def test_samples_follow_the_density(moons):
    flow, _ = moons
    samples = flow.sample(100_000, seed=1)
    assert Grid(flow.log_prob, -12, 12, n=900).p_value(samples, cells=150) > LEVEL
    assert Grid(flow.log_prob, -12, 12, n=900).p_value(1.03 * samples, cells=150) < 1e-10


def test_seeds_of_samples(moons):
    flow, _ = moons
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(flow.sample(50, seed=3), flow.sample(50, seed=3))
    assert not torch.equal(flow.sample(50, seed=3), flow.sample(50, seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    one, other = flow.sample(50), flow.sample(50)
    assert not torch.equal(one, other)
    torch.set_rng_state(state)
    assert torch.equal(flow.sample(50), one)
    assert flow.sample(np.int64(3)).shape == (3, 2)


# ---- weights of points


def test_weighted_toy_in_closed_form():
    x, labels = gaussians()
    weights = np.random.default_rng(1).uniform(0, 3, len(x))
    flow = PiecewiseFlow(identity)
    flow.fit(x, clusters=labels, weights=weights, epochs=1, learning_rate=0.0)
    expected = np.logaddexp.reduce(by_hand(flow, x, labels, weights), axis=1)
    np.testing.assert_allclose(log_prob(flow, x).numpy(), expected, rtol=0, atol=1e-5)
    unweighted = np.logaddexp.reduce(by_hand(flow, x, labels), axis=1)
    assert np.abs(expected - unweighted).mean() > 0.01


def test_integer_weights_are_repeated_points():
    x = TwoMoons().sample(2000, seed=0).numpy()
    labels = (x[:, 0] > 0).astype(int)
    # Tilts both the shares and the shape of each moon.
    weights = 1 + 3 * (x[:, 1] > 0) + 2 * labels
    rows = np.repeat(np.arange(len(x)), weights)
    settings = dict(epochs=40, batch_size=None, learning_rate=1e-2)
    found = {}
    for name, points, cut, w in (
        ("weighted", x, labels, weights),
        ("repeated", x[rows], labels[rows], None),
        ("unweighted", x, labels, None),
    ):
        flow = PiecewiseFlow(hidden=16, layers=2)
        flow.fit(points, clusters=cut, weights=w, **settings)
        found[name] = flow
    weighted, repeated = found["weighted"], found["repeated"]
    np.testing.assert_allclose(weighted.weights, repeated.weights, rtol=1e-12)
    test = TwoMoons().sample(1000, seed=1)
    a, b, c = (log_prob(found[name], test) for name in found)
    assert (a - b).abs().mean() < 0.1
    assert (a - c).abs().mean() > 0.3


def test_points_of_weight_zero_take_no_part():
    """However far they are, and whether they are in the training or held out."""
    x, labels = gaussians()
    rng = np.random.default_rng(0)
    far = np.append(x, 1e30 * rng.normal(size=(200, 2)), axis=0)
    cut, weights = np.append(labels, np.arange(200) % 3), np.append(np.ones(len(x)), np.zeros(200))
    order = rng.permutation(len(far))
    flow = PiecewiseFlow(identity)
    history = flow.fit(
        far[order], clusters=cut[order], weights=weights[order], epochs=2, learning_rate=0.0
    )
    np.testing.assert_allclose(flow.weights, [0.06, 0.24, 0.7], rtol=1e-12)
    assert history.points.tolist() == [48, 192, 560]
    assert np.isfinite(history.best_loss).all()
    assert flow.scale.max() < 10


# ---- clusters


def test_clusters_in_every_form():
    x, labels = gaussians(n=(200, 200))
    x[:, 0] += 20 * labels
    clustering = choose_clusters(x, candidates=range(2, 4))
    assert clustering.k == 2
    forms = {
        "chosen": None,
        "counted": 2,
        "numpy integer": np.int64(2),
        "clustering": clustering,
        "labels": labels,
        "list": labels.tolist(),
        "tensor": torch.from_numpy(labels),
        "names": np.array(["left", "right"])[labels],
        "other numbers": 7 * labels - 3,
    }
    for clusters in forms.values():
        flow = PiecewiseFlow(identity)
        flow.fit(x, clusters=clusters, epochs=1)
        assert sorted(flow.weights) == pytest.approx([0.5, 0.5])


def test_the_number_that_is_asked_for_is_kept():
    """Where choose_clusters would dissolve what has fewer than 100 points."""
    x, _ = gaussians(n=(300,))
    flow = PiecewiseFlow(identity)
    flow.fit(x, clusters=7, epochs=1)
    assert flow.k == 7


def test_a_label_without_weight_is_no_cluster():
    x, labels = gaussians()
    flow = PiecewiseFlow(identity)
    flow.fit(x, clusters=labels, weights=(labels != 1).astype(float), epochs=1)
    np.testing.assert_allclose(flow.weights, [60 / 760, 700 / 760])


def test_log_prob_has_a_gradient_in_x_alone(toy):
    flow, *_ = toy
    x = torch.tensor([[0.3, -0.2], [2.0, 1.0]], dtype=torch.float64)
    assert not flow.log_prob(x).requires_grad
    assert not flow.responsibilities(x).requires_grad
    (gradient,) = torch.autograd.grad(flow.log_prob(x.requires_grad_()).sum(), x)
    step = torch.tensor([0.05, 0.0], dtype=torch.float64)
    with torch.no_grad():
        rise = (flow.log_prob(x + step) - flow.log_prob(x - step)) / 0.1
    torch.testing.assert_close(gradient[:, 0], rise, rtol=0.02, atol=0.02)
