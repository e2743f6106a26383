"""What changes in the course of a training: noise levels, temperatures and learning rates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..inputs import as_number, as_whole

Schedule = float | Callable[[int], float]


def geometric(start: float, stop: float, steps: int) -> Callable[[int], float]:
    """Schedule that goes from `start` to `stop` by a constant factor a step, then stays there.

    Args:
        start: value at step 0, positive.
        stop: value from step `steps` on, positive.
        steps: at least 1.
    """
    start, stop = as_number(start, "start", above=0), as_number(stop, "stop", above=0)
    return partial(_geometric, start=start, stop=stop, steps=as_whole(steps, "steps", least=1))


def linear_decay(
    start: float, steps: int, *, share: float = 0.3, warmup: int = 0
) -> Callable[[int], float]:
    """Learning rate that falls on a line to a twentieth of `start` at the end of a training.

    Args:
        start: value before it falls, positive.
        steps: of the whole training.
        share: of the steps, at the end, in which it falls, from 0 to 1.
        warmup: steps over which it rises first, at most a fifth of all.
    """
    return partial(
        _linear_decay,
        start=as_number(start, "the learning rate", above=0),
        steps=as_whole(steps, "steps", least=1),
        share=as_number(share, "share", least=0, most=1),
        warmup=as_whole(warmup, "warmup"),
    )


class LogUniform:
    """Noise levels drawn for each point, uniform in log sigma.

    Args:
        low: smallest level, positive; a number or a schedule.
        high: largest level, alike; a schedule can narrow the range towards the end.
    """

    def __init__(self, low: Schedule, high: Schedule) -> None:
        self.low, self.high = low, high

    def draw(
        self, n: int, step: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Levels of n points at a step, shape (n, 1)."""
        low, high = value_at(self.low, step), value_at(self.high, step)
        uniform = torch.rand(n, 1, generator=generator, device=generator.device, dtype=dtype)
        return low * (high / low) ** uniform


def value_at(schedule: Schedule, step: int) -> float:
    """A schedule at a step; a number is the same at every step."""
    return float(schedule(step)) if callable(schedule) else float(schedule)


# At the level of the module, so that schedules can be pickled.
def _geometric(step: int, *, start: float, stop: float, steps: int) -> float:
    return start * (stop / start) ** min(1.0, step / steps)


def _linear_decay(step: int, *, start: float, steps: int, share: float, warmup: int) -> float:
    begin = (1 - share) * steps
    fall = 1 - (1 - 0.05) * (step - begin) / (steps - begin) if step >= begin else 1.0
    rise = min(1.0, (step + 1) / (min(warmup, steps // 5) + 1))
    return start * fall * rise
