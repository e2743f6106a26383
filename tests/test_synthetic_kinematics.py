"""Potentials of the synthetic galaxies, rotation curves, and equilibrium: Jeans and orbits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.special import j1

from galflow_lite.galaxies import Galaxy
from galflow_lite.synthetic.family import draw_parameters
from galflow_lite.synthetic.galaxy_model import COMPONENTS, GalaxyModel
from galflow_lite.synthetic.kinematics import (
    NFW,
    G,
    GalaxyPotential,
    Hernquist,
    MiyamotoNagai,
    SpheroidKinematics,
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


# --- equilibrium ------------------------------------------------------------------------------


def drawn(model: GalaxyModel, n: int, seed: int) -> dict[str, Galaxy]:
    """Stars of each component."""
    stars, component = model.sample(n, rng=np.random.default_rng(seed))
    return {name: Galaxy(stars[component == i]) for i, name in enumerate(COMPONENTS)}


def test_hernquist_sphere_alone_has_its_isotropic_dispersion():
    # Hernquist (1990), equation 10.
    mass, a = 1e10, 1.0
    r = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
    y = r / a
    polynomial = 25 + 52 * y + 42 * y**2 + 12 * y**3
    square = 12 * y * (1 + y) ** 3 * np.log(1 + 1 / y) - y / (1 + y) * polynomial
    expected = np.sqrt(G * mass / (12 * a) * square)
    kinematics = SpheroidKinematics(GalaxyPotential([Hernquist(mass, a)]), a)
    for cos in (0.1, 0.6, 0.95):
        sigma, sigma_phi = kinematics.dispersions(r * np.sqrt(1 - cos**2), r * cos)
        np.testing.assert_allclose(sigma, expected, rtol=0.015)
        np.testing.assert_allclose(sigma_phi, expected, rtol=0.02)


@pytest.mark.parametrize("component", ["thin", "thick"])
def test_vertical_dispersion_obeys_the_virial_theorem(component):
    model = GalaxyModel(draw_parameters(10.5))
    stars = drawn(model, 300_000, 2)[component]
    R, z = np.hypot(stars["x"], stars["y"]), stars["z"]
    _, a_z = model.potential.acceleration(R, z)
    edges = np.array([0.5, 1.0, 2.0, 3.0, 4.0]) * model.parameters.disc_length
    for inner, outer in zip(edges[:-1], edges[1:], strict=True):
        ring = (R > inner) & (R < outer)
        assert ring.sum() > 2000
        sampled = np.mean(stars["vz"][ring] ** 2)
        virial = np.mean(-z[ring] * a_z[ring])
        # sigma^2 of n Gaussian stars is known to sqrt(2 / n), and the virial about as well.
        assert sampled == pytest.approx(virial, rel=0.01 + 4 * np.sqrt(3 / ring.sum()))


def test_every_star_is_bound():
    for log_mass in (7.0, 10.8):
        model = GalaxyModel(draw_parameters(log_mass))
        for stars in drawn(model, 50_000, 3).values():
            speed = np.linalg.norm(stars.stars[:, 3:6], axis=1)
            R = np.hypot(stars["x"], stars["y"])
            assert np.all(speed < model.potential.escape_velocity(R, stars["z"]))
