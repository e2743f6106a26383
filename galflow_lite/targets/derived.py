"""Targets made from another one: noised, or in other coordinates; and from a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number, as_whole
from .gaussians import GaussianMixture
from .target import Target, as_target, constant


class FromLogDensity(Target):
    """A target given by a function; `check_score` tells whether it is fit for use.

    Args:
        log_density: takes points, shape (n, dim), returns log f, shape (n,); written in torch.
        dim: number of columns of a point.
        score: the gradient of log f in closed form, shape (n, dim), differentiable; None takes it
            by automatic differentiation.
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        dim: int,
        *,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.dim = as_whole(dim, "dim", least=1)
        self._log_density = log_density
        self._function = score

    def _closed_score(self, x: Tensor) -> Tensor | None:
        return None if self._function is None else self._function(x)


class Noised(Target):
    """Law of x + sigma * noise, x from a mixture of Gaussians, noise from N(0, I); normalised.

    A mixture with covariance C becomes one with C + sigma^2 I. Denoising Fisher training leaves the
    target as it is; noising it is what relatives of it do.

    Args:
        target: a `GaussianMixture`.
        sigma: positive: one number, or shape (n,) with a value for each of the n points that the
            methods are then given.

    Raises:
        NotImplementedError: another target, for which no closed form is known.
    """

    log_normalizer = 0.0

    def __init__(self, target: Target, sigma: float | Tensor) -> None:
        if not isinstance(target, GaussianMixture):
            raise NotImplementedError(
                f"the noised law of {type(target).__name__} is not known in closed form, expected "
                "a mixture of Gaussians: noise its samples instead"
            )
        self.target, self.dim = target, target.dim
        self.sigma = sigma if isinstance(sigma, Tensor) else as_number(sigma, "sigma", above=0)

    def _variances(self, x: Tensor) -> Tensor:
        """Variances along the axes, shape (dim,) or (n, dim)."""
        sigma = self.sigma
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.to(x)[:, None]
        return self.target._variances.to(x) + sigma**2

    def _log_density(self, x: Tensor) -> Tensor:
        variances = self._variances(x)
        log_z = (2 * math.pi * variances).log().sum(-1) / 2
        return torch.logsumexp(self.target._terms(x, variances), dim=1) - log_z

    def _closed_score(self, x: Tensor) -> Tensor:
        return self.target._closed_score(x, self._variances(x))


class Affine(Target):
    """A target in coordinates u with x = mean + factor u, for example those of a Laplace fit.

    Samplers work best where all directions are about equally wide; `to_original` brings their
    points back.

    Args:
        target: any target.
        mean: shape (dim,).
        factor: shape (dim, dim), invertible; for a covariance C its Cholesky factor makes the
            target about N(0, I).
    """

    def __init__(self, target: Target, mean: Any, factor: Any) -> None:
        self.target, self.dim = as_target(target), target.dim
        self.stochastic = target.stochastic
        self.mean = constant(mean, "mean", (self.dim,))
        self.factor = constant(factor, "factor", (self.dim, self.dim))

    def to_original(self, u: Tensor) -> Tensor:
        """Points of the target for points in these coordinates, both shape (n, dim)."""
        return self.mean.to(u) + u @ self.factor.to(u).T

    def _log_density(self, x: Tensor) -> Tensor:
        return self.target._log_density(self.to_original(x))

    def _score(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        score = self.target._score(self.to_original(x), create_graph=create_graph)
        return score @ self.factor.to(x)
