"""How pieces are trained: batched against one by one, shared among processes, and all together."""

from __future__ import annotations

import copy
import math
import warnings

import joblib
import numpy as np
import pytest
import torch
from planar_densities import Grid

from galflow_lite import flows
from galflow_lite.piecewise import PiecewiseFlow, choose_clusters
from galflow_lite.piecewise.preparation import split, standardise
from galflow_lite.piecewise.training import (
    PieceData,
    Recipe,
    TrainedPiece,
    _BestOfEach,
    _GroupBatches,
    train_pieces,
)
from galflow_lite.targets import TwoMoons, TwoRings
from galflow_lite.training import TrainingDiverged

SIZES = (23, 400, 90)


def recipe(**changes) -> Recipe:
    settings = dict(
        steps=12,
        batch_size=None,
        learning_rate=1e-2,
        schedule="constant",
        weight_decay=0.0,
        clip_norm=None,
        validate_every=1,
        patience=None,
        seed=4,
        progress=False,
    )
    return Recipe(**settings | changes)


def problem(sizes=SIZES, *, weighted: bool = True) -> tuple[list[flows.Flow], list[PieceData]]:
    """Flows and clusters of very unequal size, in double precision, so that nothing is rounded."""
    torch.manual_seed(0)
    data = []
    for i, n in enumerate(sizes):
        angle = (1 + i) * torch.rand(n, dtype=torch.float64)
        x = torch.stack((angle.cos(), angle.sin()), dim=1)
        x = (x + 0.1 * torch.randn_like(x) - x.mean(0)) / x.std(0)
        w = torch.rand(n, dtype=torch.float64) + 0.5 if weighted else torch.ones_like(angle)
        held_out = n // 4
        parts = (x[held_out:], w[held_out:], x[:held_out], w[:held_out])
        # A held-out set has weights of any mean.
        data.append(PieceData(i, parts[0], parts[1] / parts[1].mean(), *parts[2:]))
    found = [flows.masked_autoregressive_flow(2, layers=2, hidden=8).double() for _ in sizes]
    return found, data


def train(pieces, data, how: Recipe, n_jobs: int | None = 1) -> list[TrainedPiece]:
    return train_pieces(copy.deepcopy(pieces), data, how, n_jobs=n_jobs)


def require_equal(one: TrainedPiece, other: TrainedPiece, tolerance: float = 1e-9) -> None:
    assert one.epochs == other.epochs
    assert one.best_epoch == other.best_epoch
    np.testing.assert_allclose(one.validation, other.validation, rtol=tolerance)
    assert one.best_loss == pytest.approx(other.best_loss, rel=1e-6)
    for name, value in one.state.items():
        torch.testing.assert_close(value, other.state[name], rtol=tolerance, atol=tolerance)


# ---- many pieces as one model


@pytest.mark.parametrize("validate_every", [1, 5])
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_full_batches_are_plain_adam_on_each_piece(validate_every, clip_norm, schedule):
    pieces, data = problem()
    how = recipe(validate_every=validate_every, clip_norm=clip_norm, schedule=schedule)
    trained = train(pieces, data, how)
    for flow, part, found in zip(pieces, data, trained, strict=True):
        alone = copy.deepcopy(flow)
        adam = torch.optim.Adam(alone.parameters(), lr=1e-2)
        losses, states = [], []
        for step in range(12):
            adam.zero_grad()
            (-(alone.log_prob(part.train) * part.train_weights).mean()).backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(alone.parameters(), clip_norm)
            if schedule == "cosine":
                adam.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 12)) / 2
            adam.step()
            if (step + 1) % validate_every == 0 or step == 11:
                with torch.no_grad():
                    log_prob = alone.log_prob(part.validation)
                w = part.validation_weights
                losses.append(float(-(log_prob * w).sum() / w.sum()))
                states.append((step + 1, copy.deepcopy(alone.state_dict())))
        best = int(np.argmin(losses))
        np.testing.assert_allclose(found.validation, losses, rtol=1e-8)
        assert (found.epochs, found.best_epoch) == (12, states[best][0])
        assert found.best_loss == pytest.approx(losses[best], rel=1e-6)
        for name, value in states[best][1].items():
            torch.testing.assert_close(found.state[name], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 50},
        {"batch_size": 50, "schedule": "cosine", "weight_decay": 0.1},
        {"batch_size": 1000},
        {"batch_size": 50, "clip_norm": 0.3},
        {"batch_size": None, "clip_norm": 0.3},
        {"batch_size": 50, "patience": 2, "steps": 40, "learning_rate": 0.1},
        {"validate_every": 100},
    ],
)
def test_a_piece_trains_in_a_group_as_it_does_alone(changes):
    """The small piece is padded in the group: with weight zero nothing is left of that."""
    pieces, data = problem()
    how = recipe(**changes)
    together = train(pieces, data, how)
    for flow, part, found in zip(pieces, data, together, strict=True):
        require_equal(found, train([flow], [part], how)[0], 1e-7)


