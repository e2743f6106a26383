"""dX/dt = b_t(X): explicit Runge-Kutta steps of fixed size, and dopri5 of torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from .losses import Field
from .masks import Condition, MaskedVelocity

__all__ = [
    "METHODS",
    "CountedField",
    "SolverError",
    "Solution",
    "keep_known",
    "require_span",
    "require_steps",
    "solve",
]

State = tuple[Tensor, ...]
Derivative = Callable[[float, State], State]


class SolverError(RuntimeError):
    """A solver did not reach its end: NaN, too many evaluations, or vanishing steps."""


@dataclass(frozen=True)
class Solution:
    """State at the end, and at the times asked for (stacked, shape (times, ...))."""

    end: State
    path: State | None


# For each method: times of the stages, coefficients of each stage, weights of the step.
_TABLEAUX = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": ((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": (
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}
METHODS = (*_TABLEAUX, "dopri5")


class CountedField:
    """A velocity at one time for a whole batch; counts its evaluations and checks what it returns.

    Raises:
        SolverError: NaN or infinite values, more than `most` evaluations.
        ValueError: another shape than that of x.
    """

    def __init__(self, field: Field, condition: Condition, *, most: int, name: str = "velocity"):
        self.field, self.condition, self.most, self.name = field, condition, most, name
        self.evaluations = 0

    def __call__(self, t: float, x: Tensor) -> Tensor:
        if self.evaluations >= self.most:
            raise SolverError(
                f"found {self.evaluations} evaluations of the {self.name} at t = {t:.4g} and the "
                "end not reached: raise max_evaluations, rtol or atol"
            )
        self.evaluations += 1
        times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        found = self.field(x, times, self.condition)
        if found.shape != x.shape:
            raise ValueError(
                f"found a {self.name} of shape {tuple(found.shape)}, expected that of x, "
                f"{tuple(x.shape)}: return the image channels only"
            )
        if not bool(torch.isfinite(found).all()):
            raise SolverError(
                f"found NaN or infinite values of the {self.name} at t = {t:.4g}: use more steps, "
                "or train with a smaller learning rate"
            )
        return found


def solve(
    derivative: Derivative,
    state: State,
    *,
    method: str,
    start: float,
    end: float,
    steps: int,
    rtol: float | None = None,
    atol: float | None = None,
    times: Sequence[float] | None = None,
) -> Solution:
    """Solve an ordinary differential equation for a tuple of tensors.

    Args:
        derivative: callable (t, state) -> derivatives of the state.
        state: at `start`.
        method: one of `METHODS`.
        start: time.
        end: time, may be before `start`.
        steps: equal steps of the fixed methods.
        rtol: relative tolerance of dopri5; by default 1e-4 for float32 and 1e-7 for float64.
        atol: absolute tolerance of dopri5; likewise.
        times: times between `start` and `end` whose states are wanted. The fixed methods
            interpolate linearly between their steps, dopri5 with its own polynomial.

    Raises:
        ValueError: an unknown method, times outside [0, 1] or [start, end], fewer than one step.
        SolverError: dopri5 cannot take a step.
    """
    if method not in METHODS:
        raise ValueError(
            f"found method={method!r}, expected one of {', '.join(METHODS)}: choose one"
        )
    require_span(start, end, times)
    if method == "dopri5":
        return _adaptive(derivative, state, start, end, rtol, atol, times)
    require_steps(steps)
    nodes, stages, weights = _TABLEAUX[method]
    grid = [start + (end - start) * n / steps for n in range(steps)] + [end]
    wanted = _Path(times, start, end, steps)
    for n, t in enumerate(grid[:-1]):
        h = grid[n + 1] - t
        slopes: list[State] = []
        for node, row in zip(nodes, stages, strict=True):
            # The last node is the grid point itself, not its rounded neighbour beyond 1.
            at = grid[n + 1] if node == 1.0 else t + node * h
            slopes.append(derivative(at, _advance(state, row, slopes, h)))
        new = _advance(state, weights, slopes, h)
        wanted.add(n, state, new)
        state = new
    return Solution(state, wanted.stacked())


def _advance(state: State, weights: Sequence[float], slopes: list[State], h: float) -> State:
    used = [(w, s) for w, s in zip(weights, slopes, strict=True) if w]
    if not used:
        return state
    return tuple(x + h * sum(w * slope[k] for w, slope in used) for k, x in enumerate(state))


class _Path:
    """States at given times, by linear interpolation between steps."""

    def __init__(self, times: Sequence[float] | None, start: float, end: float, steps: int) -> None:
        self.times = times
        places = [(t - start) / (end - start) * steps for t in times or ()]
        self.steps = [min(int(place), steps - 1) for place in places]
        self.shares = [place - step for place, step in zip(places, self.steps, strict=True)]
        self.states: list[State | None] = [None] * len(places)

    def add(self, step: int, old: State, new: State) -> None:
        for k, (at, share) in enumerate(zip(self.steps, self.shares, strict=True)):
            if at == step:
                pairs = zip(old, new, strict=True)
                self.states[k] = tuple(torch.lerp(a, b, share) for a, b in pairs)

    def stacked(self) -> State | None:
        if self.times is None:
            return None
        return tuple(torch.stack(part) for part in zip(*self.states, strict=True))


def _adaptive(
    derivative: Derivative,
    state: State,
    start: float,
    end: float,
    rtol: float | None,
    atol: float | None,
    times: Sequence[float] | None,
) -> Solution:
    # torchdiffeq's own 1e-7 and 1e-9 are below what float32 can resolve.
    default = 1e-7 if state[0].dtype == torch.float64 else 1e-4
    wanted = sorted({start, end, *(times or ())}, reverse=end < start)
    grid = torch.tensor(wanted, dtype=torch.float64, device=state[0].device)
    low, high = min(start, end), max(start, end)

    def bounded(t: Tensor, y: State) -> State:
        return derivative(min(max(float(t), low), high), y)

    try:
        found = odeint(
            bounded,
            state,
            grid,
            rtol=default if rtol is None else rtol,
            atol=default if atol is None else atol,
            method="dopri5",
            # A step that ends at the end: none is evaluated beyond t = 1.
            options={"step_t": grid[-1:]},
        )
    except AssertionError as error:
        reason = str(error).split(" tensor(")[0].split(": ")[0]
        raise SolverError(
            f"found that dopri5 cannot go on ({reason}): raise rtol and atol, or use a fixed method"
        ) from error
    last = tuple(part[-1] for part in found)
    if times is None:
        return Solution(last, None)
    rows = [wanted.index(t) for t in times]
    return Solution(last, tuple(part[rows] for part in found))


def keep_known(velocity: Field, condition: Condition, x: Tensor, x0: Tensor) -> Tensor:
    """Known pixels of a `MaskedVelocity` exactly as they were at the start.

    Steps add zero to them, but the interpolation of dopri5 rounds. `x` may have leading axes.
    """
    if not isinstance(velocity, MaskedVelocity):
        return x
    return torch.where(velocity.hole(condition, x0), x, x0)


def require_span(start: float, end: float, times: Sequence[float] | None) -> None:
    """Refuse times outside [0, 1] and an empty span."""
    if not (0 <= start <= 1 and 0 <= end <= 1 and start != end):
        raise ValueError(
            f"found start={start} and end={end}, expected two different times in [0, 1]: correct "
            "them"
        )
    low, high = min(start, end), max(start, end)
    if times is not None and not all(math.isfinite(t) and low <= t <= high for t in times):
        raise ValueError(
            f"found times {list(times)}, expected times in [{low:g}, {high:g}]: correct them"
        )


def require_steps(steps: int) -> None:
    """Refuse fewer than one step."""
    if steps < 1:
        raise ValueError(f"found steps={steps}, expected at least 1: raise it")
