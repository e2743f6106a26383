"""Axisymmetric galaxy potentials, and velocities in approximate equilibrium in them.

Three Miyamoto-Nagai discs, Hernquist bulge and NFW halo. Jeans equations for a velocity ellipsoid
aligned with (R, phi, z), as Cappellari (2008, arXiv:0806.0042) solves them, with tables made once a
galaxy; velocities are Gaussian around the solution. Units: kpc, km/s, solar masses; accelerations
in (km/s)^2 / kpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.ndimage import map_coordinates

G = 4.30091e-6
"""Gravitational constant in kpc (km/s)^2 / Msun."""

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

    def potential(self, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Potential in (km/s)^2, zero at infinity; `R` and `z` in kpc broadcast together."""
        return sum(part.potential(R, z) for part in self.components)

    def acceleration(self, R: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Components a_R and a_z in (km/s)^2/kpc; `R` and `z` in kpc broadcast together."""
        parts = [part.acceleration(R, z) for part in self.components]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def circular_velocity(self, R: np.ndarray) -> np.ndarray:
        """Circular velocity in km/s in the plane at cylindrical radii `R` in kpc."""
        a_R, _ = self.acceleration(R, 0.0 * R)
        return np.sqrt(np.maximum(-R * a_R, 0))

    def escape_velocity(self, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Escape velocity in km/s."""
        return np.sqrt(-2 * self.potential(R, z))


_Array = np.ndarray
_AXIS_RATIO = 0.6  # sigma_z / sigma_R of disc stars, as in the solar neighbourhood
_HOTTEST = 0.50  # largest (sigma_R / v_c)^2, reached at the centre
_COOLING = 0.60  # how fast that ceiling falls with radius over scale length
_SMOOTH = 4  # sharpness of the change from one limit of sigma_R to the other
_SLOWEST = 0.2  # least mean rotation over v_c
_BOUND = 0.95  # largest speed over escape speed


class _Axis:
    """Uniform nodes of a stretched coordinate, to look tables up by."""

    def __init__(self, last: float, n: int, *, scale: float) -> None:
        # sinh: even steps near zero, where a logarithm would not reach, and even ratios beyond.
        self._scale = scale
        self._step = np.arcsinh(last / scale) / (n - 1)
        self.nodes = scale * np.sinh(self._step * np.arange(n))

    def index(self, value: np.ndarray) -> np.ndarray:
        return np.arcsinh(value / self._scale) / self._step


def _look_up(table: np.ndarray, *indices: np.ndarray) -> np.ndarray:
    return map_coordinates(table, np.stack(indices), order=1, mode="nearest")


def _integral_outwards(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Trapezoidal integral along the last axis from each node to the last one."""
    return -cumulative_trapezoid(values[..., ::-1], nodes[::-1], initial=0)[..., ::-1]


class DiscKinematics:
    """Velocities of disc populations, each with its own scale length and height.

    A population has the density exp(-R / R_t) sech^2(z / h).

    * sigma_z(R, z) from the vertical Jeans equation. Its average over the layer obeys the
      virial theorem <v_z^2> = <z dPhi/dz> at every radius.
    * sigma_R = sigma_z / 0.6, with a smooth ceiling of 0.71 v_c / sqrt(1 + 0.6 R / R_t). The
      ceiling falls outwards so that asymmetric drift never uses up all rotation: without it the
      Jeans equation has no solution at a few scale lengths of hot populations.
    * sigma_phi from epicycles, sigma_phi^2 / sigma_R^2 = (1 + dln v_c / dln R) / 2 in [0.3, 1].
    * mean rotation from the radial Jeans equation at the star's (R, z), with the density slope
      -R / R_t and the actual slope of sigma_R^2; at least 0.2 v_c.

    Args:
        potential: the galaxy.
        scale_length: a typical disc scale length in kpc, to place the tables.
        heights: smallest and largest layer height in kpc.
    """

    def __init__(
        self, potential: GalaxyPotential, scale_length: float, heights: tuple[float, float]
    ) -> None:
        self.potential = potential
        self._R = _Axis(40 * scale_length, 80, scale=0.1 * scale_length)
        self._s = _Axis(6.0, 48, scale=0.05)
        self._log_h = np.linspace(*np.log(heights), 10)

        R = self._R.nodes.copy()
        R[0] = 0.1 * R[1]  # logarithmic slopes need a positive radius
        h = np.exp(self._log_h)[:, None]
        s = self._s.nodes
        _, a_z = potential.acceleration(R[:, None, None], h * s)
        # Integrating over the layer's cumulative mass takes its steep decline exactly.
        beyond = -a_z[..., -1:] * (1 - np.tanh(s[-1]))
        variance = h * (_integral_outwards(-a_z, np.tanh(s)) + beyond) * np.cosh(s) ** 2
        self._sigma_z = np.sqrt(variance)
        # The slope is wanted at fixed z, and the tables of one h have fixed z along R.
        self._slope_z = np.gradient(np.log(self._sigma_z), np.log(R), axis=0)
        self._v_c = potential.circular_velocity(R)
        self._slope_c = np.gradient(np.log(self._v_c), np.log(R))

    def dispersions(self, R: _Array, z: _Array, h: _Array, R_t: _Array) -> tuple[_Array, ...]:
        """Dispersions in km/s at (R, z) of populations of height `h` and scale length `R_t`.

        Args:
            R: cylindrical radius in kpc, shape (n,).
            z: height in kpc, shape (n,).
            h: layer height in kpc, shape (n,).
            R_t: scale length in kpc, shape (n,).

        Returns:
            sigma_R, sigma_phi, sigma_z and dln sigma_R^2 / dln R, each of shape (n,).
        """
        i = self._R.index(R)
        j = (np.log(h) - self._log_h[0]) / (self._log_h[1] - self._log_h[0])
        k = self._s.index(np.abs(z) / h)
        sigma_z, slope_z = (_look_up(table, i, j, k) for table in (self._sigma_z, self._slope_z))
        v_c, slope_c = (_look_up(table, i) for table in (self._v_c, self._slope_c))

        free = sigma_z / _AXIS_RATIO
        x = _COOLING * R / R_t
        ceiling = v_c * np.sqrt(_HOTTEST / (1 + x))
        slope_ceiling = slope_c - 0.5 * x / (1 + x)
        weight = 1 / (1 + (free / ceiling) ** _SMOOTH)
        sigma_R = free * weight ** (1 / _SMOOTH)
        slope_R = 2 * (weight * slope_z + (1 - weight) * slope_ceiling)
        ratio = np.clip(0.5 * (1 + slope_c), 0.3, 1.0)
        return sigma_R, sigma_R * np.sqrt(ratio), sigma_z, slope_R

    def sample(
        self, rng: np.random.Generator, R: _Array, z: _Array, h: _Array, R_t: _Array
    ) -> _Array:
        """Draw v_R, v_phi, v_z in km/s, shape (n, 3); arguments as `dispersions`."""
        sigma_R, sigma_phi, sigma_z, slope = self.dispersions(R, z, h, R_t)
        a_R, _ = self.potential.acceleration(R, z)
        circular = -R * a_R
        squared = circular + sigma_R**2 * (1 - R / R_t + slope) - sigma_phi**2
        rotation = np.sqrt(np.maximum(squared, _SLOWEST**2 * circular))
        velocity = rng.normal(size=(len(R), 3)) * np.stack([sigma_R, sigma_phi, sigma_z], axis=1)
        velocity[:, 1] += rotation
        return _keep_bound(velocity, self.potential, R, z)


class SpheroidKinematics:
    """Velocities of stars with the density of a Hernquist (1990) sphere.

    The solution with sigma_R = sigma_z, as of a distribution function of energy and angular
    momentum: isotropic in a spherical potential; in a flattened one sigma_phi is what holds the
    stars in their spherical shape.

    Args:
        potential: the galaxy.
        a: scale of the sphere in kpc.
    """

    def __init__(self, potential: GalaxyPotential, a: float) -> None:
        self.potential = potential
        self._axis = _Axis(1000 * a, 140, scale=0.01 * a)
        nodes = self._axis.nodes.copy()
        nodes[0] = 0.1 * nodes[1]  # logarithmic slopes need a positive radius
        R, z = nodes[:, None], nodes
        r = np.hypot(R, z)
        a_R, a_z = potential.acceleration(R, z)
        log_density = -np.log(r) - 3 * np.log(r + a)
        pressure = _integral_outwards(-a_z * np.exp(log_density), nodes)
        # Beyond the last node density falls as r^-4 in a point mass's field, force as z r^-3.
        pressure += (np.exp(log_density) * -a_z * r**2 / (5 * z))[:, -1:]
        variance = pressure / np.exp(log_density)
        slope = np.gradient(np.log(pressure), np.log(nodes), axis=0)
        azimuthal = 1 + slope - R * a_R / variance
        self._sigma = np.sqrt(variance)
        self._ratio = np.sqrt(np.clip(azimuthal, 0.1, 4.0))

    def dispersions(self, R: _Array, z: _Array) -> tuple[_Array, _Array]:
        """sigma_R = sigma_z and sigma_phi (about zero) in km/s at (R, z) in kpc, shape (n,)."""
        where = self._axis.index(R), self._axis.index(np.abs(z))
        sigma = _look_up(self._sigma, *where)
        return sigma, sigma * _look_up(self._ratio, *where)

    def sample(
        self, rng: np.random.Generator, R: _Array, z: _Array, *, spin: float = 0.0
    ) -> _Array:
        """Draw v_R, v_phi, v_z in km/s, shape (n, 3), at (R, z) in kpc.

        `spin` is the fraction in [0, 1] of the counter-rotating stars that are turned round.
        That keeps the even part of the distribution function, hence density and dispersions, so
        that a spin costs no equilibrium (Lynden-Bell 1960); a shift of v_phi would.
        """
        sigma, sigma_phi = self.dispersions(R, z)
        velocity = rng.normal(size=(len(R), 3)) * np.stack([sigma, sigma_phi, sigma], axis=1)
        turned = (velocity[:, 1] < 0) & (rng.random(len(R)) < spin)
        velocity[turned, 1] *= -1
        return _keep_bound(velocity, self.potential, R, z)


def _keep_bound(velocity: _Array, potential: GalaxyPotential, R: _Array, z: _Array) -> _Array:
    """Slow the few stars of a Gaussian tail that would leave the galaxy."""
    speed = np.sqrt(np.sum(velocity**2, axis=1))
    limit = _BOUND * potential.escape_velocity(R, z)
    return velocity * np.minimum(1, limit / np.maximum(speed, 1e-12))[:, None]
