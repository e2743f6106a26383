"""Axisymmetric galaxy potentials: three Miyamoto-Nagai discs, Hernquist bulge, NFW halo.

Units: kpc, km/s, solar masses; accelerations in (km/s)^2 / kpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

G = 4.30091e-6
"""Gravitational constant in kpc (km/s)^2 / Msun."""

KPC_PER_KMS_GYR = 1 / 0.9777922
"""Distance in kpc covered in 1 Gyr at 1 km/s."""

# Keeps the spherical models finite at the very centre; far below any softening of interest.
_TINY = 1e-8


@dataclass(frozen=True)
class MiyamotoNagai:
    """Miyamoto and Nagai (1975) disc; the mass may be negative as one term of a sum."""

    mass: float
    a: float
    b: float

    def potential(self, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        zb = np.sqrt(z * z + self.b**2)
        return -G * self.mass / np.sqrt(R * R + (self.a + zb) ** 2)

    def acceleration(self, R: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zb = np.sqrt(z * z + self.b**2)
        square = R * R + (self.a + zb) ** 2
        common = -G * self.mass / (square * np.sqrt(square))
        return common * R, common * z * (self.a + zb) / zb


@dataclass(frozen=True)
class Hernquist:
    """Hernquist (1990) sphere."""

    mass: float
    a: float

    def potential(self, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        return -G * self.mass / (np.sqrt(R * R + z * z) + self.a)

    def acceleration(self, R: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = np.sqrt(R * R + z * z + _TINY**2)
        common = -G * self.mass / (r * (r + self.a) ** 2)
        return common * R, common * z


@dataclass(frozen=True)
class NFW:
    """Navarro, Frenk and White halo of mass `mass` inside `r200`."""

    mass: float
    concentration: float
    r200: float

    @property
    def scale(self) -> float:
        return self.r200 / self.concentration

    @property
    def _mass_scale(self) -> float:
        c = self.concentration
        return self.mass / (np.log1p(c) - c / (1 + c))

    def potential(self, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        x = np.sqrt(R * R + z * z + _TINY**2) / self.scale
        return -G * self._mass_scale / self.scale * np.log1p(x) / x

    def acceleration(self, R: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = np.sqrt(R * R + z * z + _TINY**2)
        x = r / self.scale
        common = -G * self._mass_scale * (np.log1p(x) - x / (1 + x)) / r**3
        return common * R, common * z


# Smith et al. (2015, arXiv:1502.00627), the table that allows negative masses: each row is a
# quartic in beta = b / Rd, highest power first.
_MASS = (
    (-0.0090, 0.0640, -0.1653, 0.1164, 1.9487),
    (0.0173, -0.0903, 0.0877, 0.2029, -1.3077),
    (-0.0051, 0.0287, -0.0361, -0.0544, 0.2242),
)
_SCALE = (
    (-0.0358, 0.2610, -0.6987, -0.1193, 2.0074),
    (-0.0830, 0.4992, -0.7967, -1.2966, 4.4441),
    (-0.0247, 0.1718, -0.4124, -0.5944, 0.7333),
)
_HEIGHT = (-0.033, 0.262, 0.659, 0.0)  # of a sech^2 layer


def exponential_disc(mass: float, scale_length: float, height: float) -> list[MiyamotoNagai]:
    """Radially exponential disc, a sech^2 layer, as a sum of three Miyamoto-Nagai discs.

    Source: Smith et al. (2015), arXiv:1502.00627. The circular velocity agrees with that of the
    disc it stands for within 2 % beyond 2 scale lengths, and within 6 % down to half a scale
    length; the sum is not meant for use beyond about 10.

    Args:
        mass: disc mass in Msun.
        scale_length: exponential scale length Rd in kpc.
        height: h in kpc, of sech^2(z/h), at most 1.5 Rd.
    """
    beta = float(np.polyval(_HEIGHT, height / scale_length))
    masses, scales = (np.array([np.polyval(row, beta) for row in t]) for t in (_MASS, _SCALE))
    return [
        MiyamotoNagai(mass * float(m), scale_length * float(a), scale_length * beta)
        for m, a in zip(masses, scales, strict=True)
    ]


class GalaxyPotential:
    """Sum of axisymmetric components.

    Args:
        components: parts with ``potential(R, z)`` and ``acceleration(R, z)``.

    Example:
        >>> disc = exponential_disc(5e10, 2.5, 0.3)
        >>> galaxy = GalaxyPotential([*disc, NFW(1e12, 9.0, 206.0)])
        >>> 150 < float(galaxy.circular_velocity(8.0)) < 220
        True
    """

    def __init__(self, components: Sequence[Any]) -> None:
        self.components = tuple(components)

    def potential(self, R: ArrayLike, z: ArrayLike) -> np.ndarray:
        """Potential in (km/s)^2, zero at infinity; `R` and `z` in kpc broadcast together."""
        R, z = np.asarray(R, float), np.asarray(z, float)
        return sum(part.potential(R, z) for part in self.components)

    def acceleration(self, R: ArrayLike, z: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Components a_R and a_z in (km/s)^2/kpc; `R` and `z` in kpc broadcast together."""
        R, z = np.asarray(R, float), np.asarray(z, float)
        parts = [part.acceleration(R, z) for part in self.components]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def circular_velocity(self, R: ArrayLike) -> np.ndarray:
        """Circular velocity in km/s in the plane at cylindrical radii `R` in kpc."""
        R = np.asarray(R, float)
        a_R, _ = self.acceleration(R, np.zeros_like(R))
        return np.sqrt(np.maximum(-R * a_R, 0))

    def escape_velocity(self, R: ArrayLike, z: ArrayLike) -> np.ndarray:
        """Escape velocity in km/s."""
        return np.sqrt(-2 * self.potential(R, z))
