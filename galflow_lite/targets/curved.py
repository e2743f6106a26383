"""Curved densities in the plane with exact samplers: banana, ring, funnel, wave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..inputs import as_number
from .multimodal import on_circles, ring_radii
from .target import Target

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
    r"""Ring: :math:`\log f = -(r - R)^2 / s` with :math:`r = |x|`; s is twice the radial variance.

    .. math::
        Z = 2 \pi \Big[\tfrac s2 e^{-R^2 / s} + \tfrac12 R \sqrt{\pi s}\,
        \big(1 + \mathrm{erf}(R / \sqrt s)\big)\Big], \qquad
        E|\mathrm{score}|^2 = 4\, E (r - R)^2 / s^2

    The score jumps at the origin, where it is set to 0.

    Args:
        radius: R.
        spread: s; 0.5 is easy, 0.033 hard.
    """

    dim = 2

    def __init__(self, *, radius: float = 2.6, spread: float = 0.5) -> None:
        self.radius = as_number(radius, "radius", above=0)
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
        std: t; 1 is easy, 3 hard.
    """

    dim = 2

    def __init__(self, std: float = 1.0) -> None:
        self.std = t = as_number(std, "std", above=0)
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
