"""The training loop: what it computes, when it stops, which weights it leaves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from galflow_lite.training import TensorBatches, TrainingDiverged, fit, threads


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))


def data(rows: int = 240) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))
    return x, x.prod(1, keepdim=True)


def square_loss(model: nn.Module):
    return lambda batch: (model(batch[0]) - batch[1]).square().mean()


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_updates_are_those_of_a_plain_loop():
    x, y = data()
    batches = TensorBatches(x, y, batch_size=40)
    model, other = network(), network()
    history = fit(square_loss(model), model, batches, 30, learning_rate=0.01, progress=False)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01, fused=True)
    losses = []
    for step in range(30):
        value = square_loss(other)(batches(step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert history.loss == losses
    assert list(history.steps) == list(range(30))
    assert same(state(model), state(other))
    assert not model.training
    assert (history.stopped, history.best_step, history.best_loss) == ("finished", None, None)
    assert history.seconds > 0


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_named_optimizers_get_their_rate(optimizer):
    value = torch.tensor([2.0, -1.0], requires_grad=True)
    fit(
        lambda _: value.square().sum(),
        [value],
        lambda step: None,
        3,
        optimizer=optimizer,
        learning_rate=0.1,
        progress=False,
    )
    other = torch.tensor([2.0, -1.0], requires_grad=True)
    reference = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}[optimizer]([other], lr=0.1)
    for _ in range(3):
        reference.zero_grad()
        other.square().sum().backward()
        reference.step()
    torch.testing.assert_close(value, other)


def test_double_precision_trains():
    value = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    fit(lambda _: value.square().sum(), [value], lambda k: None, 300, learning_rate=0.1)
    assert abs(value.item()) < 0.05


def test_average_of_weights_by_hand():
    value = torch.tensor([1.0], requires_grad=True)

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=1.0)

    # The gradient is 1, so that the weight falls by 1 a step: 1, 0, -1, -2, -3.
    seen = []
    history = fit(
        lambda _: value.sum(),
        [value],
        lambda step: None,
        4,
        optimizer=sgd,
        ema_decay=0.2,
        validation=lambda: seen.append(value.item()) or value.item(),
        validate_every=1,
        progress=False,
    )
    # Decay: 1/10 for the first update, 2/11 for the second, then 0.2, the limit.
    average, expected = 1.0, []
    for weight, decay in [(0.0, 0.1), (-1.0, 2 / 11), (-2.0, 0.2), (-3.0, 0.2)]:
        average = decay * average + (1 - decay) * weight
        expected.append(average)
    assert seen == pytest.approx(expected)
    assert history.validation_loss == pytest.approx(expected)
    assert value.item() == pytest.approx(expected[-1])
    assert history.loss == [1.0, 0.0, -1.0, -2.0]  # the training itself ran on the raw weights


def test_average_is_what_stays_without_validation():
    value = torch.tensor([1.0], requires_grad=True)
    fit(
        lambda _: value.sum(),
        [value],
        lambda step: None,
        1,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        ema_decay=0.9,
        progress=False,
    )
    assert value.item() == pytest.approx(0.1 * 1 + 0.9 * 0)


@pytest.mark.parametrize(
    ("gradient", "moved"), [((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))]
)
def test_clipping_limits_the_norm_over_all_parameters(gradient, moved):
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    fit(
        lambda _: gradient[0] * a.sum() + gradient[1] * b.sum(),
        [a, b],
        lambda step: None,
        1,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        clip_norm=1.0,
        progress=False,
    )
    assert (-a.item(), -b.item()) == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda step: 0.5**step, [0, -8, -12, -14, -15]),
        ("constant", [0, -8, -16, -24, -32]),
        ("cosine", [0, -8, -12 - 4 * math.sqrt(0.5), -16 - 4 * math.sqrt(0.5), -20]),
    ],
)
def test_schedule_scales_the_updates(schedule, expected):
    value = torch.zeros(1, requires_grad=True)
    where = []

    def loss(_):
        where.append(value.item())
        return value.sum()

    fit(
        loss,
        [value],
        lambda step: None,
        4,
        optimizer=lambda p: torch.optim.SGD(p, lr=8.0),
        schedule=schedule,
        progress=False,
    )
    assert [*where, value.item()] == pytest.approx(expected)


def test_early_stopping_restores_the_best_weights():
    x, y = data()
    model = network()
    noise = torch.randn(40, 1, generator=torch.Generator().manual_seed(2))
    held_x, held_y = x[:40], y[:40] + noise
    record = []

    def validation():
        assert not model.training
        assert not torch.is_grad_enabled()
        value = (model(held_x) - held_y).square().mean().item()
        record.append((value, state(model)))
        return value

    history = fit(
        square_loss(model),
        model,
        TensorBatches(x[40:], y[40:], batch_size=20),
        5000,
        learning_rate=0.02,
        validation=validation,
        validate_every=5,
        patience=6,
        progress=False,
    )
    values = [value for value, _ in record]
    best = min(range(len(values)), key=values.__getitem__)
    assert history.stopped == "early"
    assert len(values) == best + 1 + 6
    assert history.validation_loss == values
    assert history.validation_steps == [5 * (k + 1) for k in range(len(values))]
    assert history.best_step == 5 * (best + 1)
    assert history.best_loss == values[best]
    assert len(history.loss) == history.validation_steps[-1]
    # Buffers (the running statistics of the batch normalisation) belong to the weights.
    assert same(state(model), record[best][1])
    assert not same(state(model), record[-1][1])


def test_validation_over_batches_is_the_mean_over_rows_of_the_averaged_weights():
    x, y = data()
    model = network()
    held = TensorBatches(x[:50], y[:50], batch_size=20)  # 20, 20 and 10 rows
    history = fit(
        square_loss(model),
        model,
        TensorBatches(x, y, batch_size=60),
        20,
        ema_decay=0.9,
        validation=held,
        progress=False,
    )
    with torch.no_grad():
        expected = (model(x[:50]) - y[:50]).square().mean().item()
    assert history.validation_steps == [20]
    assert history.best_loss == pytest.approx(expected, rel=1e-6)


def test_validation_neither_changes_the_training_nor_varies_by_chance():
    def run(validation):
        model = network()
        x, y = data()
        loss = square_loss(model)
        batches = TensorBatches(x, y, batch_size=40)
        noisy = lambda batch: loss(batch) + 0.1 * torch.randn(())  # noqa: E731
        return fit(noisy, model, batches, 12, validation=validation, validate_every=1)

    draws = []
    without = run(None)
    with_one = run(lambda: draws.append(torch.randn(()).item()) or 0.0)
    assert without.loss == with_one.loss
    assert len(set(draws)) == 1


def test_infinite_validation_is_never_the_best():
    values = iter([math.inf, 2.0, math.nan, 3.0])
    weight = torch.zeros(1, requires_grad=True)
    history = fit(
        lambda _: weight.sum(),
        [weight],
        lambda step: None,
        4,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        validation=lambda: next(values),
        validate_every=1,
        progress=False,
    )
    assert (history.best_step, history.best_loss, weight.item()) == (2, 2.0, -2.0)


def test_a_validation_that_is_never_a_number_is_noticed():
    model = network()
    x, y = data()
    with pytest.warns(RuntimeWarning, match="none of 2 validation losses is a number") as caught:
        fit(
            square_loss(model),
            model,
            TensorBatches(x, y, batch_size=40),
            steps=8,
            validation=lambda: math.nan,
            validate_every=4,
            progress=False,
        )
    assert caught[0].filename == __file__


def test_infinite_gradient_of_a_finite_loss_leaves_good_weights():
    weight = torch.tensor([1.0], requires_grad=True)

    def loss(_):
        # sqrt has an infinite slope at 0, times 0 gives NaN.
        return (weight * 1.0).sum() + (weight * 0).sqrt().sum()

    with pytest.raises(TrainingDiverged, match="the gradient is not finite at step 0"):
        fit(loss, [weight], lambda step: None, 1, progress=False)
    assert weight.item() == 1.0
    with pytest.raises(TrainingDiverged, match="the loss is nan at step 1"):
        fit(loss, [weight], lambda step: None, 5, progress=False)
    assert weight.item() == 1.0


def test_nan_in_a_batch_is_named():
    weight = torch.zeros(3, requires_grad=True)
    rows = [torch.ones(4, 3), torch.full((4, 3), math.nan)]
    with pytest.raises(TrainingDiverged, match="the batch itself holds NaN or infinite values"):
        fit(lambda b: (b - weight).square().mean(), [weight], rows, 5, progress=False)


@pytest.mark.parametrize("source", ["loss", "batches"])
def test_interrupt_keeps_the_best_weights(source):
    x, y = data()
    model = network()
    record = []
    batches = TensorBatches(x, y, batch_size=40)

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

    history = fit(
        loss, model, interrupted, 100, validation=validation, validate_every=10, progress=False
    )
    assert (history.stopped, history.best_step, history.best_loss) == ("interrupted", 20, 1.0)
    assert len(history.loss) == (35 if source == "batches" else 30)
    assert same(state(model), record[1])
    assert not model.training


def test_interrupt_without_validation_keeps_the_last_weights():
    weight = torch.zeros(1, requires_grad=True)

    def batches(step):
        if step == 3:
            raise KeyboardInterrupt

    history = fit(
        lambda _: weight.sum(),
        [weight],
        batches,
        9,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        progress=False,
    )
    assert (history.stopped, weight.item(), len(history.loss)) == ("interrupted", -3.0, 3)


def test_nan_stops_with_its_step_and_the_last_good_weights_of_all_modules():
    x, y = data()
    model, critic = network(), nn.Linear(1, 1)
    record = []

    def loss(batch):
        with torch.no_grad():
            critic.bias += 1
        record.append((state(model), state(critic)))
        value = square_loss(model)(batch)
        return value * math.nan if len(record) == 11 else value

    with pytest.raises(TrainingDiverged, match="the loss is nan at step 10") as caught:
        fit(
            loss,
            model,
            TensorBatches(x, y, batch_size=40),
            50,
            extra_state={"critic": critic},
            progress=False,
        )
    # Step 9 gave a finite loss, so its weights are the last that are known to be good.
    good, good_critic = record[9]
    after = state(model)
    assert all(torch.equal(after[k], good[k]) for k in after if "weight" in k or "bias" in k)
    assert same(state(critic), good_critic)
    assert caught.value.step == len(caught.value.history.loss) == 10


def test_gradients_of_the_trained_weights_alone_and_logs_of_every_step():
    weight, critic = torch.ones(1, requires_grad=True), nn.Linear(1, 1)

    def loss(step):
        return critic(weight).sum(), {"step": torch.tensor(float(step))}

    options = {"extra_state": {"critic": critic}, "validation": [0], "progress": False}
    history = fit(loss, [weight], lambda step: step, 5, **options)
    assert critic.weight.grad is None
    assert history.logs == {"step": [0.0, 1.0, 2.0, 3.0, 4.0]}
    assert len(history.validation_loss) == 1


def test_callback_sees_the_averaged_weights_in_evaluation_mode():
    model = nn.Linear(1, 1)
    seen = []

    def callback(step):
        assert not model.training
        seen.append((step, model.weight.item()))

    def run(callback):
        torch.manual_seed(0)
        model.reset_parameters()
        options = {"ema_decay": 0.9, "callback": callback, "callback_every": 4}
        loss = lambda _: (model.weight * torch.randn(1)).square().sum()  # noqa: E731
        return fit(loss, model, [0], 10, progress=False, **options)

    assert run(None).loss == run(callback).loss
    assert [step for step, _ in seen] == [0, 4, 8, 10]
    assert seen[-1][1] == model.weight.item()


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
