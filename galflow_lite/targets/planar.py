"""Curved densities in the plane with exact samplers: banana, ring, funnel, wave."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfc
from torch import Tensor

from .base import Target, positive_number
from .multimodal import _on_circles, _ring_radii

__all__ = ["Donut", "Funnel", "Rosenbrock", "Squiggle"]

_LOG_2PI = math.log(2 * math.pi)
# What lies outside of a box: a normal variable beyond six standard deviations, about 2e-9.
_OUTSIDE = math.erfc(6 / math.sqrt(2))


class Rosenbrock(Target):
    r"""Banana: :math:`\log f = -(1 - x_1)^2 - b (x_2 - x_1^2)^2`.

    The first column is N(1, 1/2) and the second, given the first, :math:`N(x_1^2, 1 / 2 b)`. Hence
    :math:`Z = \pi / \sqrt b` and E|score|^2 = 2 + 14 b.

    Args:
        curvature: b; 1 is easy, 10 hard.

    Raises:
        ValueError: b is not positive.
    """

    dim = 2

    def __init__(self, curvature: float = 1.0) -> None:
        self.curvature = positive_number("curvature", curvature)

    def __repr__(self) -> str:
        return f"Rosenbrock(curvature={self.curvature})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return math.log(math.pi) - math.log(self.curvature) / 2

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, in closed form."""
        return self.log_normalizer + 1

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2 = 2 + 14 b."""
        return 2 + 14 * self.curvature

    @property
    def box(self) -> float:
        """Half-width of the square: six standard deviations of each column beyond its centre."""
        return (1 + 6 / math.sqrt(2)) ** 2 + 6 / math.sqrt(2 * self.curvature)

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
    r"""Ring: :math:`\log f = -(r - R)^2 / s` with :math:`r = |x|`; s is twice the radial variance.

    .. math::
        Z = 2 \pi \Big[\tfrac s2 e^{-R^2 / s} + \tfrac12 R \sqrt{\pi s}\,
        \big(1 + \mathrm{erf}(R / \sqrt s)\big)\Big]

    The score jumps at the origin, where it is set to 0.

    Args:
        radius: R.
        spread: s; 0.5 is easy, 0.033 hard.

    Raises:
        ValueError: an argument is not positive.
    """

    dim = 2

    def __init__(self, *, radius: float = 2.6, spread: float = 0.5) -> None:
        self.radius = positive_number("radius", radius)
        self.spread = positive_number("spread", spread)

    def __repr__(self) -> str:
        return f"Donut(radius={self.radius}, spread={self.spread})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return math.log(2 * math.pi * self._radial_moments[0])

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, in closed form."""
        zeroth, second = self._radial_moments
        return self.log_normalizer + second / zeroth / self.spread

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2 = 4 E(r - R)^2 / s^2, in closed form."""
        zeroth, second = self._radial_moments
        return 4 / self.spread**2 * second / zeroth

    @property
    def box(self) -> float:
        """Half-width of the square: six radial standard deviations beyond the ring."""
        return self.radius + 6 * math.sqrt(self.spread / 2)

    @cached_property
    def _radial_moments(self) -> tuple[float, float]:
        """Integrals of r f and of (r - R)^2 r f over r > 0."""
        radius, spread = self.radius, self.spread
        inner = spread / 2 * math.exp(-(radius**2) / spread)
        half = radius * math.sqrt(math.pi * spread) / 2 * erfc(-radius / math.sqrt(spread))
        return inner + half, spread * inner + spread / 2 * half

    def _log_density(self, x: Tensor) -> Tensor:
        return -(torch.linalg.vector_norm(x, dim=1) - self.radius).square() / self.spread

    def _closed_score(self, x: Tensor) -> Tensor:
        return 2 / self.spread * (self.radius * torch.nn.functional.normalize(x) - x)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        centre = torch.full((n,), self.radius, dtype=torch.float64, device=generator.device)
        radii = _ring_radii(centre, math.sqrt(self.spread / 2), generator)
        return _on_circles(radii, generator)


class Funnel(Target):
    r"""Neal's funnel in the plane, with :math:`v = x_2 \sim N(0, t^2)`.

    .. math::
        x_1 | v \sim N(0, e^v), \qquad
        \log f = -\frac{v^2}{2 t^2} - \frac v2 - \frac{x_1^2 e^{-v}}{2}, \qquad Z = 2 \pi t, \qquad
        E|s|^2 = e^{t^2 / 2} + t^{-2} + \tfrac12

    Args:
        std: t; 1 is easy, 3 hard.

    Raises:
        ValueError: t is not positive.
    """

    dim = 2

    def __init__(self, std: float = 1.0) -> None:
        self.std = positive_number("std", std)

    def __repr__(self) -> str:
        return f"Funnel(std={self.std})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return _LOG_2PI + math.log(self.std)

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, in closed form: the mean of v is 0."""
        return self.log_normalizer + 1

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2, in closed form."""
        return math.exp(self.std**2 / 2) + 1 / self.std**2 + 0.5

    @cached_property
    def box(self) -> float:
        """Half-width of the square; the mouth of the funnel makes it large: 39 at t = 1, 8900 at 3.

        About 2e-9 lies beyond it in the first column, as much as beyond 6 t in the second.
        """

        def outside(half_width: float) -> float:
            """Share of |x1| above the half-width, less what is allowed, over all v."""

            def density(z: float) -> float:
                tail = erfc(half_width * math.exp(-self.std * z / 2) / math.sqrt(2))
                return math.exp(-z * z / 2 - _LOG_2PI / 2) * tail

            return quad(density, -10, 20, limit=200, epsabs=1e-13)[0] - _OUTSIDE

        width = brentq(
            lambda log_width: outside(math.exp(log_width)), 0, 8 + 5 * self.std, rtol=1e-6
        )
        return max(6 * self.std, math.exp(width))

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

    Raises:
        ValueError: a is not positive.
    """

    dim = 2
    _covariance = torch.tensor([[2.0, 0.25], [0.25, 0.5]], dtype=torch.float64)
    _precision = torch.linalg.inv(_covariance)

    def __init__(self, frequency: float = 1.5) -> None:
        self.frequency = positive_number("frequency", frequency)

    def __repr__(self) -> str:
        return f"Squiggle(frequency={self.frequency})"

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, in closed form."""
        return _LOG_2PI + float(self._covariance.logdet()) / 2

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats: that of the Gaussian."""
        return self.log_normalizer + 1

    @cached_property
    def mean_square_score(self) -> float:
        """E|score|^2, in closed form."""
        a, variance = self.frequency, float(self._covariance[0, 0])
        (p11, p12), (_, p22) = self._precision.tolist()
        mixed = 2 * a * p12 * math.exp(-(a**2) * variance / 2)
        return p11 + p22 + mixed + a**2 * p22 * (1 + math.exp(-2 * a**2 * variance)) / 2

    @property
    def box(self) -> float:
        """Half-width of the square: six standard deviations of the wider column."""
        widths = self._covariance.diagonal().sqrt()
        return max(6 * float(widths[0]), 6 * float(widths[1]) + 1)

    def _log_density(self, x: Tensor) -> Tensor:
        y = self._straight(x)
        return -((y @ self._precision.to(x)) * y).sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        first, second = (-self._straight(x) @ self._precision.to(x)).unbind(1)
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
