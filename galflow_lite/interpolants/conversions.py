"""Velocity b, denoiser g = E[z|x_t], score s = ∇log ρ_t, means E[x0|x_t] and E[x1|x_t].

From x = α η0 + β η1 + γ g and b = α̇ η0 + β̇ η1 + γ̇ g with η_i = E[x_i | x_t = x]
(eqs. 4.4-4.5 of arXiv:2303.08797), s = -g/γ (eq. 6 of arXiv:2310.03725) and, where
x0 = m + σζ with a known m, η0 = m - α σ² s. All functions take x of shape (batch, *dim) and times
of shape (batch,), or one number, and return the shape of x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .laws import GaussianBase
from .schedules import Coefficients, Schedule

__all__ = [
    "base_mean",
    "base_noise",
    "data_mean",
    "denoiser_from_score",
    "score_from_denoiser",
    "score_from_velocity",
    "velocity_from_data_mean",
    "velocity_from_score",
]


def score_from_denoiser(schedule: Schedule, x: Tensor, t: Tensor | float, denoiser: Tensor):
    """s = -g/γ (eq. 6 of arXiv:2310.03725).

    Raises:
        ValueError: γ_t = 0.
    """
    gamma = schedule.at(t, x).gamma
    if not bool((gamma > 0).all()):
        raise ValueError(
            "found gamma = 0 at a time where a score was asked for, expected a positive gamma: "
            "stay inside (0, 1), or use score_from_velocity with the base"
        )
    return -denoiser / gamma


def denoiser_from_score(schedule: Schedule, x: Tensor, t: Tensor | float, score: Tensor):
    """g = -γ s."""
    return -schedule.at(t, x).gamma * score


def score_from_velocity(
    schedule: Schedule, x: Tensor, t: Tensor | float, velocity: Tensor, *, base: GaussianBase
) -> Tensor:
    """The score without a second network, where the mean m and the scale σ of x0 are known.

    s = [(β b - β̇ x) - (βα̇ - αβ̇) m] / [β̇ (α²σ² + γ²) - β (αα̇σ² + γγ̇)] (our derivation; for the
    linear schedule without γ it is -(x - t b - m) / ((1-t) σ²)). Zero outside the hole of the base,
    where there is no density. At t = 1 it needs γ or a base that has not shrunk to nothing: it is
    infinite there without γ.

    Raises:
        ValueError: σ = 0 where γ = 0 too, or noise that depends on x1 (optimal transport).
    """
    _require_usable(base)
    c = schedule.at(t, x)
    if not schedule.has_noise:
        base.require_noise("a score")
    spread, slope = _noise_variance(c, base)
    wronskian = c.beta * c.alpha_rate - c.alpha * c.beta_rate
    numerator = c.beta * velocity - c.beta_rate * x - wronskian * base.mean
    return base.restrict(numerator / (c.beta_rate * spread - c.beta * slope))


def velocity_from_score(
    schedule: Schedule, x: Tensor, t: Tensor | float, score: Tensor, *, base: GaussianBase
) -> Tensor:
    """Inverse of `score_from_velocity`; zero outside the hole of the base.

    b = α̇ m + β̇ η1 - (αα̇σ² + γγ̇) s with η1 = [x - α m + (α²σ² + γ²) s] / β.

    Raises:
        ValueError: β_t = 0, where the score says nothing of the data; or as `score_from_velocity`.
    """
    _require_usable(base)
    c = schedule.at(t, x)
    if not bool((c.beta != 0).all()):
        raise ValueError(
            "found beta = 0 at a time where a velocity was asked for, where the score does not "
            "depend on the data: use a later time"
        )
    spread, slope = _noise_variance(c, base)
    data = (x - c.alpha * base.mean + spread * score) / c.beta
    velocity = c.alpha_rate * base.mean + c.beta_rate * data - slope * score
    return base.restrict(velocity)


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
        ValueError: neither is given where γ is not zero; β and β̇ vanish (first half of
            encoding-decoding), where x says nothing of x1.
    """
    c, position, rate = _without_noise(schedule, x, t, velocity, denoiser, base)
    mean = _solve(position, rate, c.beta, c.beta_rate, c.alpha, c.alpha_rate, "x1")
    return mean if base is None else base.restrict(mean, outside=x)


