"""ρ(x0, x1) = ρ1(x1) ρ0(x0 | x1): where the base of each sample comes from (eqs. 16-20)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .laws import GaussianBase, standard_normal
from .masks import Condition

__all__ = ["Coupling", "Custom", "Independent", "Pair", "as_coupling", "custom", "independent"]


@dataclass(frozen=True)
class Pair:
    """A batch of coupled samples.

    Attributes:
        x0: base, shape (batch, *dim).
        x1: data, of the same shape.
        condition: what the model sees beside x_t and t.
        base: law of x0 given the condition; None where it is not known.
    """

    x0: Tensor
    x1: Tensor
    condition: Condition
    base: GaussianBase | None

    @property
    def hole(self) -> Tensor | None:
        """Where pixels move; None: everywhere."""
        return None if self.base is None else self.base.hole


class Coupling:
    """A rule that gives x0 and the condition from x1.

    A subclass writes `base` or `_draw`, and `condition` if it adds something to the condition.
    """

    def __call__(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw x0 for given data and condition.

        Args:
            x1: data, shape (batch, *dim). For a start of sampling it may be the damaged image: a
                coupling uses only what the condition says is known.
            condition: what the model sees. What the coupling adds to it is made anew if missing.
            generator: source of the noise; None for torch's global generator.

        Returns:
            x0, of the shape of `x1`.
        """
        full = self.condition(x1, condition, generator=generator)
        return self._draw(x1, full, generator)[0]

    def pair(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Pair:
        """Data, base and full condition of a training batch.

        Raises:
            ValueError: NaN or infinite data, or a base of another shape or with NaN.
        """
        require_data(x1)
        condition = self.condition(x1, condition, generator=generator)
        x0, base = self._draw(x1, condition, generator)
        if x0.shape != x1.shape:
            raise ValueError(
                f"found x0 of shape {tuple(x0.shape)} from the coupling, expected that of x1, "
                f"{tuple(x1.shape)}: correct the coupling"
            )
        if not bool(x0.sum().isfinite()) and not bool(torch.isfinite(x0).all()):
            raise ValueError(
                "found NaN or infinite values in x0 from the coupling, expected finite numbers: "
                "correct the coupling"
            )
        return Pair(x0, x1, condition, base)

    def condition(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """The given condition with what the coupling adds to it: here nothing."""
        return condition

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase | None:
        """Law of x0 given the condition; None where it is not known."""
        return None

    def uncoupled(self) -> Coupling:
        """The fair comparison: x0 ~ N(0, I) with all that this coupling's model knows."""
        return Uncoupled(self)

    def _draw(
        self, x1: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> tuple[Tensor, GaussianBase | None]:
        """x0, and its law given the condition."""
        base = self.base(x1, condition)
        return base.sample(generator=generator), base


class Independent(Coupling):
    """x0 ~ N(0, I), independent of the data: standard flows and diffusions."""

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        return standard_normal(x1)

    def uncoupled(self) -> Coupling:
        return self


class Uncoupled(Independent):
    """x0 ~ N(0, I), with the condition of another coupling."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling

    def condition(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        return self.coupling.condition(x1, condition, generator=generator)


class Custom(Coupling):
    """A user's function; see `custom`."""

    def __init__(
        self,
        function: Callable[[Tensor, Condition], Tensor],
        mean: Callable[[Tensor, Condition], Tensor] | None,
        sigma: float | None,
    ) -> None:
        self.function, self.mean, self.sigma = function, mean, sigma

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase | None:
        if self.mean is None:
            return None
        return GaussianBase(self.mean(x1, condition), self.sigma)

    def _draw(
        self, x1: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> tuple[Tensor, GaussianBase | None]:
        x0 = self.function(x1, condition)
        if not isinstance(x0, Tensor):
            raise ValueError(
                f"found {type(x0).__name__} from the coupling, expected a tensor of the shape of "
                "x1: correct the function"
            )
        return x0, self.base(x1, condition)


def independent() -> Independent:
    """x0 ~ N(0, I) independent of x1; a given condition is passed on."""
    return Independent()


def custom(
    function: Callable[[Tensor, Condition], Tensor],
    *,
    mean: Callable[[Tensor, Condition], Tensor] | None = None,
    sigma: float | None = None,
) -> Custom:
    """A user's coupling, any function (x1, condition) -> x0.

    Args:
        function: draws x0, of the shape of x1, with torch's global generator.
        mean: m, if x0 = m + σζ with ζ ~ N(0, I) independent of x1 given the condition: a function
            (x1, condition) -> m whose result depends on the condition alone in law. It makes the
            score follow from the velocity, and a likelihood possible.
        sigma: σ; needed with `mean`.

    Raises:
        ValueError: one of `mean` and `sigma` without the other, or a negative `sigma`.
    """
    if (mean is None) != (sigma is None):
        missing = "sigma" if sigma is None else "mean"
        raise ValueError(
            f"found no {missing}, expected mean and sigma together: give both or neither"
        )
    if sigma is not None:
        require_sigma(sigma)
    return Custom(function, mean, sigma)


def as_coupling(coupling: Any) -> Coupling:
    """A `Coupling` as it is, a function by `custom`.

    Raises:
        ValueError: something that cannot be called.
    """
    if isinstance(coupling, Coupling):
        return coupling
    if not callable(coupling):
        raise ValueError(
            f"found a coupling of type {type(coupling).__name__}, expected a Coupling or a "
            "function (x1, condition) -> x0: pass one"
        )
    return custom(coupling)


def require_data(x1: Tensor, known: Tensor | None = None) -> None:
    """Refuse NaN and infinite values, where `known` is given only there."""
    # One pass in the usual case: a sum is finite only if every term is.
    if bool(x1.sum().isfinite()):
        return
    bad = ~torch.isfinite(x1)
    if known is not None:
        bad = bad & known
    samples = int(bad.flatten(1).any(1).sum())
    if samples:
        raise ValueError(
            f"found NaN or infinite pixels in {samples} of {len(x1)} samples, expected none: "
            "remove or repair these samples"
        )


def require_sigma(sigma: float) -> None:
    """Refuse a negative or infinite noise scale."""
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"found sigma={sigma}, expected a number from 0 up: correct it")
