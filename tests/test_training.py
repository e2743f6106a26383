"""The training loop: what it computes, when it stops, which weights it leaves; its minibatches."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from galflow_lite.training import History, TensorBatches, TrainingDiverged, fit, threads


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))


def data(rows: int = 240) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))
    return x, x.prod(1, keepdim=True)


def square_loss(model: nn.Module):
    return lambda batch: (model(batch[0]) - batch[1]).square().mean()


def train(model: nn.Module, steps: int, loss=None, batches=None, **options) -> History:
    batches = batches or TensorBatches(*data(), batch_size=40)
    return fit(loss or square_loss(model), model, batches, steps, progress=False, **options)


def descend(
    weight: nn.Parameter, steps: int, loss=None, *, rate: float = 1.0, **options
) -> History:
    """Plain gradient descent; by default the gradient is 1 and the weight falls by 1 a step."""
    return fit(
        loss or (lambda _: weight.sum()),
        nn.ParameterList([weight]),
        options.pop("batches", lambda step: None),
        steps,
        optimizer=options.pop("optimizer", lambda p: torch.optim.SGD(p, lr=rate)),
        progress=False,
        **options,
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_updates_are_those_of_a_plain_loop():
    batches = TensorBatches(*data(), batch_size=40)
    model, other = network(), network()
    history = train(model, 30, batches=batches, learning_rate=0.01)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01, fused=True)
    losses = []
    for step in range(30):
        value = square_loss(other)(batches(step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert history.loss == losses
    assert same(state(model), state(other))
    assert not model.training
    assert (history.stopped, history.best_step, history.best_loss) == ("finished", None, None)
    assert history.seconds > 0


def test_average_of_weights_by_hand():
    value, seen = nn.Parameter(torch.tensor([1.0])), []
    history = descend(
        value,
        4,
        ema_decay=0.2,
        validation=lambda: seen.append(value.item()) or value.item(),
        validate_every=1,
    )
    # Decay: 1/10 for the first update, 2/11 for the second, then 0.2, the limit.
    average, expected = 1.0, []
    for weight, decay in [(0.0, 0.1), (-1.0, 2 / 11), (-2.0, 0.2), (-3.0, 0.2)]:
        average = decay * average + (1 - decay) * weight
        expected.append(average)
    assert seen == history.validation_loss == pytest.approx(expected)
    assert value.item() == pytest.approx(expected[-1])
    assert history.loss == [1.0, 0.0, -1.0, -2.0]  # the training itself ran on the raw weights


def test_average_is_what_stays_without_validation():
    value = nn.Parameter(torch.tensor([1.0]))
    descend(value, 1, ema_decay=0.9)
    assert value.item() == pytest.approx(0.1 * 1 + 0.9 * 0)


@pytest.mark.parametrize(
    ("gradient", "moved"), [((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))]
)
def test_clipping_limits_the_norm_over_all_parameters(gradient, moved):
    value = nn.Parameter(torch.zeros(2))
    descend(value, 1, lambda _: (torch.tensor(gradient) * value).sum(), clip_norm=1.0)
    assert (-value).tolist() == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda step: 0.5**step, [0, -8, -12, -14, -15]),
        ("constant", [0, -8, -16, -24, -32]),
        ("cosine", [0, -8, -12 - 4 * math.sqrt(0.5), -16 - 4 * math.sqrt(0.5), -20]),
    ],
)
def test_schedule_scales_the_updates(schedule, expected):
    value, where = nn.Parameter(torch.zeros(1)), []
    loss = lambda _: where.append(value.item()) or value.sum()  # noqa: E731
    descend(value, 4, loss, rate=8.0, schedule=schedule)
    assert [*where, value.item()] == pytest.approx(expected)


def test_early_stopping_restores_the_best_weights():
    x, y = data()
    model, record = network(), []
    noise = torch.randn(40, 1, generator=torch.Generator().manual_seed(2))

    def validation():
        assert not model.training
        assert not torch.is_grad_enabled()
        value = (model(x[:40]) - y[:40] - noise).square().mean().item()
        record.append((value, state(model)))
        return value

    history = train(
        model,
        5000,
        batches=TensorBatches(x[40:], y[40:], batch_size=20),
        learning_rate=0.02,
        validation=validation,
        validate_every=5,
        patience=6,
    )
    values = [value for value, _ in record]
    best = min(range(len(values)), key=values.__getitem__)
    assert history.stopped == "early"
    assert len(values) == best + 1 + 6
    assert history.validation_loss == values
    assert history.validation_steps == [5 * (k + 1) for k in range(len(values))]
    assert (history.best_step, history.best_loss) == (5 * (best + 1), values[best])
    assert len(history.loss) == history.validation_steps[-1]
    # Buffers (the running statistics of the batch normalisation) belong to the weights.
    assert same(state(model), record[best][1])
    assert not same(state(model), record[-1][1])


def test_validation_over_batches_is_the_mean_over_rows_of_the_averaged_weights():
    x, y = data()
    model = network()
    held = TensorBatches(x[:50], y[:50], batch_size=20)  # 20, 20 and 10 rows
    history = train(model, 20, ema_decay=0.9, validation=held)
    with torch.no_grad():
        expected = (model(x[:50]) - y[:50]).square().mean().item()
    assert history.validation_steps == [20]
    assert history.best_loss == pytest.approx(expected, rel=1e-6)


def test_neither_validation_nor_callback_changes_the_training():
    draws, seen = [], []

    def run(**options):
        model = network()

        def noisy(batch):
            return square_loss(model)(batch) + 0.1 * torch.randn(())

        def callback(step):
            assert not model.training
            seen.append((step, model[0].bias.clone()))

        if options:
            options["callback"] = callback
        return train(model, 12, noisy, ema_decay=0.9, **options), model

    plain, _ = run()
    validation = {"validation": lambda: draws.append(torch.randn(()).item()) or -len(draws)}
    watched, model = run(validate_every=1, callback_every=5, **validation)
    assert plain.loss == watched.loss
    assert len(set(draws)) == 1  # always with the same random numbers
    assert [step for step, _ in seen] == [0, 5, 10, 12]
    assert torch.equal(seen[-1][1], model[0].bias)  # of the averaged weights


def test_infinite_validation_is_never_the_best():
    values, weight = iter([math.inf, 2.0, math.nan, 3.0]), nn.Parameter(torch.zeros(1))
    history = descend(weight, 4, validation=lambda: next(values), validate_every=1)
    assert (history.best_step, history.best_loss, weight.item()) == (2, 2.0, -2.0)
    with pytest.warns(RuntimeWarning, match="none of 2 validation losses is a number"):
        descend(weight, 2, validation=lambda: math.nan, validate_every=1)


def test_nan_stops_with_its_step_and_the_last_good_weights_of_all_modules():
    model, critic, record = network(), nn.Linear(1, 1), []

    def loss(batch):
        with torch.no_grad():
            critic.bias += 1
        record.append((state(model), state(critic)))
        value = square_loss(model)(batch)
        return value * math.nan if len(record) == 11 else value

    with pytest.raises(TrainingDiverged, match="the loss is nan at step 10") as caught:
        train(model, 50, loss, extra_state={"critic": critic})
    # Step 9 gave a finite loss, so its weights are the last that are known to be good.
    good, good_critic = record[9]
    after = state(model)
    assert all(torch.equal(after[k], good[k]) for k in after if "weight" in k or "bias" in k)
    assert same(state(critic), good_critic)
    assert caught.value.step == len(caught.value.history.loss) == 10


def test_infinite_gradient_of_a_finite_loss_leaves_good_weights():
    weight = nn.Parameter(torch.tensor([1.0]))
    # sqrt has an infinite slope at 0, times 0 gives NaN.
    loss = lambda _: (weight * 1.0).sum() + (weight * 0).sqrt().sum()  # noqa: E731
    for steps, message in ((1, "the gradient is not finite at step 0"), (5, "loss is nan at st")):
        with pytest.raises(TrainingDiverged, match=message):
            descend(weight, steps, loss)
        assert weight.item() == 1.0


def test_nan_in_a_batch_is_named():
    weight = nn.Parameter(torch.zeros(3))
    rows = [torch.ones(4, 3), torch.full((4, 3), math.nan)]
    with pytest.raises(TrainingDiverged, match="the batch itself holds NaN or infinite values"):
        descend(weight, 2, lambda b: (b - weight).square().mean(), batches=rows.__getitem__)


@pytest.mark.parametrize("source", ["loss", "batches"])
def test_interrupt_keeps_the_best_weights(source):
    model, record = network(), []
    batches = TensorBatches(*data(), batch_size=40)

    def validation():
        record.append(state(model))
        return [3.0, 1.0, 2.0][len(record) - 1]

    def interrupted(step):
        if source == "batches" and step == 35:
            raise KeyboardInterrupt
        return batches(step)

    def loss(batch):
        if source == "loss" and len(record) == 3:
            raise KeyboardInterrupt
        return square_loss(model)(batch)

    history = train(model, 100, loss, interrupted, validation=validation, validate_every=10)
    assert (history.stopped, history.best_step, history.best_loss) == ("interrupted", 20, 1.0)
    assert len(history.loss) == (35 if source == "batches" else 30)
    assert same(state(model), record[1])
    assert not model.training


def test_gradients_of_the_trained_weights_alone_and_logs_of_every_step():
    weight, critic = nn.Parameter(torch.ones(1)), nn.Linear(1, 1)
    loss = lambda step: (critic(weight).sum(), {"step": torch.tensor(float(step))})  # noqa: E731
    options = {"extra_state": {"critic": critic}, "validation": [0]}
    history = descend(weight, 5, loss, batches=lambda step: step, **options)
    assert critic.weight.grad is None
    assert history.logs == {"step": [0.0, 1.0, 2.0, 3.0, 4.0]}
    assert len(history.validation_loss) == 1


def test_overlapping_blocks_leave_the_threads_as_they_were():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, second = threads(1), threads(2)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- minibatches -----------------------------------------------------------------------------


def test_each_row_once_an_epoch():
    index = torch.arange(60)
    batches = TensorBatches(index, 2 * index, batch_size=12)
    assert len(batches) == 5
    orders = []
    for epoch in range(3):
        parts = [batches(epoch * len(batches) + k) for k in range(len(batches))]
        assert all(torch.equal(b, 2 * a) for a, b in parts)
        orders.append(torch.cat([a for a, _ in parts]))
        assert torch.equal(orders[-1].sort().values, index)
    assert not torch.equal(orders[0], orders[1])
    # Of rows that do not fill a batch other ones are left out in each epoch.
    few = TensorBatches(torch.arange(10), batch_size=4)
    assert len(few) == 2
    assert torch.cat([few(k)[0] for k in range(40)]).bincount(minlength=10).min() > 8


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    forward, backward, other = (
        TensorBatches(torch.arange(100), batch_size=10, seed=s) for s in (3, 3, 4)
    )
    expected = [forward(k)[0] for k in range(30)]
    assert all(torch.equal(backward(k)[0], expected[k]) for k in reversed(range(30)))
    # A seed is not the other's next epoch.
    assert not torch.equal(other(0)[0], expected[10])
    assert not torch.equal(other(0)[0], expected[0])


@pytest.mark.parametrize("size", [None, 7, 50])
def test_full_batch(size):
    x = torch.randn(7, 2)
    batches = TensorBatches(x, batch_size=size)
    assert len(batches) == 1
    assert all(torch.equal(batches(k)[0], x) for k in range(3))


def test_iteration_is_one_pass_in_order_with_no_row_dropped():
    x = np.arange(10.0)
    parts = [batch for (batch,) in TensorBatches(x, batch_size=4)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), torch.from_numpy(x))


def test_batches_that_are_no_function_are_refused():
    with pytest.raises(TypeError, match="batches is a Tensor, expected a callable"):
        descend(nn.Parameter(torch.zeros(1)), 7, batches=torch.zeros(9, 3))
