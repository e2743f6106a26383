"""What is integrated along a flow: the divergence for a likelihood, and the cost of its motion.

log ρ1(x | ξ) = log ρ0(X_0 | ξ) - ∫₀¹ ∇·b_t(X_t) dt along the flow that ends in x, and
E|X_1 - X_0|² ≤ ∫E|b_t(X_t)|²dt ≤ ∫E|İ_t|²dt: transport cost, kinetic energy, and their bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.integrate import quad
from torch import Tensor

from ..inputs import as_choice, as_whole, shaped_as
from ..metrics import Estimate
from .couplings import Condition, Field, GaussianBase, Pair
from .sampling import CountedField, solve
from .velocities import Schedule, TimeFunction


@dataclass(frozen=True)
class Likelihood:
    """Result of `log_likelihood`.

    Attributes:
        log_prob: in nats, shape (batch,).
        x0: where the flow started, shape (batch, *dim).
        evaluations: calls of the velocity.
        standard_error: of `log_prob` over the probes, shape (batch,); None for the exact trace and
            for a single probe. The error of the solver is not part of it.
    """

    log_prob: Tensor
    x0: Tensor
    evaluations: int
    standard_error: Tensor | None = None


def log_likelihood(
    velocity: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    base: GaussianBase,
    trace: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    seed: int = 0,
    method: str = "dopri5",
    steps: int = 100,
) -> Likelihood:
    """Log-likelihood of data under the flow, by the ordinary equation solved from t = 1 to 0.

    For in-painting, with `base=coupling.base(x1, mask)`, it is the conditional log-likelihood of
    the pixels in the hole given the known ones: only pixels in the hole move and count.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x, differentiable in x, in
            which no sample depends on another (no batch normalisation in training mode).
        x1: data, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to the velocity.
        base: distribution of x0 given the condition.
        trace: "exact", with one backward pass for each moving dimension (up to about 100 of them),
            or "hutchinson", a random estimate without bias from vectors of ±1.
        probes: random vectors of "hutchinson"; two or more give a standard error.
        seed: of the random vectors, which stay the same along the whole path.
        method: a fixed method, as in `sample_ode`, or "dopri5" with both tolerances 1e-5 for
            float32 and 1e-7 for float64: an error of the solver grows more in the likelihood than
            in a sample.
        steps: of the fixed methods.

    Raises:
        SolverError: the solver does not converge.
    """
    exact = as_choice(trace, "trace", ("exact", "hutchinson")) == "exact"
    probes, seed = as_whole(probes, "probes", least=1), as_whole(seed, "seed")
    base.require_noise("a likelihood")
    field = CountedField(velocity, x1, condition, base.hole)
    x1, hole = field.start, field.hole
    vectors = _unit_vectors(x1, hole) if exact else _signs(x1, hole, probes, seed)

    def derivative(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():
            x = state[0].detach().clone().requires_grad_()
            b = field(t, x)
            if hole is not None:
                b = torch.where(hole, b, torch.zeros_like(b))
            divergence = torch.stack([_quadratic_form(b, x, vector) for vector in vectors])
        return b.detach(), divergence.sum(0, keepdim=True) if exact else divergence

    rows = 1 if exact else probes
    tolerance = 1e-5 if x1.dtype == torch.float32 else 1e-7
    options = {"method": method, "steps": steps, "rtol": tolerance, "atol": tolerance}
    with torch.no_grad():
        state = (x1, x1.new_zeros(rows, len(x1)))
        (x0, change), _ = solve(derivative, state, backward=True, **options)
        x0 = field.held(x0)
        # The solver went from 1 to 0: `change` is already minus the integral from 0 to 1.
        each = shaped_as(change[0], base.log_prob(x0), "log_prob of the base") + change
    error = each.std(0) / rows**0.5 if rows > 1 else None
    return Likelihood(each.mean(0), x0, field.evaluations, error)


def _quadratic_form(b: Tensor, x: Tensor, vector: Tensor) -> Tensor:
    """vᵀ (∂b/∂x) v for each sample, shape (batch,)."""
    if not b.requires_grad:
        return x.new_zeros(len(x))
    (gradient,) = torch.autograd.grad(
        b, x, vector, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return (gradient * vector).flatten(1).sum(1)


def _unit_vectors(x: Tensor, hole: Tensor | None) -> list[Tensor]:
    """For each dimension that moves in some sample: 1 there, 0 elsewhere."""
    moves = torch.ones_like(x, dtype=torch.bool) if hole is None else hole
    rows = torch.eye(x[0].numel()).to(x)[moves.flatten(1).any(0)]
    # Without any hole there is nothing to differentiate.
    return [row.view(x.shape[1:]).expand_as(x) for row in rows] or [torch.zeros_like(x)]


def _signs(x: Tensor, hole: Tensor | None, probes: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    signs = (torch.randint(0, 2, (probes, *x.shape), generator=generator) * 2 - 1).to(x)
    # Signs on known pixels would add variance and nothing else.
    return list(signs if hole is None else signs * hole)


@dataclass(frozen=True)
class FlowCosts:
    """Costs of a flow, averages over its start with standard errors; sums over dimensions.

    Attributes:
        transport_cost: E|X_1 - X_0|², the left side of Proposition 3.1 of arXiv:2310.03725.
        kinetic_energy: ∫E|b_t(X_t)|²dt, never below the transport cost, and equal to it for
            straight paths at constant speed, which need not be optimal (arXiv:2209.03003).
    """

    transport_cost: Estimate
    kinetic_energy: Estimate


def flow_costs(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    method: str = "rk4",
    steps: int = 100,
) -> FlowCosts:
    """Follow the flow from t = 0 to 1 and integrate |b|² with the same solver.

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
        return b, b.square().flatten(1).sum(1)

    with torch.no_grad():
        state = (x0, x0.new_zeros(len(x0)))
        (x1, energy), _ = solve(derivative, state, method=method, steps=steps)
    x1 = field.held(x1)
    moved = (x1.cpu().double() - x0.cpu().double()).square().flatten(1).sum(1)
    return FlowCosts(_mean(moved), _mean(energy))


def transport_bound(schedule: Schedule, pair: Pair) -> Estimate:
    """∫E|İ_t|²dt, the right side of Proposition 3.1 (eq. 15) of arXiv:2310.03725.

    The integral over time is exact: with A = ∫α̇²dt, B = ∫β̇²dt and C = ∫α̇β̇dt it is the mean of
    A|x0|² + B|x1|² + 2C x0·x1 over the pairs, where fixed pixels do not count.

    Args:
        schedule: of the interpolant.
        pair: coupled samples, `coupling.pair(x1, condition)`, at least two.
    """
    x0, x1 = pair.x0.cpu().double(), pair.x1.cpu().double()
    hole = torch.ones_like(x0) if pair.hole is None else pair.hole.cpu().double()

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b * hole).flatten(1).sum(1)

    def integral(first: TimeFunction, second: TimeFunction) -> float:
        def product(t: float) -> float:
            time = torch.tensor(t, dtype=torch.float64)
            return float(first(time) * second(time))

        return quad(product, 0, 1)[0]

    alpha, beta = schedule.alpha_rate, schedule.beta_rate
    a, b, c = integral(alpha, alpha), integral(beta, beta), integral(alpha, beta)
    return _mean(a * dot(x0, x0) + b * dot(x1, x1) + 2 * c * dot(x0, x1))


def _mean(values: Tensor) -> Estimate:
    values = values.cpu().double()
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))
