"""PiecewiseFlow as a density: against closed forms, its samples, its files, and bad input."""

from __future__ import annotations

import copy
import math

import joblib
import numpy as np
import pytest
import torch
from planar_densities import LEVEL, Grid
from scipy import stats
from torch import Tensor

from galflow_lite import flows
from galflow_lite.checkpoints import write_state
from galflow_lite.piecewise import Clustering, PiecewiseFlow, choose_clusters
from galflow_lite.targets import TwoMoons
from galflow_lite.training import TrainingDiverged


def identity(features: int) -> flows.Flow:
    """A flow that maps points to themselves, and stays so without a learning rate."""
    return flows.real_nvp(features, layers=1, hidden=2)


def gaussians(n=(60, 240, 700), dim: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters of unequal size and spread, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(n)), n)
    x = rng.normal(size=(len(labels), dim)) * (0.5 + labels[:, None])
    x[:, 0] += 2.0 * labels
    order = rng.permutation(len(x))
    return x[order], labels[order]


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


def log_prob(flow: PiecewiseFlow, x) -> Tensor:
    with torch.no_grad():
        return flow.log_prob(x)


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


# ---- files


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("masked_autoregressive", {"hidden": 8}),
        ("real_nvp", {"hidden": 8, "layers": 2, "resampled": 8}),
        ("neural_spline", {"hidden": 8, "layers": 2}),
    ],
)
def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path, architecture, settings):
    x, labels = gaussians()
    flow = PiecewiseFlow(architecture, seed=5, **settings)
    flow.fit(x, clusters=labels, epochs=1)
    path = tmp_path / "folder" / "flow.safetensors"
    flow.save(path)
    loaded = PiecewiseFlow.load(path)
    assert torch.equal(log_prob(loaded, x), log_prob(flow, x))
    assert torch.equal(loaded.sample(50, seed=1), flow.sample(50, seed=1))
    assert (loaded.flow, loaded.settings, loaded.seed) == (architecture, settings, 5)
    np.testing.assert_array_equal(loaded.weights, flow.weights)
    loaded.fit(x, clusters=labels, epochs=1)
    torch.testing.assert_close(log_prob(loaded, x), log_prob(flow, x))


def test_a_file_of_a_callable_needs_it(tmp_path, toy):
    flow, x, _ = toy
    path = tmp_path / "flow.safetensors"
    flow.save(path)
    with pytest.raises(ValueError, match="pieces that a callable built, found none: pass it as"):
        PiecewiseFlow.load(path)
    assert torch.equal(log_prob(PiecewiseFlow.load(path, flow=identity), x), log_prob(flow, x))
    with pytest.raises(ValueError, match="weights of another architecture than it states"):
        PiecewiseFlow.load(path, flow=lambda d: flows.real_nvp(d, layers=2, hidden=2))


def test_files_that_cannot_be_read(tmp_path, toy):
    flow, _, _ = toy
    with pytest.raises(FileNotFoundError, match="there is no file"):
        PiecewiseFlow.load(tmp_path / "none")
    path = tmp_path / "other"
    write_state(path, {"a": 1}, kind="something else")
    with pytest.raises(ValueError, match="holds something else, expected a piecewise flow"):
        PiecewiseFlow.load(path)
    flow.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
            PiecewiseFlow.load(path, flow=identity)
    with pytest.raises(ValueError, match="found a flow without pieces"):
        PiecewiseFlow().save(path)
    assert path.read_bytes() == whole[:-1]  # an error leaves what was there


def test_a_copy_is_independent(toy):
    flow, x, _ = toy
    other = copy.deepcopy(flow)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    assert not torch.equal(log_prob(other, x), log_prob(flow, x))


# ---- bad input


X, LABELS = gaussians()
SHARED = flows.GaussianMixtureBase(torch.zeros(2, 2))
ONE_FLOW = flows.real_nvp(2, layers=1, hidden=2)


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[17, 1] = value
    return x


