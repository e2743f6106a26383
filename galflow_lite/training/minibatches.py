"""Minibatches, and what a training asks of the process: its threads and its memory."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_tensor, as_whole, mixed_seed

_threads_lock = threading.Lock()
_threads_before: list[int] = []


@cache
def keep_memory() -> None:
    """Let the C library keep what a step frees for the next one: a tenth of the time of a U-Net.

    glibc maps a large block anew each time, until one has been freed that is larger still.
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
            self._epoch, self._order = epoch, order.to(self.tensors[0].device)
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
