"""The three multimodal targets in the plane of arXiv:2305.02930, section 4.

They come from the experiments of Stimper et al. 2022 (*Resampling Base Distributions of Normalizing
Flows*) and are not the moons and circles of scikit-learn.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Target, whole_number

__all__ = ["CircleOfGaussians", "TwoMoons", "TwoRings", "polar_rule"]


class _Planar(Target):
    """A target in the plane whose integrals are sums over a rule in polar coordinates."""

    dim = 2

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, by quadrature."""
        weights, log_f = self._on_rule()
        return math.log(float((weights * log_f.exp()).sum()))

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, by quadrature."""
        weights, log_f = self._on_rule()
        log_p = log_f - self.log_normalizer
        return -float((weights * log_p.exp() * log_p).sum())

    def _rule(self) -> tuple[Tensor, Tensor]:
        """Points and weights of a quadrature over the plane."""
        raise NotImplementedError

    def _on_rule(self) -> tuple[Tensor, Tensor]:
        points, weights = self._rule()
        # In parts: hundreds of modes or rings times all points would not fit in memory.
        return weights, torch.cat([self._log_density(part) for part in points.split(4096)])


class TwoMoons(_Planar):
    r"""Two crescents that open towards each other.

    .. math::
        \log f = -\tfrac12 \Big(\frac{r - 2}{0.2}\Big)^2 + \log \Big[
        e^{-\frac12 \left(\frac{x_1 - 2}{0.3}\right)^2}
        + e^{-\frac12 \left(\frac{x_1 + 2}{0.3}\right)^2} \Big], \qquad r = |x|

    The normaliser is an integral over polar coordinates, 2.23494. Samples: an exact radius of the
    ring, a uniform angle, kept with the probability in brackets; 35 % are kept.
    """

    _radius, _thickness, _spread = 2.0, 0.2, 0.3

    def __repr__(self) -> str:
        return "TwoMoons()"

    @property
    def box(self) -> float:
        """Half-width 3.2 of the square: six thicknesses beyond the ring."""
        return self._radius + 6 * self._thickness

    def _log_density(self, x: Tensor) -> Tensor:
        ring = (torch.linalg.vector_norm(x, dim=1) - self._radius) / self._thickness
        return -ring.square() / 2 + self._log_side(x[:, 0])

    def _log_side(self, x: Tensor) -> Tensor:
        """Logarithm of the sum in brackets, from the nearer of the two terms."""
        near = x.abs()
        distance = (near - self._radius) / self._spread
        other = torch.exp(-2 * self._radius * near / self._spread**2)
        return -distance.square() / 2 + other.log1p()

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"dtype": torch.float64, "device": generator.device}
        kept, missing = [torch.empty(0, 2, **options)], n
        while missing > 0:
            # Enough for one round in most cases.
            proposals = int(2.9 * missing) + 100
            centre = torch.full((proposals,), self._radius, **options)
            x = _on_circles(_ring_radii(centre, self._thickness, generator), generator)
            # The bracket is at most 1: the other crescent adds exp(-89) at the peak.
            threshold = torch.rand(proposals, generator=generator, **options)
            x = x[threshold < self._log_side(x[:, 0]).exp()][:missing]
            kept.append(x)
            missing -= len(x)
        return torch.cat(kept)

    def _rule(self) -> tuple[Tensor, Tensor]:
        outer = self._radius + 12 * self._thickness
        return polar_rule(0.0, outer, panel=1.5 * self._thickness, angles=256)


class CircleOfGaussians(_Planar):
    r"""Equal mixture of round Gaussians on a circle of radius 2; log f is normalised.

    The means are :math:`2 (\sin \phi_i, \cos \phi_i)` with :math:`\phi_i = 2 \pi i / n`, and the
    standard deviation is :math:`s = \tfrac23 \sin(\pi / n)`, so that neighbours are 6 s apart for
    every n.

    Args:
        modes: number n of Gaussians, at least 2.

    Attributes:
        count: number of Gaussians.
        means: shape (count, 2); also called `modes`, as in other targets.
        mode_weights: 1 / count each, shape (count,).
        std: the standard deviation s.

    Raises:
        ValueError: fewer than 2 modes, or no whole number.
    """

    log_normalizer = 0.0

    def __init__(self, modes: int = 8) -> None:
        self.count = whole_number("modes", modes, least=2)
        angle = 2 * torch.pi * torch.arange(self.count, dtype=torch.float64) / self.count
        self.means = self.modes = 2 * torch.stack([angle.sin(), angle.cos()], dim=1)
        self.mode_weights = torch.full((self.count,), 1 / self.count, dtype=torch.float64)
        self.std = 2 / 3 * math.sin(math.pi / self.count)

    def __repr__(self) -> str:
        return f"CircleOfGaussians(modes={self.count})"

    @property
    def box(self) -> float:
        """Half-width of the square: six standard deviations beyond the means."""
        return 2 + 6 * self.std

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, that of the nearest mean: (n,).

        Raises:
            ValueError: `x` of other shape, NaN.
        """
        x = self._points(x)
        # The means are equally far from the origin: the nearest has the largest product.
        return (x @ self.means.to(x).T).argmax(1)

    def _log_density(self, x: Tensor) -> Tensor:
        distance = ((x[:, None] - self.means.to(x)) / self.std).square().sum(-1)
        constant = math.log(2 * math.pi * self.std**2 * self.count)
        return torch.logsumexp(-distance / 2, dim=1) - constant

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "device": generator.device}
        mode = torch.randint(self.count, (n,), **options)
        noise = torch.randn(n, 2, dtype=torch.float64, **options)
        return self.means.to(noise)[mode] + self.std * noise

    def _rule(self) -> tuple[Tensor, Tensor]:
        # All sectors are alike: one of them, counted so many times.
        return polar_rule(
            max(0.0, 2 - 12 * self.std),
            2 + 12 * self.std,
            panel=2 * self.std,
            angles=128,
            sectors=self.count,
        )


