"""One-zone chemical evolution in closed form.

Source: Weinberg, Andrews and Freudenburg (2017), arXiv:1604.07435: a gas reservoir with constant
star formation efficiency and outflow mass loading, fed so that the star formation rate is
proportional to exp(-t / tau_sfh). Times are in Gyr, abundances are mass fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SOLAR_OXYGEN = 0.0056
SOLAR_IRON = 0.0012
SOLAR_METALS = 0.0134

# Closed forms with coinciding timescales are limits 0/0. Arguments closer than this are moved
# apart by it: the limit is then met to 1e-5, and what cancels keeps six digits or more.
_NUDGE = 1e-5


@dataclass(frozen=True)
class Yields:
    """Mass of new metals per unit mass of stars formed, and the delays of type Ia supernovae.

    The defaults are the constants of the closed-form tracks in the literature that this module is
    checked against (the set of the VICE code's Milky Way model).

    Args:
        oxygen: oxygen from core collapse.
        iron_cc: iron from core collapse.
        iron_ia: iron from type Ia supernovae, integrated over all delays.
        recycling: fraction of the mass of forming stars that is returned at once.
        delay: minimum delay of type Ia supernovae in Gyr.
        tau_ia: e-folding time of their delay distribution in Gyr.
    """

    oxygen: float = 0.015
    iron_cc: float = 0.0012
    iron_ia: float = 0.0017
    recycling: float = 0.4
    delay: float = 0.15
    tau_ia: float = 1.5


_DEFAULT = Yields()


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
    yields: Yields = _DEFAULT,
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
        yields: yields and delays.
        start: oxygen and iron mass fractions at t = 0, and the iron from type Ia supernovae of
            stars older than that, per gas mass and Gyr, at t = 0 (see `type_ia_rate`), which
            fades as their delay distribution does.

    Returns:
        Z_O and Z_Fe.
    """
    t, eta, tau_star, tau_sfh = map(np.asarray, (t, eta, tau_star, tau_sfh))
    oxygen_start, iron_start, ia_start = start
    loss = (1 + eta - yields.recycling) / tau_star - 1 / tau_sfh
    ageing = 1 / yields.tau_ia - 1 / tau_sfh
    since = np.maximum(t - yields.delay, 0)

    core_collapse = t / tau_star * _decay(loss * t)
    type_ia = (
        np.exp(yields.delay / tau_sfh)
        * since**2
        / (tau_star * yields.tau_ia)
        * _delayed(loss * since, ageing * since)
    )
    remaining = np.exp(-loss * t)
    oxygen = yields.oxygen * core_collapse + oxygen_start * remaining
    iron = yields.iron_cc * core_collapse + yields.iron_ia * type_ia
    iron = iron + iron_start * remaining + ia_start * t * _relic(loss * t, ageing * t)
    return oxygen, iron


def type_ia_rate(
    t: ArrayLike, *, tau_star: ArrayLike, tau_sfh: ArrayLike, yields: Yields = _DEFAULT
) -> np.ndarray:
    """Iron from type Ia supernovae per gas mass and Gyr at time `t`, arguments as `enrichment`."""
    since = np.maximum(t - yields.delay, 0)
    ageing = 1 / yields.tau_ia - 1 / tau_sfh
    rate = yields.iron_ia / (tau_star * yields.tau_ia) * np.exp(yields.delay / tau_sfh)
    return rate * since * _decay(ageing * since)


def outflow_for_equilibrium(oxygen_abundance: ArrayLike, yields: Yields = _DEFAULT) -> np.ndarray:
    """Outflow mass loading eta for which [O/H] tends to `oxygen_abundance` in dex.

    The relation of slow star formation histories, eta = y_O / Z_O - 1 + r, not below zero.
    """
    target = SOLAR_OXYGEN * 10.0 ** np.asarray(oxygen_abundance, float)
    return np.maximum(yields.oxygen / target - 1 + yields.recycling, 0)


def metal_fraction(oxygen: ArrayLike, iron: ArrayLike) -> np.ndarray:
    """Total metal mass fraction Z, 60 % of it scaled with oxygen and 40 % with iron."""
    return SOLAR_METALS * (0.6 * oxygen / SOLAR_OXYGEN + 0.4 * iron / SOLAR_IRON)