def test_clipping_has_an_effect():
    """Which the comparisons above would not miss."""
    pieces, data = problem()
    free, clipped = (train(pieces, data, recipe(clip_norm=norm)) for norm in (None, 1e-3))
    for a, b in zip(free, clipped, strict=True):
        assert not np.allclose(a.validation, b.validation, rtol=1e-4)


@pytest.mark.parametrize("steps", [7, 8, 9])
def test_every_point_is_seen_once_a_pass(steps):
    _, data = problem((40, 100), weighted=False)
    batches = _GroupBatches(data, recipe(batch_size=8))
    seen = [[], []]
    for step in range(steps):
        points, weights = batches(step)
        assert points.shape == (2, 8, 2)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))
        for i in range(2):
            seen[i] += points[i].tolist()
    # 30 and 75 training points: three and nine batches of eight in a pass.
    for i, (rows, each_pass) in enumerate(((30, 3), (75, 9))):
        assert len(data[i].train) == rows
        known = {tuple(row) for row in data[i].train.tolist()}
        for start in range(0, steps, each_pass):
            part = [tuple(row) for row in seen[i][8 * start : 8 * (start + each_pass)]]
            assert len(part) == len(set(part))
            assert set(part) <= known


@pytest.mark.parametrize(("call", "epochs"), [(1, None), (9, 1)])
def test_an_interruption_keeps_the_best_weights_or_none(call, epochs):
    calls = []

    class Interrupted(flows.Flow):
        def _log_prob(self, inputs, context):
            calls.append(0)
            if len(calls) == call:
                raise KeyboardInterrupt
            return super()._log_prob(inputs, context)

    def build(features: int) -> flows.Flow:
        flow = flows.real_nvp(features, layers=2, hidden=4)
        flow.__class__ = Interrupted
        return flow

    flow, x = PiecewiseFlow(build), TwoMoons().sample(600, seed=0)
    settings = dict(clusters=2, epochs=5, batch_size=40)  # six steps a pass, and a validation
    if epochs is None:
        with pytest.raises(KeyboardInterrupt):
            flow.fit(x, **settings)
        assert flow.k == 0
    else:
        assert flow.fit(x, **settings).epochs.tolist() == pytest.approx([epochs] * 2, rel=0.1)


def test_parameters_without_gradient_are_no_obstacle():
    pieces, data = problem()
    for flow in pieces:
        flow.unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    found = train(pieces, data, recipe(clip_norm=1.0))
    assert all(torch.equal(piece.state["unused"], torch.ones(3).double()) for piece in found)


# ---- stopping


def test_each_piece_stops_by_itself_and_keeps_its_best():
    pieces, data = problem((400, 60, 30, 200))
    how = recipe(steps=150, learning_rate=0.05, patience=3)
    found = train(pieces, data, how)
    assert len({piece.epochs for piece in found}) > 1  # else nothing is tested
    for flow, part, piece in zip(pieces, data, found, strict=True):
        assert piece.best_loss == pytest.approx(min(piece.validation), rel=1e-6)
        assert piece.best_epoch == 1 + int(np.argmin(piece.validation))
        assert piece.epochs == len(piece.validation)
        if piece.epochs < 150:
            assert piece.epochs == piece.best_epoch + 3
        kept = copy.deepcopy(flow)
        kept.load_state_dict(piece.state)
        with torch.no_grad():
            log_prob = kept.log_prob(part.validation)
        w = part.validation_weights
        assert piece.best_loss == pytest.approx(float(-(log_prob * w).sum() / w.sum()), rel=1e-6)


