"""Rotation curves of the synthetic galaxies against direct integrals and observations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.special import j1

from galflow_lite.synthetic import GalaxyModel, draw_parameters
from galflow_lite.synthetic.potential import (
    NFW,
    G,
    GalaxyPotential,
    Hernquist,
    MiyamotoNagai,
    exponential_disc,
)


def hankel_circular_velocity(R: np.ndarray, q: float) -> np.ndarray:
    """v_c in the plane of an exponential disc of unit mass, scale length 1, a sech^2 layer of q.

    v_c^2 = G R int k J1(kR) F(kq) / (1 + k^2)^(3/2) dk, with F the Laplace transform in |z| of
    the normalised vertical profile.
    """
    k = np.linspace(0, 300, 120_001)
    u, w = np.polynomial.legendre.leggauss(200)
    u, w = 0.5 * (u + 1), 0.5 * w  # u = tanh(z / h) is uniform in a sech^2 layer
    thickness = np.exp(-np.outer(k * q, np.arctanh(u))) @ w
    kernel = k * thickness / (1 + k**2) ** 1.5
    return np.sqrt([G * r * trapezoid(kernel * j1(k * r), k) for r in R])


@pytest.mark.parametrize("q", [0.1, 0.25, 0.4])
def test_three_miyamoto_nagai_discs_rotate_as_the_exponential_disc(q):
    R = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0])
    discs = GalaxyPotential(exponential_disc(1.0, 1.0, q))
    error = np.abs(discs.circular_velocity(R) / hankel_circular_velocity(R, q) - 1)
    assert error[R >= 2].max() < 0.021
    assert error.max() < 0.065


@pytest.mark.parametrize(
    "component",
    [MiyamotoNagai(2e10, 2.0, 0.3), Hernquist(1e10, 0.7), NFW(1e12, 9.0, 200.0)],
    ids=lambda part: type(part).__name__,
)
def test_acceleration_is_minus_the_gradient_of_the_potential(component):
    R, z = np.array([0.3, 2.0, 8.0, 30.0]), np.array([0.2, -0.5, 3.0, -10.0])
    step = 1e-4
    a_R, a_z = component.acceleration(R, z)
    numeric_R = -(component.potential(R + step, z) - component.potential(R - step, z)) / (2 * step)
    numeric_z = -(component.potential(R, z + step) - component.potential(R, z - step)) / (2 * step)
    np.testing.assert_allclose(a_R, numeric_R, rtol=1e-5)
    np.testing.assert_allclose(a_z, numeric_z, rtol=1e-5)


def test_halo_has_its_mass_inside_r200():
    a_R, _ = NFW(1e12, 9.0, 200.0).acceleration(np.array(200.0), np.array(0.0))
    assert -a_R == pytest.approx(G * 1e12 / 200.0**2)


@pytest.mark.parametrize(
    ("log_mass", "expected"), [(7, 41), (8, 55), (9, 78), (10, 125), (10.7, 215), (11, 284)]
)
def test_maximum_circular_velocity(log_mass, expected):
    # An independent prototype of the same recipe gave these, within 6 scale lengths.
    model = GalaxyModel(draw_parameters(log_mass))
    R = np.geomspace(0.1, 6, 400) * model.parameters.disc_length
    assert model.potential.circular_velocity(R).max() == pytest.approx(expected, rel=0.02)


def test_tully_fisher_relation():
    # Reyes et al. (2011), arXiv:1110.1635, 10^9 to 10^11 Msun, v at the radius of 80 % of the
    # light (2.99 scale lengths): log v80 = 2.142 + 0.278 (log M* - 10.10). The published slopes
    # for stellar masses lie within 0.04 of theirs.
    log_mass = np.linspace(9, 11, 9)
    models = [GalaxyModel(draw_parameters(m)) for m in log_mass]
    v80 = [float(m.potential.circular_velocity(2.99 * m.parameters.disc_length)) for m in models]
    slope, _ = np.polyfit(log_mass, np.log10(v80), 1)
    assert slope == pytest.approx(0.278, abs=0.04)
    residual = np.log10(v80) - (2.142 + 0.278 * (log_mass - 10.10))
    assert np.sqrt(np.mean(residual**2)) < 0.056  # their measured scatter
