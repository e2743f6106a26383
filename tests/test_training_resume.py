"""Checkpoints: the same result as without the pause, and files that are never half written."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from pretended_device import pretended
from torch import nn

from galflow_lite import files
from galflow_lite.files import read_state, write_state
from galflow_lite.training import TensorBatches, fit


class Crash(RuntimeError):
    """Stands for a power cut."""


def train(folder, *, device="cpu", seed=0, crash_at=None, width=8, steps=60, **options):
    """Everything that has a state at once: buffers, dropout, noise."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Dropout(0.2), nn.Linear(width, 1)
    ).to(device)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).to(device)
    y = x.prod(1, keepdim=True)
    batches = TensorBatches(x[50:], y[50:], batch_size=16)

    def loss(batch):
        noise = 0.1 * torch.randn_like(batch[1])
        return (model(batch[0]) - batch[1] - noise).square().mean()

    def crashing(step):
        if step == crash_at:
            raise Crash
        return batches(step)

    usual = {"learning_rate": 0.01, "schedule": "cosine", "clip_norm": 1.0, "ema_decay": 0.9}
    usual |= {"validation": TensorBatches(x[:50], y[:50], batch_size=16), "validate_every": 7}
    usual |= {"checkpoint": folder and folder / "run.safetensors", "checkpoint_every": 10}
    history = fit(loss, model, crashing, steps, progress=False, **{**usual, **options})
    return model.state_dict(), history


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


@pytest.mark.parametrize("optimizer", ["adam", "radam", momentum])
@pytest.mark.parametrize("validated", [True, False])
def test_resumed_training_equals_uninterrupted(tmp_path, optimizer, validated):
    options = {"optimizer": optimizer}
    if not validated:
        options |= {"validation": None, "ema_decay": None}
    expected, whole = train(None, **options)
    for crash, seed in ((37, 0), (43, 7)):  # only the first run starts from the same weights
        with pytest.raises(Crash):
            train(tmp_path, crash_at=crash, seed=seed, **options)
    found, history = train(tmp_path, seed=99, **options)
    for name in ("loss", "validation_loss", "validation_steps", "best_step", "best_loss"):
        assert getattr(history, name) == getattr(whole, name), name
    assert same(expected, found)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_training_on_a_device_goes_on_where_it_was(tmp_path, kind):
    with pretended(kind):
        expected, whole = train(None, device=kind)
        with pytest.raises(Crash):
            train(tmp_path, device=kind, crash_at=37)
        found, history = train(tmp_path, device=kind, seed=99)
        assert history.loss == whole.loss
        assert same(expected, found)


@pytest.mark.parametrize(
    ("patience", "stopped", "steps"), [(None, "finished", 60), (2, "early", 21)]
)
def test_a_run_that_has_ended_is_not_trained_again(tmp_path, patience, stopped, steps):
    values = iter(range(9))
    options = {"validation": lambda: float(next(values)), "patience": patience}
    first, history = train(tmp_path, **options)
    assert (history.stopped, history.best_step, len(history.loss)) == (stopped, 7, steps)
    again, other = train(tmp_path, seed=5, crash_at=0, **options)
    assert same(first, again)
    assert (other.stopped, other.loss) == (stopped, history.loss)


def test_patience_is_counted_across_the_pause(tmp_path):
    # Lowest at the second validation (step 14); the crash comes after the fourth (step 28).
    values = [2.0, 1.0, 3.0, 3.0, 3.0, 3.0, 0.0]
    options = {"validation": lambda: values.pop(0), "patience": 4}
    with pytest.raises(Crash):
        train(tmp_path, crash_at=32, **options)
    _, history = train(tmp_path, **options)
    assert (history.stopped, history.best_step, len(history.loss)) == ("early", 14, 42)


def test_extra_state_goes_along(tmp_path):
    def run(crash):
        torch.manual_seed(0)
        model, critic = nn.Linear(2, 1), nn.Linear(1, 1)
        optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)

        def loss(step):
            if step == crash:
                raise Crash
            x = torch.randn(8, 2)
            optimizer.zero_grad()
            (critic(model(x).detach()) - 1).square().mean().backward()
            optimizer.step()
            return critic(model(x)).mean()

        options = {"checkpoint": tmp_path / f"{crash}.safetensors" if crash else None}
        options |= {"extra_state": {"critic": critic, "optimizer": optimizer}, "progress": False}
        fit(loss, model, lambda step: step, 20, checkpoint_every=5, **options)
        return [*model.parameters(), *critic.parameters()]

    expected = run(None)
    with pytest.raises(Crash):
        run(12)
    (tmp_path / "12.safetensors").rename(tmp_path / "99.safetensors")
    assert all(map(torch.equal, expected, run(99)))


