"""PiecewiseFlow as a density: closed forms, far from the data, samples, inputs and files."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from planar_densities import LEVEL, Grid
from scipy import stats
from torch import Tensor

from galflow_lite import flows
from galflow_lite.piecewise import Clustering, PiecewiseFlow, choose_clusters
from galflow_lite.targets import TwoMoons
from galflow_lite.training import TrainingDiverged


def identity(features: int) -> flows.Flow:
    """A flow that maps points to themselves, and stays so without a learning rate."""
    return flows.real_nvp(features, layers=1, hidden=2)


def gaussians(n=(60, 240, 700), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters of unequal size and spread, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(n)), n)
    x = rng.normal(size=(len(labels), 2)) * (0.5 + labels[:, None])
    x[:, 0] += 2.0 * labels
    order = rng.permutation(len(x))
    return x[order], labels[order]


X, LABELS = gaussians()
every_kind = pytest.mark.parametrize(
    "settings",
    [
        {"hidden": 8},
        {"flow": "real_nvp", "hidden": np.int64(8), "layers": np.int64(2), "resampled": 8},
        {"flow": "neural_spline", "hidden": 8, "layers": 2, "tail_bound": np.float32(3)},
    ],
)


def log_prob(flow: PiecewiseFlow, x) -> Tensor:
    with torch.no_grad():
        return flow.log_prob(x)


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
def toy() -> PiecewiseFlow:
    """Three pieces that are exactly Gaussian."""
    flow = PiecewiseFlow(identity)
    flow.fit(X, clusters=LABELS, epochs=1, learning_rate=0.0)
    return flow


@pytest.fixture(scope="module")
def moons() -> tuple[PiecewiseFlow, Tensor]:
    x = TwoMoons().sample(3000, seed=0)
    flow = PiecewiseFlow(hidden=16, layers=2)
    flow.fit(x, clusters=2, epochs=15)
    return flow, x


# ---- density


def test_density_is_the_weighted_sum_over_all_pieces(toy, monkeypatch):
    monkeypatch.setattr("galflow_lite.piecewise.piecewise_flow._BATCH", 70)
    terms = by_hand(toy, X, LABELS)
    found = log_prob(toy, X).numpy()
    np.testing.assert_allclose(found, np.logaddexp.reduce(terms, axis=1), rtol=0, atol=1e-5)
    # Each of the usual errors would be seen.
    without_weights = np.logaddexp.reduce(terms - np.log(toy.weights), axis=1)
    own_piece_only = terms[np.arange(len(X)), LABELS]
    equal_weights = without_weights - math.log(toy.k)
    for wrong in (without_weights, own_piece_only, terms.max(axis=1), equal_weights):
        assert np.abs(found - wrong).mean() > 0.05
    np.testing.assert_allclose(toy.weights, [0.06, 0.24, 0.7], rtol=1e-12)
    bayes = np.exp(terms - np.logaddexp.reduce(terms, axis=1, keepdims=True))
    with torch.no_grad():
        np.testing.assert_allclose(toy.responsibilities(X), bayes, atol=1e-5)
    # Weights of points take part in shares and moments.
    weights = np.random.default_rng(1).uniform(0, 3, len(X))
    flow = PiecewiseFlow(identity)
    flow.fit(X, clusters=LABELS, weights=weights, epochs=1, learning_rate=0.0)
    expected = np.logaddexp.reduce(by_hand(flow, X, LABELS, weights), axis=1)
    np.testing.assert_allclose(log_prob(flow, X).numpy(), expected, rtol=0, atol=1e-5)
    assert np.abs(expected - np.logaddexp.reduce(by_hand(flow, X, LABELS), 1)).mean() > 0.01


def test_trained_density_by_hand_and_its_integral(moons):
    """By hand in double precision, with the Jacobian of each piece's own units."""
    flow, x = moons
    terms = []
    for i, piece in enumerate(flow.pieces):
        wide = copy.deepcopy(piece).double()
        log_det = sum(math.log(s) for s in flow.scale[i])
        assert abs(log_det) > 0.1
        own = wide.log_prob((x[:50] - flow.shift[i]) / flow.scale[i]).detach()
        terms.append(math.log(flow.weights[i]) + own - log_det)
    expected = torch.logsumexp(torch.stack(terms), dim=0)
    torch.testing.assert_close(log_prob(flow, x[:50]), expected, rtol=1e-5, atol=1e-4)
    grid = Grid(flow.log_prob, -9, 9)
    assert grid.total == pytest.approx(1, abs=2e-3)
    samples = flow.sample(50_000, seed=1)
    assert grid.p_value(samples, cells=100) > LEVEL
    assert grid.p_value(1.03 * samples, cells=100) < 1e-10
    # It has learned something as well: the best Gaussian is five times as far from the moons.
    gaussian = np.log(np.linalg.det(2 * np.pi * np.e * np.cov(x.T))) / 2
    loss, entropy = (-float(f(x).mean()) for f in (partial(log_prob, flow), TwoMoons().log_prob))
    assert loss - entropy < (gaussian - entropy) / 5


