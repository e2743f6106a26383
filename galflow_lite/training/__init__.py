"""Training: one loop, `fit`, for everything that learns here, and the minibatches it takes."""

from __future__ import annotations

import math
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..files import bars_hidden
from ..inputs import as_choice, as_number, as_tensor, as_whole, mixed_seed, no_waiting, sent
from .state import History, TrainingDiverged, TrainingState, fingerprint

__all__ = [
    "History",
    "TensorBatches",
    "TrainingDiverged",
    "fit",
    "threads",
]


# Steps between two looks at the loss on a GPU, each of which waits for the device.
LOOK_EVERY = 20


def fit(
    loss: Callable[[Any], Tensor | tuple[Tensor, Mapping[str, Tensor]]],
    module: nn.Module,
    batches: Callable[[int], Any],
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
    cuda_graph: bool = False,
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
        module: what is trained; its buffers are kept with its weights.
        batches: a callable step -> batch, such as `TensorBatches`.
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
            from there to the same result as without the pause.
        checkpoint_every: steps between checkpoints, a tenth of `steps` by default; there is one
            at the end as well.
        extra_state: named objects with `state_dict` and `load_state_dict` that the loss changes
            itself, for example a critic and its optimiser: checkpointed with the rest. Gradients
            are then computed for `module` alone, and modules get back their last good weights
            when the training diverges.
        settings: what else makes this training what it is (columns, seeds, architecture), as plain
            values: a checkpoint with other settings, weights or batches is refused.
        callback: called as callback(step) before the first step, every `callback_every` steps and
            after the last, under the conditions of a validation.
        callback_every: steps between calls.
        cuda_graph: on the current CUDA device, capture loss and gradient of a batch once and repeat
            them, so that thousands of launches become one; elsewhere it changes nothing. For a loss
            that returns the scalar alone, computes the same operations at every step, and needs
            neither numbers of the host nor generators of its own; batches are tuples of tensors of
            one shape. It is tested on a pretended device and has not been timed on a GPU.
        progress: show a bar; the environment variables GALFLOW_PROGRESS=0 and GALFLOW_QUIET=1 hide
            all bars.
        description: text beside the bar.

    Returns:
        A `History`. Ctrl-C ends the training with `stopped="interrupted"` and the same choice of
        weights as above.

    Raises:
        TrainingDiverged: the loss or its gradient is NaN or infinite; the module holds the last
            good weights.
        ValueError: a number out of its range, no trainable parameters, a loss that is not a scalar
            or does not depend on them, unknown names, or a checkpoint of another training.
        TypeError: `batches` is not callable.

    Warns:
        RuntimeWarning: no validation loss was a number.
    """
    steps = as_whole(steps, "steps", least=1)
    if checkpoint_every is None:
        checkpoint_every = max(1, steps // 10)
    counts = dict(validate_every=validate_every, callback_every=callback_every)
    counts |= dict(checkpoint_every=checkpoint_every)
    if patience is not None:
        counts["patience"] = patience
        if validation is None:
            raise ValueError("patience is given without validation: pass validation=... as well")
    for name, count in counts.items():
        as_whole(count, name, least=1)
    if clip_norm is not None:
        as_number(clip_norm, "clip_norm", above=0)
    if ema_decay is not None:
        as_number(ema_decay, "ema_decay", least=0, below=1)
    if not callable(batches):
        raise TypeError(
            f"batches is a {type(batches).__name__}, expected a callable step -> batch: pass "
            "TensorBatches(..., batch_size=...), or a function"
        )
    run = TrainingState(module, ema_decay, extra_state or {})
    weights, history, device = run.weights, run.history, run.device
    factor = _rate_factor(schedule, steps)
    updater = _make_optimizer(optimizer, weights.trainable, learning_rate)
    base_rates = [group["lr"] for group in updater.param_groups]
    look_every = 1 if device.type == "cpu" else LOOK_EVERY
    on_cuda = device.type == "cuda" and device.index == torch.cuda.current_device()
    keep_memory()
    repeat, start = None, 0
    if checkpoint is not None:
        rate = f"cosine over {steps} steps" if schedule == "cosine" else schedule
        named = dict(learning_rate=learning_rate, optimizer=optimizer, schedule=rate)
        named |= dict(clip_norm=clip_norm, ema_decay=ema_decay, batches=batches, settings=settings)
        named |= dict(validation=validation, validate_every=validate_every, patience=patience)
        named |= dict(extra_state=sorted(run.extra))
        start = run.restore(Path(checkpoint), fingerprint(weights, named), updater, steps)
    # Spares what the loss trains itself.
    trained = weights.trainable if run.extra else None
    hidden = not progress or bars_hidden()
    bar = tqdm(total=steps, initial=start, desc=description, disable=hidden)
    module.train()
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
            with no_waiting():
                batch = batches(step)
                if cuda_graph and on_cuda and repeat is None:
                    repeat = _captured(loss, weights.trainable, batch)
                value = run.note((repeat or loss)(batch))
            if last or saving or validating or (step + 1) % look_every == 0:
                run.look(batch)
                bar.set_postfix_str(f"loss {history.loss[-1]:.4g}", refresh=False)

            if repeat is None:
                updater.zero_grad(set_to_none=True)
                value.backward(inputs=trained)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(weights.trainable, clip_norm)
            updater.step()
            run.update_average(step)
            if (last or saving or validating) and not weights.finite():
                for values in (history.loss, *history.logs.values()):
                    values.pop()
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
        history.stopped = "interrupted"
        if not weights.finite():
            run.put_back()
    finally:
        bar.close()
        module.eval()
    if history.validation_loss and run.best is None:
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
    history.seconds = run.seconds()
    return history


def _captured(
    loss: Callable[[list], Tensor], parameters: list[Tensor], batch: Iterable[Tensor | None]
) -> Callable[[Iterable[Tensor | None]], Tensor]:
    """The loss and its gradients as one CUDA graph, captured with a first batch.

    It repeats what was launched then on the memory of then: batches are copied into that of the
    first one, and gradients appear where they were.
    """
    places = [part if part is None else part.clone() for part in batch]

    def evaluate() -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        value = loss(places)
        value.backward()
        return value

    # Libraries set themselves up at first use, which cannot be captured, and on another stream than
    # the main one, on which a capture must not depend.
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(3):
            evaluate()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = evaluate()

    def repeat(batch: Iterable[Tensor | None]) -> Tensor:
        for place, part in zip(places, batch, strict=True):
            if place is not None:
                place.copy_(part.view_as(place))
        graph.replay()
        return value.clone()

    return repeat


def _make_optimizer(
    optimizer: str | Callable, trainable: list[Tensor], learning_rate: float
) -> torch.optim.Optimizer:
    """The torch optimiser "adam" or "radam", or what a callable makes of the tensors."""
    if callable(optimizer):
        return optimizer(trainable)
    learning_rate = as_number(learning_rate, "learning_rate", least=0)
    if as_choice(optimizer, "optimizer", ("adam", "radam")) == "radam":
        return torch.optim.RAdam(trainable, learning_rate)
    # One fused call for all parameters: the loop over parameters costs more than the arithmetic.
    return torch.optim.Adam(trainable, learning_rate, fused=True)


def _rate_factor(schedule: str | Callable[[int], float], steps: int) -> Callable[[int], float]:
    """The factor on the learning rate as a function of the step, from 0 to `steps` - 1."""
    if callable(schedule):
        return lambda step: as_number(schedule(step), f"schedule({step})", least=0)
    if as_choice(schedule, "schedule", ("constant", "cosine")) == "constant":
        return lambda step: 1.0
    return lambda step: (1 + math.cos(math.pi * step / steps)) / 2


class TensorBatches:
    """Shuffled minibatches of tensors that share their first dimension.

    `batches(step)` is the batch of that step, whatever was asked before: the permutation of an
    epoch depends on `seed` and the epoch alone, so that a resumed run sees the same batches. Every
    row occurs once an epoch, up to those that do not fill a batch, which differ from epoch to
    epoch.

    `len(batches)` is the number of batches an epoch. Iterating goes through all rows once, in
    their order and with no row dropped, which is what a validation needs.

    Args:
        tensors: floating tensors or arrays, or tensors of integers, each of shape (rows, ...).
        batch_size: rows in a batch; `None`, or more than there are rows, means all rows.
        seed: of the permutations.

    Raises:
        ValueError: no rows, unequal numbers of rows, NaN or infinite values, `batch_size` below 1.

    Example:
        >>> batches = TensorBatches(torch.randn(1000, 3), batch_size=100)
        >>> len(batches), batches(12)[0].shape
        (10, torch.Size([100, 3]))
    """

    def __init__(self, *tensors: Any, batch_size: int | None, seed: int = 0):
        self.tensors = tuple(_columns(tensor, i) for i, tensor in enumerate(tensors))
        counts = [len(tensor) for tensor in self.tensors]
        if len(set(counts)) != 1 or not counts[0]:
            raise ValueError(
                f"TensorBatches got tensors with {counts} rows, expected one number above 0: "
                "pass tensors of equal length"
            )
        self.rows = counts[0]
        size = self.rows if batch_size is None else as_whole(batch_size, "batch_size", least=1)
        self.batch_size = min(size, self.rows)
        self.seed = as_whole(seed, "seed")
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.rows // self.batch_size

    @property
    def settings(self) -> str:
        """What a checkpoint compares before it goes on with these batches: data included."""
        content = 0
        for tensor in self.tensors:
            raw = tensor.detach().cpu().flatten().view(torch.uint8)
            content = zlib.crc32(raw.numpy(), content)
        sizes = f"batch_size {self.batch_size}, seed {self.seed}"
        return f"{self.rows} rows with checksum {content:08x}, {sizes}"

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step (from 0): tensors of shape (batch_size, ...)."""
        epoch, index = divmod(step, len(self))
        first = index * self.batch_size
        if self.batch_size == self.rows:
            return self.tensors
        if epoch != self._epoch:
            # seed + epoch would give seed 1 the batches of seed 0 an epoch later, and torch's CPU
            # generator looks at 32 bits of its seed only.
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            order = torch.randperm(self.rows, generator=generator)
            self._epoch, self._order = epoch, sent(order, self.tensors[0].device)
        rows = self._order[first : first + self.batch_size]
        return tuple(t.index_select(0, rows.to(t.device)) for t in self.tensors)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, self.rows, self.batch_size):
            yield tuple(tensor[start : start + self.batch_size] for tensor in self.tensors)


def _columns(value: Any, index: int) -> Tensor:
    """Tensors of integers, such as labels, stay what they are; arrays keep single precision."""
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value
    single = getattr(value, "dtype", None) == np.float32
    return as_tensor(value, f"tensor {index}", dtype=torch.float32 if single else None)


_threads_lock = threading.Lock()
_threads_before: list[int] = []


@cache
def keep_memory() -> None:
    """Let the C library keep what a step frees for the next one: a tenth of the time of a U-Net.

    glibc maps a large block again each time, until one has been freed that is larger still.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch so many threads in this block: many of them slow small networks down.

    Blocks in different Python threads may overlap: the last one to end puts back the number from
    before the first one.
    """
    with _threads_lock:
        _threads_before.append(_threads_before[0] if _threads_before else torch.get_num_threads())
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _threads_lock:
            before = _threads_before.pop()
            if not _threads_before:
                torch.set_num_threads(before)
