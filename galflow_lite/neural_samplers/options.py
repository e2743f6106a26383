"""How a sampler is trained: the arguments of train_sampler that its loop reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_whole
from .noise import LogUniform, Schedule, noise_level, value_at

__all__ = ["Options"]


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

    def __post_init__(self) -> None:
        """Check what can be checked before the first step, whether or not the method reads it.

        Numbers become those of Python, which a checkpoint can hold.

        Raises:
            ValueError: an unknown name, a number out of range, options that exclude one another.
        """
        for name, allowed in (
            ("method", ("dft", "fisher", "kl")),
            ("distance", ("squared", "pseudo-huber")),
            ("trace", ("exact", "hutchinson")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}: "
                    "choose one"
                )
        self._require_numbers()
        self._require_schedules()
        if self.antithetic and self.batch % 2:
            raise ValueError(
                f"batch is {self.batch}, expected an even number for antithetic pairs: change it"
            )
        if self.independent_scores and self.method != "dft":
            raise ValueError(
                f"found independent_scores with method {self.method!r}, expected 'dft': the "
                "gradient of KL is unbiased as it is, and that of Fisher has no such form"
            )

    def require(self, stochastic: bool) -> None:
        """Check that the loss can do with a target's kind of score.

        Raises:
            ValueError: a loss that is biased by a stochastic score.
        """
        if stochastic and self.method == "fisher":
            raise ValueError(
                "the target's score is stochastic, which biases method 'fisher': use 'kl', 'dft' "
                "or the score of all data"
            )
        if self.method != "dft" or self.distance == "squared":
            return
        if stochastic:
            raise ValueError(
                f"the target's score is stochastic, which biases distance {self.distance!r}: use "
                "'squared' or the score of all data"
            )
        if self.independent_scores:
            raise ValueError(
                f"found independent_scores with distance {self.distance!r}, expected 'squared': "
                "drop one"
            )
        for step in self._steps(self.alpha):
            if value_at(self.alpha, step) != 0.5:
                raise ValueError(
                    f"found distance {self.distance!r} with alpha {value_at(self.alpha, step)}, "
                    "expected 0.5: use distance='squared'"
                )

    def _require_numbers(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("pretrain", 0), ("warmup", 0)):
            setattr(self, name, as_whole(getattr(self, name), name, least=least))
        for name in ("learning_rate", "score_learning_rate", "c"):
            setattr(self, name, as_number(getattr(self, name), name, above=0))
        for name in ("decay", "decay_to"):
            expected = "a share from 0 to 1"
            setattr(self, name, _number(name, getattr(self, name), expected, lambda v: 0 <= v <= 1))
        self.noise_weight = _number(
            "noise_weight", self.noise_weight, "a finite power of sigma", math.isfinite
        )
        if self.clip_norm is not None:
            self.clip_norm = _number(
                "clip_norm", self.clip_norm, "a number above 0, or None", lambda v: v > 0
            )
        if self.ema_decay is not None:
            self.ema_decay = _number(
                "ema_decay", self.ema_decay, "0 <= ema_decay < 1, or None", lambda v: 0 <= v < 1
            )
        try:
            betas = tuple(float(beta) for beta in self.betas)
        except (TypeError, ValueError):
            betas = ()
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"betas is {self.betas!r}, expected two numbers from 0 up to below 1: use (0, 0.99)"
            )
        self.betas = betas
        self.antithetic = bool(self.antithetic)
        self.independent_scores = bool(self.independent_scores)
        if not callable(self.noised):
            self.noised = bool(self.noised)

    def _require_schedules(self) -> None:
        """At every step, so that a wrong one does not end a training half way."""
        sigma = self.sigma
        parts = {"sigma": sigma, "tempering": self.tempering, "alpha": self.alpha}
        if isinstance(sigma, LogUniform):
            del parts["sigma"]
            parts |= {"low of sigma": sigma.low, "high of sigma": sigma.high}
        for step in self._steps(*parts.values(), self.score_steps):
            for name, schedule in parts.items():
                value = schedule(step) if callable(schedule) else schedule
                _number(f"{name} at step {step}", value, "a number", lambda _: True)
            noise_level(sigma, 1, step, torch.Generator())
            self.tempering_at(step)
            self.alpha_at(step)
            self.score_steps_at(step)

    def _steps(self, *schedules: Any) -> range:
        """Steps at which the schedules may differ."""
        return range(self.steps if any(callable(each) for each in schedules) else 1)

    def tempering_at(self, step: int) -> float:
        """The factor of the target's score at a step.

        Raises:
            ValueError: not positive.
        """
        beta = value_at(self.tempering, step)
        if not 0 < beta < math.inf:
            raise ValueError(
                f"tempering is {beta} at step {step}, expected a finite number above 0: use 1"
            )
        return beta

    def alpha_at(self, step: int) -> float:
        """Alpha of the DFT loss at a step.

        Raises:
            ValueError: NaN or infinite.
        """
        alpha = value_at(self.alpha, step)
        if not math.isfinite(alpha):
            raise ValueError(f"alpha is {alpha} at step {step}, expected a finite number: use 0.5")
        return alpha

    def score_steps_at(self, step: int) -> int:
        """Steps of the score network at a step.

        Raises:
            ValueError: no whole number from 0 up.
        """
        count = self.score_steps
        if callable(count):
            return as_whole(count(step), f"score_steps at step {step}")
        return as_whole(count, "score_steps")


def _number(name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool) or not fits(number):
        raise ValueError(f"{name} is {value!r}, expected {expected}: change it")
    return number
