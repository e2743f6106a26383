"""One synthetic galaxy: ages, positions, velocities and abundances of its stars.

A thin disc that grows inside out and is heated with age, a thick disc, a bulge and a stellar
halo, each in approximate equilibrium in the potential of the whole galaxy, with abundances of
a two-infall history. Axisymmetric: no bar, no spiral arms, no satellites and no gas.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from . import chemistry
from .galaxy_parameters import AGE_OF_UNIVERSE, GalaxyParameters
from .kinematics import DiscKinematics, SpheroidKinematics
from .potential import NFW, GalaxyPotential, Hernquist, exponential_disc

COMPONENTS = ("thin", "thick", "bulge", "halo")

YIELDS = chemistry.Yields(iron_ia=0.0010)
"""Yields of the family: less iron of type Ia than the default, for [O/Fe] near NIHAO's 0.17."""

_GRADIENT = -0.2  # dex per disc scale length
_OUTERMOST = 6.0  # in scale lengths: the gradient ends here
_HALO_SPREAD = 0.3  # dex
_DILUTION = 0.4
_ABUNDANCE_SCATTER = 0.02  # dex, oxygen and iron each
_METALS_SCATTER = 0.05  # dex, Z given [Fe/H] and [O/Fe]
_Arrays = tuple[np.ndarray, ...]
_BULGE_SPIN = 0.375  # fraction turned round: mean rotation of 0.3 sigma


