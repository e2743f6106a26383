"""How pieces are trained: batched against one by one, shared among processes, and all together."""

from __future__ import annotations

import copy
import math

import joblib
import numpy as np
import pytest
import torch
from planar_densities import Grid

from galflow_lite import flows
from galflow_lite.piecewise import PiecewiseFlow, choose_clusters
from galflow_lite.piecewise.pieces import PieceData, Recipe, _GroupBatches, train_pieces
from galflow_lite.targets import TwoMoons, TwoRings
from galflow_lite.training import TrainingDiverged

RECIPE = Recipe(
    steps=12,
    batch_size=None,
    learning_rate=1e-2,
    schedule="constant",
    weight_decay=0.0,
    clip_norm=None,
    validate_every=1,
    patience=None,
    seed=4,
)


def problem(*sizes: int) -> tuple[list[flows.Flow], list[PieceData]]:
    """Flows and clusters of very unequal size, in double precision, so that nothing is rounded."""
    torch.manual_seed(0)
    data = []
    for i, n in enumerate(sizes):
        angle = (1 + i) * torch.rand(n, dtype=torch.float64)
        x = torch.stack((angle.cos(), angle.sin()), dim=1)
        x = (x + 0.1 * torch.randn_like(x) - x.mean(0)) / x.std(0)
        w = torch.rand(n, dtype=torch.float64) + 0.5
        parts = (x[n // 4 :], w[n // 4 :], x[: n // 4], w[: n // 4])
        # A held-out set has weights of any mean.
        data.append(PieceData(i, parts[0], parts[1] / parts[1].mean(), *parts[2:]))
    found = [flows.masked_autoregressive_flow(2, layers=2, hidden=8).double() for _ in sizes]
    return found, data


def train(pieces, data, **changes):
    return train_pieces(copy.deepcopy(pieces), data, RECIPE._replace(**changes), n_jobs=1)


# ---- many pieces as one model


@pytest.mark.parametrize(
    ("validate_every", "clip_norm", "schedule"),
    [(1, None, "constant"), (5, 0.3, "cosine"), (1, 0.3, "constant")],
)
def test_full_batches_are_plain_adam_on_each_piece(validate_every, clip_norm, schedule):
    pieces, data = problem(23, 400, 90)
    changes = dict(validate_every=validate_every, clip_norm=clip_norm, schedule=schedule)
    trained, history = train(pieces, data, **changes)
    for i, (flow, part) in enumerate(zip(pieces, data, strict=True)):
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
                states.append(copy.deepcopy(alone.state_dict()))
        best = int(np.argmin(losses))
        np.testing.assert_allclose(history.validation[i], losses, rtol=1e-8)
        assert history.epochs[i] == 12
        for name, value in states[best].items():
            torch.testing.assert_close(trained[i][name], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 50, "schedule": "cosine", "weight_decay": 0.1, "clip_norm": 0.3},
        {"batch_size": 1000},
        {"batch_size": 50, "patience": 2, "steps": 40, "learning_rate": 0.1},
        {"validate_every": 100},
    ],
)
def test_a_piece_trains_in_a_group_as_it_does_alone(changes):
    """The small piece is padded in the group: with weight zero nothing is left of that."""
    pieces, data = problem(23, 400, 90)
    together, history = train(pieces, data, **changes)
    for i in range(3):
        (alone,), own = train(pieces[i : i + 1], data[i : i + 1], **changes)
        assert own.epochs[0] == history.epochs[i]
        np.testing.assert_allclose(own.validation[0], history.validation[i], rtol=1e-7)
        for name, value in alone.items():
            torch.testing.assert_close(value, together[i][name], rtol=1e-7, atol=1e-7)


def test_every_point_is_seen_once_a_pass():
    _, data = problem(40, 100)
    batches = _GroupBatches(data, RECIPE._replace(batch_size=8))
    seen = torch.stack([batches(step)[0] for step in range(9)], dim=1)
    assert seen.shape == (2, 9, 8, 2)
    # 30 and 75 training points: three and nine batches of eight in a pass.
    for part, rows, each_pass in zip(data, seen, (3, 9), strict=True):
        known = {tuple(row) for row in part.train.tolist()}
        for one_pass in rows.reshape(-1, 8 * each_pass, 2).tolist():
            points = {tuple(row) for row in one_pass}
            assert len(points) == len(one_pass)
            assert points <= known


