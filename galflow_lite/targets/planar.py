"""Densities in the plane: those of arXiv:2305.02930, section 4, and curved ones.

Moons, circle and rings come from the experiments of Stimper et al. 2022 (*Resampling Base
Distributions of Normalizing Flows*) and are not the moons and circles of scikit-learn. The curved
ones are a banana, a ring, a funnel and a wave.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_number
from .target import Target


class TwoMoons(Target):
    r"""Two crescents that open towards each other.

    .. math::
        \log f = -\tfrac12 \Big(\frac{r - 2}{0.2}\Big)^2 + \log \Big[
        e^{-\frac12 \left(\frac{x_1 - 2}{0.3}\right)^2}
        + e^{-\frac12 \left(\frac{x_1 + 2}{0.3}\right)^2} \Big], \qquad r = |x|

    The normaliser is 2.23494, by quadrature. Samples: an exact radius of the ring, a uniform angle,
    kept with the probability in brackets; 35 % are kept.
    """

    dim = 2
    _radius, _width, _spread = 2.0, 0.2, 0.3
    # Six thicknesses beyond the ring.
    box = 3.2
    log_normalizer = 0.8042144486321199

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


class CircleOfGaussians(Target):
    r"""Equal mixture of eight round Gaussians on a circle of radius 2; log f is normalised.

    The centres are :math:`2 (\sin \phi_i, \cos \phi_i)` with :math:`\phi_i = 2 \pi i / 8`, and the
    standard deviation is :math:`s = \tfrac23 \sin(\pi / 8)`, so that neighbours are 6 s apart.
    """

    dim, log_normalizer = 2, 0.0
    std = 2 / 3 * math.sin(math.pi / 8)
    box = 2 + 6 * std

    def __init__(self) -> None:
        angle = 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8
        self.modes = 2 * torch.stack([angle.sin(), angle.cos()], dim=1)
        self.mode_weights = torch.full((8,), 1 / 8, dtype=torch.float64)

    def assign(self, x: Any) -> Tensor:
        """Index of the Gaussian that x most likely came from, that of the nearest centre: (n,)."""
        x = self._points(x)
        # The centres are equally far from the origin: the nearest has the largest product.
        return (x @ self._at("modes", x).T).argmax(1)

    def _log_density(self, x: Tensor) -> Tensor:
        distance = ((x[:, None] - self._at("modes", x)) / self.std).square().sum(-1)
        constant = math.log(2 * math.pi * self.std**2 * len(self.modes))
        return torch.logsumexp(-distance / 2, dim=1) - constant

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "device": generator.device}
        mode = torch.randint(len(self.modes), (n,), **options)
        noise = torch.randn(n, 2, dtype=torch.float64, **options)
        return self._at("modes", noise)[mode] + self.std * noise


class TwoRings(Target):
    r"""Two concentric rings of equal height and width.

    .. math::
        \log f = \log \sum_{i=1}^{2} e^{-(r - r_i)^2 / 2 s^2}, \qquad
        r_i = i, \quad s = \tfrac18, \quad r = |x|

    The normaliser is exact: with :math:`\Phi` the normal distribution function, ring i holds
    :math:`2 \pi [s^2 e^{-r_i^2 / 2 s^2} + r_i s \sqrt{2 \pi}\, \Phi(r_i / s)]`, and so a share of
    very nearly :math:`r_i / \sum_j r_j`. Samples: a ring by its share, an exact radius, a uniform
    angle.

    Attributes:
        shares: shape (2,), the mass of each ring, sum 1.
    """

    dim, std = 2, 1 / 8
    box = 2 + 6 * std

    def __init__(self) -> None:
        self.radii = torch.tensor([1.0, 2.0], dtype=torch.float64)
        z = self.radii / self.std
        ring = torch.exp(-z.square() / 2) + math.sqrt(2 * math.pi) * z * torch.special.ndtr(z)
        masses = 2 * torch.pi * self.std**2 * ring
        self.shares = masses / masses.sum()
        self.log_normalizer = math.log(float(masses.sum()))

    def _log_density(self, x: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.logsumexp(-((radius - self._at("radii", x)) / self.std).square() / 2, dim=1)

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


_LOG_2PI = math.log(2 * math.pi)


class Rosenbrock(Target):
    r"""Banana: :math:`\log f = -(1 - x_1)^2 - b (x_2 - x_1^2)^2`.

    The first column is N(1, 1/2) and the second, given the first, :math:`N(x_1^2, 1 / 2 b)`. Hence
    :math:`Z = \pi / \sqrt b` and E|score|^2 = 2 + 14 b.

    Args:
        curvature: b; 1 is easy, 10 hard.
    """

    dim = 2

    def __init__(self, curvature: float = 1.0) -> None:
        self.curvature = b = as_number(curvature, "curvature", above=0)
        self.log_normalizer = math.log(math.pi) - math.log(b) / 2
        self.mean_square_score = 2 + 14 * b
        # Six standard deviations of each column beyond its centre.
        self.box = (1 + 6 / math.sqrt(2)) ** 2 + 6 / math.sqrt(2 * b)

    def _log_density(self, x: Tensor) -> Tensor:
        first, second = x.unbind(1)
        return -(1 - first).square() - self.curvature * (second - first.square()).square()

    def _closed_score(self, x: Tensor) -> Tensor:
        first, second = x.unbind(1)
        down = -2 * self.curvature * (second - first.square())
        return torch.stack([2 * (1 - first) - 2 * first * down, down], dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        first, second = _normal(n, generator).unbind(1)
        first = 1 + first / math.sqrt(2)
        return torch.stack([first, first.square() + second / math.sqrt(2 * self.curvature)], dim=1)


class Donut(Target):
    r"""Ring: :math:`\log f = -(r - R)^2 / s`, :math:`r = |x|`, R = 2.6; its radial variance is s/2.

    .. math::
        Z = 2 \pi \Big[\tfrac s2 e^{-R^2 / s} + \tfrac12 R \sqrt{\pi s}\,
        \big(1 + \mathrm{erf}(R / \sqrt s)\big)\Big], \qquad
        E|\mathrm{score}|^2 = 4\, E (r - R)^2 / s^2

    The score jumps at the origin, where it is set to 0.

    Args:
        spread: s; 0.5 is easy, 0.033 hard.
    """

    dim = 2
    radius = 2.6

    def __init__(self, spread: float = 0.5) -> None:
        self.spread = as_number(spread, "spread", above=0)
        # Integrals of r f and of (r - R)^2 r f over r > 0.
        inner = self.spread / 2 * math.exp(-(self.radius**2) / self.spread)
        half = self.radius * math.sqrt(math.pi * self.spread) / 2
        half *= math.erfc(-self.radius / math.sqrt(self.spread))
        zeroth, second = inner + half, self.spread * inner + self.spread / 2 * half
        self.log_normalizer = math.log(2 * math.pi * zeroth)
        self.mean_square_score = 4 / self.spread**2 * second / zeroth
        # Six radial standard deviations beyond the ring.
        self.box = self.radius + 6 * math.sqrt(self.spread / 2)

    def _log_density(self, x: Tensor) -> Tensor:
        return -(torch.linalg.vector_norm(x, dim=1) - self.radius).square() / self.spread

    def _closed_score(self, x: Tensor) -> Tensor:
        return 2 / self.spread * (self.radius * torch.nn.functional.normalize(x) - x)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        centre = torch.full((n,), self.radius, dtype=torch.float64, device=generator.device)
        return on_circles(ring_radii(centre, math.sqrt(self.spread / 2), generator), generator)


class Funnel(Target):
    r"""Neal's funnel in the plane, with :math:`v = x_2 \sim N(0, t^2)`.

    .. math::
        x_1 | v \sim N(0, e^v), \qquad
        \log f = -\frac{v^2}{2 t^2} - \frac v2 - \frac{x_1^2 e^{-v}}{2}, \qquad Z = 2 \pi t, \qquad
        E|s|^2 = e^{t^2 / 2} + t^{-2} + \tfrac12

    Args:
        std: t, at most 37, where E|s|^2 overflows; 1 is easy, 3 hard.
    """

    dim = 2

    def __init__(self, std: float = 1.0) -> None:
        self.std = t = as_number(std, "std", above=0, most=37)
        self.log_normalizer = _LOG_2PI + math.log(t)
        self.mean_square_score = math.exp(t**2 / 2) + 1 / t**2 + 0.5
        # Six standard deviations of v, and of the first column at the widest of them.
        self.box = 6 * max(t, math.exp(3 * t))

    def _log_density(self, x: Tensor) -> Tensor:
        first, v = x.unbind(1)
        return -(v / self.std).square() / 2 - v / 2 - (first * (-v / 2).exp()).square() / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        first, v = x.unbind(1)
        shrunk = (-v / 2).exp()
        scaled = first * shrunk
        return torch.stack([-scaled * shrunk, scaled.square() / 2 - v / self.std**2 - 0.5], dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        first, v = _normal(n, generator).unbind(1)
        v = self.std * v
        return torch.stack([first * (v / 2).exp(), v], dim=1)


class Squiggle(Target):
    r"""Wave: :math:`y = (x_1, x_2 + \sin a x_1) \sim N(0, C)`, C = [[2, 1/4], [1/4, 1/2]].

    The map has determinant 1, hence :math:`Z = 2 \pi \sqrt{\det C}`. With :math:`P = C^{-1}`, and
    as the second component of :math:`P y` is independent of :math:`x_1`,

    .. math::
        E|s|^2 = P_{11} + P_{22} + 2 a P_{12} e^{-a^2 C_{11} / 2}
        + \tfrac12 a^2 P_{22} (1 + e^{-2 a^2 C_{11}})

    Args:
        frequency: a; 1.5 is easy, 5 hard.
    """

    dim = 2
    _covariance = torch.tensor([[2.0, 0.25], [0.25, 0.5]], dtype=torch.float64)
    _precision = torch.linalg.inv(_covariance)

    def __init__(self, frequency: float = 1.5) -> None:
        self.frequency = a = as_number(frequency, "frequency", above=0)
        self.log_normalizer = _LOG_2PI + float(self._covariance.logdet()) / 2
        (c11, _), (_, c22) = self._covariance.tolist()
        (p11, p12), (_, p22) = self._precision.tolist()
        mixed = 2 * a * p12 * math.exp(-(a**2) * c11 / 2)
        slope = a**2 * p22 * (1 + math.exp(-2 * a**2 * c11)) / 2
        self.mean_square_score = p11 + p22 + mixed + slope
        # Six standard deviations of the wider column.
        self.box = max(6 * math.sqrt(c11), 6 * math.sqrt(c22) + 1)

    def _log_density(self, x: Tensor) -> Tensor:
        y = self._straight(x)
        return -((y @ self._at("_precision", x)) * y).sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        first, second = (-self._straight(x) @ self._at("_precision", x)).unbind(1)
        slope = self.frequency * (self.frequency * x[:, 0]).cos()
        return torch.stack([first + slope * second, second], dim=1)

    def _straight(self, x: Tensor) -> Tensor:
        first, second = x.unbind(1)
        return torch.stack([first, second + (self.frequency * first).sin()], dim=1)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        factor = torch.linalg.cholesky(self._covariance).to(generator.device)
        first, second = (_normal(n, generator) @ factor.T).unbind(1)
        return torch.stack([first, second - (self.frequency * first).sin()], dim=1)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, device=generator.device, generator=generator)
