"""E|X_1 - X_0|² ≤ ∫E|b_t(X_t)|²dt ≤ ∫E|İ_t|²dt: transport cost, kinetic energy, and their bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from galflow_lite.metrics import Estimate

from .couplings import Pair
from .losses import Field
from .masks import Condition
from .sampling import require_start
from .schedules import Schedule
from .solvers import CountedField, keep_known, solve

__all__ = ["FlowCosts", "flow_costs", "transport_bound", "transport_cost"]


@dataclass(frozen=True)
class FlowCosts:
    """Costs of a flow, averages over its start with standard errors; sums over dimensions.

    Attributes:
        transport_cost: E|X_1 - X_0|², the left side of Proposition 3.1 of arXiv:2310.03725.
        kinetic_energy: ∫E|b_t(X_t)|²dt, never below the transport cost.
        path_length: ∫E|b_t(X_t)|dt.
        straightness: ∫E|X_1 - X_0 - b_t(X_t)|²dt = kinetic energy - transport cost; 0 for straight
            paths at constant speed (arXiv:2209.03003). Straight paths need not be optimal.
        samples: X_1, shape (batch, *dim).
        evaluations: calls of the velocity.
    """

    transport_cost: Estimate
    kinetic_energy: Estimate
    path_length: Estimate
    straightness: Estimate
    samples: Tensor
    evaluations: int


def transport_cost(x0: Tensor, x1: Tensor) -> Estimate:
    """E|X_1 - X_0|², summed over dimensions, from starts and ends of paths.

    Args:
        x0: starts, shape (batch, *dim), at least two.
        x1: ends, in the same order.

    Raises:
        ValueError: unequal shapes, or fewer than two samples.
    """
    _require_pairs(x0, x1)
    return _mean((x1.double() - x0.double()).square().flatten(1).sum(1))


def flow_costs(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    method: str = "rk4",
    steps: int = 100,
    rtol: float | None = None,
    atol: float | None = None,
    max_evaluations: int = 10_000,
) -> FlowCosts:
    """Follow the flow from t = 0 to 1 and integrate |b|² and |b| with the same solver.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: starts, shape (batch, *dim), at least two.
        condition: passed on to the velocity.
        method: as in `sample_ode`.
        steps: of the fixed methods.
        rtol: of dopri5.
        atol: of dopri5.
        max_evaluations: of the velocity.

    Raises:
        ValueError: fewer than two samples, NaN in `x0`.
        SolverError: the solver does not converge.
    """
    require_start(x0)
    _require_pairs(x0, x0)
    field = CountedField(velocity, condition, most=max_evaluations)

    def derivative(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        b = field(t, state[0])
        energy = b.square().flatten(1).sum(1)
        return b, energy, energy.sqrt()

    nothing = x0.new_zeros(len(x0))
    with torch.no_grad():
        found = solve(
            derivative,
            (x0, nothing, nothing),
            method=method,
            start=0.0,
            end=1.0,
            steps=steps,
            rtol=rtol,
            atol=atol,
        )
        x1, energy, length = found.end
        x1 = keep_known(velocity, condition, x1, x0)
    moved = (x1.double() - x0.double()).square().flatten(1).sum(1)
    return FlowCosts(
        transport_cost=_mean(moved),
        kinetic_energy=_mean(energy),
        path_length=_mean(length),
        straightness=_mean(energy.double() - moved),
        samples=x1,
        evaluations=field.evaluations,
    )


def transport_bound(schedule: Schedule, pair: Pair) -> Estimate:
    """∫E|İ_t|²dt, the right side of Proposition 3.1 (eq. 15) of arXiv:2310.03725.

    The integrals over time and over z are exact: with A = ∫α̇²dt, B = ∫β̇²dt, C = ∫α̇β̇dt and
    G = ∫γ̇²dt it is the mean of A|x0|² + B|x1|² + 2C x0·x1 + G d over the pairs, where fixed pixels
    do not count. It is infinite for the brownian γ (γ̇² grows like 1/t) and for the
    variance-preserving schedule (α̇² grows like 1/(1-t)): the bound then says nothing.

    Args:
        schedule: of the interpolant.
        pair: coupled samples, `coupling.pair(x1, condition)`, at least two.

    Raises:
        ValueError: fewer than two samples.
    """
    x0, x1 = pair.x0.double(), pair.x1.double()
    _require_pairs(x0, x1)
    hole = torch.ones_like(x0) if pair.hole is None else pair.hole.double()

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b * hole).flatten(1).sum(1)

    def energy(first, second) -> float:
        return _integral(lambda t: first(t) * second(t))

    a = energy(schedule.alpha_rate, schedule.alpha_rate)
    b = energy(schedule.beta_rate, schedule.beta_rate)
    g = energy(schedule.gamma.rate, schedule.gamma.rate) if schedule.has_noise else 0.0
    if math.isinf(a + b + g):
        return Estimate(math.inf, 0.0)
    c = energy(schedule.alpha_rate, schedule.beta_rate)
    moving = hole.flatten(1).sum(1)
    return _mean(a * dot(x0, x0) + b * dot(x1, x1) + 2 * c * dot(x0, x1) + g * moving)


def _integral(function) -> float:
    """Integral over [0, 1], or infinity where it diverges at an end."""
    # Towards an end a convergent integral gains less and less from each factor of 1000 in t.
    for side in (lambda s: s, lambda s: 1 - s):
        gains = []
        for exponent in (-6, -9):
            logs = np.log(10.0) * np.linspace(exponent, exponent + 3, 301)
            s = torch.as_tensor(np.exp(logs))
            gains.append(float(np.trapezoid((function(side(s)).abs() * s).numpy(), logs)))
        if gains[1] > 0.2 * gains[0] and gains[1] > 1e-6:
            return math.inf
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s, w = torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)
    # t = s⁴/2 removes integrable singularities of the ends; the schedules may have a kink at 1/2.
    total = 0.0
    for t in (s**4 / 2, 1 - s**4 / 2):
        total += float((w * 2 * s**3 * function(t)).sum())
    return total


def _mean(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))


def _require_pairs(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape:
        raise ValueError(
            f"found x0 of shape {tuple(x0.shape)} and x1 of shape {tuple(x1.shape)}, expected "
            "equal shapes: pass starts and ends of the same paths"
        )
    if len(x0) < 2:
        raise ValueError(
            f"found {len(x0)} samples, expected at least 2 for a standard error: pass more"
        )
