"""Targets made from another one: tempered, noised, in other coordinates, or from a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Target, positive_number, whole_number
from .gaussians import GaussianMixture, _float64
from .multimodal import CircleOfGaussians

__all__ = ["Affine", "FromLogDensity", "Noised", "Tempered"]


class FromLogDensity(Target):
    """A target given by a function; `check_score` tells whether it is fit for use.

    Args:
        log_density: takes points, shape (n, dim), returns log f, shape (n,); written in torch.
        dim: number of columns of a point.
        score: the gradient of log f in closed form, shape (n, dim), differentiable; None takes it
            by automatic differentiation.

    Raises:
        ValueError: `dim` is no whole number from 1 up.
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        dim: int,
        *,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.dim = whole_number("dim", dim, least=1)
        self._log_density = log_density
        self._function = score

    def _closed_score(self, x: Tensor) -> Tensor | None:
        return None if self._function is None else self._function(x)


class Tempered(Target):
    """A target flattened by an inverse temperature: log f becomes beta log f.

    Args:
        target: any target; a stochastic one stays stochastic.
        beta: inverse temperature, positive; below 1 it widens the target and fills gaps between
            modes.

    Raises:
        ValueError: beta is not positive.
    """

    def __init__(self, target: Target, beta: float) -> None:
        self.target, self.beta = target, positive_number("beta", beta)
        self.dim, self.stochastic = target.dim, target.stochastic

    def __repr__(self) -> str:
        return f"Tempered({self.target!r}, beta={self.beta})"

    @cached_property
    def modes(self) -> Tensor:
        """Centres of the modes of the target, shape (k, dim)."""
        return self.target.modes

    def assign(self, x: Any) -> Tensor:
        """Index of the mode of the target that each point belongs to, shape (n,)."""
        return self.target.assign(x)

    def score(self, x: Any) -> Tensor:
        """Gradient of beta log f, shape (n, dim), detached from `x`; errors as of the target."""
        return self.beta * self.target.score(x)

    def differentiable_score(self, x: Any) -> Tensor:
        """Gradient of beta log f, shape (n, dim), through which gradients flow back to `x`."""
        return self.beta * self.target.differentiable_score(x)

    def _log_density(self, x: Tensor) -> Tensor:
        return self.beta * self.target._log_density(x)


