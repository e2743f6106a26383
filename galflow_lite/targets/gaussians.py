"""Mixtures of Gaussians, with noise and without: all about them is known in closed form."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number
from .target import Target, constant


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
    """

    def __init__(self, means: Any, covariance: Any, weights: Any = None) -> None:
        self.modes = constant(means, "means", ("k", "dim"))
        count, self.dim = self.modes.shape
        weights = constant([1.0] * count if weights is None else weights, "weights", (count,))
        self.mode_weights = weights / weights.sum()
        covariance = constant(covariance, "covariance")
        if covariance.ndim == 0:
            covariance = covariance * torch.eye(self.dim, dtype=torch.float64)
        self.covariance = constant(covariance, "covariance", (self.dim, self.dim))
        # Along the axes of the covariance the coordinates are independent, with noise as without.
        self._variances, axes = torch.linalg.eigh(self.covariance)
        symmetric = torch.allclose(self.covariance, self.covariance.T)
        if not symmetric or self._variances.min() <= 0 or weights.min() <= 0:
            raise ValueError(
                "expected a symmetric, positive definite covariance (smallest eigenvalue "
                f"{float(self._variances.min()):.3g}) and positive weights: change them"
            )
        round_ = torch.equal(self.covariance, torch.diag(self.covariance.diagonal()))
        self._axes = None if round_ else axes
        if round_:
            self._variances = self.covariance.diagonal().clone()
        self.log_normalizer = float((2 * math.pi * self._variances).log().sum()) / 2
        self._matrices: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}
        # Six standard deviations beyond the means.
        self.box = float((self.modes.abs() + 6 * self.covariance.diagonal().sqrt()).max())

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2: the trace of the inverse covariance for one Gaussian, else by quadrature."""
        if len(self.modes) == 1:
            return float((1 / self._variances).sum())
        if self.dim > 2:
            self._unknown("mean_square_score")
        reach = 10 * self.covariance.diagonal().sqrt()
        low, high = self.modes.amin(0) - reach, self.modes.amax(0) + reach
        # An eighth of the smallest width: the error falls geometrically with the step.
        step = float(self._variances.min().sqrt()) / 8
        ends = zip(low.tolist(), high.tolist(), strict=True)
        lines = [torch.arange(*pair, step, dtype=torch.float64) for pair in ends]
        points = torch.cartesian_prod(*lines).reshape(-1, self.dim)
        weights = torch.full((len(points),), step**self.dim, dtype=torch.float64)
        square = self._closed_score(points).square().sum(1)
        total = weights @ (self._log_density(points).exp() * square)
        return float(total) / math.exp(self.log_normalizer)

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, shape (n,)."""
        return self._terms(self._points(x)).argmax(1)

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._terms(x), dim=1)

    def _closed_score(self, x: Tensor, variances: Tensor | None = None) -> Tensor:
        variances = self._at("_variances", x) if variances is None else variances
        share = torch.softmax(self._terms(x, variances), dim=1)
        pull = (share @ self._along_axes(self._at("modes", x)) - self._along_axes(x)) / variances
        return pull if self._axes is None else pull @ self._at("_axes", x).T

    def _loop_score(self, x: Tensor) -> Tensor:
        r"""The score by two products of matrices.

        With y and the means m_k about their centre, and r_k the share of mode k at x,

        .. math::
            s(x) = \sum_k r_k\, C^{-1} m_k - C^{-1} y, \qquad
            r = \mathrm{softmax}_k(\log w_k - \tfrac12 m_k^T C^{-1} m_k + m_k^T C^{-1} y)
        """
        key = x.dtype, x.device
        if key not in self._matrices:
            centre = self.modes.mean(0)
            means, precision = self.modes - centre, torch.linalg.inv(self.covariance)
            pulls = means @ precision
            offsets = self.mode_weights.log() - (pulls * means).sum(1) / 2
            offsets = torch.cat([offsets, torch.zeros_like(centre)])[:, None]
            kept = centre, offsets, torch.cat([pulls, -precision]), pulls.T
            self._matrices[key] = tuple(matrix.to(x) for matrix in kept)
        centre, offsets, products, pulls = self._matrices[key]
        # A row a mode: over neighbours in memory the softmax of few modes takes ten times as long.
        both = torch.addmm(offsets, products, (x - centre).T)
        shares = both[: -self.dim].softmax(0)
        return torch.addmm(both[-self.dim :], pulls, shares).T

    def _terms(self, x: Tensor, variances: Tensor | None = None) -> Tensor:
        """Logarithm of each summand of f, shape (n, k).

        `variances`, shape (dim,) or (n, dim), are those along the axes; None takes the target's.
        """
        variances = self._at("_variances", x) if variances is None else variances
        distance = self._along_axes(x)[:, None] - self._along_axes(self._at("modes", x))
        if variances.ndim == 2:
            variances = variances[:, None]
        return self._at("mode_weights", x).log() - (distance.square() / variances).sum(-1) / 2

    def _along_axes(self, x: Tensor) -> Tensor:
        return x if self._axes is None else x @ self._at("_axes", x)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"dtype": torch.float64, "device": generator.device, "generator": generator}
        edges = self.mode_weights.cumsum(0).to(generator.device)
        mode = torch.searchsorted(edges, torch.rand(n, **options)).clamp(max=len(edges) - 1)
        noise = torch.randn(n, self.dim, **options) * self._variances.to(generator.device).sqrt()
        noise = noise if self._axes is None else noise @ self._at("_axes", noise).T
        return self._at("modes", noise)[mode] + noise


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
                f"the noised distribution of {type(target).__name__} is not known in closed form, "
                "expected a mixture of Gaussians: noise its samples instead"
            )
        self.target, self.dim = target, target.dim
        self.sigma = sigma if isinstance(sigma, Tensor) else as_number(sigma, "sigma", above=0)

    def _variances(self, x: Tensor) -> Tensor:
        """Variances along the axes, shape (dim,) or (n, dim)."""
        sigma = self.sigma
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.to(x)[:, None]
        return self.target._at("_variances", x) + sigma**2

    def _log_density(self, x: Tensor) -> Tensor:
        variances = self._variances(x)
        log_z = (2 * math.pi * variances).log().sum(-1) / 2
        return torch.logsumexp(self.target._terms(x, variances), dim=1) - log_z

    def _closed_score(self, x: Tensor) -> Tensor:
        return self.target._closed_score(x, self._variances(x))
