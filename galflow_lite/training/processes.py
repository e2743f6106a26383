"""Several processes under torchrun (who am I, start, average, gather), and the threads of one."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_threads_lock = threading.Lock()
_threads_before: list[int] = []


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


def process_rank() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def start_processes(device: torch.device) -> tuple[int, int]:
    """Join the process group that torchrun describes, if it does; returns `process_rank()`.

    Processes other than the first go on with a random stream of their own, because noise drawn
    inside a loss would be the same in all of them after the same torch.manual_seed.
    """
    if "LOCAL_RANK" in os.environ and dist.is_available() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device if device.index else int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_stop_processes)
    rank, world = process_rank()
    if rank:
        torch.manual_seed(int(torch.randint(2**31, ())) + rank)
    return rank, world


def _stop_processes() -> None:
    if not dist.is_initialized():
        return
    if dist.get_backend() == "gloo":
        # Who leaves early can abort one that is still closing its connections. After a failure
        # elsewhere nobody comes: then the wait ends by itself.
        with suppress(RuntimeError):
            dist.monitored_barrier(timeout=timedelta(seconds=10))
    dist.destroy_process_group()


def sum_over(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, on all of them; the tensor itself when there is one."""
    if process_rank()[1] > 1:
        dist.all_reduce(values)
    return values


def gather(values: Tensor, device: torch.device) -> Tensor:
    """Tensors of one shape from all processes, stacked by rank, shape (processes, ...)."""
    world = process_rank()[1]
    if world == 1:
        return values[None]
    parts = [torch.empty_like(values, device=device) for _ in range(world)]
    dist.all_gather(parts, values.to(device))
    return torch.stack(parts).cpu()


def broadcast(tensors: list[Tensor]) -> None:
    """Give every process the values of the first one, in place."""
    if process_rank()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


class _LossModule(nn.Module):
    """A loss as a module, so that DistributedDataParallel sees the call and the parameters."""

    def __init__(self, loss: Callable, owner: nn.Module):
        super().__init__()
        self.owner = owner
        # Hidden from nn.Module: a loss that is itself a module may hold the same parameters.
        self._loss = (loss,)

    def forward(self, batch: object) -> Tensor:
        return self._loss[0](batch)


def data_parallel(loss: Callable, module: nn.Module | None, trainable: list[Tensor]) -> Callable:
    """The loss with gradients averaged over the processes; the loss itself when there is one."""
    if process_rank()[1] == 1:
        return loss
    device = trainable[0].device
    return nn.parallel.DistributedDataParallel(
        _LossModule(loss, nn.ParameterList(trainable) if module is None else module),
        device_ids=[device] if device.type == "cuda" else None,
    )
