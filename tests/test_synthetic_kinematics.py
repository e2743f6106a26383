"""The synthetic galaxies are in equilibrium: Jeans solutions and orbits."""

from __future__ import annotations

import numpy as np
import pytest

from galflow_lite.synthetic import GalaxyModel, draw_parameters
from galflow_lite.synthetic.kinematics import DiscKinematics, SpheroidKinematics
from galflow_lite.synthetic.potential import G, GalaxyPotential, Hernquist

KPC_PER_KMS_GYR = 1 / 0.9777922  # distance covered in 1 Gyr at 1 km/s


class IsothermalSheet:
    """Spitzer's self-gravitating layer sech^2(z / h), with a flat rotation curve added."""

    def __init__(self, surface_density: float, h: float) -> None:
        self.surface_density, self.h = surface_density, h

    def potential(self, R, z):
        sheet = 2 * np.pi * G * self.surface_density * self.h * np.log(np.cosh(z / self.h))
        return sheet + 200.0**2 * np.log(R) - 1e6

    def acceleration(self, R, z):
        vertical = -2 * np.pi * G * self.surface_density * np.tanh(z / self.h)
        return -(200.0**2) / R + 0 * z, vertical + 0 * R


def test_isothermal_layer_has_its_one_dispersion_at_every_height():
    surface_density, h = 5e7, 0.4
    sheet = GalaxyPotential([IsothermalSheet(surface_density, h)])
    kinematics = DiscKinematics(sheet, 2.5, (0.2, 0.8))
    z = np.linspace(0, 5 * h, 20)
    same = np.ones_like(z)
    _, _, sigma_z, _ = kinematics.dispersions(8.0 * same, z, h * same, 2.5 * same)
    expected = np.sqrt(np.pi * G * surface_density * h)
    np.testing.assert_allclose(sigma_z, expected, rtol=0.01)


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


def test_spin_keeps_the_dispersions():
    kinematics = SpheroidKinematics(GalaxyPotential([Hernquist(1e10, 1.0)]), 1.0)
    R, z = np.full(20_000, 0.8), np.full(20_000, 0.3)
    still = kinematics.sample(np.random.default_rng(1), R, z)
    spun = kinematics.sample(np.random.default_rng(1), R, z, spin=0.375)
    np.testing.assert_allclose(np.abs(spun), np.abs(still))
    assert spun[:, 1].mean() / still[:, 1].std() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("component", ["thin", "thick"])
def test_vertical_dispersion_obeys_the_virial_theorem(component):
    model = GalaxyModel(draw_parameters(10.5))
    stars = model.sample(300_000, rng=np.random.default_rng(2)).of(component)
    R = np.hypot(*stars.position[:, :2].T)
    z = stars.position[:, 2]
    _, a_z = model.potential.acceleration(R, z)
    edges = np.array([0.5, 1.0, 2.0, 3.0, 4.0]) * model.parameters.disc_length
    for inner, outer in zip(edges[:-1], edges[1:], strict=True):
        ring = (R > inner) & (R < outer)
        assert ring.sum() > 2000
        sampled = np.mean(stars.velocity[ring, 2] ** 2)
        virial = np.mean(-z[ring] * a_z[ring])
        # sigma^2 of n Gaussian stars is known to sqrt(2 / n), and the virial about as well.
        assert sampled == pytest.approx(virial, rel=0.01 + 4 * np.sqrt(3 / ring.sum()))


def test_every_star_is_bound():
    for log_mass in (7.0, 10.8):
        model = GalaxyModel(draw_parameters(log_mass))
        stars = model.sample(50_000, rng=np.random.default_rng(3))
        speed = np.linalg.norm(stars.velocity, axis=1)
        R = np.hypot(*stars.position[:, :2].T)
        assert np.all(speed < model.potential.escape_velocity(R, stars.position[:, 2]))


def leapfrog(model, position, velocity, *, duration=1.0, step=4e-4):
    """Orbits in the galaxy's potential; times in Gyr."""
    x, v = position.copy(), velocity.copy()

    def acceleration():
        R = np.hypot(x[:, 0], x[:, 1])
        a_R, a_z = model.potential.acceleration(R, x[:, 2])
        return np.stack([a_R * x[:, 0] / R, a_R * x[:, 1] / R, a_z], axis=1) * KPC_PER_KMS_GYR

    a = acceleration()
    for _ in range(round(duration / step)):
        v += 0.5 * step * a
        x += step * KPC_PER_KMS_GYR * v
        a = acceleration()
        v += 0.5 * step * a
    return x, v


def summary(x, v):
    """Medians of R, |z| and v_phi, dispersions in R and z."""
    R = np.hypot(x[:, 0], x[:, 1])
    v_R = (x[:, 0] * v[:, 0] + x[:, 1] * v[:, 1]) / R
    v_phi = (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]) / R
    return np.array(
        [np.median(R), np.median(np.abs(x[:, 2])), np.median(v_phi), v_R.std(), v[:, 2].std()]
    )


# Largest relative change in 1 Gyr of R, |z|, v_phi, sigma_R, sigma_z. Velocities are Gaussian
# and the discs' third integral is not modelled, so no component is exactly stationary.
LIMITS = {
    "thin": (0.04, 0.04, 0.04, 0.04, 0.04),
    "thick": (0.07, 0.07, 0.07, 0.07, 0.07),
    "bulge": (0.11, 0.11, 0.18, 0.11, 0.11),
}


@pytest.mark.parametrize("log_mass", [8.0, 10.7])
def test_galaxies_are_stationary(log_mass):
    # About 5 s a mass: 2500 steps for 36,000 stars.
    model = GalaxyModel(draw_parameters(log_mass))
    stars = model.sample(220_000, rng=np.random.default_rng(11))
    for component, limits in LIMITS.items():
        chosen = stars.of(component)
        chosen = chosen.select(np.arange(min(len(chosen), 12_000)))
        assert len(chosen) > 9000
        before = summary(chosen.position, chosen.velocity)
        after = summary(*leapfrog(model, chosen.position, chosen.velocity))
        change = np.abs(after / before - 1)
        assert np.all(change < limits), f"{component}: {np.round(change, 3)}"


def test_stationarity_test_would_notice_cold_stars():
    model = GalaxyModel(draw_parameters(8.0))
    stars = model.sample(8000, rng=np.random.default_rng(11)).of("thin")
    cold = 0.85 * stars.velocity
    after = summary(*leapfrog(model, stars.position, cold))
    change = np.abs(after / summary(stars.position, cold) - 1)
    assert np.any(change > LIMITS["thin"])
