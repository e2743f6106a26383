"""ρ(x0, x1) = ρ1(x1) ρ0(x0 | x1): where the base of each sample comes from (eqs. 16-20).

A condition is what a velocity is told beside x and t: nothing, one tensor, or a mapping of named
parts. A coupling adds its own part to it, such as a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..inputs import as_tensor, shaped_as

Random = torch.Generator | None
Condition = Tensor | Mapping[str, Any] | None
Field = Callable[[Tensor, Tensor, Condition], Tensor]


def as_condition(condition: Any, x: Tensor) -> Condition:
    """Arrays as tensors on the device of `x`, those of real numbers in its type."""
    if isinstance(condition, Mapping):
        return {name: as_condition(part, x) for name, part in condition.items()}
    if isinstance(condition, np.ndarray):
        whole = torch.long if condition.dtype.kind in "biu" else None
        condition = as_tensor(condition, "the condition", like=x, dtype=whole)
    if not isinstance(condition, Tensor):
        return condition
    return condition.to(x if condition.is_floating_point() else x.device)


def entry(condition: Condition, name: str) -> Tensor:
    """The named part of a condition: the tensor itself, or the entry of a mapping.

    Raises:
        ValueError: it is not there. To invent it would answer another question than the one asked.
    """
    if isinstance(condition, Mapping) and name in condition:
        return condition[name]
    if condition is not None and not isinstance(condition, Mapping):
        return condition
    found = ", ".join(condition) if condition else "nothing"
    raise ValueError(
        f"the condition holds {found}, expected a tensor or a mapping with {name!r}: add it"
    )


def extend(condition: Condition, name: str, make: Callable[[], Tensor]) -> Condition:
    """The condition with one more part, unless it is there; a part alone is a plain tensor."""
    if condition is None:
        return make()
    if not isinstance(condition, Mapping) or name in condition:
        return condition
    return {**condition, name: make()}


@dataclass(frozen=True)
class GaussianBase:
    """x0 = m + σζ: the distribution of x0 given the condition, eqs. 18-19 of arXiv:2310.03725.

    Attributes:
        mean: m, shape (batch, *dim).
        scale: σ, in the units of the data.
        hole: where the noise acts, boolean and of the shape of `mean`; elsewhere x0 = m is fixed
            and has no density. None: everywhere.
    """

    mean: Tensor
    scale: float = 1.0
    hole: Tensor | None = None

    def sample(self, *, generator: Random = None) -> Tensor:
        """Draw x0 = m + σζ, shape (batch, *dim); outside the hole x0 equals m bit by bit."""
        noise = normal(self.mean, generator)
        return self.restrict(self.mean + self.scale * noise, outside=self.mean)

    def log_prob(self, x0: Tensor) -> Tensor:
        """log ρ0(x0 | condition) over the moving pixels, in nats, shape (batch,)."""
        self.require_noise("a likelihood")
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        each = -0.5 * ((x0 - self.mean) / self.scale).square() - constant
        return self.restrict(each).flatten(1).sum(1)

    def restrict(self, x: Tensor, *, outside: Tensor | float = 0.0) -> Tensor:
        """`x` in the hole, `outside` elsewhere."""
        return x if self.hole is None else torch.where(self.hole, x, outside)

    def require_noise(self, purpose: str) -> None:
        """Refuse σ = 0, where x0 lies on a surface of lower dimension.

        Raises:
            ValueError: σ = 0.
        """
        if self.scale == 0:
            raise ValueError(
                f"sigma is 0, for which there is no density, and {purpose} was asked for: use a "
                "coupling with sigma above 0"
            )


@dataclass(frozen=True)
class Pair:
    """A batch of coupled samples.

    Attributes:
        x0: base, shape (batch, *dim).
        x1: data, of the same shape.
        condition: what the model sees beside x_t and t.
        base: distribution of x0 given the condition; None where it is not known.
    """

    x0: Tensor
    x1: Tensor
    condition: Condition = None
    base: GaussianBase | None = None

    @property
    def hole(self) -> Tensor | None:
        """Where pixels move; None: everywhere."""
        return None if self.base is None else self.base.hole


class Coupling:
    """A rule that gives x0 and the condition from x1.

    A subclass writes `base` or `draw`, and `condition` if it adds something to the condition.

    Attributes:
        needs: name of the part of a condition without which there is nothing to sample.
    """

    needs: str | None = None

    def __call__(
        self, x1: Tensor, condition: Condition = None, *, generator: Random = None
    ) -> Tensor:
        """Draw x0, of the shape of `x1`, for given data and condition.

        Args:
            x1: data, shape (batch, *dim). For a start of sampling it may be the damaged image: a
                coupling uses only what the condition says is known.
            condition: the whole condition. Nothing is made up for it here.
            generator: source of the noise; None for torch's global generator.
        """
        x1 = as_tensor(x1, "x1", finite=False)
        return self.draw(x1, as_condition(condition, x1), generator)[0]

    def pair(self, x1: Tensor, condition: Condition = None, *, generator: Random = None) -> Pair:
        """Data, base and whole condition of a training batch; see `condition`.

        Raises:
            ValueError: NaN or infinite data, or a base of another shape or with NaN.
        """
        x1 = as_tensor(x1, "x1")
        condition = self.condition(x1, condition, generator=generator)
        x0, base = self.draw(x1, condition, generator)
        return Pair(as_tensor(shaped_as(x1, x0, "coupling"), "x0"), x1, condition, base)

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        """The given condition with what the coupling adds to it for training, such as a mask."""
        return as_condition(condition, as_tensor(x1, "x1", finite=False))

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase | None:
        """Law of x0 given the condition; None where it is not known."""
        return None

    def uncoupled(self) -> Coupling:
        """The fair comparison: x0 ~ N(0, I) with all that this coupling's model knows."""
        return Uncoupled(self)

    def draw(self, x1: Tensor, condition: Condition, generator: Random):
        """x0, and its distribution given the condition."""
        base = self.base(x1, condition)
        return base.sample(generator=generator), base


