"""I_t = α_t x0 + β_t x1, and the velocity b_t(x) = E[İ_t | I_t = x]: its loss, its closed form.

L_b = E[|b|² - 2 İ·b] is a square loss without its constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..inputs import as_choice, as_hole, as_index, as_number, as_tensor, may_look, shaped_as
from .couplings import Condition, Field, Pair, Random, custom, entry

TimeFunction = Callable[[Tensor], Tensor]


def derivative(function: TimeFunction, t: Tensor) -> Tensor:
    """Exact time derivative of a function written in torch that acts element by element."""
    with torch.inference_mode(False), torch.enable_grad():
        times = t.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            function(times).sum(), times, allow_unused=True, materialize_grads=True
        )
    return slope


class Coefficients(NamedTuple):
    """Coefficients at given times; a rate is a time derivative."""

    alpha: Tensor
    beta: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor


@dataclass(frozen=True)
class Schedule:
    r"""Coefficients of a stochastic interpolant, Definition 3.1 (eq. 1) of arXiv:2310.03725.

    α_0 = β_1 = 1 and α_1 = β_0 = 0: t = 0 is the base x0 and t = 1 the data x1. (Section 4.1 of the
    paper writes α and β in the other order; the definition is followed here.) The latent noise γ of
    the definition is zero, as in the paper's experiments.

    Args:
        alpha, beta: functions of a tensor of times, written in torch, which differentiates them.

    Raises:
        ValueError: wrong boundary values.

    Example:
        >>> curved = Schedule(lambda t: (1 - t) ** 2, lambda t: t**3)
        >>> curved.alpha_rate(torch.tensor(0.5))
        tensor(-1.)
    """

    alpha: TimeFunction
    beta: TimeFunction

    def __post_init__(self) -> None:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        found = torch.stack([self.alpha(ends), self.beta(ends)])
        if not np.allclose(found, [[1, 0], [0, 1]], atol=1e-6):
            raise ValueError(
                f"alpha and beta are {found.tolist()} at t = 0 and 1, expected [1, 0] and [0, 1] "
                "(t = 0 is the base, t = 1 the data): correct them"
            )

    @staticmethod
    def linear() -> Schedule:
        """α = 1-t, β = t: the schedule of the paper's experiments."""
        return Schedule(_falling, _rising)

    def alpha_rate(self, t: Tensor) -> Tensor:
        """α̇_t."""
        return -torch.ones_like(t) if self.alpha is _falling else derivative(self.alpha, t)

    def beta_rate(self, t: Tensor) -> Tensor:
        """β̇_t."""
        return torch.ones_like(t) if self.beta is _rising else derivative(self.beta, t)

    def at(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """Coefficients at one time for each sample, shaped to multiply `x`.

        Args:
            t: times in [0, 1], shape (batch,), or one number for all.
            x: shape (batch, *dim).

        Raises:
            ValueError: times outside [0, 1].
        """
        times = as_tensor(t, "times", like=x)
        for end in times.aminmax() if may_look(times) else ():
            as_number(end, "times", least=0, most=1)
        t = times.expand(len(x)).view(-1, *[1] * (x.ndim - 1))
        return Coefficients(self.alpha(t), self.beta(t), self.alpha_rate(t), self.beta_rate(t))

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """I_t = α x0 + β x1 (eq. 1) and its time derivative İ_t.

        Args:
            x0: base, shape (batch, *dim).
            x1: data, of the same shape.
            t: times in [0, 1], shape (batch,), or one number.
        """
        c = self.at(t, x0)
        return c.alpha * x0 + c.beta * x1, c.alpha_rate * x0 + c.beta_rate * x1


def _falling(t: Tensor) -> Tensor:
    return 1 - t


def _rising(t: Tensor) -> Tensor:
    return t.clone()


@dataclass(frozen=True)
class Draw:
    """Random points of an interpolant.

    Attributes:
        t: times, shape (batch,).
        x: I_t, shape (batch, *dim).
        rate: İ_t.
        pair: base, data and condition.
    """

    t: Tensor
    x: Tensor
    rate: Tensor
    pair: Pair


def draw_interpolant(
    x1: Tensor,
    condition: Condition = None,
    *,
    schedule: Schedule,
    coupling: Any,
    times: Tensor | float | None = None,
    generator: Random = None,
) -> Draw:
    """Draw x0, t ~ U(0, 1) and I_t for a batch of data (Algorithm 1 of arXiv:2310.03725).

    On known pixels of in-painting I_t = x1 and İ_t = 0 exactly. For the linear schedule this is
    what eq. 1 gives; for the others it is a choice of I(t, x0, x1) that keeps them fixed, so that a
    `MaskedVelocity` is right for every schedule.

    Args:
        x1: data, shape (batch, *dim).
        condition: of the samples; the coupling adds its own part.
        schedule: of the interpolant.
        coupling: a `Coupling` or a function (x1, condition) -> x0.
        times: fixed times in place of random ones, shape (batch,) or one number.
        generator: of all random numbers but those of a user's function.

    Raises:
        ValueError: NaN data, a coupling of another shape, times outside [0, 1].
    """
    pair = custom(coupling).pair(x1, condition, generator=generator)
    x1 = pair.x1
    if times is None:
        # At the very ends some derivatives are infinite.
        edge = torch.finfo(x1.dtype).eps
        t = torch.rand(len(x1), dtype=x1.dtype, device=x1.device, generator=generator)
        t = t.clamp(edge, 1 - edge)
    else:
        t = as_tensor(times, "times", like=x1).expand(len(x1))
    value, rate = schedule.interpolate(pair.x0, pair.x1, t)
    if pair.hole is not None:
        value, rate = pair.base.restrict(value, outside=pair.x1), pair.base.restrict(rate)
    return Draw(t, value, rate, pair)


def velocity_loss(
    velocity: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    **options: Any,
) -> Tensor:
    """Eq. 22 of arXiv:2310.03725: batch mean of |b_t(I_t)|² - 2 İ_t·b_t(I_t).

    Its minimum is -∫E|b_t(I_t)|²dt, reached by b_t(x) = E[İ_t | I_t = x] (eq. 7).

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x1: data, shape (batch, *dim); cast to the type of a `velocity` that is a module.
        condition: of the samples; the coupling adds its own part.
        reduction: "sum" over the dimensions of a sample, as in the paper, or their "mean" (then
            clip gradients near 1, and not near the paper's 10,000).
        options: schedule, coupling, times and generator of `draw_interpolant`.

    Returns:
        A scalar.

    Raises:
        ValueError: NaN data, a coupling or velocity of another shape.
    """
    mean = as_choice(reduction, "reduction", ("sum", "mean")) == "mean"
    module = velocity if isinstance(velocity, nn.Module) else None
    draw = draw_interpolant(as_tensor(x1, "x1", like=module, finite=False), condition, **options)
    found = shaped_as(draw.x, velocity(draw.x, draw.t, draw.pair.condition), "network")
    # |b|² - 2 İ·b = b·(b - 2İ), in two passes.
    each = found * torch.sub(found, draw.rate, alpha=2)
    return each.mean() if mean else each.sum() / len(each)


class MaskedVelocity(nn.Module):
    """b_t(x, ξ) = (1 - ξ) ∘ network(x, t, condition): known pixels never move.

    This builds in the exact property ξ∘b = 0 of in-painting (section 4.1 of arXiv:2310.03725). The
    samplers know this class and return known pixels bit by bit as they were. The mask is the
    condition itself, or its entry "mask" if it is a mapping.

    Args:
        network: callable (x, t, condition) -> tensor of the shape of x.
    """

    def __init__(self, network: Field) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Velocity of the shape of `x`, shape (batch, *dim), at times `t`, shape (batch,)."""
        velocity = shaped_as(x, self.network(x, t, condition), "network")
        # Not a product: an overflow of the network must not reach the known pixels as NaN.
        hole = entry(condition, "mask") == 0
        return torch.where(hole, velocity, torch.zeros_like(velocity))

    def hole(self, condition: Condition, x: Tensor) -> Tensor:
        """Where pixels move, booleans of the shape of `x`; see `inputs.as_hole`."""
        return as_hole(entry(condition, "mask"), x)


class MixtureInterpolant:
    """A stochastic interpolant between two Gaussian mixtures, in closed form.

    Tensors are computed with in their own precision, anything else in float64.

    Given the pair of modes, x0 and x1 are independent. Figure 2 of arXiv:2310.03725 is of this
    kind: three equal modes on both sides, paired by diag(1/3) (dependent coupling) or 1/9
    everywhere (independent), or with the mode of x1 as the condition (conditional velocity).

    All methods take x of shape (batch, dim), times of shape (batch,) or one number, and as
    condition None or the mode of x1, whole numbers from 0 of shape (batch,), alone or as the entry
    "label" of a dict.

    Args:
        schedule: of the interpolant.
        base_modes: m_i, shape (I, dim), or (I,) in one dimension.
        data_modes: n_j, shape (J, dim) or (J,).
        base_width: s, standard deviation of each mode.
        data_width: r, likewise.
        weights: W_ij, shape (I, J), scaled to sum 1; by default equal.
    """

    def __init__(
        self,
        schedule: Schedule,
        base_modes: Tensor | Sequence[float],
        data_modes: Tensor | Sequence[float],
        *,
        base_width: float = 1.0,
        data_width: float = 1.0,
        weights: Tensor | Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.schedule = schedule
        self.base_modes = _modes(base_modes)
        self.data_modes = as_tensor(_modes(data_modes), "modes", ("J", self.base_modes.shape[1]))
        self.base_width = as_number(base_width, "base_width", above=0)
        self.data_width = as_number(data_width, "data_width", above=0)
        shape = (len(self.base_modes), len(self.data_modes))
        weights = torch.ones(shape) if weights is None else weights
        weights = as_tensor(weights, "weights", shape, dtype=torch.float64)
        self.weights = weights / weights.sum()

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """b_t(x) = E[İ_t | I_t = x], shape (batch, dim)."""
        c, logs, offset, variance = self._terms(x, t, condition)
        share = logs.softmax(1)
        s2, r2 = self.base_width**2, self.data_width**2
        slope = c.alpha * c.alpha_rate * s2 + c.beta * c.beta_rate * r2
        m, n = self._pairs(x)
        drift = c.alpha_rate[..., None] * m + c.beta_rate[..., None] * n
        return (share[..., None] * (drift + (slope / variance)[..., None] * offset)).sum(1)

    def log_density(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """log ρ_t(x), in nats, shape (batch,)."""
        return self._terms(x, t, condition)[1].logsumexp(1)

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Modes of all pairs, each of shape (I J, dim)."""
        rows, columns = self.weights.shape
        m = self.base_modes.repeat_interleave(columns, dim=0)
        return m.to(x), self.data_modes.repeat(rows, 1).to(x)

    def _terms(self, x: Tensor, t: Tensor | float, condition: Condition):
        """Coefficients, log W_ij N(x; μ_ij, v) and x - μ_ij for all pairs, and v."""
        x = as_tensor(x, "x", ("batch", self.base_modes.shape[1]), finite=False)
        c = self.schedule.at(t, x)
        m, n = self._pairs(x)
        offset = x[:, None] - c.alpha[..., None] * m - c.beta[..., None] * n
        s2, r2 = self.base_width**2, self.data_width**2
        variance = c.alpha.square() * s2 + c.beta.square() * r2
        quadratic = offset.square().sum(2) / variance
        logs = -0.5 * (quadratic + x.shape[1] * (2 * math.pi * variance).log())
        return c, logs + self._log_weights(x, condition), offset, variance

    def _log_weights(self, x: Tensor, condition: Condition) -> Tensor:
        logs = self.weights.log().to(x)
        if condition is None:
            return logs.flatten()
        # Given the mode of x1 only its column is left, scaled to sum 1.
        label = as_index(entry(condition, "label"), "label", (len(x),), logs.shape[1], like=x)
        other = torch.arange(logs.shape[1], device=x.device) != label[:, None, None]
        return (logs - logs.logsumexp(0)).masked_fill(other, -math.inf).flatten(1)


def _modes(modes: Tensor | Sequence[float]) -> Tensor:
    tensor = as_tensor(modes, "modes", dtype=torch.float64)
    return tensor[:, None] if tensor.ndim == 1 else tensor