@dataclass(frozen=True)
class Stars:
    """Stars of one galaxy, in random order.

    Args:
        component: index into `COMPONENTS`, shape (n,).
        position: x, y, z in kpc, shape (n, 3).
        velocity: vx, vy, vz in km/s, shape (n, 3).
        age: Gyr, shape (n,).
        Z: metal mass fraction, shape (n,).
        feh: [Fe/H] in dex, shape (n,).
        ofe: [O/Fe] in dex, shape (n,).
    """

    component: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    age: np.ndarray
    Z: np.ndarray
    feh: np.ndarray
    ofe: np.ndarray

    def __len__(self) -> int:
        return len(self.age)

    def select(self, which: np.ndarray) -> Stars:
        """The stars of a boolean mask or an index array."""
        return Stars(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def of(self, component: str) -> Stars:
        """The stars of one of `COMPONENTS`."""
        return self.select(self.component == COMPONENTS.index(component))


def birth_times(
    rng: np.random.Generator, n: int, start: float, end: float, tau: float, recent: float = 1.0
) -> np.ndarray:
    """Draw formation times in Gyr, shape (n,), from a rising and declining history.

    The rate is (t - start + 0.05) exp(-(t - start) / tau) on [start, end], times
    `recent` over the last 2 Gyr before today (a smooth step of 0.3 Gyr), inverted on a
    grid of 400 times.
    """
    t = np.linspace(start, end, 400)
    rate = (t - start + 0.05) * np.exp(-(t - start) / tau)
    rate *= 1 + (recent - 1) / (1 + np.exp(-(t - (AGE_OF_UNIVERSE - 2.0)) / 0.3))
    cumulative = np.append(0.0, np.cumsum(0.5 * (rate[1:] + rate[:-1])))
    return np.interp(rng.random(n) * cumulative[-1], cumulative, t)


class GalaxyModel:
    """A galaxy of given global parameters; draws any number of its stars.

    Args:
        parameters: of `parameters.draw`, or made by hand.

    Attributes:
        potential: disc (sech^2 layer of height 1.3 hz) + Hernquist spheroid (bulge and stellar
            halo) + NFW halo, a `GalaxyPotential`.
    """

    def __init__(self, parameters: GalaxyParameters) -> None:
        p = self.parameters = parameters
        spheroid = p.bulge_fraction + p.halo_fraction
        disc = exponential_disc((1 - spheroid) * p.mass, p.disc_length, 1.3 * p.disc_height)
        bulge = Hernquist(spheroid * p.mass, p.bulge_scale)
        halo = NFW(p.halo_mass, p.concentration, p.r200)
        self.potential = GalaxyPotential([*disc, bulge, halo])
        heights = 0.4 * p.disc_height, 2.8 * p.disc_height
        self._discs = DiscKinematics(self.potential, p.disc_length, heights)
        scales = {"bulge": p.bulge_scale, "halo": p.halo_scale}
        self._spheroids = {k: SpheroidKinematics(self.potential, a) for k, a in scales.items()}

    def sample(self, n: int, *, rng: np.random.Generator) -> Stars:
        """Draw `n` stars, each component with its share on average."""
        p = self.parameters
        shares = [p.thin_fraction, p.thick_fraction, p.bulge_fraction, p.halo_fraction]
        component = rng.choice(len(COMPONENTS), size=n, p=shares)
        time, R, z, oxygen, iron = np.empty((5, n))
        velocity = np.empty((n, 3))
        for index, name in enumerate(COMPONENTS):
            rows = np.flatnonzero(component == index)
            time[rows] = self._birth_times(rng, name, len(rows))
            place = self._disc if name in ("thin", "thick") else self._spheroid
            R[rows], z[rows], velocity[rows] = place(rng, name, AGE_OF_UNIVERSE - time[rows])
            oxygen[rows], iron[rows] = self._abundances(rng, name, time[rows], R[rows])

        mixed = rng.normal(0, p.mixing, n)
        oxygen *= 10 ** (mixed + rng.normal(0, _ABUNDANCE_SCATTER, n))
        iron *= 10 ** (mixed + rng.normal(0, _ABUNDANCE_SCATTER, n))
        # Without a scatter of its own, Z is a function of the other two and the density of
        # the ten coordinates is singular.
        metals = chemistry.metal_fraction(oxygen, iron) * 10 ** rng.normal(0, _METALS_SCATTER, n)
        feh = np.log10(iron / chemistry.SOLAR_IRON)

        azimuth = rng.uniform(0, 2 * np.pi, n)
        cos, sin = np.cos(azimuth), np.sin(azimuth)
        v_R, v_phi, v_z = velocity.T
        return Stars(
            component=component,
            position=np.stack([R * cos, R * sin, z], axis=1),
            velocity=np.stack([v_R * cos - v_phi * sin, v_R * sin + v_phi * cos, v_z], axis=1),
            age=AGE_OF_UNIVERSE - time,
            Z=metals,
            feh=feh,
            ofe=np.log10(oxygen / chemistry.SOLAR_OXYGEN) - feh,
        )

    def _birth_times(self, rng: np.random.Generator, name: str, n: int) -> np.ndarray:
        p = self.parameters
        history = {
            "thin": (p.thin_onset, AGE_OF_UNIVERSE, p.thin_tau, p.recent_activity),
            "thick": (0.3, p.thin_onset + 0.5, 0.6),
            "bulge": (0.3, 8.0, 1.5),
            "halo": (0.1, 3.5, 0.8),
        }
        return birth_times(rng, n, *history[name])

    def _disc(self, rng: np.random.Generator, name: str, age: np.ndarray) -> _Arrays:
        """R, z and velocities of disc stars.

        Inside-out growth by 30 % in 8 Gyr (Frankel et al. 2019, arXiv:1909.07118) and vertical
        heating with the square root of age (near the 0.45 of Aumer and Binney 2009,
        arXiv:0905.2512).
        """
        p = self.parameters
        if name == "thin":
            R_t = 1.08 * p.disc_length * (1 - 0.3 * 0.8 * np.minimum(age, 9.5) / 8)
            h = p.disc_height * (0.35 + np.sqrt((age + 0.1) / 10))
        else:
            R_t = np.full_like(age, 0.8 * p.disc_length)
            h = np.full_like(age, p.thick_height)
        R = R_t * rng.gamma(2.0, 1.0, len(age))
        z = h * np.arctanh(rng.uniform(-1, 1, len(age)))
        return R, z, self._discs.sample(rng, R, z, h, R_t)

    def _spheroid(self, rng: np.random.Generator, name: str, age: np.ndarray) -> _Arrays:
        """R, z and velocities of bulge or halo stars: Hernquist spheres out to 40 scales."""
        p = self.parameters
        a, spin = (p.bulge_scale, _BULGE_SPIN) if name == "bulge" else (p.halo_scale, 0.0)
        s = (40 / 41) * np.sqrt(rng.random(len(age)))
        r = a * s / (1 - s)
        cos = rng.uniform(-1, 1, len(age))
        R, z = r * np.sqrt(1 - cos**2), r * cos
        return R, z, self._spheroids[name].sample(rng, R, z, spin=spin)

    def _abundances(
        self, rng: np.random.Generator, name: str, time: np.ndarray, R: np.ndarray
    ) -> _Arrays:
        """Oxygen and iron mass fractions at birth, before scatter.

        Each radius has its own outflow, chosen to give the local equilibrium [O/H]. Thin-disc
        stars have left their birth radius since (churning, Frankel et al. 2018,
        arXiv:1805.09198). The thin disc starts where a second infall dilutes the gas of the thick
        disc to 0.4 times its abundances and its rate of type Ia supernovae: it forms late and
        stays poor in alpha elements, which splits the [O/Fe] sequences. Halo stars come from
        many small progenitors: they have a spread of their own and no gradient.
        """
        p = self.parameters
        if name == "thin":
            spread = 3.6 * p.disc_length / 2.6 * np.sqrt((AGE_OF_UNIVERSE - time) / 8)
            R = np.abs(R - rng.normal(size=len(R)) * spread)
        if name == "halo":
            target = p.oxygen - 0.8 + rng.normal(0, _HALO_SPREAD, len(R))
        else:
            target = p.oxygen + _GRADIENT * (_saturate(R / p.disc_length) - 1.5)
        if name == "bulge":
            target += 0.1
        eta = chemistry.outflow_for_equilibrium(target, YIELDS)
        if name != "thin":
            tau_star, slower = (0.8 if name == "bulge" else 1.2), (2 if name == "halo" else 1)
            history = dict(tau_star=tau_star, tau_sfh=4.0, yields=YIELDS)
            return chemistry.enrichment(time / slower, eta=eta, **history)
        early = dict(tau_star=1.2, tau_sfh=4.0, yields=YIELDS)
        left = chemistry.enrichment(p.thin_onset, eta=eta, **early)
        start = [_DILUTION * x for x in (*left, chemistry.type_ia_rate(p.thin_onset, **early))]
        late = dict(tau_star=2.5, tau_sfh=p.thin_tau + 3, yields=YIELDS, start=start)
        return chemistry.enrichment(np.maximum(time - p.thin_onset, 0), eta=eta, **late)


def _saturate(radius: np.ndarray) -> np.ndarray:
    """Radius in scale lengths, levelling off smoothly at `_OUTERMOST`.

    An unbounded gradient would take the outermost stars to absurd abundances; a hard limit would
    pile them up at one value.
    """
    return radius / (1 + (radius / _OUTERMOST) ** 4) ** 0.25
