"""Exact b and ρ_t for Gaussian mixtures x0 ~ modes m_i, x1 ~ modes n_j, pair weights W_ij.

With μ_ij = α m_i + β n_j, v = α²s² + β²r² + γ² and p_ij(x) ∝ W_ij N(x; μ_ij, v I):

    ρ_t(x) = Σ W_ij N(x; μ_ij, v I),
    b = Σ p_ij [α̇ m_i + β̇ n_j + (αα̇s² + ββ̇r² + γγ̇)/v · (x - μ_ij)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..inputs import as_number, as_tensor
from .conditions import Condition
from .schedules import Schedule


class MixtureInterpolant:
    """A stochastic interpolant between two Gaussian mixtures, in closed form and float64.

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
        self.base_modes, self.data_modes = _modes(base_modes), _modes(data_modes)
        self.base_width = as_number(base_width, "base_width", above=0)
        self.data_width = as_number(data_width, "data_width", above=0)
        shape = (len(self.base_modes), len(self.data_modes))
        found = torch.ones(shape) if weights is None else weights
        found = as_tensor(found, "weights", shape, dtype=torch.float64)
        self.weights = found / found.sum()

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """b_t(x) = E[İ_t | I_t = x], shape (batch, dim)."""
        c, logs, offset, variance = self._terms(x, t, condition)
        share = logs.softmax(1)
        s2, r2 = self.base_width**2, self.data_width**2
        slope = c.alpha * c.alpha_rate * s2 + c.beta * c.beta_rate * r2 + c.gamma_product
        m, n = self._pairs(x)
        drift = c.alpha_rate[..., None] * m + c.beta_rate[..., None] * n
        return (share[..., None] * (drift + (slope / variance)[..., None] * offset)).sum(1)

    def log_density(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """log ρ_t(x), in nats, shape (batch,)."""
        _, logs, _, _ = self._terms(x, t, condition)
        return logs.logsumexp(1)

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Modes of all pairs, each of shape (I J, dim)."""
        rows, columns = self.weights.shape
        m = self.base_modes.repeat_interleave(columns, dim=0)
        return m.to(x), self.data_modes.repeat(rows, 1).to(x)

    def _terms(self, x: Tensor, t: Tensor | float, condition: Condition):
        """Coefficients, log W_ij N(x; μ_ij, v) and x - μ_ij for all pairs, and v."""
        c = self.schedule.at(t, x)
        m, n = self._pairs(x)
        offset = x[:, None] - c.alpha[..., None] * m - c.beta[..., None] * n
        variance = (
            c.alpha.square() * self.base_width**2
            + c.beta.square() * self.data_width**2
            + c.gamma.square()
        )
        quadratic = offset.square().sum(2) / variance
        logs = -0.5 * (quadratic + x.shape[1] * (2 * math.pi * variance).log())
        return c, logs + self._log_weights(x, condition), offset, variance

    def _log_weights(self, x: Tensor, condition: Condition) -> Tensor:
        logs = self.weights.log().to(x)
        if condition is None:
            return logs.flatten()
        columns = len(self.data_modes)
        label = condition if isinstance(condition, Tensor) else condition["label"]
        # Given the mode of x1 only its column is left, scaled to sum 1.
        columns_alone = torch.full((columns, *logs.shape), -math.inf).to(x)
        for j in range(columns):
            columns_alone[j, :, j] = logs[:, j] - logs[:, j].logsumexp(0)
        return columns_alone[label.long()].flatten(1)


def _modes(modes: Tensor | Sequence[float]) -> Tensor:
    tensor = as_tensor(modes, "modes", dtype=torch.float64)
    return tensor[:, None] if tensor.ndim == 1 else tensor
