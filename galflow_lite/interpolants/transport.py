"""E|X_1 - X_0|² ≤ ∫E|b_t(X_t)|²dt ≤ ∫E|İ_t|²dt: transport cost, kinetic energy, and their bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..metrics import Estimate
from .conditions import Condition, Field
from .couplings import Pair
from .sampling import CountedField, solve
from .schedules import Schedule


@dataclass(frozen=True)
class FlowCosts:
    """Costs of a flow, averages over its start with standard errors; sums over dimensions.

    Attributes:
        transport_cost: E|X_1 - X_0|², the left side of Proposition 3.1 of arXiv:2310.03725.
        kinetic_energy: ∫E|b_t(X_t)|²dt, never below the transport cost, and equal to it for
            straight paths at constant speed, which need not be optimal (arXiv:2209.03003).
        path_length: ∫E|b_t(X_t)|dt.
        samples: X_1, shape (batch, *dim).
    """

    transport_cost: Estimate
    kinetic_energy: Estimate
    path_length: Estimate
    samples: Tensor


def flow_costs(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    method: str = "rk4",
    steps: int = 100,
) -> FlowCosts:
    """Follow the flow from t = 0 to 1 and integrate |b|² and |b| with the same solver.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: starts, shape (batch, *dim), at least two for a standard error.
        condition: passed on to the velocity.
        method: a fixed method of `sample_ode`.
        steps: of it.
    """
    field = CountedField(velocity, x0, condition)
    x0 = field.start

    def derivative(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        b = field(t, state[0])
        energy = b.square().flatten(1).sum(1)
        return b, energy, energy.sqrt()

    nothing = x0.new_zeros(len(x0))
    with torch.no_grad():
        (x1, energy, length), _ = solve(
            derivative, (x0, nothing, nothing), method=method, start=0.0, end=1.0, steps=steps
        )
    x1 = field.held(x1)
    moved = (x1.double() - x0.double()).square().flatten(1).sum(1)
    return FlowCosts(_mean(moved), _mean(energy), _mean(length), x1)


def transport_bound(schedule: Schedule, pair: Pair) -> Estimate:
    """∫E|İ_t|²dt, the right side of Proposition 3.1 (eq. 15) of arXiv:2310.03725.

    The integrals over time and over z are exact: with A = ∫α̇²dt, B = ∫β̇²dt, C = ∫α̇β̇dt and
    G = ∫γ̇²dt it is the mean of A|x0|² + B|x1|² + 2C x0·x1 + G d over the pairs, where fixed pixels
    do not count. It is infinite for the brownian γ (γ̇² grows like 1/t) and for the
    variance-preserving schedule (α̇² grows like 1/(1-t)): the bound then says nothing.

    Args:
        schedule: of the interpolant.
        pair: coupled samples, `coupling.pair(x1, condition)`, at least two.
    """
    x0, x1 = pair.x0.double(), pair.x1.double()
    hole = torch.ones_like(x0) if pair.hole is None else pair.hole.double()

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b * hole).flatten(1).sum(1)

    def energy(first: Callable, second: Callable) -> float:
        return _integral(lambda t: first(t) * second(t))

    a = energy(schedule.alpha_rate, schedule.alpha_rate)
    b = energy(schedule.beta_rate, schedule.beta_rate)
    g = energy(schedule.gamma.rate, schedule.gamma.rate) if schedule.has_noise else 0.0
    if math.isinf(a + b + g):
        return Estimate(math.inf, 0.0)
    c = energy(schedule.alpha_rate, schedule.beta_rate)
    moving = hole.flatten(1).sum(1)
    return _mean(a * dot(x0, x0) + b * dot(x1, x1) + 2 * c * dot(x0, x1) + g * moving)


def _integral(function: Callable[[Tensor], Tensor]) -> float:
    """Integral over [0, 1], or infinity where it diverges at an end."""
    found = []
    for n in (100, 400):
        nodes, weights = np.polynomial.legendre.leggauss(n)
        s, w = torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)
        # t = s⁴/2 removes integrable singularities of the ends; schedules may have a kink at 1/2.
        halves = (function(t) for t in (s**4 / 2, 1 - s**4 / 2))
        found.append(sum(float((w * 2 * s**3 * half).sum()) for half in halves))
    # What grows with the number of nodes has no integral.
    return found[1] if abs(found[1] - found[0]) <= 1e-3 * abs(found[1]) + 1e-9 else math.inf


def _mean(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))