@pytest.mark.parametrize(("k", "layers"), [(1, 6), (4, 2), (8, 1)])
def test_layers_of_the_paper(k, layers):
    """ceil(6 / k) MADEs: about as many parameters as one flow of six."""
    flow = PiecewiseFlow()
    history = flow.fit(X[:400], clusters=np.arange(400) % k, epochs=1, batch_size=None)
    assert flow.n_parameters == history.n_parameters.sum() == k * layers * 2904


def test_gradient_is_in_the_points_alone(toy):
    x = torch.tensor([[0.3, -0.2], [2.0, 1.0]], dtype=torch.float64)
    assert not toy.log_prob(x).requires_grad
    (gradient,) = torch.autograd.grad(toy.log_prob(x.requires_grad_()).sum(), x)
    step = torch.tensor([0.05, 0.0], dtype=torch.float64)
    rise = (log_prob(toy, x.detach() + step) - log_prob(toy, x.detach() - step)) / 0.1
    torch.testing.assert_close(gradient[:, 0], rise, rtol=0.02, atol=0.02)


@every_kind
@pytest.mark.parametrize("unit", [1.0, 1e-12])
def test_points_far_outside_have_a_finite_density(settings, unit):
    """With data in a unit of 1e-12, a distance of 1e8 is 1e20 of them."""
    x = unit * TwoMoons().sample(400, seed=0)
    flow = PiecewiseFlow(**settings)
    flow.fit(x, clusters=(x[:, 0] > 0).long(), epochs=20, learning_rate=1e-2)
    angle = torch.linspace(0, 2 * math.pi, 33, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    worst = []
    for radius in (1e3, 1e6, 1e8):
        found = log_prob(flow, radius * circle)
        assert found.isfinite().all()
        assert found.max() < -100
        worst.append(float(found.mean()))
        with torch.no_grad():
            shares = flow.responsibilities(radius * circle)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(33, dtype=torch.float64))
    assert worst[0] > worst[1] > worst[2]
    assert flow.sample(20_000, seed=0).isfinite().all()


# ---- samples


def test_seeds_of_samples(moons):
    flow, _ = moons
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = flow.sample(500, seed=np.int64(3))
    assert torch.equal(flow.sample(500, seed=3), one)
    assert not torch.equal(flow.sample(500, seed=4), one)
    # In the order of the draw, not piece after piece.
    assert (one[:, 0] > 0).diff().double().mean() > 0.2
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(flow.sample(50), flow.sample(50))
    assert flow.sample(np.int64(3)).shape == (3, 2)


# ---- weights of points


