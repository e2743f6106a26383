"""Optimisers by name and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..inputs import as_choice, as_whole

_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
}


def make_optimizer(
    optimizer: str | Callable, trainable: list[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The torch optimiser "adam", "adamw" or "radam", or what a callable makes of the tensors."""
    if callable(optimizer):
        return optimizer(trainable)
    kind = _OPTIMIZERS[as_choice(optimizer, "optimizer", _OPTIMIZERS)]
    # One fused call for all parameters: the loop over parameters costs more than the arithmetic.
    # Rectified Adam has no such form.
    fused = optimizer != "radam" and all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable
    )
    options = {"fused": True} if fused else {}
    return kind(trainable, lr=learning_rate, weight_decay=weight_decay, **options)


def rate_factor(
    schedule: str | Callable[[int], float], steps: int, warmup_steps: int = 0
) -> Callable[[int], float]:
    """The factor on the learning rate as a function of the step, from 0 to `steps` - 1.

    During the first `warmup_steps` it is (step + 1) / warmup_steps times the schedule at its
    start; the schedule itself begins after them.

    Raises:
        ValueError: an unknown schedule, or a warm-up that is not shorter than the training.
    """
    if not as_whole(warmup_steps, "warmup_steps") < steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, expected fewer than steps = {steps}: shorten it"
        )
    if not callable(schedule):
        as_choice(schedule, "schedule", ("constant", "cosine"))

    def curve(step: int) -> float:
        if callable(schedule):
            return schedule(step)
        if schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * step / (steps - warmup_steps))) / 2

    def factor(step: int) -> float:
        if step < warmup_steps:
            return curve(0) * (step + 1) / warmup_steps
        return curve(step - warmup_steps)

    return factor