def test_each_piece_stops_by_itself_keeps_its_best_and_rests():
    pieces, data = problem(400, 60, 30, 200)
    changes = dict(learning_rate=0.05, patience=3)
    states, long = train(pieces, data, steps=150, **changes)
    assert len(set(long.epochs)) > 1  # else nothing is tested
    for i, losses in enumerate(long.validation):
        assert long.epochs[i] == len(losses) == min(150, int(np.argmin(losses)) + 4)
    # Pieces that go on for longer change nothing in those that have stopped.
    middle = int(min(long.epochs) + max(long.epochs)) // 2
    short, history = train(pieces, data, steps=middle, **changes)
    stopped = [i for i in range(4) if long.epochs[i] < middle]
    assert 0 < len(stopped) < 4
    for i in stopped:
        assert history.epochs[i] == long.epochs[i]
        for name, value in short[i].items():
            torch.testing.assert_close(value, states[i][name], rtol=1e-9, atol=1e-9)


def test_history_of_a_fit_agrees_with_the_pieces():
    x = TwoRings().sample(1500, seed=0).numpy()
    flow = PiecewiseFlow(hidden=8, layers=1)
    labels = choose_clusters(x, candidates=[4]).labels
    history = flow.fit(x, clusters=labels, epochs=12, batch_size=64, learning_rate=0.02, patience=2)
    for i, piece in enumerate(flow.pieces):
        rows = flow._held_out & (labels == i)
        points = (x[rows] - flow.shift[i].numpy()) / flow.scale[i].numpy()
        with torch.no_grad():
            loss = -float(piece.log_prob(points).mean())
        assert min(history.validation[i]) == pytest.approx(loss, abs=1e-5)
        assert history.points[i] == (~flow._held_out & (labels == i)).sum()
        # A pass is one over the piece's own points, 64 of them at each step.
        seen = len(history.validation[i]) * round(history.points.mean() / 64) * 64
        assert history.epochs[i] == pytest.approx(seen / history.points[i])
    made = 8 * 2 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    assert history.cost == pytest.approx((history.epochs * history.points).sum() * made)
    # Full batches have the cost of the paper, and minibatches as many points whatever k is.
    history = flow.fit(x, clusters=2, epochs=3, batch_size=None)
    assert history.cost == 3 * history.points.sum() * made
    one, four = (flow.fit(x, clusters=k, epochs=5, batch_size=64) for k in (1, 4))
    assert (four.epochs @ four.points) == pytest.approx(one.epochs @ one.points, rel=0.15)


# ---- processes, threads and the random state


def small_fit(x, **settings) -> torch.Tensor:
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    flow = PiecewiseFlow(**{"hidden": 8, "layers": 2} | settings)
    flow.fit(x, clusters=labels, epochs=3, batch_size=64)
    with torch.no_grad():
        return flow.log_prob(x)


