"""I_t = α_t x0 + β_t x1: the schedules α, β and their exact derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_number, as_tensor, may_look

TimeFunction = Callable[[Tensor], Tensor]


def derivative(function: TimeFunction, t: Tensor) -> Tensor:
    """Exact time derivative of a function written in torch that acts element by element."""
    with torch.inference_mode(False), torch.enable_grad():
        times = t.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            function(times).sum(), times, allow_unused=True, materialize_grads=True
        )
    return slope


class Coefficients(NamedTuple):
    """Coefficients at given times; a rate is a time derivative."""

    alpha: Tensor
    beta: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor


@dataclass(frozen=True)
class Schedule:
    r"""Coefficients of a stochastic interpolant, Definition 3.1 (eq. 1) of arXiv:2310.03725.

    α_0 = β_1 = 1 and α_1 = β_0 = 0: t = 0 is the base x0 and t = 1 the data x1. (Section 4.1 of the
    paper writes α and β in the other order; the definition is followed here.) The latent noise γ of
    the definition is zero, as in the paper's experiments.

    Args:
        alpha, beta: functions of a tensor of times, written in torch, which differentiates them.

    Raises:
        ValueError: wrong boundary values.

    Example:
        >>> curved = Schedule(lambda t: (1 - t) ** 2, lambda t: t**3)
        >>> curved.alpha_rate(torch.tensor(0.5))
        tensor(-1.)
    """

    alpha: TimeFunction
    beta: TimeFunction

    def __post_init__(self) -> None:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torch.stack([self.alpha(ends), self.beta(ends)])
        if not np.allclose(found, [[1, 0], [0, 1]], atol=1e-6):
            raise ValueError(
                f"alpha and beta are {found.tolist()} at t = 0 and 1, expected [1, 0] and [0, 1] "
                "(t = 0 is the base, t = 1 the data): correct them"
            )

    @staticmethod
    def linear() -> Schedule:
        """α = 1-t, β = t: the schedule of the paper's experiments."""
        return Schedule(_falling, _rising)

    def alpha_rate(self, t: Tensor) -> Tensor:
        """α̇_t."""
        return -torch.ones_like(t) if self.alpha is _falling else derivative(self.alpha, t)

    def beta_rate(self, t: Tensor) -> Tensor:
        """β̇_t."""
        return torch.ones_like(t) if self.beta is _rising else derivative(self.beta, t)

    def at(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """Coefficients at one time for each sample, shaped to multiply `x`.

        Args:
            t: times in [0, 1], shape (batch,), or one number for all.
            x: shape (batch, *dim).

        Raises:
            ValueError: times outside [0, 1].
        """
        times = as_tensor(t, "times", like=x)
        for end in times.aminmax() if may_look(times) else ():
            as_number(end, "times", least=0, most=1)
        t = times.expand(len(x)).view(-1, *[1] * (x.ndim - 1))
        return Coefficients(self.alpha(t), self.beta(t), self.alpha_rate(t), self.beta_rate(t))

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """I_t = α x0 + β x1 (eq. 1) and its time derivative İ_t.

        Args:
            x0: base, shape (batch, *dim).
            x1: data, of the same shape.
            t: times in [0, 1], shape (batch,), or one number.
        """
        c = self.at(t, x0)
        return c.alpha * x0 + c.beta * x1, c.alpha_rate * x0 + c.beta_rate * x1


def _falling(t: Tensor) -> Tensor:
    return 1 - t


def _rising(t: Tensor) -> Tensor:
    return t.clone()