def test_more_steps_go_on_and_fewer_are_refused(tmp_path):
    options = {"schedule": "constant", "validation": None}
    expected, whole = train(None, **options)
    train(tmp_path, steps=30, **options)
    found, history = train(tmp_path, seed=3, **options)
    assert history.loss == whole.loss
    assert same(expected, found)
    with pytest.raises(ValueError, match="is at step 60, beyond steps = 40"):
        train(tmp_path, steps=40, **options)


def test_truncated_and_foreign_files(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    train(tmp_path)
    for content in (path.read_bytes()[:-9], b"no such thing"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="run.safetensors cannot be read"):
            train(tmp_path)
    write_state(path, {}, kind="a flow")
    with pytest.raises(ValueError, match="holds a flow of .*, expected a training checkpoint"):
        train(tmp_path)
    monkeypatch.setattr(files, "_STATE_VERSION", 7)
    write_state(path, {}, kind="a training checkpoint")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of format 7.*, expected a training checkpoint of form"):
        train(tmp_path)


def test_no_flipped_bit_passes_nor_nan(tmp_path):
    path, state = tmp_path / "file", {"weights": torch.ones(50), "scale": [0.5], "name": "x"}
    write_state(path, state, kind="a test")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        # Without the word checksum before it there is none, and all else is as it was.
        with suppress(ValueError):
            found = read_state(path, kind="a test")
            assert (found.pop("weights") == 1).all()
            assert found == {"scale": [0.5], "name": "x"}
    for value in (torch.nan, -torch.inf):
        write_state(path, {"weights": torch.tensor([1.0, value])}, kind="a test")
        with pytest.raises(ValueError, match="weights holds NaN or infinite values"):
            read_state(path, kind="a test")
    write_state(path, {"scales": {"mean": 1.0}}, kind="a test")
    with pytest.raises(ValueError, match="lacks 'std', expected it beside 'mean': use"):
        read_state(path, kind="a test")["scales"]["std"]


def test_state_comes_back_as_it_was(tmp_path):
    state = {
        "a": torch.arange(6.0).reshape(2, 3).t(),
        "b": [1, 2.5, None, True, "x", (3, torch.tensor(7))],
        3: {"empty": [], "float64": torch.tensor(0.1, dtype=torch.float64)},
        "expanded": torch.ones(1).expand(4),
        "bfloat16": torch.tensor([1.5], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    write_state(tmp_path / "new" / "s", state, kind="a test")
    back = read_state(tmp_path / "new" / "s", kind="a test")
    assert list(back) == list(state)
    for name in ("a", "expanded", "bfloat16", "flags"):
        torch.testing.assert_close(back[name], state[name], rtol=0, atol=0)
    assert (back["b"], back[3]) == (state["b"], state[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 9}, r"with model: 0.weight = \[8, 3\] where this one has \[9, 3\]"),
        ({"optimizer": "radam"}, "with optimizer = adam where this one has radam"),
        ({"steps": 61}, "with schedule = cosine over 60 steps where this one has cosine over 61"),
        ({"extra_state": {"critic": nn.Linear(1, 1)}}, "with extra_state"),
        ({"settings": {"columns": ("x", "y")}}, "with settings"),
        ({"validation": TensorBatches(torch.ones(5, 3), torch.ones(5, 1), batch_size=5)}, "with"),
    ],
)
def test_checkpoint_of_another_training(tmp_path, changes, message):
    train(tmp_path)
    before = (tmp_path / "run.safetensors").read_bytes()
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **changes)
    assert (tmp_path / "run.safetensors").read_bytes() == before


def test_data_that_differ_in_their_last_digits_are_other_data():
    x = torch.ones(8, 2)
    described = [TensorBatches(x + e * torch.eye(8, 2), batch_size=4).settings for e in (0, 1e-6)]
    assert described[0].startswith("8 rows with checksum")
    assert described[0] != described[1]
