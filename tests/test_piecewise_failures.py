"""Files of a PiecewiseFlow, bad input, and what a fit leaves alone."""

from __future__ import annotations

import copy
import math

import joblib
import numpy as np
import pytest
import torch
from small_pieces import gaussians, identity, log_prob

from galflow_lite import flows
from galflow_lite.files import write_state
from galflow_lite.piecewise import Clustering, PiecewiseFlow
from galflow_lite.training import TrainingDiverged


@pytest.fixture(scope="module")
def toy() -> tuple[PiecewiseFlow, np.ndarray, np.ndarray]:
    """Three pieces that are exactly Gaussian."""
    x, labels = gaussians()
    flow = PiecewiseFlow(identity)
    flow.fit(x, clusters=labels, epochs=1, learning_rate=0.0)
    return flow, x, labels


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
