"""X_1 from X_0 by dX = b dt: Algorithm 2 of arXiv:2310.03725 and finer solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import Field
from .masks import Condition
from .solvers import CountedField, keep_known, solve

__all__ = ["Samples", "require_start", "sample_ode"]


@dataclass(frozen=True)
class Samples:
    """Result of a sampler.

    Attributes:
        samples: shape (batch, *dim).
        evaluations: calls of the velocity, each on the whole batch.
        times: times of `path`, or None.
        path: states at these times, shape (times, batch, *dim), or None.
    """

    samples: Tensor
    evaluations: int
    times: tuple[float, ...] | None = None
    path: Tensor | None = None


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
    max_evaluations: int = 10_000,
) -> Samples:
    """Solve dX = b_t(X) dt (eqs. 8-10 of arXiv:2310.03725), without gradients.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x. Known pixels of a
            `MaskedVelocity` stay bit by bit as they are in `x0`, by every method.
        x0: start, shape (batch, *dim).
        condition: passed on to the velocity.
        method: "euler" (Algorithm 2), "midpoint", "heun", "rk4" or "dopri5" (the paper's
            experiments). dopri5 takes one step size for the whole batch.
        steps: equal steps of all methods but dopri5.
        start: time of `x0`.
        end: time of the result; before `start` to go from the data to the base.
        rtol: of dopri5, 1e-4 by default for float32 and 1e-7 for float64 (the paper gives none).
        atol: likewise.
        times: times of the path that is wanted.
        max_evaluations: of the velocity, before the solver is given up.

    Raises:
        ValueError: an unknown method, times outside [0, 1], NaN in `x0`, a velocity of another
            shape.
        SolverError: the solver does not converge.
    """
    require_start(x0)
    field = CountedField(velocity, condition, most=max_evaluations)
    with torch.no_grad():
        found = solve(
            lambda t, state: (field(t, state[0]),),
            (x0,),
            method=method,
            start=start,
            end=end,
            steps=steps,
            rtol=rtol,
            atol=atol,
            times=times,
        )
        samples = keep_known(velocity, condition, found.end[0], x0)
        path = None
        if found.path is not None:
            path = keep_known(velocity, condition, found.path[0], x0)
    return Samples(samples, field.evaluations, None if times is None else tuple(times), path)


def require_start(x: Tensor) -> None:
    """Refuse a start with NaN or infinite values."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            "found NaN or infinite values in the start of the sampler, expected none: draw x0 with "
            "the coupling"
        )
