"""Optimisers by name and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..inputs import as_choice


def make_optimizer(
    optimizer: str | Callable, trainable: list[Tensor], learning_rate: float
) -> torch.optim.Optimizer:
    """The torch optimiser "adam" or "radam", or what a callable makes of the tensors."""
    if callable(optimizer):
        return optimizer(trainable)
    if as_choice(optimizer, "optimizer", ("adam", "radam")) == "radam":
        return torch.optim.RAdam(trainable, learning_rate)
    # One fused call for all parameters: the loop over parameters costs more than the arithmetic.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable)
    return torch.optim.Adam(trainable, learning_rate, fused=fused)


def rate_factor(schedule: str | Callable[[int], float], steps: int) -> Callable[[int], float]:
    """The factor on the learning rate as a function of the step, from 0 to `steps` - 1."""
    if callable(schedule):
        return schedule
    if as_choice(schedule, "schedule", ("constant", "cosine")) == "constant":
        return lambda step: 1.0
    return lambda step: (1 + math.cos(math.pi * step / steps)) / 2
