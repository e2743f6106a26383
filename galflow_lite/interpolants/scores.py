"""What follows from a velocity b: the score s = ∇log ρ_t and the data mean E[x1 | x_t].

From x = α η0 + β η1 + γ g and b = α̇ η0 + β̇ η1 + γ̇ g with η_i = E[x_i | x_t = x] and g = E[z|x_t]
(eqs. 4.4-4.5 of arXiv:2303.08797), s = -g/γ (eq. 6 of arXiv:2310.03725) and, where
x0 = m + σζ with a known m, η0 = m - α σ² s. All functions take x of shape (batch, *dim) and times
of shape (batch,), or one number, and return the shape of x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .couplings import GaussianBase
from .schedules import Schedule


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


def data_mean(
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    velocity: Tensor,
    *,
    denoiser: Tensor | None = None,
    base: GaussianBase | None = None,
) -> Tensor:
    """η1 = E[x1 | x_t = x]; for the linear schedule without γ it is x + (1-t) b.

    Args:
        schedule: of the interpolant.
        x: points.
        t: times.
        velocity: b at these points.
        denoiser: g at these points; needed if γ is not zero, unless `base` is given.
        base: law of x0 with known mean, in place of the denoiser. Outside its hole the result is x.

    Raises:
        ValueError: β and β̇ vanish (first half of encoding-decoding), where x says nothing of x1.
    """
    c = schedule.at(t, x)
    position, rate = x, velocity
    if schedule.has_noise and denoiser is not None:
        position, rate = x - c.gamma * denoiser, velocity - c.gamma_rate * denoiser
    elif schedule.has_noise:
        score = score_from_velocity(schedule, x, t, velocity, base=base)
        position, rate = x + c.gamma.square() * score, velocity + c.gamma_product * score
    alone = c.alpha == 0  # also where α̇ is infinite
    determinant = c.alpha * c.beta_rate - c.alpha_rate * c.beta
    if bool(torch.where(alone, c.beta == 0, determinant == 0).any()):
        raise ValueError("x_t says nothing of x1 at this time: use another time or schedule")
    safe = torch.where(alone, torch.ones_like(determinant), determinant)
    both = (c.alpha * rate - c.alpha_rate * position) / safe
    mean = torch.where(alone, position / torch.where(alone, c.beta, torch.ones_like(safe)), both)
    return mean if base is None else base.restrict(mean, outside=x)
