"""Noise levels of a training: a number, a schedule over steps, or a law for each point."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LogUniform", "Schedule", "geometric", "noise_level", "value_at"]

Schedule = float | Callable[[int], float]


def geometric(start: float, stop: float, steps: int) -> Callable[[int], float]:
    """Schedule that goes from `start` to `stop` by a constant factor a step, then stays there.

    Args:
        start: value at step 0, positive.
        stop: value from step `steps` on, positive.
        steps: at least 1.

    Raises:
        ValueError: a value that is not positive, or no steps.
    """
    if not (0 < start < math.inf and 0 < stop < math.inf) or steps < 1:
        raise ValueError(
            f"found a ramp from {start} to {stop} over {steps} steps, expected positive numbers: "
            "change them"
        )

    def schedule(step: int) -> float:
        return start * (stop / start) ** min(1.0, step / steps)

    return schedule


class LogUniform:
    """Noise levels drawn for each point, uniform in log sigma.

    Args:
        low: smallest level, positive; a number or a schedule.
        high: largest level, alike; a schedule can narrow the range towards the end.
    """

    def __init__(self, low: Schedule, high: Schedule) -> None:
        self.low, self.high = low, high

    def __repr__(self) -> str:
        return f"LogUniform({_name(self.low)}, {_name(self.high)})"

    def draw(self, n: int, step: int, generator: torch.Generator) -> Tensor:
        """Levels of n points at a step, shape (n, 1).

        Raises:
            ValueError: not 0 < low <= high.
        """
        low, high = value_at(self.low, step), value_at(self.high, step)
        if not 0 < low <= high < math.inf:
            raise ValueError(
                f"sigma is drawn between {low} and {high} at step {step}, expected 0 < low <= "
                "high: change the law"
            )
        uniform = torch.rand(n, 1, generator=generator, device=generator.device)
        return low * (high / low) ** uniform


def noise_level(
    sigma: Schedule | LogUniform, n: int, step: int, generator: torch.Generator
) -> float | Tensor:
    """The level at a step: a number, or shape (n, 1) for a law.

    Raises:
        ValueError: not positive.
    """
    if isinstance(sigma, LogUniform):
        return sigma.draw(n, step, generator)
    level = value_at(sigma, step)
    if not 0 < level < math.inf:
        raise ValueError(
            f"sigma is {level} at step {step}, expected a finite number above 0: use 0.1"
        )
    return level


def value_at(schedule: Schedule, step: int) -> float:
    """A schedule at a step; a number is the same at every step."""
    return float(schedule(step)) if callable(schedule) else float(schedule)


def _name(schedule: Schedule) -> object:
    return getattr(schedule, "__name__", "schedule") if callable(schedule) else schedule
