"""Exact b, g, s and ρ_t for Gaussian mixtures x0 ~ modes m_i, x1 ~ modes n_j, pair weights W_ij.

With μ_ij = α m_i + β n_j, v = α²s² + β²r² + γ² and p_ij(x) ∝ W_ij N(x; μ_ij, v I):

    ρ_t(x) = Σ W_ij N(x; μ_ij, v I),        s = -Σ p_ij (x - μ_ij) / v,        g = -γ s,
    b = Σ p_ij [α̇ m_i + β̇ n_j + (αα̇s² + ββ̇r² + γγ̇)/v · (x - μ_ij)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .laws import GaussianBase
from .masks import Condition
from .schedules import Coefficients, Schedule

__all__ = ["MixtureInterpolant"]


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

    Raises:
        ValueError: modes of unequal dimension, weights of another shape or negative, widths that
            are not positive.
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
        if self.base_modes.shape[1] != self.data_modes.shape[1]:
            raise ValueError(
                f"found modes of {self.base_modes.shape[1]} and {self.data_modes.shape[1]} "
                "dimensions, expected the same on both sides: correct them"
            )
        if not (base_width > 0 and data_width > 0):
            raise ValueError(
                f"found widths {base_width} and {data_width}, expected positive numbers: raise them"
            )
        self.base_width, self.data_width = float(base_width), float(data_width)
        shape = (len(self.base_modes), len(self.data_modes))
        equal = torch.ones(shape, dtype=torch.float64)
        found = equal if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if found.shape != shape or not bool((found >= 0).all()) or not float(found.sum()) > 0:
            raise ValueError(
                f"found pair weights of shape {tuple(found.shape)}, expected {shape} and no "
                "negative numbers: correct them"
            )
        self.weights = found / found.sum()

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.base_modes.shape[1]

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """b_t(x) = E[İ_t | I_t = x], shape (batch, dim)."""
        c, share, offset, variance = self._posterior(x, t, condition)
        s2, r2 = self.base_width**2, self.data_width**2
        slope = c.alpha * c.alpha_rate * s2 + c.beta * c.beta_rate * r2 + c.gamma_product
        m, n = self._pairs(x)
        drift = c.alpha_rate[..., None] * m + c.beta_rate[..., None] * n
        return (share[..., None] * (drift + (slope / variance)[..., None] * offset)).sum(1)

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """s_t(x) = ∇log ρ_t(x), shape (batch, dim)."""
        _, share, offset, variance = self._posterior(x, t, condition)
        return -(share[..., None] * offset).sum(1) / variance

    def denoiser(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """g_t(x) = E[z | I_t = x] = -γ s, shape (batch, dim)."""
        return -self.schedule.at(t, x).gamma * self.score(x, t, condition)

    def log_density(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """log ρ_t(x), in nats, shape (batch,)."""
        _, logs, _, _ = self._terms(x, t, condition)
        return logs.logsumexp(1)

    def data_mean(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[x1 | x_t = x], shape (batch, dim)."""
        c, share, offset, variance = self._posterior(x, t, condition)
        gain = (c.beta * self.data_width**2 / variance)[..., None]
        return (share[..., None] * (self._pairs(x)[1] + gain * offset)).sum(1)

    def base_mean(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[x0 | x_t = x], shape (batch, dim)."""
        c, share, offset, variance = self._posterior(x, t, condition)
        gain = (c.alpha * self.base_width**2 / variance)[..., None]
        return (share[..., None] * (self._pairs(x)[0] + gain * offset)).sum(1)

    def base(self, x: Tensor) -> GaussianBase:
        """Law of x0 for a batch like `x`, where the base has one mode.

        Raises:
            ValueError: the base has several modes.
        """
        if len(self.base_modes) != 1:
            raise ValueError(
                f"found a base of {len(self.base_modes)} modes, which is not m + σζ with a known "
                "m, expected one mode: use the denoiser"
            )
        return GaussianBase(self.base_modes.to(x).expand(x.shape), self.base_width)

    def sample_pairs(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw coupled x0 and x1, shape (n, dim), float64, and the mode of x1, shape (n,)."""
        flat = torch.multinomial(self.weights.flatten(), n, replacement=True, generator=generator)
        first, second = flat // len(self.data_modes), flat % len(self.data_modes)
        noise = torch.randn(2, n, self.dim, dtype=torch.float64, generator=generator)
        x0 = self.base_modes[first] + self.base_width * noise[0]
        return x0, self.data_modes[second] + self.data_width * noise[1], second

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Modes of all pairs, each of shape (I J, dim)."""
        rows, columns = self.weights.shape
        m = self.base_modes.repeat_interleave(columns, dim=0)
        return m.to(x), self.data_modes.repeat(rows, 1).to(x)

    def _terms(
        self, x: Tensor, t: Tensor | float, condition: Condition
    ) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        """Coefficients, log W_ij N(x; μ_ij, v) and x - μ_ij for all pairs, and v."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"found points of shape {tuple(x.shape)}, expected (n, {self.dim}): reshape them"
            )
        c = self.schedule.at(t, x)
        m, n = self._pairs(x)
        offset = x[:, None] - c.alpha[..., None] * m - c.beta[..., None] * n
        variance = (
            c.alpha.square() * self.base_width**2
            + c.beta.square() * self.data_width**2
            + c.gamma.square()
        )
        quadratic = offset.square().sum(2) / variance
        logs = -0.5 * (quadratic + self.dim * (2 * math.pi * variance).log())
        return c, logs + self._log_weights(x, condition), offset, variance

    def _posterior(
        self, x: Tensor, t: Tensor | float, condition: Condition
    ) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        c, logs, offset, variance = self._terms(x, t, condition)
        return c, logs.softmax(1), offset, variance

    def _log_weights(self, x: Tensor, condition: Condition) -> Tensor:
        logs = self.weights.log().to(x)
        if condition is None:
            return logs.flatten()
        columns = len(self.data_modes)
        label = condition if isinstance(condition, Tensor) else condition["label"]
        if label.shape != x.shape[:1] or not bool(((label >= 0) & (label < columns)).all()):
            raise ValueError(
                f"found a condition of shape {tuple(label.shape)}, expected ({len(x)},) with the "
                f"mode of x1 from 0 to {columns - 1}: correct it"
            )
        # Given the mode of x1 only its column is left, scaled to sum 1.
        columns_alone = torch.full((columns, *logs.shape), -math.inf).to(x)
        for j in range(columns):
            columns_alone[j, :, j] = logs[:, j] - logs[:, j].logsumexp(0)
        return columns_alone[label.long()].flatten(1)


def _modes(modes: Tensor | Sequence[float]) -> Tensor:
    tensor = torch.as_tensor(modes, dtype=torch.float64)
    tensor = tensor[:, None] if tensor.ndim == 1 else tensor
    if tensor.ndim != 2 or not len(tensor):
        raise ValueError(
            f"found modes of shape {tuple(tensor.shape)}, expected (modes, dim): reshape them"
        )
    return tensor
