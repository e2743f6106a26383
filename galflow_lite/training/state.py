"""What a training has at a step: weights, their average, the best, the history, all chance."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files import read_state, write_state
from ..inputs import seeded

_KIND = "a training checkpoint"


@dataclass
class History:
    """What happened in a training. Step k means: with the weights after k updates.

    Attributes:
        loss: one value a step; `loss[k]` was computed with the weights after k updates.
        logs: further numbers that the loss returned, by name, one value a step.
        validation_steps: the steps (numbers of updates) at which the validation was computed.
        validation_loss: the values there, of the averaged weights when `ema_decay` is given.
        best_step: the step of the lowest validation loss, whose weights the module holds at the
            end; `None` without validation.
        best_loss: the validation loss there.
        stopped: "finished", "early", "interrupted", or "diverged" (one of several samplers).
        seconds: wall time, summed over resumed runs.
    """

    loss: list[float] = field(default_factory=list)
    logs: dict[str, list[float]] = field(default_factory=dict)
    validation_steps: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    stopped: str = "finished"
    seconds: float = 0.0


class TrainingDiverged(RuntimeError):
    """The loss or its gradient became NaN or infinite.

    Attributes:
        step: the step whose loss or gradient, from `batches(step)`, is not finite.
        history: the `History` up to it.
        model: what was trained, with its last good weights, where the caller of `fit` set it.
    """

    def __init__(self, message: str, step: int, history: History, model: Any = None):
        super().__init__(message)
        self.step, self.history, self.model = step, history, model

    def __reduce__(self) -> tuple:
        # As an exception is sent from a worker process, it would be made again from its message.
        return type(self), (str(self), self.step, self.history, self.model)


class TrainingState:
    """What a training has at a step: weights, their average, the best and the last good ones."""

    def __init__(
        self,
        module: nn.Module,
        ema_decay: float | None,
        extra: Mapping[str, Any],
    ) -> None:
        self.began = time.perf_counter()
        self.weights = Weights(module)
        if not self.weights.trainable:
            raise ValueError(
                f"none of the {len(self.weights.names)} parameters requires a gradient, expected "
                "at least one: pass the module that is to be trained"
            )
        self.device = self.weights.trainable[0].device
        self.extra = dict(extra)
        others = [Weights(item) for item in extra.values() if isinstance(item, nn.Module)]
        self.modules = [self.weights, *others]
        self.ema_decay = ema_decay
        self.average = None if ema_decay is None else _copies(self.weights.trainable)
        self.best: list[Tensor] | None = None
        self.good = [module.copy() for module in self.modules]
        self.history = History()
        self._pending: list[tuple[Tensor, Mapping[str, Tensor]]] = []

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def note(self, result: Any) -> Tensor:
        """Keep what the loss returned, as tensors; returns the value to be minimised."""
        value, logs = _split(result)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ValueError(
                f"loss returned {shape or value}, expected a scalar tensor that depends on the "
                "trainable parameters: return the mean of what is computed from the module"
            )
        self._pending.append((value.detach(), logs))
        return value

    def look(self, batch: Any) -> None:
        """Turn what was kept into numbers: waits for the device once.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        kept = [number for value, logs in self._pending for number in (value, *logs.values())]
        tensors = [number.reshape(()) for number in kept if isinstance(number, Tensor)]
        values = iter(torch.stack([number.to(self.device) for number in tensors]).tolist())
        for _, logs in self._pending:
            seen = next(values)
            if not math.isfinite(seen):
                raise self.diverged(f"the loss is {seen}", batch)
            self.history.loss.append(seen)
            for name, number in logs.items():
                seen = next(values) if isinstance(number, Tensor) else float(number)
                self.history.logs.setdefault(name, []).append(seen)
        self._pending.clear()
        # These weights have given a finite loss; those after the update may not.
        for module, good in zip(self.modules, self.good, strict=True):
            with torch.no_grad():
                torch._foreach_copy_(good, module.tensors())

    def put_back(self) -> None:
        """Give all that is trained its last good weights."""
        for module, good in zip(self.modules, self.good, strict=True):
            module.put(good)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        if self.average is not None:
            decay = min(self.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, self.weights.trainable, 1 - decay)

    def validate(self, loss: Callable, validation: Any, step: int) -> int:
        """Keep the weights if they are the best so far; number of validations since those were."""
        history = self.history
        with self.weights.evaluation(self.average):
            score = _validate(loss, validation)
            history.validation_steps.append(step)
            history.validation_loss.append(score)
            if score < (math.inf if self.best is None else history.best_loss):
                history.best_step, history.best_loss = step, score
                self.best = self.weights.copy()
        return sum(seen > (history.best_step or 0) for seen in history.validation_steps)

    def diverged(self, found: str, batch: Any) -> TrainingDiverged:
        """Restore the last good weights and say where and, as far as it is known, why it ended."""
        self.put_back()
        step = len(self.history.loss)
        message = f"{found} at step {step}, and the last good weights are restored"
        return TrainingDiverged(f"{message}: {_advice(step, batch)}", step, self.history)

    def restore(
        self, path: Path, wanted: dict[str, Any], updater: torch.optim.Optimizer, steps: int
    ) -> int:
        """Go on from a file, if it is there; the step to begin with.

        Raises:
            ValueError: it belongs to another training, or is beyond the number of steps.
        """
        self.path, self.wanted, self.updater = path, wanted, updater
        if not path.exists():
            return 0
        state = read_state(path, kind=_KIND)
        require_same(path, state["fingerprint"], wanted)
        if state["step"] > steps:
            raise ValueError(
                f"the checkpoint {path} is at step {state['step']}, beyond steps = {steps}: ask "
                "for more steps or use another file"
            )
        self.weights.put(state["weights"].values())
        updater.load_state_dict(state["optimizer"])
        self.average, self.best = (
            values if values is None else [value.to(self.device) for value in values]
            for values in (state["average"], state["best"])
        )
        vars(self.history).update(state["history"])
        self.began -= self.history.seconds
        for name, item in self.extra.items():
            item.load_state_dict(state["extra"][name])
        self.good = [module.copy() for module in self.modules]
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type in state["random"]:
            known = state["random"][self.device.type]
            torch.get_device_module(self.device).set_rng_state(known, self.device)
        return steps if self.history.stopped == "early" else state["step"]

    def save(self, step: int) -> None:
        self.history.seconds = self.seconds()
        weights = dict(zip(self.weights.names, self.weights.tensors(), strict=True))
        state = dict(step=step, fingerprint=self.wanted, weights=weights, best=self.best)
        state |= dict(optimizer=self.updater.state_dict(), average=self.average)
        extra = {name: item.state_dict() for name, item in self.extra.items()}
        random = {"torch": torch.get_rng_state()}
        if (kind := self.device.type) != "cpu":
            random[kind] = torch.get_device_module(kind).get_rng_state(self.device)
        state |= dict(history=vars(self.history), random=random, extra=extra)
        write_state(self.path, state, kind=_KIND)


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _split(result: Any) -> tuple[Any, Mapping[str, Tensor]]:
    return result if isinstance(result, tuple) else (result, {})


