"""Closed-form chemical evolution against direct integration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from galflow_lite.synthetic.galaxy_model import (
    DELAY,
    IRON_YIELD,
    IRON_YIELD_IA,
    OXYGEN_YIELD,
    RECYCLING,
    SOLAR_OXYGEN,
    TAU_IA,
    enrichment,
    outflow_for_equilibrium,
    type_ia_rate,
)

TIMES = np.array([0.5, 1.0, 2.0, 5.0, 12.0])


def integrate(t, *, eta, tau_star, tau_sfh, start=(0.0, 0.0), ia_start=0.0):
    """Masses of oxygen and iron in the gas and supernova progenitors, stepped in time.

    The progenitors wait the minimum delay, then explode at a rate of one in tau_Ia.
    """
    relic = ia_start * TAU_IA / IRON_YIELD_IA  # progenitors per gas mass that are left at t = 0

    def gas(time):
        return np.exp(-time / tau_sfh)

    def derivative(time, state):
        oxygen, iron, progenitors = state
        formation = gas(time) / tau_star
        lost = (1 + eta - RECYCLING) * formation / gas(time)
        arriving = gas(time - DELAY) / tau_star if time > DELAY else 0.0
        return [
            OXYGEN_YIELD * formation - lost * oxygen,
            IRON_YIELD * formation + IRON_YIELD_IA * progenitors / TAU_IA - lost * iron,
            arriving - progenitors / TAU_IA,
        ]

    options = {"method": "LSODA", "rtol": 1e-9, "atol": 1e-13}
    # Split where the first progenitors arrive: the right-hand side jumps there.
    first = solve_ivp(derivative, (0, DELAY), [*start, relic], **options)
    rest = solve_ivp(derivative, (DELAY * (1 + 1e-12), t[-1]), first.y[:, -1], t_eval=t, **options)
    return rest.y[0] / gas(t), rest.y[1] / gas(t)


@pytest.mark.parametrize(
    "case",
    [
        {"eta": 2.5, "tau_star": 1.0, "tau_sfh": 6.0},
        {"eta": 0.0, "tau_star": 2.5, "tau_sfh": 3.0},  # depletion slower than star formation
        {"eta": 25.0, "tau_star": 2.5, "tau_sfh": 12.0},
        {
            "eta": 1.5,
            "tau_star": 2.5,
            "tau_sfh": 8.0,
            "start": (0.002, 0.0004),
            "ia_start": 2e-4,
        },
    ],
    ids=["reference", "closed box", "dwarf", "second infall"],
)
def test_closed_form_solves_the_equations(case):
    expected = integrate(TIMES, **case)
    arguments = {k: v for k, v in case.items() if k not in ("start", "ia_start")}
    start = (*case.get("start", (0.0, 0.0)), case.get("ia_start", 0.0))
    found = enrichment(TIMES, start=start, **arguments)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("depletion", "tau_sfh"),
    [(1.5, 6.0), (6.0, 6.0), (3.0, 1.5), (1.5, 1.5)],
    ids=["depletion = Ia", "depletion = history", "history = Ia", "all three"],
)
def test_coinciding_timescales(depletion, tau_sfh):
    tau_star = 4.0
    eta = tau_star / depletion - 1 + RECYCLING
    found = enrichment(TIMES, eta=eta, tau_star=tau_star, tau_sfh=tau_sfh)
    expected = integrate(TIMES, eta=eta, tau_star=tau_star, tau_sfh=tau_sfh)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for shift_eta, shift_sfh in itertools.product((-1e-7, 0.0, 1e-7), repeat=2):
        near = enrichment(
            TIMES, eta=eta + shift_eta, tau_star=tau_star, tau_sfh=tau_sfh + shift_sfh
        )
        np.testing.assert_allclose(near, found, rtol=1e-4)


def test_no_iron_from_type_ia_before_the_delay():
    t = np.array([0.0, 0.05, 0.15])
    oxygen, iron = enrichment(t, eta=2.0, tau_star=1.0, tau_sfh=6.0)
    np.testing.assert_allclose(iron * OXYGEN_YIELD, oxygen * IRON_YIELD, rtol=1e-9)
    assert np.all(type_ia_rate(t, tau_star=1.0, tau_sfh=6.0) == 0)


def test_outflow_sets_the_equilibrium_abundance():
    target = np.array([-2.0, -1.0, -0.3, 0.0])
    eta = outflow_for_equilibrium(target)
    oxygen, _ = enrichment(50.0, eta=eta, tau_star=1.0, tau_sfh=1e4)
    np.testing.assert_allclose(np.log10(oxygen / SOLAR_OXYGEN), target, atol=1e-3)
    assert outflow_for_equilibrium(5.0) == 0
