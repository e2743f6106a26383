"""One synthetic galaxy: ages, positions, velocities and abundances of its stars.

A thin disc that grows inside out and is heated with age, a thick disc, a bulge and a stellar
halo, each in approximate equilibrium in the potential of the whole galaxy, with abundances of
a two-infall history. Axisymmetric: no bar, no spiral arms, no satellites and no gas.

Chemistry: Weinberg, Andrews and Freudenburg (2017), arXiv:1604.07435, in closed form: a gas
reservoir with constant star formation efficiency and outflow mass loading, fed so that the star
formation rate is proportional to exp(-t / tau_sfh). Times in Gyr, abundances as mass fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_trapezoid

from .kinematics import (
    NFW,
    DiscKinematics,
    GalaxyPotential,
    Hernquist,
    SpheroidKinematics,
    exponential_disc,
)

AGE_OF_UNIVERSE = 13.5
"""Time from the first stars' earliest formation to today in Gyr: age = 13.5 - time."""

SOLAR_OXYGEN = 0.0056
SOLAR_IRON = 0.0012
SOLAR_METALS = 0.0134

# Closed forms with coinciding timescales are limits 0/0. Arguments closer than this are moved
# apart by it: the limit is then met to 1e-5, and what cancels keeps six digits or more.
_NUDGE = 1e-5


# Mass of new metals per unit mass of stars formed: oxygen and iron of core collapse, and iron of
# type Ia supernovae over all delays. The set of the VICE code's Milky Way model but for the last,
# 0.0017 there: less iron gives an [O/Fe] near NIHAO's 0.17.
OXYGEN_YIELD, IRON_YIELD, IRON_YIELD_IA = 0.015, 0.0012, 0.0010
# Share of the mass of forming stars that is returned at once; minimum delay of type Ia supernovae
# and e-folding time of their delay distribution, in Gyr.
RECYCLING, DELAY, TAU_IA = 0.4, 0.15, 1.5


def _apart(x: np.ndarray, y: ArrayLike) -> np.ndarray:
    """`x`, moved away from `y` where the two nearly coincide."""
    gap = x - y
    return np.where(np.abs(gap) < _NUDGE, y + np.where(gap < 0, -_NUDGE, _NUDGE), x)


def _decay(x: np.ndarray) -> np.ndarray:
    """Integral of exp(-x s) over s from 0 to 1."""
    x = _apart(x, 0.0)
    return -np.expm1(-x) / x


def _relic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integral over s from 0 to 1 of exp(-x (1 - s)) exp(-y s)."""
    return np.exp(-y) * _decay(x - y)


def _delayed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integral over s from 0 to 1 of exp(-x (1 - s)) (1 - exp(-y s)) / y; 1/2 at x = y = 0."""
    y = _apart(y, 0.0)
    x = _apart(x, 0.0)
    x = np.where(np.abs(x - y) < _NUDGE, x + np.where(x < 0, -3 * _NUDGE, 3 * _NUDGE), x)
    return (-np.expm1(-x) / x - (np.exp(-y) - np.exp(-x)) / (x - y)) / y


