"""fit(): the one training loop."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..files import read_state, write_state
from ..inputs import as_number, as_whole
from .checkpoint import fingerprint, random_state, require_same, restore_random_state
from .minibatches import by_step
from .optimizers import make_optimizer, rate_factor
from .processes import broadcast, data_parallel, process_rank, start_processes, sum_over
from .weights import Weights

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
        stopped: "finished", "early" or "interrupted".
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

    @property
    def steps(self) -> np.ndarray:
        """Step numbers that belong to `loss`, shape (number of steps,)."""
        return np.arange(len(self.loss))


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite.

    Attributes:
        step: the step whose loss, computed from `batches(step)`, is not finite.
        history: the `History` up to it.
        model: what was trained, with its last good weights, where the caller of `fit` set it.
    """

    def __init__(self, message: str, step: int, history: History, model: Any = None):
        super().__init__(message)
        self.step, self.history, self.model = step, history, model

    def __reduce__(self) -> tuple:
        # As an exception is sent from a worker process, it would be made anew from its message.
        return type(self), (str(self), self.step, self.history, self.model)


def fit(
    loss: Callable[[Any], Tensor | tuple[Tensor, Mapping[str, Tensor]]],
    parameters: nn.Module | Iterable[Tensor],
    batches: Callable[[int], Any] | Iterable[Any],
    steps: int,
    *,
    learning_rate: float = 1e-3,
    optimizer: str | Callable[[list[Tensor]], torch.optim.Optimizer] = "adam",
    schedule: str | Callable[[int], float] = "constant",
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    validation: Callable[[], Any] | Iterable[Any] | None = None,
    validate_every: int = 100,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    extra_state: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    callback: Callable[[int], Any] | None = None,
    callback_every: int = 100,
    progress: bool = True,
    description: str = "training",
) -> History:
    """Minimise a loss over minibatches.

    At the end the module is in evaluation mode and holds the weights of the best validation, or
    without validation the averaged weights (`ema_decay`), or else the last ones.

    Args:
        loss: takes a batch, returns a scalar tensor, or a pair of it and a mapping of further
            scalars, which are kept in `History.logs`. It may train something of its own first,
            such as a critic, which then belongs in `extra_state`.
        parameters: the module (preferred: its buffers are kept with its weights) or its tensors.
        batches: a callable step -> batch, such as `TensorBatches`, or an iterable, which is cycled.
        steps: number of updates.
        learning_rate: before the schedule's factor; not used when `optimizer` is a callable.
        optimizer: "adam", "radam", or a callable parameters -> torch optimiser.
        schedule: "constant", "cosine" (to zero at `steps`), or a callable step -> factor.
        clip_norm: largest norm of the gradient of all parameters together.
        ema_decay: decay d of an exponential moving average of the weights: after the update of
            step k (from 0), average = e * average + (1 - e) * weights with
            e = min(d, (1 + k) / (10 + k)), so that the first weights are forgotten quickly.
        validation: a callable without arguments that returns a number, or an iterable of batches
            (`TensorBatches`, a list), over which the loss is averaged by rows. It is computed
            without gradients, in evaluation mode and always with the same random numbers.
        validate_every: steps between validations; there is one after the last step as well.
        patience: stop after so many validations in a row without a new lowest value.
        checkpoint: file that keeps the state of the training. If it exists, the training goes on
            from there to the same result as without the pause; an iterable is then walked again
            from its start.
        checkpoint_every: steps between checkpoints, a tenth of `steps` by default; there is one
            at the end as well.
        extra_state: named objects with `state_dict` and `load_state_dict` that the loss changes
            itself, for example a critic and its optimiser: checkpointed with the rest. Gradients
            are then computed for `parameters` alone, and modules get back their last good weights
            when the training diverges.
        settings: what else makes this training what it is (columns, seeds, architecture), as plain
            values: a checkpoint with other settings, weights or batches is refused.
        callback: called as callback(step) before the first step, every `callback_every` steps and
            after the last, under the conditions of a validation.
        callback_every: steps between calls.
        progress: show a bar; the environment variable GALFLOW_PROGRESS=0 hides all bars.
        description: text beside the bar.

    Returns:
        A `History`. Ctrl-C ends the training with `stopped="interrupted"` and the same choice of
        weights as above (in several processes it is raised instead: resume from the checkpoint).

    Under torchrun the same call trains in all processes together: gradients are averaged with
    DistributedDataParallel, `TensorBatches` deals out its batches (other batches are yours to
    share by `process_rank()`), and the first process alone shows progress and writes checkpoints.

    Raises:
        TrainingDiverged: the loss is NaN or infinite; the module holds the last good weights.
        ValueError: a number out of its range, no trainable parameters, a loss that is not a scalar
            or does not depend on them, unknown names, or a checkpoint of another training.
        TypeError: `batches` is neither callable nor iterable, or is a tensor.

    Warns:
        RuntimeWarning: no validation loss was a number.
    """
    steps = as_whole(steps, "steps", least=1)
    validate_every = as_whole(validate_every, "validate_every", least=1)
    callback_every = as_whole(callback_every, "callback_every", least=1)
    if checkpoint_every is None:
        checkpoint_every = max(1, steps // 10)
    checkpoint_every = as_whole(checkpoint_every, "checkpoint_every", least=1)
    if patience is not None:
        patience = as_whole(patience, "patience", least=1)
        if validation is None:
            raise ValueError("patience is given without validation: pass validation=... as well")
    if clip_norm is not None:
        clip_norm = as_number(clip_norm, "clip_norm", above=0)
    if ema_decay is not None:
        ema_decay = as_number(ema_decay, "ema_decay", least=0, below=1)
    run = _Run(parameters, ema_decay, extra_state or {})
    weights, history, device = run.weights, run.history, run.device
    rank, world = process_rank()
    factor = rate_factor(schedule, steps)
    updater = make_optimizer(optimizer, weights.trainable, learning_rate)
    base_rates = [group["lr"] for group in updater.param_groups]
    # On a GPU each look at the loss waits for the device.
    look_every = 1 if device.type == "cpu" else 20
    start = 0
    if checkpoint is not None:
        named = {
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "schedule": f"cosine over {steps} steps" if schedule == "cosine" else schedule,
            "clip_norm": clip_norm,
            "ema_decay": ema_decay,
            "validation": validation,
            "validate_every": validate_every,
            "patience": patience,
            "batches": batches,
            "extra_state": sorted(run.extra),
            "settings": settings,
        }
        start = run.restore(Path(checkpoint), fingerprint(weights, named), updater, steps)
    next_batch = by_step(batches, start if start < steps else 0)
    if start:
        restore_random_state(run.random, device)
    compute = data_parallel(loss, weights.module, weights.trainable) if start < steps else loss
    # Spares what the loss trains itself; hooks of DistributedDataParallel need the plain form.
    trained = weights.trainable if world == 1 and run.extra else None
    visible = progress and rank == 0 and os.environ.get("GALFLOW_PROGRESS", "1") != "0"
    bar = tqdm(total=steps, initial=start, desc=description, disable=not visible)
    weights.train(True)
    try:
        if start == 0 and callback is not None:
            with weights.evaluation(run.average):
                callback(0)
        for step in range(start, steps):
            last = step + 1 == steps
            saving = checkpoint is not None and (last or (step + 1) % checkpoint_every == 0)
            validating = validation is not None and (last or (step + 1) % validate_every == 0)
            for group, rate in zip(updater.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor(step)
            batch = next_batch(step)
            value = run.note(compute(batch))
            if last or saving or validating or (step + 1) % look_every == 0:
                run.look(batch, world)
                bar.set_postfix_str(f"loss {history.loss[-1]:.4g}", refresh=False)

            updater.zero_grad(set_to_none=True)
            value.backward(inputs=trained)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(weights.trainable, clip_norm)
            updater.step()
            run.update_average(step)
            if (last or saving or validating) and not weights.finite():
                history.loss.pop()
                raise run.diverged("the gradient is not finite", batch)
            bar.update()

            if validating:
                since = run.validate(loss, validation, step + 1)
                if patience is not None and since >= patience:
                    history.stopped = "early"
                    saving = checkpoint is not None
            if saving:
                run.save(step + 1)
            if callback is not None and (last or (step + 1) % callback_every == 0):
                with weights.evaluation(run.average):
                    callback(step + 1)
            if history.stopped == "early":
                break
    except KeyboardInterrupt:
        if world > 1:
            raise
        history.stopped = "interrupted"
        if not weights.finite():
            weights.put(run.good[0])
    finally:
        bar.close()
        weights.train(False)
    if history.validation_loss and run.best is None and rank == 0:
        warnings.warn(
            f"none of {len(history.validation_loss)} validation losses is a number, so the last "
            "weights are kept and not the best: look at the validation data",
            RuntimeWarning,
            stacklevel=2,
        )
    if run.best is not None:
        weights.put(run.best)
    elif run.average is not None:
        weights.put_trainable(run.average)
    broadcast(weights.tensors())
    history.seconds = run.seconds()
    return history


class _Run:
    """What a training has at a step: weights, their average, the best and the last good ones."""

    def __init__(
        self,
        parameters: nn.Module | Iterable[Tensor],
        ema_decay: float | None,
        extra: Mapping[str, Any],
    ) -> None:
        self.began, self.spent = time.perf_counter(), 0.0
        self.weights = Weights(parameters)
        if not self.weights.trainable:
            raise ValueError(
                f"none of the {len(self.weights.names)} parameters requires a gradient, expected "
                "at least one: pass the module that is to be trained"
            )
        self.device = self.weights.trainable[0].device
        start_processes(self.device)
        broadcast(self.weights.tensors())
        self.extra = dict(extra)
        self.others = [Weights(item) for item in extra.values() if isinstance(item, nn.Module)]
        self.ema_decay = ema_decay
        self.average: list[Tensor] | None = None
        if ema_decay is not None:
            self.average = [p.detach().clone() for p in self.weights.trainable]
        self.best: list[Tensor] | None = None
        self.good = self.weights.copy(), [other.copy() for other in self.others]
        self.history = History()
        self.random: dict[str, Tensor] = {}
        self._pending: list[tuple[Tensor, Mapping[str, Tensor]]] = []

    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.began

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

    def look(self, batch: Any, world: int) -> None:
        """Turn what was kept into numbers, averaged over all processes: waits for the device once.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        if len(self._pending) == world == 1:
            values = [self._pending[0][0].item()]
        else:
            values = (sum_over(torch.stack([value for value, _ in self._pending])) / world).tolist()
        for seen, (_, logs) in zip(values, self._pending, strict=True):
            if not math.isfinite(seen):
                raise self.diverged(f"the loss is {seen}", batch)
            self.history.loss.append(seen)
            for name, number in logs.items():
                self.history.logs.setdefault(name, []).append(float(number))
        self._pending.clear()
        # These weights have given a finite loss; those after the update may not.
        self.weights.copy_to(self.good[0])
        for other, kept in zip(self.others, self.good[1], strict=True):
            other.copy_to(kept)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        if self.average is not None:
            decay = min(self.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, self.weights.trainable, 1 - decay)

    def validate(self, loss: Callable, validation: Any, step: int) -> int:
        """Keep the weights if they are the best so far; number of validations since those were."""
        history = self.history
        with self.weights.evaluation(self.average):
            score = _validate(loss, validation, self.device)
            history.validation_steps.append(step)
            history.validation_loss.append(score)
            if score < (math.inf if self.best is None else history.best_loss):
                history.best_step, history.best_loss = step, score
                self.best = self.weights.copy()
        return sum(seen > (history.best_step or 0) for seen in history.validation_steps)

    def diverged(self, found: str, batch: Any) -> TrainingDiverged:
        """Restore the last good weights and say where and, as far as it is known, why it ended."""
        self.weights.put(self.good[0])
        for other, values in zip(self.others, self.good[1], strict=True):
            other.put(values)
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
        vars(self.history).update(_listed(state["history"]))
        self.spent, self.random = self.history.seconds, state["random"]
        for name, item in self.extra.items():
            item.load_state_dict(state["extra"][name])
        self.good = self.weights.copy(), [other.copy() for other in self.others]
        return steps if self.history.stopped == "early" else state["step"]

    def save(self, step: int) -> None:
        random = random_state(self.device)  # all processes take part
        self.history.seconds = self.seconds()
        if process_rank()[0] == 0:
            state = {
                "step": step,
                "fingerprint": self.wanted,
                "weights": dict(zip(self.weights.names, self.weights.tensors(), strict=True)),
                "optimizer": self.updater.state_dict(),
                "average": self.average,
                "best": self.best,
                "history": _packed(vars(self.history)),
                "random": random,
                "extra": {name: item.state_dict() for name, item in self.extra.items()},
            }
            write_state(self.path, state, kind=_KIND)


def _split(result: Any) -> tuple[Any, Mapping[str, Tensor]]:
    return result if isinstance(result, tuple) else (result, {})


def _validate(loss: Callable, validation: Any, device: torch.device) -> float:
    """Mean over all rows of all batches of all processes."""
    total, count = 0.0, 0
    if isinstance(validation, Iterable):
        for batch in validation:
            first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
            first = first[0] if isinstance(first, tuple | list) else first
            rows = len(first) if isinstance(first, Tensor) and first.ndim else 1
            total += float(_split(loss(batch))[0]) * rows
            count += rows
    else:
        total, count = float(validation()), 1
    sums = torch.tensor([total, count], dtype=torch.float64)
    total, count = sum_over(sums.to(device) if device.type == "cuda" else sums).tolist()
    if not count:
        raise ValueError(
            "validation gave no batches, expected at least one: pass TensorBatches or a list, "
            "which can be walked again and again"
        )
    return total / count


def _advice(step: int, batch: Any) -> str:
    parts = batch if isinstance(batch, tuple | list) else [batch]
    if any(
        isinstance(p, Tensor) and p.is_floating_point() and not p.isfinite().all() for p in parts
    ):
        return "the batch itself holds NaN or infinite values, so clean the data"
    if step == 0:
        return "no update has been made, so look at the loss and the data"
    return "lower learning_rate, set clip_norm or look at the loss"


def _packed(value: Any) -> Any:
    """Lists of numbers as tensors, which a file holds better than JSON."""
    if isinstance(value, Mapping):
        return {key: _packed(item) for key, item in value.items()}
    return torch.from_numpy(np.asarray(value)) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, Tensor) else value
