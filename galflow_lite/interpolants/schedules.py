"""I_t = α_t x0 + β_t x1 + γ_t z: the schedules α, β, γ and their exact derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_choice

TimeFunction = Callable[[Tensor], Tensor]


def derivative(function: TimeFunction, t: Tensor) -> Tensor:
    """Exact time derivative of a function written in torch that acts element by element."""
    with torch.inference_mode(False), torch.enable_grad():
        times = t.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            function(times).sum(), times, allow_unused=True, materialize_grads=True
        )
    return slope


@dataclass(frozen=True)
class Gamma:
    """The scale γ_t of the latent noise, given by its square.

    Definition 3.1 of arXiv:2310.03725 asks for a differentiable γ², not γ: γγ̇ = ½ d(γ²)/dt can be
    finite where γ̇ is not. The families are those of arXiv:2303.08797 (its Table 8).

    Attributes:
        squared: γ²_t, a function of a tensor of times written in torch.
        name: for tables and captions; "zero" means that there is no latent noise.
    """

    squared: TimeFunction
    name: str = "custom"

    def value(self, t: Tensor) -> Tensor:
        """γ_t."""
        return self.squared(t).sqrt()

    def product(self, t: Tensor) -> Tensor:
        """γ_t γ̇_t."""
        return derivative(self.squared, t) / 2

    def rate(self, t: Tensor) -> Tensor:
        """γ̇_t inside (0, 1); at an end it is 0 where the product vanishes, else infinite."""
        product = self.product(t)
        return torch.where(product == 0, product, product / self.value(t))

    @staticmethod
    def of(gamma: str | Gamma | TimeFunction) -> Gamma:
        """A `Gamma` from its name, a `Gamma`, or a function γ of time written in torch.

        Named are "zero"; "brownian", γ = √(2t(1-t)), the example of Definition 3.1, whose γ̇ is
        infinite at both ends, so that the bound of Proposition 3.1 is infinite; "quadratic",
        γ = t(1-t); and "smooth", γ = sin²(πt), with γ̇ = 0 at both ends.
        """
        if isinstance(gamma, Gamma):
            return gamma
        if callable(gamma):
            return Gamma(partial(_square_of, gamma))
        return Gamma(_SQUARES[as_choice(gamma, "gamma", _SQUARES)], gamma)


def _zero(t: Tensor) -> Tensor:
    return 0 * t


def _brownian(t: Tensor) -> Tensor:
    return 2 * t * (1 - t)


def _quadratic(t: Tensor) -> Tensor:
    return (t * (1 - t)).square()


def _smooth(t: Tensor) -> Tensor:
    return torch.sin(math.pi * t).square().square()


def _square_of(gamma: TimeFunction, t: Tensor) -> Tensor:
    return gamma(t).square()


_SQUARES = {"zero": _zero, "brownian": _brownian, "quadratic": _quadratic, "smooth": _smooth}


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

    Attributes:
        alpha, beta: functions of a tensor of times, written in torch.
        gamma: the latent noise.
        name: for tables and captions.
    """

    alpha: TimeFunction
    beta: TimeFunction
    gamma: Gamma
    name: str = "custom"

    @staticmethod
    def linear(*, gamma: str | Gamma | TimeFunction = "zero") -> Schedule:
        """α = 1-t, β = t: the schedule of the paper's experiments (with γ = 0)."""
        return Schedule(_falling, _rising, Gamma.of(gamma), "linear")

    @staticmethod
    def trigonometric(*, gamma: str | Gamma | TimeFunction = "zero") -> Schedule:
        """α = cos(πt/2), β = sin(πt/2)."""
        return Schedule(_cosine, _sine, Gamma.of(gamma), "trigonometric")

    @staticmethod
    def variance_preserving(*, gamma: str | Gamma | TimeFunction = "zero") -> Schedule:
        """α = √(1-t²), β = t. α̇ is infinite at t = 1, and so is the bound of Proposition 3.1."""
        return Schedule(_circle, _rising, Gamma.of(gamma), "variance_preserving")

    @staticmethod
    def custom(
        alpha: TimeFunction, beta: TimeFunction, gamma: str | Gamma | TimeFunction = "zero"
    ) -> Schedule:
        """A schedule of your own: functions of a tensor of times, differentiated automatically.

        Raises:
            ValueError: wrong boundary values, or all coefficients zero at some time.
        """
        made = Schedule(alpha, beta, Gamma.of(gamma))
        curves = (alpha, beta, made.gamma.value)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torch.stack([curve(ends) for curve in curves]).tolist()
        right = np.allclose(found, [[1, 0], [0, 1], [0, 0]], atol=1e-6)
        inner = torch.linspace(0, 1, 1001, dtype=torch.float64)
        size = sum(curve(inner).square() for curve in curves)
        if not right or not bool((size > 0).all()):
            raise ValueError(
                f"alpha, beta and gamma are {found} at t = 0 and 1, expected [1, 0], [0, 1] and "
                "[0, 0] (t = 0 is the base, t = 1 the data), and never all zero: correct them"
            )
        return made

    def alpha_rate(self, t: Tensor) -> Tensor:
        """α̇_t."""
        return -torch.ones_like(t) if self.alpha is _falling else derivative(self.alpha, t)

    def beta_rate(self, t: Tensor) -> Tensor:
        """β̇_t."""
        return torch.ones_like(t) if self.beta is _rising else derivative(self.beta, t)

    @property
    def has_noise(self) -> bool:
        """Whether γ is not identically zero."""
        return self.gamma.name != "zero"

    def at(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """Coefficients at one time for each sample, shaped to multiply `x`.

        Args:
            t: times in [0, 1], shape (batch,), or one number for all.
            x: shape (batch, *dim).
        """
        t = _along(t, x)
        gamma, product = 2 * [torch.zeros_like(t)]
        if self.has_noise:
            gamma, product = self.gamma.value(t), self.gamma.product(t)
        rates = (self.alpha_rate(t), self.beta_rate(t))
        return Coefficients(self.alpha(t), self.beta(t), gamma, *rates, product)

    def interpolate(
        self, x0: Tensor, x1: Tensor, t: Tensor | float, z: Tensor | None = None
    ) -> Interpolant:
        """I_t = α x0 + β x1 + γ z (eq. 1) and İ_t = α̇ x0 + β̇ x1 + γ̇ z.

        Where γ̇ is infinite (the brownian γ at t = 0 and 1) so is İ_t.

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
        return Interpolant(value + self.gamma.value(t) * z, rate + self.gamma.rate(t) * z)


def _falling(t: Tensor) -> Tensor:
    return 1 - t


def _rising(t: Tensor) -> Tensor:
    return t.clone()


def _circle(t: Tensor) -> Tensor:
    return ((1 - t) * (1 + t)).sqrt()


def _cosine(t: Tensor) -> Tensor:
    # The shifted argument makes α_1 exactly zero in floating point.
    return torch.sin(math.pi / 2 * (1 - t))


def _sine(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * t)


def _along(t: Tensor | float, x: Tensor) -> Tensor:
    """Times of shape (batch,), or one number, shaped to multiply x of shape (batch, *dim)."""
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    return times.expand(len(x)).view(-1, *[1] * (x.ndim - 1))