def _validate(loss: Callable, validation: Any) -> float:
    """Mean over all rows of all batches."""
    if not isinstance(validation, Iterable):
        return float(validation())
    total, count = 0.0, 0
    for batch in validation:
        first = batch[0] if isinstance(batch, tuple | list) else batch
        rows = len(first) if isinstance(first, Tensor) and first.ndim else 1
        total += float(_split(loss(batch))[0]) * rows
        count += rows
    if not count:
        raise ValueError(
            "validation gave no batches, expected at least one: pass TensorBatches or a list, "
            "which can be walked again and again"
        )
    return total / count


def _advice(step: int, batch: Any) -> str:
    parts = batch if isinstance(batch, tuple | list) else [batch]
    real = (part for part in parts if isinstance(part, Tensor) and part.is_floating_point())
    if not all(part.isfinite().all() for part in real):
        return "the batch itself holds NaN or infinite values, so clean the data"
    if step == 0:
        return "no update has been made, so look at the loss and the data"
    return "lower learning_rate, set clip_norm or look at the loss"


class Weights:
    """The parameters and buffers that a training changes."""

    def __init__(self, module: nn.Module):
        self.module, named = module, dict(module.named_parameters())
        # Modules may replace a buffer instead of filling it, so its place is kept.
        slots = {
            f"{prefix}.{name}".lstrip("."): (owner, name)
            for prefix, owner in module.named_modules()
            for name, _ in owner.named_buffers(recurse=False)
        }
        self._parameters, self._slots = list(named.values()), list(slots.values())
        self.trainable = [p for p in self._parameters if p.requires_grad]
        self.names = [*named, *slots]

    def tensors(self) -> list[Tensor]:
        return self._parameters + [owner._buffers[name] for owner, name in self._slots]

    def copy(self) -> list[Tensor]:
        return _copies(self.tensors())

    @torch.no_grad()
    def put(self, values: Iterable[Tensor]) -> None:
        for tensor, value in zip(self.tensors(), values, strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def put_trainable(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.trainable, values)

    def finite(self) -> bool:
        with torch.no_grad():
            return bool(torch.stack(torch._foreach_norm(self.trainable)).isfinite().all())

    @contextmanager
    def evaluation(self, average: list[Tensor] | None) -> Iterator[None]:
        """Evaluation mode, averaged weights if there are any, no gradients, fixed randomness."""
        device = self.trainable[0].device
        current = None if average is None else _copies(self.trainable)
        self.module.eval()
        try:
            if average is not None:
                self.put_trainable(average)
            with seeded(0, device), torch.no_grad():
                yield
        finally:
            if current is not None:
                self.put_trainable(current)
            self.module.train()


def fingerprint(weights: Weights, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that makes a training what it is, as plain values under readable names."""
    shapes = {n: list(t.shape) for n, t in zip(weights.names, weights.tensors(), strict=True)}
    return {"model": shapes, **{name: _described(value) for name, value in settings.items()}}


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    # Batches describe themselves; of a function or another object the name has to do.
    return getattr(value, "settings", None) or getattr(value, "__name__", type(value).__name__)


def require_same(path: Any, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        ValueError: a part of the fingerprint differs; it is named.
    """
    for name in [*wanted, *found]:
        there, here = found.get(name), wanted.get(name)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            parts = [p for p in {**here, **there} if here.get(p, here) != there.get(p, there)]
            there, here, name = there.get(parts[0]), here.get(parts[0]), f"{name}: {parts[0]}"
        raise ValueError(
            f"the checkpoint {path} belongs to another training, with {name} = {there} where this "
            f"one has {here}: use the same settings, or another file"
        )