def test_processes_and_threads_change_no_result_and_leave_no_trace():
    x = TwoRings().sample(900, seed=0)
    torch.manual_seed(11)
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = small_fit(x)
        with joblib.parallel_config(backend="threading", n_jobs=2):
            # To rounding, which differs with the shape of a batched product.
            torch.testing.assert_close(small_fit(x), alone, rtol=1e-3, atol=1e-3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    # Each piece with a resampled base is a task, and its noise is its own.
    for settings in ({"flow": "real_nvp", "resampled": 8}, {}):
        alone = small_fit(x, **settings)
        with joblib.parallel_config(backend="multiprocessing", n_jobs=2):  # starts at once
            torch.testing.assert_close(small_fit(x, **settings), alone, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(12)
    assert torch.equal(small_fit(x), alone)
    assert not torch.equal(small_fit(x, seed=1), alone)


def test_any_default_type_will_do(double_by_default):
    x = TwoMoons().sample(400, seed=0)
    flow = PiecewiseFlow(hidden=8, layers=2)
    flow.fit(x.float(), clusters=2, epochs=2)
    flow.fine_tune(x, steps=3)
    assert flow.sample(5).dtype == flow.log_prob(x).dtype == torch.float64
    assert flow.log_prob(x).isfinite().all()


def test_a_divergence_in_a_process_says_what_happened():
    x = TwoMoons().sample(300, seed=0)
    flow = PiecewiseFlow(hidden=4, layers=1)
    processes = joblib.parallel_config(backend="multiprocessing", n_jobs=2)
    with processes, pytest.raises(TrainingDiverged, match="the last good weights are restored"):
        flow.fit(x, clusters=2, epochs=3, learning_rate=1e30, clip_norm=None)


RESAMPLED = {"flow": "real_nvp", "resampled": 8}


@pytest.mark.parametrize(("settings", "batch"), [({}, 32), ({}, None), (RESAMPLED, 32)])
def test_a_fit_that_was_killed_goes_on(settings, batch, tmp_path, monkeypatch):
    x = TwoRings().sample(300, seed=0)
    options = dict(clusters=2, epochs=20, batch_size=batch, learning_rate=0.05, patience=6)

    def fit(x=x, most=999, hidden=8, **changes) -> tuple[list, int]:
        """Results and steps, at most so many."""
        flow, left = PiecewiseFlow(**{"layers": 2, "hidden": hidden} | settings), [None] * most
        draw = _GroupBatches.__call__
        with monkeypatch.context() as patch:
            patch.setattr(_GroupBatches, "__call__", lambda *given: (left.pop(), draw(*given))[1])
            history = flow.fit(x, **options | changes)
        results = history.validation, history.epochs.tolist(), flow.sample(99, seed=0).tolist()
        return results, most - len(left)

    (whole, steps), saved = fit(), {"checkpoint": tmp_path / "pieces"}
    with pytest.raises(IndexError):
        fit(most=steps // 2, **saved)
    assert fit(most=2 * steps // 3, **saved)[0] == whole
    assert fit(most=0, **saved)[0] == whole
    changes = [{"x": x + 1e-3 * (x == x[-1])}, {"learning_rate": 0.1}, {"hidden": 9}]
    for other in changes:
        with pytest.raises(ValueError, match="belongs to another training"):
            fit(**other, **saved)


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
    parts = x[torch.from_numpy(flow._held_out)], TwoRings().sample(5000, seed=1)
    before, weights = [mean_log_prob(flow, part) for part in parts], flow.weights
    history = flow.fine_tune(x, steps=200)
    after = [mean_log_prob(flow, part) for part in parts]
    assert min(np.subtract(after, before)) > 0.005
    assert history.best_step > 0
    assert history.best_loss == pytest.approx(-after[0], abs=1e-4)
    assert flow.weights.sum() == pytest.approx(1)
    assert np.abs(flow.weights - weights).max() > 1e-4  # the shares take part
    assert Grid(flow.log_prob, -9, 9, n=300).total == pytest.approx(1, abs=5e-3)
    again = copy.deepcopy(rings[0])
    torch.manual_seed(5)
    again.fine_tune(x, steps=200)
    assert torch.equal(again.log_prob(x[:50]), flow.log_prob(x[:50]))


def test_fine_tuning_that_does_not_help_leaves_the_flow(rings):
    flow, x = copy.deepcopy(rings[0]), rings[1]
    state = copy.deepcopy(flow.state_dict())
    assert flow.fine_tune(x, steps=20, learning_rate=3.0).best_step == 0
    with pytest.raises(TrainingDiverged):
        flow.fine_tune(x, steps=20, learning_rate=1e30)
    assert all(torch.equal(v, state[n]) for n, v in flow.state_dict().items())


def test_fine_tuning_of_one_piece_with_weights_after_loading(tmp_path):
    x = TwoMoons().sample(500, seed=0)
    flow = PiecewiseFlow(hidden=8, layers=2)
    flow.fit(x, clusters=1, epochs=1)
    flow.save(tmp_path / "flow")
    loaded = PiecewiseFlow.load(tmp_path / "flow")
    right = x[:, 0] > 0
    before = mean_log_prob(loaded, x[right])
    loaded.fine_tune(x, weights=torch.where(right, 1.0, 0.01), steps=50, learning_rate=1e-2)
    assert mean_log_prob(loaded, x[right]) > before + 0.1
    assert loaded.weights.tolist() == [1.0]