def test_a_piece_that_stopped_does_not_change():
    """Those that go on for longer change nothing in it."""
    pieces, data = problem((400, 60, 30, 200))
    settings = dict(learning_rate=0.05, patience=3)
    long = train(pieces, data, recipe(steps=150, **settings))
    epochs = [piece.epochs for piece in long]
    middle = int(min(epochs) + max(epochs)) // 2
    short = train(pieces, data, recipe(steps=middle, **settings))
    stopped = [i for i in range(4) if epochs[i] < middle]
    assert 0 < len(stopped) < 4
    for i in stopped:
        require_equal(short[i], long[i])


class Levels(flows.StackedFlows):
    """A stack whose losses are its parameters, to be set from outside."""

    def __init__(self, k: int) -> None:
        torch.nn.Module.__init__(self)
        self.level = torch.nn.Parameter(torch.zeros(k))

    def log_prob(self, inputs: torch.Tensor) -> torch.Tensor:
        return -self.level[:, None].expand(inputs.shape[:2])


def test_what_comes_after_the_patience_of_a_piece_does_not_count():
    """Not even a better loss: the momentum of Adam moves a piece that has stopped."""
    _, data = problem((40, 80))
    model = Levels(2)
    best = _BestOfEach(model, data, recipe(steps=100, validate_every=10, patience=2))
    sums = []
    for levels in ((3.0, 5.0), (2.0, 4.0), (2.5, 3.0), (2.0, 2.0), (1.0, 1.5), (0.5, 1.7)):
        with torch.no_grad():
            model.level.copy_(torch.tensor(levels))
            sums.append(best())
    assert sums == [8, 6, 5, 4, 3.5, 3.5]
    assert best.losses.tolist() == [2.0, 1.5]
    assert best.active.tolist() == [False, True]
    assert best.looks.tolist() == [4, 6]
    assert best.steps.tolist() == [20, 50]
    assert best.last_steps.tolist() == [40, 60]
    best.restore()
    assert model.level.tolist() == [2.0, 1.5]


def test_history_of_a_fit_agrees_with_the_pieces():
    x = TwoRings().sample(1500, seed=0).numpy()
    flow = PiecewiseFlow(hidden=8, layers=1)
    labels = choose_clusters(x, candidates=[4]).labels
    history = flow.fit(x, clusters=labels, epochs=12, batch_size=64, learning_rate=0.02, patience=2)
    held_out = flow._held_out
    for i, piece in enumerate(flow.pieces):
        rows = held_out & (labels == i)
        points = (x[rows] - flow.shift[i].numpy()) / flow.scale[i].numpy()
        with torch.no_grad():
            loss = -float(piece.log_prob(points.astype(np.float32)).mean())
        assert history.best_loss[i] == pytest.approx(loss, abs=1e-5)
        assert history.best_loss[i] == pytest.approx(min(history.validation[i]), abs=1e-6)
        assert history.points[i] == (~held_out & (labels == i)).sum()
        assert history.parameters[i] == 8 * 2 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    assert history.seconds > 0
    by_hand = sum(history.epochs[i] * history.points[i] * history.parameters[i] for i in range(4))
    assert history.cost == pytest.approx(by_hand, rel=1e-12)
    # A pass is one over the piece's own points, 64 of them at each step.
    per_epoch = round(history.points.mean() / 64)
    for i, losses in enumerate(history.validation):
        seen = len(losses) * per_epoch * min(64, history.points[i])
        assert history.epochs[i] == pytest.approx(seen / history.points[i])


def test_cost_of_full_batches_is_that_of_the_paper():
    x = TwoMoons().sample(500, seed=0)
    flow = PiecewiseFlow()
    history = flow.fit(x, clusters=2, epochs=3, batch_size=None)
    assert history.epochs.tolist() == [3, 3]
    assert history.cost == 3 * history.points.sum() * 3 * 2904


def test_minibatches_of_all_pieces_see_as_many_points_as_those_of_one_flow():
    x = TwoMoons().sample(2000, seed=0)
    one, two = (
        PiecewiseFlow(hidden=4, layers=1).fit(x, clusters=k, epochs=5, batch_size=64)
        for k in (1, 4)
    )
    seen = [float((h.epochs * h.points).sum()) for h in (one, two)]
    assert seen[1] == pytest.approx(seen[0], rel=0.15)


