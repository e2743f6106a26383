"""X_1 from X_0 by dX = b dt or dX = (b + ε s) dt + √(2ε) dW: for every ε_t ≥ 0 equally distributed.

The score s = ∇log ρ_t follows from the velocity b where the distribution of the base is known: from
x = α η0 + β η1 and b = α̇ η0 + β̇ η1 with η_i = E[x_i | x_t = x] (eqs. 4.4-4.5 of
arXiv:2303.08797) and, where x0 = m + σζ with a known m, η0 = m - α σ² s.
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

from ..inputs import as_choice, as_number, as_tensor, as_whole, finest, shaped_as
from ..training import keep_memory
from .couplings import Condition, Field, GaussianBase, Random, as_condition, normal
from .velocities import MaskedVelocity, Schedule

# Names of the solvers here and in torchdiffeq, whose rk4 is the 3/8 rule.
METHODS = {name: name for name in ("euler", "rk4", "dopri5")}
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
    rtol: float | None = None,
    atol: float | None = None,
    times: Sequence[float] | None = None,
) -> Samples:
    """Solve dX = b_t(X) dt from 0 to 1 (eqs. 8-10 of arXiv:2310.03725), without gradients.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x. Known pixels of a
            `MaskedVelocity` stay bit by bit as they are in `x0`, by every method.
        x0: start, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to the velocity.
        method: "euler" (Algorithm 2), "heun", "rk4" or "dopri5" (the paper's experiments), which
            takes one step size for the whole batch.
        steps: equal steps of all methods but dopri5.
        rtol: of dopri5, 1e-4 by default for float32 and 1e-7 for float64 (the paper gives none).
        atol: likewise.
        times: times of the path that is wanted.

    Raises:
        SolverError: the solver does not converge.
    """
    field = CountedField(velocity, x0, condition)
    options = {"method": method, "steps": steps, "times": times}
    keep_memory()
    with torch.no_grad():
        x1, path = solve(field, field.start, **options, rtol=rtol, atol=atol)
    return Samples(field.held(x1), field.evaluations, None if path is None else field.held(path))


def solve(
    derivative: Callable[[float, Any], Any],
    state: Tensor | tuple[Tensor, ...],
    *,
    method: str,
    steps: int,
    backward: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    times: Sequence[float] | None = None,
) -> tuple[Any, Any]:
    """Solve an ordinary differential equation for a tensor or a tuple of tensors.

    Args:
        derivative: callable (t, state) -> derivatives of the state.
        state: at t = 0, or at 1 to go `backward`.
        method, steps, rtol, atol: as in `sample_ode`.
        backward: from the data to the base.
        times: times in [0, 1] whose states are wanted. The fixed methods interpolate linearly
            between their steps, dopri5 with its own polynomial.

    Returns:
        The state at the other end, and those at `times`, stacked along a new first axis (None
        without, and for a tuple of states).
    """
    solver = METHODS[as_choice(method, "method", METHODS)]
    times = None if times is None else [as_number(t, "times", least=0, most=1) for t in times]
    wanted = sorted({0.0, 1.0, *(times or ())}, reverse=backward)
    first = state[0] if isinstance(state, tuple) else state
    double = {"dtype": finest(first.device), "device": first.device}
    at = torch.tensor(wanted, **double)
    # torchdiffeq's own 1e-7 and 1e-9 are below what float32 can resolve.
    default = 1e-7 if first.dtype == torch.float64 else 1e-4
    if method == "dopri5":
        # A step that ends at the end: none is evaluated beyond t = 1.
        options = {"step_t": at[-1:], "dtype": at.dtype}
    else:
        grid = [1 - t if backward else t for t in _grid(steps)]
        options = {"grid_constructor": lambda *_: torch.tensor(grid, **double)}
        if method == "euler" and times is None and isinstance(state, Tensor):
            for t, after in pairwise(grid):
                state = state + (after - t) * derivative(t, state)
            return state, None
    given = {"rtol": default if rtol is None else rtol, "atol": default if atol is None else atol}
    tolerances = {name: as_number(value, name, above=0) for name, value in given.items()}

    def inside(t: Tensor, y: Any) -> Any:
        return derivative(min(max(float(t), 0.0), 1.0), y)

    try:
        found = odeint(inside, state, at, method=solver, options=options, **tolerances)
    except AssertionError as error:
        reason = str(error).split(" tensor(")[0].split(": ")[0]
        raise SolverError(
            f"dopri5 cannot go on ({reason}): use a larger rtol and atol, or a fixed method"
        ) from error
    rows = [wanted.index(t) for t in times or ()]
    if isinstance(state, tuple):
        return tuple(part[-1] for part in found), None
    return found[-1], None if times is None else found[rows]


def _grid(steps: int) -> list[float]:
    steps = as_whole(steps, "steps", least=1)
    return [n / steps for n in range(steps)] + [1.0]


def decreasing(epsilon: float) -> Diffusion:
    """ε_t = ε(1-t): vanishes at t = 1 as fast as the score may grow."""
    return lambda t: epsilon * (1 - t)


def score_from_velocity(
    schedule: Schedule, x: Tensor, t: Tensor | float, velocity: Tensor, *, base: GaussianBase
) -> Tensor:
    """The score without a second network, where the mean m and the scale σ of x0 are known.

    s = [(β b - β̇ x) - (βα̇ - αβ̇) m] / [(β̇ α² - β αα̇) σ²] (our derivation; for the linear schedule
    it is -(x - t b - m) / ((1-t) σ²)). Zero outside the hole of the base, where there is no
    density; infinite at t = 1.

    Raises:
        ValueError: σ = 0.
    """
    c = schedule.at(t, x)
    base.require_noise("a score")
    spread, slope = (c.alpha * factor * base.scale**2 for factor in (c.alpha, c.alpha_rate))
    wronskian = c.beta * c.alpha_rate - c.alpha * c.beta_rate
    numerator = c.beta * velocity - c.beta_rate * x - wronskian * base.mean
    return base.restrict(numerator / (c.beta_rate * spread - c.beta * slope))


def sample_sde(
    velocity: Field,
    x0: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    diffusion: Diffusion,
    base: GaussianBase,
    steps: int = 200,
    generator: Random = None,
) -> Samples:
    """Solve the stochastic equation of Corollary 3.1 of arXiv:2310.03725 from 0 to 1.

    The score comes from the velocity alone and the distribution of x0 (`score_from_velocity`). It
    may be singular at the ends: within 0.001 of them ε is taken as zero. A last step that ends at t
    = 1 is x + (1-t) b: the mean E[x1 | x_t] of the linear schedule, without noise.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x0: start, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: passed on to the velocity.
        schedule: that the velocity was learned with.
        diffusion: ε_t as a function of a number t, such as `decreasing(1.0)`.
        base: distribution of x0 given the condition, for example `coupling.base(x1, condition)`.
            Only pixels in its hole move.
        steps: equal steps of Euler and Maruyama.
        generator: source of the noise.

    Raises:
        SolverError: NaN or infinite values on the way.
    """
    field = CountedField(velocity, x0, condition, base.hole)
    x = field.start
    keep_memory()
    with torch.no_grad():
        for t, after in pairwise(_grid(steps)):
            h, drift = after - t, field(t, x)
            if after == 1.0:
                x = field.held(x + h * drift)
                continue
            epsilon = diffusion(t) if MARGIN <= t <= 1 - MARGIN else 0.0
            if epsilon:
                drift = drift + epsilon * score_from_velocity(schedule, x, t, drift, base=base)
            noise = math.sqrt(2 * epsilon * h) * normal(x, generator)
            x = field.held(x + h * drift + noise)
    return Samples(x, field.evaluations)