class TwoRings(_Planar):
    r"""Concentric rings of equal height and width.

    .. math::
        \log f = \log \sum_{i=1}^{R} e^{-(r - r_i)^2 / 2 s^2}, \qquad
        r_i = \frac{2 i}{R}, \quad s = \frac{1}{4 R}, \quad r = |x|

    The normaliser is exact: with :math:`\Phi` the normal distribution function, ring i holds
    :math:`2 \pi [s^2 e^{-r_i^2 / 2 s^2} + r_i s \sqrt{2 \pi}\, \Phi(r_i / s)]`, and so a share of
    very nearly :math:`r_i / \sum_j r_j`. Samples: a ring by its share, an exact radius, a uniform
    angle.

    Args:
        rings: number R of rings, at least 1.

    Attributes:
        radii: shape (rings,).
        std: the width s.
        shares: shape (rings,), the mass of each ring, sum 1.

    Raises:
        ValueError: fewer than 1 ring, or no whole number.
    """

    def __init__(self, rings: int = 2) -> None:
        self.rings = whole_number("rings", rings, least=1)
        self.radii = 2 * torch.arange(1, self.rings + 1, dtype=torch.float64) / self.rings
        self.std = 1 / (4 * self.rings)
        z = self.radii / self.std
        self._masses = (
            2
            * torch.pi
            * self.std**2
            * (torch.exp(-z.square() / 2) + math.sqrt(2 * math.pi) * z * torch.special.ndtr(z))
        )
        self.shares = self._masses / self._masses.sum()

    def __repr__(self) -> str:
        return f"TwoRings(rings={self.rings})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return math.log(float(self._masses.sum()))

    @property
    def box(self) -> float:
        """Half-width of the square: six widths beyond the outer ring."""
        return 2 + 6 * self.std

    def _log_density(self, x: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.logsumexp(-((radius - self.radii.to(x)) / self.std).square() / 2, dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        shares = self.shares.to(generator.device)
        # Thresholds between the rings: torch.multinomial takes at most 2^24 of them.
        uniform = torch.rand(n, dtype=torch.float64, generator=generator, device=generator.device)
        ring = torch.searchsorted(shares.cumsum(0), uniform).clamp(max=self.rings - 1)
        centre = self.radii.to(generator.device)[ring]
        return _on_circles(_ring_radii(centre, self.std, generator), generator)

    def _rule(self) -> tuple[Tensor, Tensor]:
        return polar_rule(0.0, 2 + 12 * self.std, panel=2 * self.std, angles=1)


def polar_rule(
    inner: float, outer: float, *, panel: float, angles: int, sectors: int = 1
) -> tuple[Tensor, Tensor]:
    """Quadrature over an annulus: Gauss-Legendre along the radius, equal steps of the angle.

    Equal steps converge geometrically for a smooth periodic function, 16 Gauss-Legendre nodes a
    panel for one that is smooth on the scale of a panel.

    Args:
        inner: smallest radius.
        outer: largest radius.
        panel: largest width of a radial panel.
        angles: steps of the angle in one sector.
        sectors: the circle is this many equal sectors, of which one is evaluated.

    Returns:
        Points, shape (m, 2), and weights, shape (m,), both float64.
    """
    node, weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(16))
    edges = torch.linspace(
        inner, outer, math.ceil((outer - inner) / panel) + 1, dtype=torch.float64
    )
    half = edges.diff()[:, None] / 2
    radius = (edges[:-1, None] + half * (1 + node)).flatten()
    radial = (half * weight).flatten() * radius
    angle = 2 * torch.pi / sectors * torch.arange(angles, dtype=torch.float64) / angles
    points = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    weights = radial[:, None].expand(-1, angles) * (2 * torch.pi / angles)
    return points.reshape(-1, 2), weights.reshape(-1)


def _ring_radii(centre: Tensor, width: float, generator: torch.Generator) -> Tensor:
    """Radii r > 0 with density r exp(-(r - centre)^2 / 2 width^2), exact, shape of `centre`.

    With z = (r - centre) / width the density is below (centre + width |z|) exp(-z^2 / 2): a normal
    and a two-sided Rayleigh density, mixed by their masses. At most a tenth is rejected where the
    centre is 8 widths or more from the origin.
    """
    radius = torch.empty_like(centre)
    missing = torch.arange(len(centre), device=centre.device)
    while len(missing):
        c = centre[missing]
        options = {"dtype": c.dtype, "device": c.device, "generator": generator}
        which, tail, threshold = torch.rand(3, len(c), **options)
        normal = torch.randn(len(c), **options)
        is_normal = which < c / (c + width * math.sqrt(2 / math.pi))
        size = torch.where(is_normal, normal.abs(), (-2 * (-tail).log1p()).sqrt())
        r = c + width * size * normal.sign()
        kept = threshold * (c + width * size) < r
        radius[missing[kept]] = r[kept]
        missing = missing[~kept]
    return radius


def _on_circles(radius: Tensor, generator: torch.Generator) -> Tensor:
    """Points with these radii and uniform angles, shape (n, 2)."""
    options = {"dtype": radius.dtype, "device": radius.device, "generator": generator}
    angle = 2 * torch.pi * torch.rand(len(radius), **options)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
