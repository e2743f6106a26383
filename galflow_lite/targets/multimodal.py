"""The three multimodal targets in the plane of arXiv:2305.02930, section 4.

They come from the experiments of Stimper et al. 2022 (*Resampling Base Distributions of Normalizing
Flows*) and are not the moons and circles of scikit-learn.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_whole
from .target import Target, grid


class _GridIntegrals(Target):
    """A target in the plane with sums over a grid for integrals; `_width` is its smallest width."""

    dim = 2
    _width: float

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, by quadrature."""
        log_f, area = self._on_grid()
        return math.log(float(log_f.exp().sum() * area))

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, by quadrature."""
        log_f, area = self._on_grid()
        log_p = log_f - self.log_normalizer
        return -float((log_p.exp() * log_p).sum() * area)

    def _on_grid(self) -> tuple[Tensor, float]:
        edge = 2 + 11 * self._width
        points, area = grid([-edge, -edge], [edge, edge], self._width / 8)
        # In parts: many modes or rings times all points would not fit in memory.
        return torch.cat([self._log_density(part) for part in points.split(4096)]), area


class TwoMoons(_GridIntegrals):
    r"""Two crescents that open towards each other.

    .. math::
        \log f = -\tfrac12 \Big(\frac{r - 2}{0.2}\Big)^2 + \log \Big[
        e^{-\frac12 \left(\frac{x_1 - 2}{0.3}\right)^2}
        + e^{-\frac12 \left(\frac{x_1 + 2}{0.3}\right)^2} \Big], \qquad r = |x|

    The normaliser is 2.23494. Samples: an exact radius of the
    ring, a uniform angle, kept with the probability in brackets; 35 % are kept.
    """

    _radius, _width, _spread = 2.0, 0.2, 0.3
    # Six thicknesses beyond the ring.
    box = 3.2

    def _log_density(self, x: Tensor) -> Tensor:
        ring = (torch.linalg.vector_norm(x, dim=1) - self._radius) / self._width
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
            x = on_circles(ring_radii(centre, self._width, generator), generator)
            # The bracket is at most 1: the other crescent adds exp(-89) at the peak.
            threshold = torch.rand(proposals, generator=generator, **options)
            x = x[threshold < self._log_side(x[:, 0]).exp()][:missing]
            kept.append(x)
            missing -= len(x)
        return torch.cat(kept)


class CircleOfGaussians(_GridIntegrals):
    r"""Equal mixture of round Gaussians on a circle of radius 2; log f is normalised.

    The centres are :math:`2 (\sin \phi_i, \cos \phi_i)` with :math:`\phi_i = 2 \pi i / n`, and the
    standard deviation is :math:`s = \tfrac23 \sin(\pi / n)`, so that neighbours are 6 s apart for
    every n.

    Args:
        modes: number n of Gaussians, at least 2.

    Attributes:
        std: the standard deviation s.
    """

    log_normalizer = 0.0

    def __init__(self, modes: int = 8) -> None:
        count = as_whole(modes, "modes", least=2)
        angle = 2 * torch.pi * torch.arange(count, dtype=torch.float64) / count
        self.modes = 2 * torch.stack([angle.sin(), angle.cos()], dim=1)
        self.mode_weights = torch.full((count,), 1 / count, dtype=torch.float64)
        self.std = self._width = 2 / 3 * math.sin(math.pi / count)
        self.box = 2 + 6 * self.std

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, that of the nearest centre: (n,)."""
        x = self._points(x)
        # The centres are equally far from the origin: the nearest has the largest product.
        return (x @ self.modes.to(x).T).argmax(1)

    def _log_density(self, x: Tensor) -> Tensor:
        distance = ((x[:, None] - self.modes.to(x)) / self.std).square().sum(-1)
        constant = math.log(2 * math.pi * self.std**2 * len(self.modes))
        return torch.logsumexp(-distance / 2, dim=1) - constant

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "device": generator.device}
        mode = torch.randint(len(self.modes), (n,), **options)
        noise = torch.randn(n, 2, dtype=torch.float64, **options)
        return self.modes.to(noise)[mode] + self.std * noise


class TwoRings(_GridIntegrals):
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
    """

    def __init__(self, rings: int = 2) -> None:
        count = as_whole(rings, "rings", least=1)
        self.radii = 2 * torch.arange(1, count + 1, dtype=torch.float64) / count
        self.std = self._width = 1 / (4 * count)
        z = self.radii / self.std
        ring = torch.exp(-z.square() / 2) + math.sqrt(2 * math.pi) * z * torch.special.ndtr(z)
        masses = 2 * torch.pi * self.std**2 * ring
        self.shares = masses / masses.sum()
        self.log_normalizer = math.log(float(masses.sum()))
        self.box = 2 + 6 * self.std

    def _log_density(self, x: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.logsumexp(-((radius - self.radii.to(x)) / self.std).square() / 2, dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        edges = self.shares.to(generator.device).cumsum(0)
        # Thresholds between the rings: torch.multinomial takes at most 2^24 of them.
        uniform = torch.rand(n, dtype=torch.float64, generator=generator, device=generator.device)
        ring = torch.searchsorted(edges, uniform).clamp(max=len(edges) - 1)
        centre = self.radii.to(generator.device)[ring]
        return on_circles(ring_radii(centre, self.std, generator), generator)


def ring_radii(centre: Tensor, width: float, generator: torch.Generator) -> Tensor:
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


def on_circles(radius: Tensor, generator: torch.Generator) -> Tensor:
    """Points with these radii and uniform angles, shape (n, 2)."""
    options = {"dtype": radius.dtype, "device": radius.device, "generator": generator}
    angle = 2 * torch.pi * torch.rand(len(radius), **options)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