def flat(rows) -> np.ndarray:
    x = X.copy()
    x[rows, 1] = 0.1
    return x


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (with_value(math.nan), {}, "1 of 1000 rows with NaN or infinite values"),
        (with_value(math.inf), {}, "1 of 1000 rows with NaN or infinite values"),
        (X[:1], {}, "x has 1 rows, expected at least 2"),
        (X[:0], {}, "x has 0 rows, expected at least 2"),
        (X[0], {}, r"x has shape \(2,\), expected \(rows, columns\)"),
        (X[:, :0], {}, r"x has shape \(1000, 0\)"),
        (np.ones((50, 2)), {}, "the same value in all rows of each column"),
        (flat(slice(None)), {}, "column 1 of x is constant in cluster 0"),
        (flat(LABELS == 1), {}, "column 1 of x is constant in cluster 1"),
        (X, {"clusters": LABELS[:-1]}, r"labels have shape \(999,\), expected \(1000,\)"),
        (X, {"clusters": LABELS + 0.5}, "labels has dtype float64, expected integers or strings"),
        (
            X[:900],
            {"clusters": Clustering.from_labels(X, LABELS)},
            "found 1000 labels for 900 points",
        ),
        (
            X,
            {"clusters": np.where(np.arange(1000) == 3, 9, LABELS)},
            "found 1 points with weight in cluster 3, expected at least 5",
        ),
        (X[:8], {"clusters": [0, 0, 0, 0, 1, 1, 1, 1]}, "found 4 points with weight in cluster 0"),
        (X[:20], {"clusters": 20}, "candidates have 20 for 20 points"),
        (X[:20], {"clusters": 30}, "candidates have 30 for 20 points"),
        (X, {"clusters": 0}, "candidates have 0, expected 2 or more"),
        (X, {"clusters": -2}, "candidates have -2, expected 2 or more"),
        (X, {"weights": np.ones(999)}, r"weights have shape \(999,\), expected \(1000,\)"),
        (X, {"weights": -np.ones(1000)}, "1000 of 1000 values that are negative, NaN or infinite"),
        (X, {"weights": np.full(1000, math.nan)}, "values that are negative, NaN or infinite"),
        (X, {"weights": np.zeros(1000)}, "weights are all zero"),
        (
            X,
            {
                "clusters": Clustering.from_labels(X, LABELS),
                "weights": (LABELS != 1).astype(float),
            },
            "found 0 points with weight in cluster 1, expected at least 5",
        ),
        (X, {"epochs": 0}, "epochs=0, expected at least 1"),
        (X, {"epochs": 1.5}, "steps is .*, expected a whole number"),
        (X, {"validate_every": 0}, "validate_every=0, expected at least 1"),
        (X, {"batch_size": 0}, "batch_size=0, expected at least 1"),
        (X, {"batch_size": -5}, "batch_size=-5, expected at least 1"),
        (X, {"clip_norm": 0.0}, "clip_norm=0.0, expected a number above 0"),
        (X, {"clip_norm": -1.0}, "clip_norm=-1.0, expected a number above 0"),
        (X, {"patience": 0}, "patience is 0, expected at least 1"),
        (X, {"schedule": "linear"}, "schedule is 'linear', expected 'constant', 'cosine'"),
        (X, {"validation_fraction": 0.0}, "validation_fraction=0.0, expected between 0 and 1"),
        (X, {"validation_fraction": 1.0}, "validation_fraction=1.0, expected between 0 and 1"),
    ],
)
def test_bad_input_to_fit(x, settings, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseFlow(identity).fit(x, **{"clusters": LABELS, "epochs": 1} | settings)


@pytest.mark.parametrize(
    ("flow", "settings", "message"),
    [
        ("autoregressive", {}, "flow 'autoregressive', expected one of masked_autoregressive,"),
        (5, {}, "flow 5, expected one of masked_autoregressive,"),
        (identity, {"layers": 2, "hidden": 3}, "settings layers, hidden beside a callable"),
    ],
)
def test_bad_architectures(flow, settings, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseFlow(flow, **settings)


@pytest.mark.parametrize(
    ("flow", "settings", "message"),
    [
        (lambda d: torch.nn.Linear(d, d), {}, "a piece that is no galflow_lite.flows.Flow"),
        (lambda d: flows.real_nvp(d + 1), {}, "Flow with 2 features"),
        (lambda d: flows.real_nvp(d, 1), {}, "without context"),
        (lambda d: ONE_FLOW, {}, "found pieces that share parameters"),
        ("masked_autoregressive", {"base": SHARED}, "found pieces that share parameters"),
    ],
)
def test_pieces_that_are_no_flows_of_their_own(flow, settings, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseFlow(flow, **settings).fit(X, clusters=LABELS, epochs=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.log_prob(X[:, :1]), r"x of shape \(1000, 1\), expected \(n, 2\)"),
        (lambda f: f.log_prob(X[0]), r"x of shape \(2,\), expected \(n, 2\)"),
        (lambda f: f.log_prob(with_value(math.nan)), "1 of 1000 points with NaN or infinite"),
        (lambda f: f.responsibilities(with_value(math.inf)), "1 of 1000 points with NaN"),
        (lambda f: f.sample(0), "n=0, expected a positive integer"),
        (lambda f: f.sample(-1), "n=-1, expected a positive integer"),
        (lambda f: f.sample(2.5), "n=2.5, expected a positive integer"),
        (lambda f: f.fine_tune(X[:, :1]), r"x of shape \(1000, 1\), expected \(n, 2\)"),
        (lambda f: f.fine_tune(X, weights=np.zeros(1000)), "weights are all zero"),
        (lambda f: f.fine_tune(X, weights=np.ones(3)), r"weights have shape \(3,\)"),
        (lambda f: f.fine_tune(X, steps=0), "steps is 0, expected at least 1"),
    ],
)
def test_bad_input_after_fit(toy, call, message):
    with pytest.raises(ValueError, match=message):
        call(toy[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.log_prob(X),
        lambda f: f.responsibilities(X),
        lambda f: f.sample(3),
        lambda f: f.fine_tune(X),
        lambda f: f.features,
    ],
)
def test_calls_before_fit(call):
    with pytest.raises(ValueError, match="found a flow without pieces, .*: call fit first"):
        call(PiecewiseFlow())


# ---- what a fit leaves alone


@pytest.mark.parametrize(
    ("x", "settings", "error"),
    [
        (with_value(math.nan), {}, ValueError),
        (X, {"clusters": LABELS[:3]}, ValueError),
        (X, {"learning_rate": 1e30, "clip_norm": None}, TrainingDiverged),
        (X[:, :1], {"schedule": "none"}, ValueError),
    ],
)
def test_a_failing_fit_leaves_the_flow_as_it_was(x, settings, error):
    flow = PiecewiseFlow(hidden=8, layers=1)
    flow.fit(X, clusters=LABELS, epochs=1)
    before, held_out = copy.deepcopy(flow.state_dict()), flow._held_out.copy()
    density, sample = log_prob(flow, X), flow.sample(9, seed=0)
    with pytest.raises(error):
        flow.fit(x, **{"clusters": np.arange(1000) % 5, "epochs": 5} | settings)
    after = flow.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(log_prob(flow, X), density)
    assert torch.equal(flow.sample(9, seed=0), sample)
    np.testing.assert_array_equal(flow._held_out, held_out)


@pytest.mark.parametrize("backend", ["sequential", "threading"])
@pytest.mark.parametrize("settings", [{}, {"flow": "real_nvp", "resampled": 8}])
def test_random_states_and_threads_are_left_alone(backend, settings):
    torch.manual_seed(11)
    random, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        flow = PiecewiseFlow(**{"hidden": 8, "layers": 1} | settings)
        with joblib.parallel_config(backend=backend, n_jobs=3):
            flow.fit(X, clusters=LABELS, epochs=2)
        if not settings:
            flow.fine_tune(X, steps=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), random)
    for found, expected in zip(np.random.get_state(), legacy, strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(found, expected)


def test_the_result_does_not_depend_on_the_random_state():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        flow = PiecewiseFlow("real_nvp", hidden=8, layers=2, resampled=8)
        flow.fit(X, clusters=LABELS, epochs=2)
        found.append(log_prob(flow, X))
    assert torch.equal(*found)
    other = PiecewiseFlow("real_nvp", hidden=8, layers=2, resampled=8, seed=1)
    other.fit(X, clusters=LABELS, epochs=2)
    assert not torch.equal(found[0], log_prob(other, X))