class Noised(Target):
    """Law of x + sigma * noise, x from a mixture of Gaussians, noise from N(0, I); normalised.

    A mixture with covariance C becomes one with C + sigma^2 I. Denoising Fisher training leaves the
    target as it is; noising it is what relatives of it do.

    Args:
        target: a `GaussianMixture` or `CircleOfGaussians`.
        sigma: positive: one number, or shape (n,) with a value for each of the n points that the
            methods are then given.

    Raises:
        ValueError: a sigma that is not positive; in the methods, another number of points.
        NotImplementedError: another target, for which no closed form is known.
    """

    log_normalizer = 0.0

    def __init__(self, target: Target, sigma: float | Tensor) -> None:
        if isinstance(target, CircleOfGaussians):
            target = GaussianMixture(target.means, target.std**2)
        if not isinstance(target, GaussianMixture):
            raise NotImplementedError(
                f"the noised law of {type(target).__name__} is not known in closed form, expected "
                "a mixture of Gaussians: temper the target instead, or noise its samples"
            )
        self.target, self.dim, self.sigma = target, target.dim, sigma
        if isinstance(sigma, Tensor) and sigma.ndim:
            bad = int((~((sigma > 0) & sigma.isfinite())).sum())
            if sigma.ndim != 1 or bad:
                raise ValueError(
                    f"sigma has shape {tuple(sigma.shape)} and {bad} values that are not positive, "
                    "expected one positive number a point: change it"
                )
            self._law = None
        else:
            self.sigma = positive_number("sigma", sigma)
            noise = self.sigma**2 * torch.eye(self.dim, dtype=torch.float64)
            self._law = GaussianMixture(
                target.modes, target.covariance + noise, target.mode_weights
            )

    def __repr__(self) -> str:
        sigma = self.sigma if self._law is not None else f"{len(self.sigma)} values"
        return f"Noised({self.target!r}, sigma={sigma})"

    @cached_property
    def modes(self) -> Tensor:
        """Centres of the Gaussians, shape (k, dim)."""
        return self.target.modes

    @cached_property
    def mode_weights(self) -> Tensor:
        """Share of each Gaussian, shape (k,)."""
        return self.target.mode_weights

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, for one sigma."""
        return self._one_law("entropy").entropy

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2, for one sigma."""
        return self._one_law("mean_square_score").mean_square_score

    @property
    def box(self) -> float:
        """Half-width of the square, for one sigma."""
        return self._one_law("box").box

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, shape (n,)."""
        x = self._points(x)
        return self.target._terms(x, self._variances(x)).argmax(1)

    def _one_law(self, name: str) -> GaussianMixture:
        if self._law is None:
            self._unknown(name)
        return self._law

    def _variances(self, x: Tensor) -> Tensor:
        """Variances along the axes, shape (dim,) or (n, dim)."""
        sigma = self.sigma
        if self._law is None:
            if len(sigma) != len(x):
                raise ValueError(
                    f"x has {len(x)} points and sigma {len(sigma)} values, expected as many: give "
                    "one sigma a point"
                )
            sigma = sigma.to(x)[:, None]
        return self.target._variances.to(x) + sigma**2

    def _log_density(self, x: Tensor) -> Tensor:
        variances = self._variances(x)
        log_z = (2 * math.pi * variances).log().sum(-1) / 2
        return torch.logsumexp(self.target._terms(x, variances), dim=1) - log_z

    def _closed_score(self, x: Tensor) -> Tensor:
        return self.target._closed_score(x, self._variances(x))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = self.target._sample(n, generator)
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        # Both checks of the number of points are the same one.
        return x + (self._variances(x) - self.target._variances.to(x)).sqrt() * noise


class Affine(Target):
    """A target in coordinates u with x = mean + factor u, for example those of a Laplace fit.

    Samplers work best where all directions are about equally wide; `to_original` brings their
    points back.

    Args:
        target: any target.
        mean: shape (dim,).
        factor: shape (dim, dim), invertible; for a covariance C its Cholesky factor makes the
            target about N(0, I).

    Raises:
        ValueError: wrong shapes, or a factor that cannot be inverted.
    """

    def __init__(self, target: Target, mean: Any, factor: Any) -> None:
        self.target, self.dim, self.stochastic = target, target.dim, target.stochastic
        self.mean, self.factor = _float64(mean), _float64(factor)
        wanted = (self.dim,), (self.dim, self.dim)
        found = tuple(self.mean.shape), tuple(self.factor.shape)
        if found != wanted:
            raise ValueError(
                f"mean has shape {found[0]} and factor {found[1]}, expected {wanted[0]} and "
                f"{wanted[1]}: match the target"
            )
        self._inverse, failed = torch.linalg.inv_ex(self.factor)
        if failed or not self._inverse.isfinite().all():
            raise ValueError(
                "factor cannot be inverted, expected a Cholesky factor or another matrix of full "
                "rank: widen its narrow directions"
            )

    def __repr__(self) -> str:
        return f"Affine({self.target!r})"

    def to_original(self, u: Tensor) -> Tensor:
        """Points of the target for points in these coordinates, both shape (n, dim)."""
        return self.mean.to(u) + u @ self.factor.to(u).T

    def from_original(self, x: Tensor) -> Tensor:
        """Points in these coordinates for points of the target, both shape (n, dim)."""
        return (x - self.mean.to(x)) @ self._inverse.to(x).T

    @cached_property
    def log_normalizer(self) -> float:
        """log Z of the target less log |det factor|."""
        return self.target.log_normalizer - self._log_volume

    @cached_property
    def entropy(self) -> float:
        """Entropy of the target less log |det factor|."""
        return self.target.entropy - self._log_volume

    @cached_property
    def modes(self) -> Tensor:
        """Centres of the modes in these coordinates, shape (k, dim)."""
        return self.from_original(self.target.modes)

    @cached_property
    def mode_weights(self) -> Tensor:
        """Share of each mode, shape (k,)."""
        return self.target.mode_weights

    def assign(self, x: Any) -> Tensor:
        """Index of the mode that each point belongs to, shape (n,)."""
        return self.target.assign(self.to_original(self._points(x)))

    def score(self, x: Any) -> Tensor:
        """Gradient of log f in these coordinates, shape (n, dim), detached from `x`."""
        x = self._finite_points(x).detach()
        return self.target.score(self.to_original(x)) @ self.factor.to(x)

    def differentiable_score(self, x: Any) -> Tensor:
        """Gradient of log f in these coordinates, shape (n, dim), differentiable."""
        x = self._finite_points(x)
        return self.target.differentiable_score(self.to_original(x)) @ self.factor.to(x)

    @cached_property
    def _log_volume(self) -> float:
        return float(torch.linalg.slogdet(self.factor).logabsdet)

    def _log_density(self, x: Tensor) -> Tensor:
        return self.target._log_density(self.to_original(x))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.from_original(self.target._sample(n, generator))
