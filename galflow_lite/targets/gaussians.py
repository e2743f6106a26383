"""Gaussians and mixtures of them: everything about them is known in closed form."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Target, positive_number, whole_number

__all__ = ["CorrelatedGaussian", "GaussianMixture", "RingOfGaussians", "TwoGaussians"]


class GaussianMixture(Target):
    r"""Mixture of Gaussians that share one covariance C, unnormalised.

    .. math::
        \log f = \log \sum_k w_k \exp\big[-\tfrac12 (x - \mu_k)^T C^{-1} (x - \mu_k)\big], \qquad
        Z = \sqrt{\det(2 \pi C)}

    Args:
        means: shape (k, dim).
        covariance: shape (dim, dim), symmetric and positive definite; or one number, the variance
            in every direction.
        weights: shape (k,), positive; divided by their sum. None: equal.

    Attributes:
        modes: the means, shape (k, dim), float64.
        mode_weights: shape (k,), sum 1.
        covariance: shape (dim, dim).

    Raises:
        ValueError: wrong shapes, a covariance that is not positive definite, weights that are not
            positive.
    """

    def __init__(self, means: Any, covariance: Any, weights: Any = None) -> None:
        self.modes = _float64(means)
        if self.modes.ndim != 2 or not self.modes.numel() or not self.modes.isfinite().all():
            raise ValueError(
                f"means has shape {tuple(self.modes.shape)}, expected finite numbers of shape "
                "(k, dim): give one mean a row"
            )
        count, self.dim = self.modes.shape
        weights = torch.ones(count, dtype=torch.float64) if weights is None else _float64(weights)
        positive = bool(((weights > 0) & weights.isfinite()).all())
        if weights.shape != (count,) or not positive:
            raise ValueError(
                f"weights has shape {tuple(weights.shape)} and {'only' if positive else 'not only'}"
                f" positive numbers, expected {count} positive numbers: give one a mean"
            )
        self.mode_weights = weights / weights.sum()
        covariance = _float64(covariance)
        if covariance.ndim == 0:
            covariance = covariance * torch.eye(self.dim, dtype=torch.float64)
        self.covariance = covariance
        wanted = (self.dim, self.dim)
        if covariance.shape != wanted or not torch.allclose(covariance, covariance.T):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected a symmetric matrix of "
                f"shape {wanted} or one number: change it"
            )
        # Along the axes of the covariance the coordinates are independent, with noise as without.
        self._variances, axes = torch.linalg.eigh(covariance)
        if not self._variances.min() > 0:
            raise ValueError(
                f"covariance has the smallest eigenvalue {float(self._variances.min()):.3g}, "
                "expected a positive definite matrix: change it"
            )
        round_ = torch.equal(covariance, torch.diag(covariance.diagonal()))
        self._axes = None if round_ else axes
        if round_:
            self._variances = covariance.diagonal().clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(modes={len(self.modes)}, dim={self.dim})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return float((2 * math.pi * self._variances).log().sum()) / 2

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats: closed form for one Gaussian, else by quadrature."""
        if len(self.modes) == 1:
            return self.log_normalizer + self.dim / 2
        points, weights = self._rule("entropy")
        log_f = self._log_density(points)
        return self.log_normalizer - float(weights @ (log_f.exp() * log_f)) / self._z

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2: the trace of the inverse covariance for one Gaussian, else by quadrature."""
        if len(self.modes) == 1:
            return float((1 / self._variances).sum())
        points, weights = self._rule("mean_square_score")
        square = self._closed_score(points).square().sum(1)
        return float(weights @ (self._log_density(points).exp() * square)) / self._z

    @property
    def box(self) -> float:
        """Half-width of the square: six standard deviations beyond the means."""
        return float((self.modes.abs() + 6 * self.covariance.diagonal().sqrt()).max())

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, shape (n,)."""
        return self._terms(self._points(x)).argmax(1)

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._terms(x), dim=1)

    def _closed_score(self, x: Tensor, variances: Tensor | None = None) -> Tensor:
        variances = self._variances.to(x) if variances is None else variances
        share = torch.softmax(self._terms(x, variances), dim=1)
        pull = (share @ self._along_axes(self.modes.to(x)) - self._along_axes(x)) / variances
        return pull if self._axes is None else pull @ self._axes.to(x).T

    def _terms(self, x: Tensor, variances: Tensor | None = None) -> Tensor:
        """Logarithm of each summand of f, shape (n, k).

        `variances`, shape (dim,) or (n, dim), are those along the axes; None takes the target's.
        """
        variances = self._variances.to(x) if variances is None else variances
        distance = self._along_axes(x)[:, None] - self._along_axes(self.modes.to(x))
        if variances.ndim == 2:
            variances = variances[:, None]
        return self.mode_weights.to(x).log() - (distance.square() / variances).sum(-1) / 2

    def _along_axes(self, x: Tensor) -> Tensor:
        return x if self._axes is None else x @ self._axes.to(x)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"dtype": torch.float64, "device": generator.device, "generator": generator}
        edges = self.mode_weights.cumsum(0).to(generator.device)
        mode = torch.searchsorted(edges, torch.rand(n, **options)).clamp(max=len(edges) - 1)
        noise = torch.randn(n, self.dim, **options) * self._variances.to(generator.device).sqrt()
        noise = noise if self._axes is None else noise @ self._axes.to(noise).T
        return self.modes.to(noise)[mode] + noise

    @cached_property
    def _z(self) -> float:
        return math.exp(self.log_normalizer)

    def _rule(self, name: str) -> tuple[Tensor, Tensor]:
        """Equal steps of an eighth of the smallest width, which converge geometrically here."""
        if self.dim > 2:
            self._unknown(name)
        step = float(self._variances.min().sqrt()) / 8
        reach = 10 * self.covariance.diagonal().sqrt()
        lowest, highest = self.modes.amin(0) - reach, self.modes.amax(0) + reach
        lines = [
            torch.arange(float(low), float(high), step, dtype=torch.float64)
            for low, high in zip(lowest, highest, strict=True)
        ]
        points = torch.cartesian_prod(*lines).reshape(-1, self.dim)
        return points, torch.full((len(points),), step**self.dim, dtype=torch.float64)


