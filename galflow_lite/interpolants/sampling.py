"""X_1 from X_0 by dX = b dt: Algorithm 2 of arXiv:2310.03725 and finer solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from ..inputs import as_choice, as_number, as_tensor, as_whole
from .conditions import Condition, Field, as_condition, shaped_as
from .image_couplings import MaskedVelocity

# Names of the solvers here and in torchdiffeq, whose rk4 is the 3/8 rule.
METHODS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "rk4": "rk4"}
METHODS |= {"heun3": "heun3", "dopri5": "dopri5"}
MOST_EVALUATIONS = 10_000

State = tuple[Tensor, ...]


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
    with torch.no_grad():
        x1, path = solve(field, field.start, **options, rtol=rtol, atol=atol)
    return Samples(field.held(x1), field.evaluations, None if path is None else field.held(path))


def solve(
    derivative: Callable[[float, Any], Any],
    state: Tensor | State,
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
    name = METHODS[as_choice(method, "method", METHODS)]
    start, end = require_span(start, end)
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
        steps = as_whole(steps, "steps", least=1)
        grid = [start + (end - start) * n / steps for n in range(steps)] + [end]
        options = {"grid_constructor": lambda *_: torch.tensor(grid, **double)}
        if method == "euler" and times is None and isinstance(state, Tensor):
            for t, after in pairwise(grid):
                state = state + (after - t) * derivative(t, state)
            return state, None
    try:
        found = odeint(
            lambda t, y: derivative(min(max(float(t), low), high), y),
            state,
            at,
            rtol=default if rtol is None else rtol,
            atol=default if atol is None else atol,
            method=name,
            options=options,
        )
    except AssertionError as error:
        reason = str(error).split(" tensor(")[0].split(": ")[0]
        raise SolverError(
            f"dopri5 cannot go on ({reason}): use a larger rtol and atol, or a fixed method"
        ) from error
    rows = [wanted.index(t) for t in times or ()]
    if isinstance(state, tuple):
        return tuple(part[-1] for part in found), tuple(part[rows] for part in found)
    return found[-1], None if times is None else found[rows]


def require_span(start: float, end: float) -> tuple[float, float]:
    """Two different times in [0, 1]."""
    start = as_number(start, "start", least=0, most=1)
    return start, as_number(end, "end (another time than start)", least=0, most=1)
