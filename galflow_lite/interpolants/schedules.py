"""I_t = α_t x0 + β_t x1 + γ_t z: the schedules α, β, γ and their exact derivatives."""

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
    """Coefficients at given times; a rate is a time derivative, `gamma_product` is γγ̇."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor
    gamma_product: Tensor


class Interpolant(NamedTuple):
    """I_t and its time derivative İ_t, both of the shape of x0."""

    value: Tensor
    rate: Tensor


@dataclass(frozen=True)
class Schedule:
    r"""Coefficients of a stochastic interpolant, Definition 3.1 (eq. 1) of arXiv:2310.03725.

    α_0 = β_1 = 1 and α_1 = β_0 = γ_0 = γ_1 = 0: t = 0 is the base x0 and t = 1 the data x1.
    (Section 4.1 of the paper writes α and β in the other order; the definition is followed here.)

    γ is given by its square: Definition 3.1 asks for a differentiable γ² and not γ, as γγ̇, half the
    derivative of γ², can be finite where γ̇ is not. The families of arXiv:2303.08797 (its Table 8)
    are 2t(1-t), the example of Definition 3.1, with γ̇ infinite at both ends, so that the bound of
    Proposition 3.1 is infinite; t²(1-t)²; and sin⁴(πt), with γ̇ = 0 at both ends.

    Args:
        alpha, beta: functions of a tensor of times, written in torch, which differentiates them.
        gamma_squared: γ²_t, likewise; None for no latent noise.

    Raises:
        ValueError: wrong boundary values, or all coefficients zero at some time.

    Example:
        >>> curved = Schedule(lambda t: (1 - t) ** 2, lambda t: t**3, lambda t: 2 * t * (1 - t))
        >>> curved.has_noise
        True
    """

    alpha: TimeFunction
    beta: TimeFunction
    gamma_squared: TimeFunction | None = None

    def __post_init__(self) -> None:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torch.stack([curve(ends) for curve in (self.alpha, self.beta, self.gamma)])
        right = np.allclose(found, [[1, 0], [0, 1], [0, 0]], atol=1e-6)
        inner = torch.linspace(0, 1, 1001, dtype=torch.float64)
        size = sum(curve(inner).square() for curve in (self.alpha, self.beta, self.gamma))
        if not right or not bool((size > 0).all()):
            raise ValueError(
                f"alpha, beta and gamma are {found.tolist()} at t = 0 and 1, expected [1, 0], "
                "[0, 1] and [0, 0] (t = 0 is the base, t = 1 the data), and never all zero: "
                "correct them"
            )

    @staticmethod
    def linear(gamma_squared: TimeFunction | None = None) -> Schedule:
        """α = 1-t, β = t: the schedule of the paper's experiments (with γ = 0)."""
        return Schedule(_falling, _rising, gamma_squared)

    @property
    def has_noise(self) -> bool:
        """Whether γ is not identically zero."""
        return self.gamma_squared is not None

    def gamma(self, t: Tensor) -> Tensor:
        """γ_t."""
        return self.gamma_squared(t).sqrt() if self.has_noise else torch.zeros_like(t)

    def gamma_product(self, t: Tensor) -> Tensor:
        """γ_t γ̇_t."""
        return derivative(self.gamma_squared, t) / 2 if self.has_noise else torch.zeros_like(t)

    def gamma_rate(self, t: Tensor) -> Tensor:
        """γ̇_t inside (0, 1); at an end it is 0 where the product vanishes, else infinite."""
        product = self.gamma_product(t)
        return torch.where(product == 0, product, product / self.gamma(t))

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
        t = _along(t, x)
        values = (self.alpha(t), self.beta(t), self.gamma(t))
        return Coefficients(*values, self.alpha_rate(t), self.beta_rate(t), self.gamma_product(t))

    def interpolate(
        self, x0: Tensor, x1: Tensor, t: Tensor | float, z: Tensor | None = None
    ) -> Interpolant:
        """I_t = α x0 + β x1 + γ z (eq. 1) and İ_t = α̇ x0 + β̇ x1 + γ̇ z.

        Where γ̇ is infinite (that of γ² = 2t(1-t) at t = 0 and 1) so is İ_t.

        Args:
            x0: base, shape (batch, *dim).
            x1: data, of the same shape.
            t: times in [0, 1], shape (batch,), or one number.
            z: latent noise N(0, I) of the same shape; may be left out if γ is zero.
        """
        t = _along(t, x0)
        value = self.alpha(t) * x0 + self.beta(t) * x1
        rate = self.alpha_rate(t) * x0 + self.beta_rate(t) * x1
        if not self.has_noise:
            return Interpolant(value, rate)
        return Interpolant(value + self.gamma(t) * z, rate + self.gamma_rate(t) * z)


def _falling(t: Tensor) -> Tensor:
    return 1 - t


def _rising(t: Tensor) -> Tensor:
    return t.clone()


def _along(t: Tensor | float, x: Tensor) -> Tensor:
    """Times of shape (batch,), or one number, shaped to multiply x of shape (batch, *dim)."""
    times = as_tensor(t, "times", like=x)
    for end in times.aminmax() if may_look(times) else ():
        as_number(end, "times", least=0, most=1)
    return times.expand(len(x)).view(-1, *[1] * (x.ndim - 1))