class CorrelatedGaussian(GaussianMixture):
    """One Gaussian in the plane, mean 0, unit variances.

    Args:
        correlation: between -1 and 1.

    Raises:
        ValueError: a correlation out of range.
    """

    def __init__(self, correlation: float = 0.8) -> None:
        if not -1 < correlation < 1:
            raise ValueError(
                f"correlation is {correlation!r}, expected a number between -1 and 1: change it"
            )
        self.correlation = float(correlation)
        super().__init__([[0.0, 0.0]], [[1.0, self.correlation], [self.correlation, 1.0]])

    def __repr__(self) -> str:
        return f"CorrelatedGaussian(correlation={self.correlation})"


class TwoGaussians(GaussianMixture):
    """Two equal round Gaussians in the plane, at (-distance, 0) and (distance, 0).

    Args:
        distance: of each centre from the origin.
        std: standard deviation of each; 1 lets them overlap, 0.5 separates them by 8 deviations.

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(self, *, distance: float = 2.0, std: float = 1.0) -> None:
        self.distance, self.std = positive_number("distance", distance), positive_number("std", std)
        super().__init__([[-self.distance, 0.0], [self.distance, 0.0]], self.std**2)

    def __repr__(self) -> str:
        return f"TwoGaussians(distance={self.distance}, std={self.std})"


class RingOfGaussians(GaussianMixture):
    r"""Equal round Gaussians in the plane, centres on a ring.

    The centres are :math:`R (\cos 2 \pi k / n, \sin 2 \pi k / n)` with R = `radius`, n = `count`.
    `CircleOfGaussians` is another family: its widths shrink with their number.

    Args:
        count: number of Gaussians, at least 2.
        radius: of the ring of centres.
        std: standard deviation of each.

    Raises:
        ValueError: `count` below 2 or no whole number, another argument not positive.
    """

    def __init__(self, count: int = 8, *, radius: float = 4.0, std: float = 0.5) -> None:
        self.count = whole_number("count", count, least=2)
        self.radius, self.std = positive_number("radius", radius), positive_number("std", std)
        angle = 2 * torch.pi * torch.arange(self.count, dtype=torch.float64) / self.count
        means = self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        super().__init__(means, self.std**2)

    def __repr__(self) -> str:
        return f"RingOfGaussians(count={self.count}, radius={self.radius}, std={self.std})"


def _float64(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64).clone()
    return torch.tensor(np.asarray(value, dtype=np.float64))