def base_mean(
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    velocity: Tensor,
    *,
    denoiser: Tensor | None = None,
    base: GaussianBase | None = None,
) -> Tensor:
    """η0 = E[x0 | x_t = x]; for the linear schedule without γ it is x - t b.

    Arguments and errors as for `data_mean`, with x0 in place of x1.
    """
    c, position, rate = _without_noise(schedule, x, t, velocity, denoiser, base)
    mean = _solve(position, rate, c.alpha, c.alpha_rate, c.beta, c.beta_rate, "x0")
    return mean if base is None else base.restrict(mean, outside=x)


def base_noise(
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    velocity: Tensor,
    *,
    base: GaussianBase,
    denoiser: Tensor | None = None,
) -> Tensor:
    """E[ζ | x_t = x] = (η0 - m)/σ, the noise in the base; zero outside the hole.

    Raises:
        ValueError: σ = 0, and as for `data_mean`.
    """
    base.require_noise("its noise")
    mean = base_mean(schedule, x, t, velocity, denoiser=denoiser, base=base)
    return base.restrict((mean - base.mean) / base.scale)


def velocity_from_data_mean(
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    mean: Tensor,
    *,
    denoiser: Tensor | None = None,
) -> Tensor:
    """b from η1 = E[x1|x_t] and, if γ is not zero, g: two of the three parts are enough.

    Raises:
        ValueError: α_t = 0 (t = 1), or no denoiser where γ is not zero.
    """
    c = schedule.at(t, x)
    if schedule.has_noise and denoiser is None:
        raise _no_denoiser()
    if not bool((c.alpha != 0).all()):
        raise ValueError(
            "found alpha = 0 at a time where a velocity was asked for: use an earlier time"
        )
    noise, noise_rate = (
        (0, 0) if denoiser is None else (c.gamma * denoiser, c.gamma_rate * denoiser)
    )
    start = (x - c.beta * mean - noise) / c.alpha
    return c.alpha_rate * start + c.beta_rate * mean + noise_rate


def _noise_variance(c: Coefficients, base: GaussianBase) -> tuple[Tensor, Tensor]:
    """Variance α²σ² + γ² of all Gaussian noise in x_t, and half its time derivative."""
    variance = base.scale**2
    spread = c.alpha.square() * variance + c.gamma.square()
    # αα̇ is finite where α̇ is not only in the limit: σ = 0 must not meet an infinite rate.
    slope = c.gamma_product + (c.alpha * c.alpha_rate * variance if variance else 0)
    return spread, slope


def _without_noise(
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    velocity: Tensor,
    denoiser: Tensor | None,
    base: GaussianBase | None,
) -> tuple[Coefficients, Tensor, Tensor]:
    """x - γg and b - γ̇g, which are mixtures of η0 and η1 alone."""
    c = schedule.at(t, x)
    if not schedule.has_noise:
        return c, x, velocity
    if denoiser is not None:
        return c, x - c.gamma * denoiser, velocity - c.gamma_rate * denoiser
    if base is None:
        raise _no_denoiser()
    score = score_from_velocity(schedule, x, t, velocity, base=base)
    return c, x + c.gamma.square() * score, velocity + c.gamma_product * score


def _solve(
    position: Tensor,
    rate: Tensor,
    own: Tensor,
    own_rate: Tensor,
    other: Tensor,
    other_rate: Tensor,
    name: str,
) -> Tensor:
    """`own_mean` of position = own · own_mean + other · other_mean, and likewise for the rates."""
    alone = other == 0  # also where a rate of the other is infinite
    determinant = other * own_rate - other_rate * own
    unknown = torch.where(alone, own == 0, determinant == 0)
    if bool(unknown.any()):
        raise ValueError(
            f"found a time at which x_t says nothing of {name}, expected one at which its "
            "coefficient is not zero: use another time or schedule"
        )
    safe = torch.where(alone, torch.ones_like(determinant), determinant)
    both = (other * rate - other_rate * position) / safe
    return torch.where(alone, position / torch.where(alone, own, torch.ones_like(own)), both)


def _require_usable(base: GaussianBase) -> None:
    if not base.independent:
        raise ValueError(
            "found a base whose noise depends on the data (optimal transport), expected "
            "independent noise: learn a denoiser for the score"
        )


def _no_denoiser() -> ValueError:
    return ValueError(
        "found no denoiser for a schedule with latent noise, expected its values: pass denoiser, "
        "or base where the mean of x0 is known"
    )
