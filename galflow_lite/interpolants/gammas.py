"""The scale of the latent noise: γ_t with γ_0 = γ_1 = 0, its derivative, and γγ̇."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gamma", "TimeFunction", "derivative"]

TimeFunction = Callable[[Tensor], Tensor]


def derivative(function: TimeFunction) -> TimeFunction:
    """Exact time derivative of a function written in torch that acts element by element."""

    def rate(t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            times = t.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(
                function(times).sum(), times, allow_unused=True, materialize_grads=True
            )
        return slope

    return rate


@dataclass(frozen=True)
class Gamma:
    """γ_t, γ̇_t and their product, each a function of a tensor of times in [0, 1].

    The product γγ̇ = ½ d(γ²)/dt is kept apart because it can be finite where γ̇ is not: Definition
    3.1 of arXiv:2310.03725 asks only for a differentiable γ².

    The families are those of arXiv:2303.08797 (its Table 8).
    """

    value: TimeFunction
    rate: TimeFunction
    product: TimeFunction
    name: str = "custom"

    @staticmethod
    def zero() -> Gamma:
        """γ = 0: no latent noise."""
        return Gamma(torch.zeros_like, torch.zeros_like, torch.zeros_like, "zero")

    @staticmethod
    def brownian(a: float = 2.0) -> Gamma:
        """γ = √(a t(1-t)); a = 2 is the example of Definition 3.1.

        γ̇ is infinite at both ends, so that the bound of Proposition 3.1 is infinite.
        """
        _require_positive("a", a)

        def value(t: Tensor) -> Tensor:
            return (a * t * (1 - t)).sqrt()

        def product(t: Tensor) -> Tensor:
            return a * (1 - 2 * t) / 2

        return Gamma(value, lambda t: product(t) / value(t), product, "brownian")

    @staticmethod
    def quadratic(scale: float = 1.0) -> Gamma:
        """γ = scale · t(1-t)."""
        _require_positive("scale", scale)
        return _smooth_gamma(
            lambda t: scale * t * (1 - t), lambda t: scale * (1 - 2 * t), "quadratic"
        )

    @staticmethod
    def smooth(scale: float = 1.0) -> Gamma:
        """γ = scale · sin²(πt), with γ̇ = 0 at both ends."""
        _require_positive("scale", scale)
        return _smooth_gamma(
            lambda t: scale * torch.sin(math.pi * t).square(),
            lambda t: scale * math.pi * torch.sin(2 * math.pi * t),
            "smooth",
        )

    @staticmethod
    def sigmoid(steepness: float = 10.0) -> Gamma:
        """γ = σ(f(t-½)+1) - σ(f(t-½)-1) - σ(1-f/2) + σ(-1-f/2), f the steepness, σ the sigmoid."""
        _require_positive("steepness", steepness)
        f = steepness

        def bump(t: Tensor) -> Tensor:
            return torch.sigmoid(f * (t - 0.5) + 1) - torch.sigmoid(f * (t - 0.5) - 1)

        def slope(u: Tensor) -> Tensor:
            return f * torch.sigmoid(u) * torch.sigmoid(-u)

        # The constant in the same arithmetic as the value, so that γ_0 is exactly zero.
        return _smooth_gamma(
            lambda t: bump(t) - bump(torch.zeros_like(t)),
            lambda t: slope(f * (t - 0.5) + 1) - slope(f * (t - 0.5) - 1),
            "sigmoid",
        )

    @staticmethod
    def of(gamma: str | Gamma | TimeFunction) -> Gamma:
        """A `Gamma` from a name, a `Gamma`, or a function of time written in torch.

        A function is differentiated automatically.

        Raises:
            ValueError: the name is not known.
        """
        if isinstance(gamma, Gamma):
            return gamma
        if isinstance(gamma, str):
            if gamma not in _FAMILIES:
                raise ValueError(
                    f"found gamma={gamma!r}, expected one of {', '.join(_FAMILIES)}: choose one or "
                    "pass a function"
                )
            return _FAMILIES[gamma]()
        return _smooth_gamma(gamma, derivative(gamma), "custom")


_FAMILIES = {
    "zero": Gamma.zero,
    "brownian": Gamma.brownian,
    "quadratic": Gamma.quadratic,
    "smooth": Gamma.smooth,
    "sigmoid": Gamma.sigmoid,
}


def _smooth_gamma(value: TimeFunction, rate: TimeFunction, name: str) -> Gamma:
    return Gamma(value, rate, lambda t: value(t) * rate(t), name)


def _require_positive(name: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"found {name}={number}, expected a positive number: raise it")
