"""I_t = α_t x0 + β_t x1 + γ_t z: the schedules α, β, γ and their exact derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .gammas import Gamma, TimeFunction, derivative
from .times import check_boundaries, check_derivatives, time_of

__all__ = ["Coefficients", "Interpolant", "Schedule"]


class Coefficients(NamedTuple):
    """Coefficients at given times; a rate is a time derivative, `gamma_product` is γγ̇."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor
    gamma_rate: Tensor
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
        alpha, beta: functions of a tensor of times.
        alpha_rate, beta_rate: their derivatives.
        gamma: the latent noise, see `Gamma`.
        name: for tables and captions.
    """

    alpha: TimeFunction
    beta: TimeFunction
    alpha_rate: TimeFunction
    beta_rate: TimeFunction
    gamma: Gamma
    name: str = "custom"

    @staticmethod
    def linear(*, gamma: str | Gamma | TimeFunction = "zero") -> Schedule:
        """α = 1-t, β = t: the schedule of the paper's experiments (with γ = 0)."""
        return Schedule(
            lambda t: 1 - t,
            lambda t: t.clone(),
            lambda t: -torch.ones_like(t),
            torch.ones_like,
            Gamma.of(gamma),
            "linear",
        )

    @staticmethod
    def trigonometric(
        *, gamma: str | Gamma | TimeFunction = "zero", keep_variance: bool = False
    ) -> Schedule:
        """α = cos(πt/2), β = sin(πt/2).

        Args:
            gamma: a name, a `Gamma` or a function.
            keep_variance: multiply α and β by √(1-γ²), so that α² + β² + γ² = 1 (eq. 4.10 of
                arXiv:2303.08797); γ must stay below 1.

        Raises:
            ValueError: `keep_variance` with a γ that reaches 1.
        """
        noise, half_pi = Gamma.of(gamma), math.pi / 2

        # The shifted argument makes α_1 exactly zero in floating point.
        def cosine(t: Tensor) -> Tensor:
            return torch.sin(half_pi * (1 - t))

        def sine(t: Tensor) -> Tensor:
            return torch.sin(half_pi * t)

        if not keep_variance:
            return Schedule(
                cosine,
                sine,
                lambda t: -half_pi * sine(t),
                lambda t: half_pi * cosine(t),
                noise,
                "trigonometric",
            )
        largest = float(noise.value(torch.linspace(0, 1, 1001, dtype=torch.float64)).max())
        if not largest < 1:
            raise ValueError(
                f"found a gamma that reaches {largest:.3g}, expected less than 1 with "
                "keep_variance: scale gamma down"
            )

        def shrink(t: Tensor) -> Tensor:
            return (1 - noise.value(t).square()).sqrt()

        def shrink_rate(t: Tensor) -> Tensor:
            return -noise.product(t) / shrink(t)

        return Schedule(
            lambda t: shrink(t) * cosine(t),
            lambda t: shrink(t) * sine(t),
            lambda t: shrink_rate(t) * cosine(t) - half_pi * shrink(t) * sine(t),
            lambda t: shrink_rate(t) * sine(t) + half_pi * shrink(t) * cosine(t),
            noise,
            "trigonometric",
        )

    @staticmethod
    def encoding_decoding(*, gamma: str | Gamma | TimeFunction = "smooth") -> Schedule:
        """α = cos²(πt) for t < ½, β = cos²(πt) for t > ½, else 0: pure noise at t = ½.

        Raises:
            ValueError: γ vanishes at t = ½.
        """
        noise = Gamma.of(gamma)
        if not float(noise.value(torch.tensor([0.5], dtype=torch.float64))) > 0:
            raise ValueError(
                "found a gamma of zero at t = 1/2, expected a positive one, since alpha and beta "
                "vanish there: use gamma='smooth'"
            )

        def value(t: Tensor) -> Tensor:
            return torch.cos(math.pi * t).square()

        def rate(t: Tensor) -> Tensor:
            return -math.pi * torch.sin(2 * math.pi * t)

        return Schedule(
            lambda t: value(t) * (t < 0.5),
            lambda t: value(t) * (t > 0.5),
            lambda t: rate(t) * (t < 0.5),
            lambda t: rate(t) * (t > 0.5),
            noise,
            "encoding_decoding",
        )

    @staticmethod
    def variance_preserving(*, gamma: str | Gamma | TimeFunction = "zero") -> Schedule:
        """α = √(1-t²), β = t. α̇ is infinite at t = 1, and so is the bound of Proposition 3.1."""

        def alpha(t: Tensor) -> Tensor:
            return ((1 - t) * (1 + t)).sqrt()

        return Schedule(
            alpha,
            lambda t: t.clone(),
            lambda t: -t / alpha(t),
            torch.ones_like,
            Gamma.of(gamma),
            "variance_preserving",
        )

    @staticmethod
    def custom(
        alpha: TimeFunction,
        beta: TimeFunction,
        gamma: str | Gamma | TimeFunction = "zero",
        *,
        alpha_rate: TimeFunction | None = None,
        beta_rate: TimeFunction | None = None,
        check_finite_differences: bool = False,
    ) -> Schedule:
        """A user's schedule; its boundary values are checked.

        Args:
            alpha: function of a tensor of times, written in torch.
            beta: likewise.
            gamma: a name, a `Gamma` or a function. Where γ̇ is infinite at the ends, give a `Gamma`
                with its product γγ̇.
            alpha_rate: derivative of `alpha`; by default by automatic differentiation.
            beta_rate: derivative of `beta`; likewise.
            check_finite_differences: compare all derivatives with finite differences as well.

        Raises:
            ValueError: wrong boundary values, all coefficients zero at some time, or a derivative
                that differs from finite differences.
        """
        schedule = Schedule(
            alpha,
            beta,
            alpha_rate or derivative(alpha),
            beta_rate or derivative(beta),
            Gamma.of(gamma),
        )
        schedule.check(derivatives=check_finite_differences)
        return schedule

    def check(self, *, derivatives: bool = True) -> None:
        """Check Definition 3.1 and, by finite differences, the derivatives.

        Raises:
            ValueError: the first condition that does not hold.
        """
        gamma = self.gamma
        check_boundaries({"alpha": self.alpha, "beta": self.beta, "gamma": gamma.value})
        if derivatives:
            check_derivatives(
                {
                    "alpha": (self.alpha, self.alpha_rate),
                    "beta": (self.beta, self.beta_rate),
                    "gamma": (gamma.value, gamma.rate),
                    "gamma squared": (
                        lambda t: gamma.value(t).square(),
                        lambda t: 2 * gamma.product(t),
                    ),
                }
            )

    @property
    def has_noise(self) -> bool:
        """Whether γ is not identically zero."""
        return self.gamma.name != "zero"

    def coefficients(self, t: Tensor) -> Coefficients:
        """All coefficients at times `t` of any shape."""
        return Coefficients(
            self.alpha(t),
            self.beta(t),
            self.gamma.value(t),
            self.alpha_rate(t),
            self.beta_rate(t),
            self.gamma.rate(t),
            self.gamma.product(t),
        )

    def at(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """Coefficients at one time for each sample, shaped to multiply `x`.

        Args:
            t: times in [0, 1], shape (batch,), or one number for all.
            x: shape (batch, *dim).

        Raises:
            ValueError: times outside [0, 1] or of another shape.
        """
        return self.coefficients(time_of(t, x).view(-1, *[1] * (x.ndim - 1)))

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

        Raises:
            ValueError: unequal shapes, times outside [0, 1], no `z` where γ is not zero.
        """
        if x0.shape != x1.shape or (z is not None and z.shape != x0.shape):
            shapes = [tuple(part.shape) for part in (x0, x1, z) if part is not None]
            raise ValueError(
                f"found x0, x1 and z of shapes {shapes}, expected equal shapes: reshape them"
            )
        if z is None and self.has_noise:
            raise ValueError(
                "found no z for a schedule with latent noise, expected noise of the shape of x0: "
                "pass z"
            )
        t = time_of(t, x0).view(-1, *[1] * (x0.ndim - 1))
        value = self.alpha(t) * x0 + self.beta(t) * x1
        rate = self.alpha_rate(t) * x0 + self.beta_rate(t) * x1
        if z is None or not self.has_noise:
            return Interpolant(value, rate)
        return Interpolant(value + self.gamma.value(t) * z, rate + self.gamma.rate(t) * z)