def enrichment(
    t: ArrayLike,
    *,
    eta: ArrayLike,
    tau_star: ArrayLike,
    tau_sfh: ArrayLike,
    start: tuple[ArrayLike, ArrayLike, ArrayLike] = (0.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Oxygen and iron mass fractions of the gas at time `t`.

    With the depletion time t_dep = tau_star / (1 + eta - r), equations for oxygen and iron of
    arXiv:1604.07435 are written here in rates, 1/t_dep - 1/tau_sfh and 1/tau_Ia - 1/tau_sfh,
    instead of harmonic differences of times: a rate that vanishes is harmless, and only
    differences that vanish in a denominator are nudged apart (by 1e-5).
    All arguments broadcast together.

    Args:
        t: time since the onset of star formation in Gyr, not negative.
        eta: outflow rate over star formation rate, not negative.
        tau_star: gas mass over star formation rate in Gyr, positive.
        tau_sfh: e-folding time of the star formation rate in Gyr, positive.
        start: oxygen and iron mass fractions at t = 0, and the iron from type Ia supernovae of
            stars older than that, per gas mass and Gyr, at t = 0 (see `type_ia_rate`), which
            fades as their delay distribution does.

    Returns:
        Z_O and Z_Fe.
    """
    t, eta, tau_star, tau_sfh = map(np.asarray, (t, eta, tau_star, tau_sfh))
    oxygen_start, iron_start, ia_start = start
    loss = (1 + eta - RECYCLING) / tau_star - 1 / tau_sfh
    ageing = 1 / TAU_IA - 1 / tau_sfh
    since = np.maximum(t - DELAY, 0)

    core_collapse = t / tau_star * _decay(loss * t)
    late = np.exp(DELAY / tau_sfh) * since**2 / (tau_star * TAU_IA)
    type_ia = late * _delayed(loss * since, ageing * since)
    remaining = np.exp(-loss * t)
    oxygen = OXYGEN_YIELD * core_collapse + oxygen_start * remaining
    iron = IRON_YIELD * core_collapse + IRON_YIELD_IA * type_ia
    iron = iron + iron_start * remaining + ia_start * t * _relic(loss * t, ageing * t)
    return oxygen, iron


def type_ia_rate(t: ArrayLike, *, tau_star: ArrayLike, tau_sfh: ArrayLike) -> np.ndarray:
    """Iron from type Ia supernovae per gas mass and Gyr at time `t`, arguments as `enrichment`."""
    since = np.maximum(t - DELAY, 0)
    ageing = 1 / TAU_IA - 1 / tau_sfh
    rate = IRON_YIELD_IA / (tau_star * TAU_IA) * np.exp(DELAY / tau_sfh)
    return rate * since * _decay(ageing * since)


def outflow_for_equilibrium(oxygen_abundance: ArrayLike) -> np.ndarray:
    """Outflow mass loading eta for which [O/H] tends to `oxygen_abundance` in dex.

    The relation of slow star formation histories, eta = y_O / Z_O - 1 + r, not below zero.
    """
    target = SOLAR_OXYGEN * 10.0 ** np.asarray(oxygen_abundance, float)
    return np.maximum(OXYGEN_YIELD / target - 1 + RECYCLING, 0)


def metal_fraction(oxygen: ArrayLike, iron: ArrayLike) -> np.ndarray:
    """Total metal mass fraction Z, 60 % of it scaled with oxygen and 40 % with iron."""
    return SOLAR_METALS * (0.6 * oxygen / SOLAR_OXYGEN + 0.4 * iron / SOLAR_IRON)


COMPONENTS = ("thin", "thick", "bulge", "halo")

_GRADIENT = -0.2  # dex per disc scale length
_OUTERMOST = 6.0  # in scale lengths: the gradient ends here
_HALO_SPREAD = 0.3  # dex
_DILUTION = 0.4
_ABUNDANCE_SCATTER = 0.02  # dex, oxygen and iron each
_METALS_SCATTER = 0.05  # dex, Z given [Fe/H] and [O/Fe]
_Arrays = tuple[np.ndarray, ...]
_BULGE_SPIN = 0.375  # fraction turned round: mean rotation of 0.3 sigma


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
    cumulative = cumulative_trapezoid(rate, initial=0)
    return np.interp(rng.random(n) * cumulative[-1], cumulative, t)


class GalaxyModel:
    """A galaxy of given global parameters; draws any number of its stars.

    Args:
        parameters: a `GalaxyParameters`, of `draw_parameters` or made by hand.

    Attributes:
        potential: disc (sech^2 layer of height 1.3 hz) + Hernquist spheroid (bulge and stellar
            halo) + NFW halo, a `GalaxyPotential`.
    """

    def __init__(self, parameters: Any) -> None:
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

    def sample(self, n: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw `n` stars in random order, each component with its share on average.

        Returns:
            Stars, shape (n, 10), with the columns and units of a `Galaxy`, and the index of the
            component of each into `COMPONENTS`, shape (n,).
        """
        p = self.parameters
        thin = 1 - p.bulge_fraction - p.thick_fraction - p.halo_fraction
        shares = [thin, p.thick_fraction, p.bulge_fraction, p.halo_fraction]
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
        metals = metal_fraction(oxygen, iron) * 10 ** rng.normal(0, _METALS_SCATTER, n)
        feh = np.log10(iron / SOLAR_IRON)
        ofe = np.log10(oxygen / SOLAR_OXYGEN) - feh

        azimuth = rng.uniform(0, 2 * np.pi, n)
        cos, sin = np.cos(azimuth), np.sin(azimuth)
        v_R, v_phi, v_z = velocity.T
        v_x, v_y = v_R * cos - v_phi * sin, v_R * sin + v_phi * cos
        age = AGE_OF_UNIVERSE - time
        stars = R * cos, R * sin, z, v_x, v_y, v_z, metals, feh, ofe, age
        return np.column_stack(stars), component

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
            h = np.full_like(age, min(2.6 * p.disc_height, 0.7 * p.disc_length))
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
            # Unbounded, the gradient would take the outermost stars to absurd abundances; a hard
            # limit would pile them up at one value.
            scales = R / p.disc_length
            levelled = scales / (1 + (scales / _OUTERMOST) ** 4) ** 0.25
            target = p.oxygen + _GRADIENT * (levelled - 1.5)
        if name == "bulge":
            target += 0.1
        eta = outflow_for_equilibrium(target)
        if name != "thin":
            tau_star, slower = (0.8 if name == "bulge" else 1.2), (2 if name == "halo" else 1)
            history = dict(tau_star=tau_star, tau_sfh=4.0)
            return enrichment(time / slower, eta=eta, **history)
        early = dict(tau_star=1.2, tau_sfh=4.0)
        left = enrichment(p.thin_onset, eta=eta, **early)
        start = [_DILUTION * x for x in (*left, type_ia_rate(p.thin_onset, **early))]
        late = dict(tau_star=2.5, tau_sfh=p.thin_tau + 3, start=start)
        return enrichment(np.maximum(time - p.thin_onset, 0), eta=eta, **late)