class Uncoupled(Coupling):
    """x0 ~ N(0, I), independent of the data, with the condition of another coupling."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.needs = coupling, coupling.needs

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        return GaussianBase(torch.zeros_like(x1))

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        return self.coupling.condition(x1, condition, generator=generator)


class OptimalTransport(Coupling):
    """x0 ~ N(0, I), dealt to the data of a batch at least total squared distance."""

    def draw(self, x1: Tensor, condition: Condition, generator: Random):
        x0 = normal(x1, generator)
        # The squared norms are the same for every permutation.
        cost = -(x1.flatten(1).cpu().double() @ x0.flatten(1).cpu().double().T)
        order = linear_sum_assignment(cost.numpy())[1]
        # The noise is no longer independent of x1: no score follows from the velocity.
        return x0[torch.as_tensor(order, device=x0.device)], None


@dataclass(eq=False)
class Custom(Coupling):
    """A user's function; see `custom`."""

    function: Callable[[Tensor, Condition], Tensor]

    def draw(self, x1: Tensor, condition: Condition, generator: Random):
        return self.function(x1, condition), None


def independent() -> Coupling:
    """x0 ~ N(0, I) independent of x1; a given condition is passed on: flows and diffusions."""
    return Coupling().uncoupled()


def optimal_transport() -> Coupling:
    """Exact optimal transport within each mini-batch (Tong et al., arXiv:2302.00482).

    The plan is a permutation, so that each row is used once; sampling from the plan with
    replacement repeats some rows and drops others. With conditions this coupling skews the base
    that a condition sees (arXiv:2503.10636): use it for unconditional models. For sampling, draw x0
    from N(0, I).
    """
    return OptimalTransport()


def custom(function: Callable[[Tensor, Condition], Tensor]) -> Coupling:
    """A user's coupling, any function (x1, condition) -> x0.

    The distribution of x0 given the condition is not known then: no score follows from the
    velocity. A subclass of `Coupling` that writes `base` has it.

    Args:
        function: draws x0, of the shape of x1, with torch's global generator. A coupling is given
            back as it is.
    """
    return function if isinstance(function, Coupling) else Custom(function)


def normal(x: Tensor, generator: Random) -> Tensor:
    """N(0, I) of the shape, type and device of `x`."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