def test_points_of_weight_zero_take_no_part():
    """However far they are, and whether they are in the training or held out."""
    rng = np.random.default_rng(0)
    far = np.append(X, 1e30 * rng.normal(size=(200, 2)), axis=0)
    cut, weights = np.append(LABELS, np.arange(200) % 3), np.repeat([1.0, 0.0], [len(X), 200])
    order = rng.permutation(len(far))
    flow = PiecewiseFlow(identity)
    history = flow.fit(
        far[order], clusters=cut[order], weights=weights[order], epochs=2, learning_rate=0.0
    )
    np.testing.assert_allclose(flow.weights, [0.06, 0.24, 0.7], rtol=1e-12)
    assert history.points.tolist() == [48, 192, 560]
    assert np.isfinite([min(losses) for losses in history.validation]).all()
    assert flow.scale.max() < 10
    # A label without any weight is no cluster.
    flow.fit(X, clusters=LABELS, weights=(LABELS != 1).astype(float), epochs=1)
    np.testing.assert_allclose(flow.weights, [60 / 760, 700 / 760])


# ---- what is handed over


def test_clusters_in_every_form():
    x, labels = gaussians(n=(200, 200))
    x[:, 0] += 20 * labels
    clustering = choose_clusters(x, candidates=range(2, 4))
    names = np.array(["left", "right"])[labels]
    own = (labels.tolist(), torch.from_numpy(labels), names, 7 * labels)
    for clusters in (None, 2, np.int64(2), clustering, *own):
        flow = PiecewiseFlow(identity)
        flow.fit(x, clusters=clusters, epochs=1)
        assert sorted(flow.weights) == pytest.approx([0.5, 0.5])
    # The number that is asked for is kept, where choose_clusters would dissolve small ones.
    flow.fit(X[:300], clusters=7, epochs=1)
    assert flow.k == 7


@every_kind
def test_saved_loaded_pickled_and_copied_is_the_same_to_the_bit(tmp_path, settings):
    flow = PiecewiseFlow(seed=np.int64(5), **settings)
    flow.fit({"a": X[:, 0], "b": X[:, 1]}, clusters=LABELS, epochs=1)
    path = tmp_path / "folder" / "flow.safetensors"
    flow.save(path)
    for twin in (PiecewiseFlow.load(path), pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)):
        table = {"b": X[:, 1], "a": X[:, 0]}  # matched by name
        assert torch.equal(log_prob(twin, table), log_prob(flow, X))
        assert torch.equal(twin.sample(50, seed=1), flow.sample(50, seed=1))
        twin.fit(X, clusters=LABELS, epochs=1)
        torch.testing.assert_close(log_prob(twin, X), log_prob(flow, X))


@pytest.mark.parametrize(
    ("x", "settings", "error"),
    [
        (X, {"clusters": Clustering.from_labels(X[:900], LABELS[:900])}, ValueError),
        (X, {"clusters": np.where(np.arange(1000) == 3, 9, LABELS)}, ValueError),  # one point
        (np.c_[X[:, 0], LABELS], {"clusters": LABELS}, ValueError),  # constant in each cluster
        (X, {"learning_rate": 1e30, "clip_norm": None}, TrainingDiverged),
    ],
)
def test_a_fit_that_fails_leaves_the_flow_as_it_was(x, settings, error):
    flow = PiecewiseFlow(hidden=8, layers=1)
    flow.fit(X, clusters=LABELS, epochs=1)
    before, held_out = copy.deepcopy(flow.state_dict()), flow._held_out.copy()
    sample = flow.sample(9, seed=0)
    with pytest.raises(error):
        flow.fit(x, **{"clusters": np.arange(1000) % 5, "epochs": 5} | settings)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert torch.equal(flow.sample(9, seed=0), sample)
    np.testing.assert_array_equal(flow._held_out, held_out)


def test_pieces_of_a_callable(tmp_path, toy):
    toy.save(tmp_path / "flow")
    loaded = PiecewiseFlow.load(tmp_path / "flow", flow=identity)
    assert torch.equal(log_prob(loaded, X), log_prob(toy, X))
