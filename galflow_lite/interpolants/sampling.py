"""X_1 from X_0 by dX = b dt or dX = (b + ε s) dt + √(2ε) dW: for every ε_t ≥ 0 equally distributed.

The score s = ∇log ρ_t follows from the velocity b where the distribution of the base is known: from
x = α η0 + β η1 + γ g and b = α̇ η0 + β̇ η1 + γ̇ g with η_i = E[x_i | x_t = x] and g = E[z|x_t]
(eqs. 4.4-4.5 of arXiv:2303.08797), s = -g/γ (eq. 6 of arXiv:2310.03725) and, where
x0 = m + σζ with a known m, η0 = m - α σ² s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from ..inputs import as_choice, as_number, as_tensor, as_whole, shaped_as
from ..training import keep_memory
from .couplings import Condition, Field, GaussianBase, Random, as_condition, normal
from .schedules import Schedule
from .velocities import MaskedVelocity

# Names of the solvers here and in torchdiffeq, whose rk4 is the 3/8 rule.
METHODS = {name: name for name in ("euler", "midpoint", "heun3", "rk4", "dopri5")}
METHODS["heun"] = "heun2"
MOST_EVALUATIONS = 10_000
# Within this time of the ends the score may be singular, and ε is taken as zero.
MARGIN = 1e-3
Diffusion = Callable[[float], float]


class SolverError(RuntimeError):
    """A solver did not reach its end: NaN, too many evaluations, or vanishing steps."""


@dataclass(frozen=True)
class Samples:
    """Result of a sampler.

    Attributes:
        samples: shape (batch, *dim).
        evaluations: calls of the velocity, each on the whole batch.
        path: states at the times asked for, shape (times, batch, *dim), or None.
    """

    samples: Tensor
    evaluations: int
    path: Tensor | None = None


class CountedField:
    """A velocity at one time for a whole batch; counts its evaluations and checks what it returns.

    Args:
        field: callable (x, t, condition) -> tensor of the shape of x.
        x: where it starts; `start` is this in the type of a field that is a module.
        condition: passed on to the field.
        hole: where pixels move; None takes that of a `MaskedVelocity`, or everywhere.

    Raises:
        SolverError: NaN or infinite values, or the solver does not come to an end.
        ValueError: another shape than that of x.
    """

    def __init__(
        self, field: Field, x: Any, condition: Condition, hole: Tensor | None = None
    ) -> None:
        self.start = as_tensor(x, "x", like=field if isinstance(field, nn.Module) else None)
        self.condition = as_condition(condition, self.start)
        self.field, self.evaluations, self.hole = field, 0, hole
        if isinstance(field, MaskedVelocity):
            self.hole = field.hole(self.condition, self.start)

    def held(self, x: Tensor) -> Tensor:
        """`x` with known pixels bit by bit as they were at the start; leading axes are welcome.

        Steps add zero to them, but the interpolation of dopri5 rounds.
        """
        return x if self.hole is None else torch.where(self.hole, x, self.start)

    def __call__(self, t: float, x: Tensor) -> Tensor:
        if self.evaluations >= MOST_EVALUATIONS:
            raise SolverError(
                f"{self.evaluations} evaluations have led to t = {t:.4g} and not to the end: use a "
                "larger rtol and atol, or fewer steps"
            )
        self.evaluations += 1
        times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        found = shaped_as(x, self.field(x, times, self.condition), "velocity")
        if not bool(torch.isfinite(found).all()):
            raise SolverError(
                f"the velocity is NaN or infinite at t = {t:.4g}: use more steps, or train with a "
                "smaller learning rate"
            )
        return found


def sample_ode(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    method: str = "euler",
    steps: int = 100,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float | None = None,
    atol: float | None = None,
    times: Sequence[float] | None = None,
) -> Samples:
    """Solve dX = b_t(X) dt (eqs. 8-10 of arXiv:2310.03725), without gradients.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x. Known pixels of a
            `MaskedVelocity` stay bit by bit as they are in `x0`, by every method.
        x0: start, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to the velocity.
        method: "euler" (Algorithm 2), "midpoint", "heun", "heun3", "rk4" or "dopri5" (the paper's
            experiments). dopri5 takes one step size for the whole batch.
        steps: equal steps of all methods but dopri5.
        start: time of `x0`.
        end: time of the result; before `start` to go from the data to the base.
        rtol: of dopri5, 1e-4 by default for float32 and 1e-7 for float64 (the paper gives none).
        atol: likewise.
        times: times of the path that is wanted.

    Raises:
        SolverError: the solver does not converge.
    """
    field = CountedField(velocity, x0, condition)
    options = {"method": method, "start": start, "end": end, "steps": steps, "times": times}
    keep_memory()
    with torch.no_grad():
        x1, path = solve(field, field.start, **options, rtol=rtol, atol=atol)
    return Samples(field.held(x1), field.evaluations, None if path is None else field.held(path))


def solve(
    derivative: Callable[[float, Any], Any],
    state: Tensor | tuple[Tensor, ...],
    *,
    method: str,
    start: float,
    end: float,
    steps: int,
    rtol: float | None = None,
    atol: float | None = None,
    times: Sequence[float] | None = None,
) -> tuple[Any, Any]:
    """Solve an ordinary differential equation for a tensor or a tuple of tensors.

    Args:
        derivative: callable (t, state) -> derivatives of the state.
        state: at `start`.
        method, steps, rtol, atol: as in `sample_ode`.
        start, end: two times in [0, 1], in either order.
        times: times between them whose states are wanted. The fixed methods interpolate linearly
            between their steps, dopri5 with its own polynomial.

    Returns:
        The state at `end`, and those at `times`, stacked along a new first axis (None without).
    """
    solver = METHODS[as_choice(method, "method", METHODS)]
    start, end = _span(start, end)
    low, high = sorted((start, end))
    times = None if times is None else [as_number(t, "times", least=low, most=high) for t in times]
    wanted = sorted({start, end, *(times or ())}, reverse=end < start)
    first = state[0] if isinstance(state, tuple) else state
    double = {"dtype": torch.float64, "device": first.device}
    at = torch.tensor(wanted, **double)
    # torchdiffeq's own 1e-7 and 1e-9 are below what float32 can resolve.
    default = 1e-7 if first.dtype == torch.float64 else 1e-4
    if method == "dopri5":
        # A step that ends at the end: none is evaluated beyond t = 1.
        options = {"step_t": at[-1:]}
    else:
        grid = _grid(start, end, steps)
        options = {"grid_constructor": lambda *_: torch.tensor(grid, **double)}
        if method == "euler" and times is None and isinstance(state, Tensor):
            for t, after in pairwise(grid):
                state = state + (after - t) * derivative(t, state)
            return state, None
    given = {"rtol": default if rtol is None else rtol, "atol": default if atol is None else atol}
    tolerances = {name: as_number(value, name, above=0) for name, value in given.items()}

    def inside(t: Tensor, y: Any) -> Any:
        return derivative(min(max(float(t), low), high), y)

    try:
        found = odeint(inside, state, at, method=solver, options=options, **tolerances)
    except AssertionError as error:
        reason = str(error).split(" tensor(")[0].split(": ")[0]
        raise SolverError(
            f"dopri5 cannot go on ({reason}): use a larger rtol and atol, or a fixed method"
        ) from error
    rows = [wanted.index(t) for t in times or ()]
    if isinstance(state, tuple):
        return tuple(part[-1] for part in found), tuple(part[rows] for part in found)
    return found[-1], None if times is None else found[rows]


def _span(start: float, end: float) -> tuple[float, float]:
    start = as_number(start, "start", least=0, most=1)
    return start, as_number(end, "end", least=0, most=1)


def _grid(start: float, end: float, steps: int) -> list[float]:
    steps = as_whole(steps, "steps", least=1)
    return [start + (end - start) * n / steps for n in range(steps)] + [end]


def decreasing(epsilon: float) -> Diffusion:
    """ε_t = ε(1-t): vanishes at t = 1 as fast as the score may grow."""
    return lambda t: epsilon * (1 - t)


def score_from_velocity(
    schedule: Schedule, x: Tensor, t: Tensor | float, velocity: Tensor, *, base: GaussianBase
) -> Tensor:
    """The score without a second network, where the mean m and the scale σ of x0 are known.

    s = [(β b - β̇ x) - (βα̇ - αβ̇) m] / [β̇ (α²σ² + γ²) - β (αα̇σ² + γγ̇)] (our derivation; for the
    linear schedule without γ it is -(x - t b - m) / ((1-t) σ²)). Zero outside the hole of the base,
    where there is no density. At t = 1 it needs γ or a base that has not shrunk to nothing: it is
    infinite there without γ.

    Raises:
        ValueError: σ = 0 where γ = 0 too.
    """
    c = schedule.at(t, x)
    if not schedule.has_noise:
        base.require_noise("a score")
    variance = base.scale**2
    spread = c.alpha.square() * variance + c.gamma.square()
    # αα̇ is finite where α̇ is not only in the limit: σ = 0 must not meet an infinite rate.
    slope = c.gamma_product + (c.alpha * c.alpha_rate * variance if variance else 0)
    wronskian = c.beta * c.alpha_rate - c.alpha * c.beta_rate
    numerator = c.beta * velocity - c.beta_rate * x - wronskian * base.mean
    return base.restrict(numerator / (c.beta_rate * spread - c.beta * slope))


def sample_sde(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    diffusion: Diffusion | float,
    base: GaussianBase,
    steps: int = 200,
    start: float = 0.0,
    end: float = 1.0,
    generator: Random = None,
) -> Samples:
    """Solve the stochastic equation of Corollary 3.1 of arXiv:2310.03725, without gradients.

    The score comes from the velocity alone and the distribution of x0 (`score_from_velocity`). It
    may be singular at the ends: within 0.001 of them ε is taken as zero. A last step that ends at t
    = 1 is x + (1-t) b: the mean E[x1 | x_t] of the linear schedule, without noise.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: start, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to the velocity.
        schedule: that the velocity was learned with.
        diffusion: ε_t as a function of a number t, or one number; such as `decreasing(1.0)`.
        base: distribution of x0 given the condition, for example `coupling.base(x1, condition)`.
            Only pixels in its hole move.
        steps: equal steps of Euler and Maruyama.
        start: time of `x0`.
        end: time of the result; before `start` the backward equation is solved (eqs. 13-14).
        generator: source of the noise.

    Raises:
        SolverError: NaN or infinite values on the way.
    """
    start, end = _span(start, end)
    grid = _grid(start, end, steps)
    field = CountedField(velocity, x0, condition, base.hole)
    x, sign = field.start, -1 if end < start else 1

    def drift(x: Tensor, t: float, epsilon: float) -> Tensor:
        b = field(t, x)
        if epsilon == 0:
            return b
        return b + sign * epsilon * score_from_velocity(schedule, x, t, b, base=base)

    keep_memory()
    with torch.no_grad():
        for t, after in pairwise(grid):
            h = after - t
            if after == 1.0:
                x = field.held(x + h * field(t, x))
                continue
            epsilon = _epsilon(diffusion, t)
            noise = math.sqrt(2 * epsilon * abs(h)) * normal(x, generator)
            x = field.held(x + h * drift(x, t, epsilon) + noise)
    return Samples(x, field.evaluations)


def _epsilon(diffusion: Diffusion | float, t: float) -> float:
    if not MARGIN <= t <= 1 - MARGIN:
        return 0.0
    return as_number(diffusion(t) if callable(diffusion) else diffusion, "diffusion", least=0)
