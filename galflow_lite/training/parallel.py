"""Several processes under torchrun: who am I, start, average, gather."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "average_over",
    "broadcast",
    "data_parallel",
    "gather",
    "process_rank",
    "start_processes",
    "sum_over",
]


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
    ready = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if ready and dist.is_available() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
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


def average_over(values: list[Tensor]) -> list[float]:
    """Scalars averaged over all processes, as numbers; waits for the device once."""
    world = process_rank()[1]
    if world > 1:
        return (sum_over(torch.stack(values)) / world).tolist()
    return [values[0].item()] if len(values) == 1 else torch.stack(values).tolist()


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
    """The loss with gradients averaged over the processes; the loss itself when there is one.

    Raises:
        TypeError: `trainable` holds plain tensors and there is more than one process.
    """
    if process_rank()[1] == 1:
        return loss
    if module is None:
        if not all(isinstance(p, nn.Parameter) for p in trainable):
            raise TypeError(
                "training in several processes got plain tensors as parameters, expected an "
                "nn.Module or nn.Parameter objects: pass the module"
            )
        module = nn.ParameterList(trainable)
    device = trainable[0].device
    return nn.parallel.DistributedDataParallel(
        _LossModule(loss, module), device_ids=[device] if device.type == "cuda" else None
    )
