"""How a sampler is trained: the arguments of train_sampler that its loop reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .noise import LogUniform, Schedule, noise_level

__all__ = ["Options"]

_METHODS = ("dft", "fisher", "kl")


@dataclass
class Options:
    """The arguments of `train_sampler` that the loop reads, described there."""

    method: str
    steps: int
    sigma: Schedule | LogUniform
    noised: bool | Callable[[Tensor, Tensor], Tensor]
    noise_weight: float
    tempering: Schedule
    alpha: Schedule
    distance: str
    c: float
    trace: str
    independent_scores: bool
    antithetic: bool
    batch: int
    score_steps: int | Callable[[int], int]
    pretrain: int
    learning_rate: float
    score_learning_rate: float
    betas: tuple[float, float]
    warmup: int
    decay: float
    decay_to: float
    clip_norm: float | None
    ema_decay: float | None

    def warmup_factor(self, step: int) -> float:
        """On the sampler's rate alone: a line up to 1 over the first `warmup` steps."""
        rise = min(self.warmup, self.steps // 5)
        return min(1.0, (step + 1) / (rise + 1))

    def rate_factor(self, step: int) -> float:
        """1, then a line down to `decay_to` over the last share `decay` of the steps."""
        start = (1 - self.decay) * self.steps
        if step < start:
            return 1.0
        return 1 - (1 - self.decay_to) * (step - start) / (self.steps - start)

    def require(self, stochastic: bool) -> None:
        """Check what can be checked before the first step, for a target's kind of score.

        Raises:
            ValueError: an unknown method, a number out of range, options that exclude another.
        """
        method, sigma = self.method, self.sigma
        if method not in _METHODS:
            raise ValueError(
                f"method is {method!r}, expected one of {', '.join(_METHODS)}: choose one"
            )
        if self.antithetic and self.batch % 2:
            raise ValueError(
                f"batch is {self.batch}, expected an even number for antithetic pairs: change it"
            )
        # The first and the last step; the others are checked as they come.
        for step in (0, self.steps - 1):
            noise_level(sigma, 1, step, torch.Generator())
        if self.independent_scores and method != "dft":
            raise ValueError(
                f"found independent_scores with method {method!r}, expected 'dft': the gradient "
                "of KL is unbiased as it is, and that of Fisher has no such form"
            )
        if stochastic and method == "fisher":
            raise ValueError(
                "the target's score is stochastic, which biases method 'fisher': use 'kl', 'dft' "
                "or the score of all data"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"betas is {self.betas}, expected two numbers from 0 up to below 1: use (0, 0.99)"
            )
        for name, value in (("decay", self.decay), ("decay_to", self.decay_to)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a share from 0 to 1: change it")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}, expected above 0, or None: use 10")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"ema_decay is {self.ema_decay}, expected 0 <= ema_decay < 1, or None: use 0.99"
            )

    def plain(self) -> dict[str, Any]:
        """In types that a checkpoint can hold: functions by their name."""
        settings = dict(vars(self))
        for name, value in settings.items():
            if isinstance(value, LogUniform):
                settings[name] = repr(value)
            elif callable(value):
                settings[name] = getattr(value, "__name__", type(value).__name__)
        return settings