def test_a_fit_begins_anew():
    x = TwoMoons().sample(500, seed=0)
    flow = PiecewiseFlow(hidden=8, layers=1)
    found = []
    for _ in range(2):
        flow.fit(x, clusters=2, epochs=2)
        found.append(copy.deepcopy(flow.state_dict()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# ---- preparation


def test_split_takes_the_same_share_of_each_cluster():
    labels = np.repeat([0, 1, 2], [5, 100, 1001])
    held_out = split(labels, 3, 0.2, 0)
    assert [held_out[labels == i].sum() for i in range(3)] == [1, 20, 200]
    np.testing.assert_array_equal(held_out, split(labels, 3, 0.2, 0))
    assert (held_out != split(labels, 3, 0.2, 1)).any()
    assert [split(labels, 3, 0.01, 0)[labels == i].sum() for i in range(3)] == [1, 1, 10]
    assert [split(labels, 3, 0.999, 0)[labels == i].sum() for i in range(3)] == [3, 98, 999]


def test_each_piece_is_standardised_by_its_training_points():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [200, 100])
    x = rng.normal(size=(300, 2)) * [1e-6, 1e3] + np.array([[5.0, 1e7], [-3.0, 0.0]])[labels]
    weights = rng.uniform(0.1, 2, 300)
    held_out = split(labels, 2, 0.2, 0)
    data, shift, scale = standardise(x, weights, labels, 2, held_out, torch.device("cpu"))
    for i, piece in enumerate(data):
        w = piece.train_weights
        assert float(w.mean()) == pytest.approx(1, abs=1e-5)
        mean = (w[:, None] * piece.train).sum(0) / w.sum()
        variance = (w[:, None] * (piece.train - mean) ** 2).sum(0) / w.sum()
        torch.testing.assert_close(mean, torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(variance, torch.ones(2), atol=1e-4, rtol=0)
        rows = held_out & (labels == i)
        expected = torch.from_numpy((x[rows] - shift[i]) / scale[i]).float()
        torch.testing.assert_close(piece.validation, expected)


# ---- processes


@pytest.fixture(scope="module")
def on_one() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Points, their log-density and the losses of three pieces trained in this process."""
    x = TwoRings().sample(900, seed=0)
    return (x, *small_fit(x, n_jobs=1))


def small_fit(x, n_jobs: int | None):
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    flow = PiecewiseFlow(hidden=8, layers=2)
    history = flow.fit(x, clusters=labels, epochs=4, batch_size=64, n_jobs=n_jobs)
    with torch.no_grad():
        return flow.log_prob(x), history.best_loss, flow.weights


def require_same_fit(found, on_one) -> None:
    """To rounding, which differs with the shape of a batched product and grows in training."""
    log_prob, best_loss, weights = found
    torch.testing.assert_close(log_prob, on_one[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(best_loss, on_one[2], atol=1e-4)
    np.testing.assert_array_equal(weights, on_one[3])


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_processes_do_not_change_the_result(on_one, n_jobs):
    require_same_fit(small_fit(on_one[0], n_jobs), on_one)


def test_the_backend_of_joblib_is_taken(on_one):
    with joblib.parallel_config(backend="threading", n_jobs=3):
        require_same_fit(small_fit(on_one[0], None), on_one)


def test_a_dask_cluster_gives_the_same_result(on_one):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, when it starts and ends
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            assert sum(client.nthreads().values()) == 2
            with joblib.parallel_config(backend="dask"):
                assert joblib.effective_n_jobs(None) == 2
                found = small_fit(on_one[0], None)
            tasks = client.run(lambda dask_worker: len(dask_worker.state.log))
            assert all(tasks.values())
    require_same_fit(found, on_one)


# Unpickling calls TrainingDiverged(message), which asks for a step and a history as well.
def test_a_divergence_in_a_process_says_what_happened():
    x = TwoMoons().sample(300, seed=0)
    flow = PiecewiseFlow(hidden=4, layers=1)
    with pytest.raises(TrainingDiverged, match="the last good weights are restored"):
        flow.fit(x, clusters=2, epochs=3, learning_rate=1e30, clip_norm=None, n_jobs=2)


def test_resampled_pieces_are_tasks_of_their_own():
    x = TwoMoons().sample(600, seed=0)
    found = []
    for n_jobs in (1, 2):
        flow = PiecewiseFlow("real_nvp", layers=2, hidden=8, resampled=8)
        flow.fit(x, clusters=2, epochs=2, n_jobs=n_jobs)
        with torch.no_grad():
            found.append(flow.log_prob(x))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


# ---- all pieces together


@pytest.fixture(scope="module")
def rings() -> tuple[PiecewiseFlow, torch.Tensor]:
    x = TwoRings().sample(3000, seed=0)
    flow = PiecewiseFlow(hidden=16)
    flow.fit(x, clusters=16, epochs=20, learning_rate=5e-3)
    return flow, x


def mean_log_prob(flow: PiecewiseFlow, x) -> float:
    with torch.no_grad():
        return float(flow.log_prob(x).mean())


def test_fine_tuning_repairs_the_borders_of_rings(rings):
    flow, x = copy.deepcopy(rings[0]), rings[1]
    held_out = torch.from_numpy(flow._held_out)
    fresh = TwoRings().sample(5000, seed=1)
    before = [mean_log_prob(flow, part) for part in (x[held_out], fresh)]
    weights = flow.weights
    history = flow.fine_tune(x, steps=200)
    after = [mean_log_prob(flow, part) for part in (x[held_out], fresh)]
    assert after[0] > before[0] + 0.005
    assert after[1] > before[1] + 0.005
    assert history.best_step > 0
    assert history.best_loss == pytest.approx(-after[0], abs=1e-4)
    assert flow.weights.sum() == pytest.approx(1)
    assert np.abs(flow.weights - weights).max() > 1e-4  # the shares take part
    assert Grid(flow.log_prob, -12, 12, n=900).total == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("learning_rate", [2e-3, 0.1, 1.0])
def test_fine_tuning_never_makes_the_held_out_points_less_likely(rings, learning_rate):
    flow, x = copy.deepcopy(rings[0]), rings[1]
    held_out = torch.from_numpy(flow._held_out)
    before = mean_log_prob(flow, x[held_out])
    flow.fine_tune(x, steps=10, learning_rate=learning_rate)
    assert mean_log_prob(flow, x[held_out]) > before - 1e-6


def test_fine_tuning_that_does_not_help_leaves_the_flow(rings):
    flow, x = copy.deepcopy(rings[0]), rings[1]
    before = copy.deepcopy(flow.state_dict())
    history = flow.fine_tune(x, steps=5, learning_rate=3.0, clip_norm=None)
    held_out = torch.from_numpy(flow._held_out)
    assert history.best_step == 0
    assert history.best_loss == pytest.approx(-mean_log_prob(flow, x[held_out]), abs=1e-5)
    for name, value in flow.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-12, atol=1e-12)


def test_fine_tuning_depends_on_its_seed_alone(rings):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(found))
        flow = copy.deepcopy(rings[0])
        flow.fine_tune(rings[1], steps=10, seed=seed)
        found.append(flow.log_prob(rings[1][:50]).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_fine_tuning_of_one_piece_with_weights_after_loading(tmp_path):
    x = TwoMoons().sample(500, seed=0)
    flow = PiecewiseFlow(hidden=8, layers=2)
    flow.fit(x, clusters=1, epochs=1)
    flow.save(tmp_path / "flow")
    loaded = PiecewiseFlow.load(tmp_path / "flow")
    right = x[:, 0] > 0
    weights = torch.where(right, 1.0, 0.01)
    before = mean_log_prob(loaded, x[right])
    loaded.fine_tune(x, weights=weights, steps=50, learning_rate=1e-2)
    assert mean_log_prob(loaded, x[right]) > before + 0.1
    assert loaded.weights.tolist() == [1.0]


def test_fine_tuning_of_a_resampled_base_is_refused():
    x = TwoMoons().sample(300, seed=0)
    flow = PiecewiseFlow("real_nvp", layers=2, hidden=8, resampled=8)
    flow.fit(x, clusters=2, epochs=1)
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(ValueError, match="found a resampled base, expected a standard normal one"):
        flow.fine_tune(x)
    assert all(torch.equal(v, before[n]) for n, v in flow.state_dict().items())


def test_fine_tuning_that_diverges_leaves_the_flow(rings):
    flow, x = copy.deepcopy(rings[0]), rings[1]
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(TrainingDiverged):
        flow.fine_tune(x, steps=20, learning_rate=1e30, clip_norm=None)
    assert all(torch.equal(v, before[n]) for n, v in flow.state_dict().items())
