"""Optimisers by name and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["make_optimizer", "rate_factor"]


def make_optimizer(
    optimizer: str | Callable, trainable: list[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    if callable(optimizer):
        return optimizer(trainable)
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if optimizer == "radam":
        return torch.optim.RAdam(trainable, **options)
    if optimizer not in ("adam", "adamw"):
        raise ValueError(
            f"optimizer is {optimizer!r}, expected 'adam', 'adamw', 'radam' or a callable: "
            "choose one"
        )
    # One fused call for all parameters: the loop over parameters costs more than the arithmetic.
    options["fused"] = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable
    )
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](trainable, **options)


def rate_factor(
    schedule: str | Callable[[int], float], steps: int, warmup_steps: int = 0
) -> Callable[[int], float]:
    """The factor on the learning rate as a function of the step, from 0 to `steps` - 1.

    During the first `warmup_steps` it is (step + 1) / warmup_steps times the schedule at its
    start; the schedule itself begins after them.

    Raises:
        ValueError: an unknown schedule, or a warm-up that is not shorter than the training.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, expected 0 <= warmup_steps < steps = {steps}: "
            "shorten the warm-up"
        )
    if callable(schedule):
        curve = schedule
    elif schedule == "constant":

        def curve(step: int) -> float:
            return 1.0

    elif schedule == "cosine":

        def curve(step: int) -> float:
            return (1 + math.cos(math.pi * step / (steps - warmup_steps))) / 2

    else:
        raise ValueError(
            f"schedule is {schedule!r}, expected 'constant', 'cosine' or a callable: choose one"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return curve(0) * (step + 1) / warmup_steps
        return curve(step - warmup_steps)

    return factor
