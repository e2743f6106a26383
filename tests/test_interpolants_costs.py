"""Losses and transport costs: Proposition 3.1, its exact numbers, and the numbers of Figure 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from exact_mixtures import ExactMixture, figure_two, seeded

from galflow_lite.interpolants import (
    Gamma,
    MaskedVelocity,
    Schedule,
    custom,
    denoiser_loss,
    draw_interpolant,
    flow_costs,
    independent,
    inpainting,
    optimal_transport,
    tile_mask,
    transport_bound,
    velocity_loss,
)
from galflow_lite.interpolants.couplings import Pair

LINEAR = Schedule.linear()
BROWNIAN = Schedule.linear(gamma="brownian")
N = 4000


def by_quadrature(mixture: ExactMixture) -> tuple[float, float]:
    """∫E|b|²dt and ∫E|b|dt, by Gauss-Legendre in t and the trapezoidal rule in x."""
    x = torch.linspace(-11, 11, 2201, dtype=torch.float64)[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(200)
    energy = length = 0.0
    for t, w in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        b = mixture.velocity(x, t)[:, 0]
        density = mixture.log_density(x, t).exp()
        energy += w * float(torch.trapezoid(b.square() * density, x[:, 0]))
        length += w * float(torch.trapezoid(b.abs() * density, x[:, 0]))
    return energy, length


@pytest.mark.parametrize(
    ("schedule", "panel", "energy", "length"),
    [
        (LINEAR, "dependent", 0.1813, 0.3038),
        (LINEAR, "independent", 24.156, 3.815),
        (BROWNIAN, "dependent", 0.2100, 0.3082),
        (BROWNIAN, "independent", 18.621, 3.299),
    ],
)
def test_numbers_of_figure_2(schedule, panel, energy, length):
    mixture = figure_two(schedule, panel)
    assert by_quadrature(mixture) == pytest.approx((energy, length), rel=1e-3)
    x0 = mixture.sample_pairs(N, generator=seeded())[0]
    found = flow_costs(mixture.velocity, x0, method="midpoint", steps=100)
    assert abs(found.kinetic_energy.value - energy) < 4 * found.kinetic_energy.standard_error
    assert abs(found.path_length.value - length) < 4 * found.path_length.standard_error
    # Same base and target: the flow returns to where it began.
    assert found.transport_cost.value < 0.01


@pytest.mark.parametrize(
    "schedule",
    [
        BROWNIAN,
        Schedule.variance_preserving(),
        Schedule.trigonometric(gamma=Gamma.brownian(0.01)),
        Schedule.custom(lambda t: 1 - t, lambda t: t**0.5),
    ],
)
def test_bound_is_infinite_where_a_rate_is_not_square_integrable(schedule):
    pair = independent().pair(torch.randn(10, 2))
    assert transport_bound(schedule, pair).value == math.inf


@pytest.mark.parametrize(
    "schedule",
    [
        LINEAR,
        Schedule.trigonometric(gamma="smooth"),
        Schedule.encoding_decoding(),
        # An integrable singularity, t^(-1/2).
        Schedule.custom(lambda t: 1 - t, lambda t: t**0.75),
    ],
)
def test_bound_is_the_mean_of_the_squared_rate(schedule):
    x1 = torch.randn(20_000, 3, dtype=torch.float64, generator=seeded(1)) + 1
    coupling = custom(lambda x1, c: 0.5 * x1 + torch.randn(x1.shape, generator=seeded(2)).double())
    draw = draw_interpolant(x1, schedule=schedule, coupling=coupling, generator=seeded(3))
    direct = draw.rate.square().sum(1)
    found = transport_bound(schedule, draw.pair)
    error = math.hypot(float(direct.std()) / math.sqrt(len(x1)), found.standard_error)
    assert abs(float(direct.mean()) - found.value) < 4 * error


def test_bound_of_inpainting_shrinks_by_the_masked_fraction():
    """Exactly p times the uncoupled bound, for masks that do not depend on the data."""
    n, p = 4000, 0.3
    x1 = torch.rand(n, 1, 16, 16, dtype=torch.float64, generator=seeded()) * 2 - 1
    coupling = inpainting(hole_probability=p)
    condition = coupling.condition(x1, generator=seeded(1))
    dependent = transport_bound(LINEAR, coupling.pair(x1, condition, generator=seeded(2)))
    uncoupled = transport_bound(LINEAR, independent().pair(x1, generator=seeded(3)))
    ratio = dependent.value / uncoupled.value
    error = ratio * math.hypot(
        dependent.standard_error / dependent.value, uncoupled.standard_error / uncoupled.value
    )
    assert abs(ratio - p) < 4 * error
    assert error < 0.005
    exact = 256 * (1 + 1 / 3)
    assert abs(dependent.value - p * exact) < 4 * dependent.standard_error


def test_chain_of_proposition_3_1_and_a_cost_that_differs():
    """N(0, I) to a ring of 8 modes: cost 0.745, energy 2.08, length 1.236, bound 6.18."""
    angles = torch.arange(8) * math.pi / 4
    ring = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    mixture = ExactMixture(LINEAR, torch.zeros(1, 2), ring, data_width=0.3)
    x0, x1, _ = mixture.sample_pairs(N, generator=seeded())
    found = flow_costs(mixture.velocity, x0, steps=40)
    bound = transport_bound(LINEAR, Pair(x0, x1))
    for estimate, expected in (
        (found.transport_cost, 0.745),
        (found.kinetic_energy, 2.08),
        (found.path_length, 1.236),
        (bound, 6.18),
    ):
        # The reference has an error of its own, at most 0.5 %.
        assert abs(estimate.value - expected) < 4 * estimate.standard_error + 0.005 * expected
    assert found.transport_cost.value < found.kinetic_energy.value < bound.value


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.trigonometric(gamma="smooth")])
def test_least_loss_is_minus_the_kinetic_energy(schedule):
    mixture = figure_two(schedule, "independent")
    x0, x1, _ = mixture.sample_pairs(100_000, generator=seeded())
    options = {"schedule": schedule, "coupling": lambda x1, c: x0, "generator": seeded(1)}
    found = float(velocity_loss(mixture.velocity, x1, **options))
    draw = draw_interpolant(x1, **{**options, "generator": seeded(1)})
    b = mixture.velocity(draw.x, draw.t)
    error = float((b.square() - 2 * draw.rate * b).std()) / math.sqrt(len(x1))
    assert abs(found + by_quadrature(mixture)[0]) < 4 * error
    # Any other velocity does worse, by its mean squared distance.
    worse = float(
        velocity_loss(
            lambda x, t, c: mixture.velocity(x, t) + 0.5, x1, **{**options, "generator": seeded(1)}
        )
    )
    assert worse - found == pytest.approx(0.25, abs=4 * float((draw.rate - b).std()) / 316)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_and_constant_make_the_mean_squared_error(reduction):
    x1 = torch.randn(50, 3, dtype=torch.float64, generator=seeded())
    options = {"schedule": Schedule.linear(gamma="smooth"), "coupling": optimal_transport()}
    loss = velocity_loss(
        lambda x, t, c: x * t[:, None], x1, reduction=reduction, generator=seeded(1), **options
    )
    draw = draw_interpolant(x1, generator=seeded(1), **options)
    each = (draw.x * draw.t[:, None] - draw.rate).square()
    constant = draw.rate.square()
    per_sample = [getattr(part, reduction)(1).mean() for part in (each, constant)]
    assert torch.allclose(loss + per_sample[1], per_sample[0])


def test_least_denoiser_loss_is_reached_by_the_denoiser():
    schedule = BROWNIAN
    mixture = figure_two(schedule, "dependent")
    x0, x1, _ = mixture.sample_pairs(50_000, generator=seeded())
    losses = [
        float(
            denoiser_loss(
                lambda x, t, c, f=factor: f * mixture.denoiser(x, t),
                x1,
                schedule=schedule,
                coupling=lambda x1, c: x0,
                generator=seeded(1),
            )
        )
        for factor in (0.8, 1.0, 1.2)
    ]
    assert losses[1] < min(losses[0], losses[2])
    # A parabola with its least value at 1: (1.2² - 2.4) / (1 - 2) = 0.96.
    assert losses[2] / losses[1] == pytest.approx(0.96, abs=0.01)


def test_training_a_masked_velocity_has_gradients_from_the_hole_only():
    weight = torch.ones(16, requires_grad=True)
    velocity = MaskedVelocity(lambda x, t, c: x * weight.view(4, 4))
    mask = tile_mask(40, 4, tiles=4, hole_probability=0.5, generator=seeded())
    mask[:, :, 0] = 1
    loss = velocity_loss(
        velocity, torch.randn(40, 1, 4, 4), mask, schedule=LINEAR, coupling=inpainting()
    )
    loss.backward()
    gradient = weight.grad.view(4, 4)
    assert not gradient[0].any()
    assert gradient[1:].all()


def test_what_cannot_be_learned_is_refused():
    x, options = torch.zeros(3, 2), {"schedule": LINEAR, "coupling": independent()}
    for call in (
        lambda: denoiser_loss(lambda x, t, c: x, x, **options),
        lambda: velocity_loss(lambda x, t, c: x[:, :1], x, **options),
        lambda: velocity_loss(lambda x, t, c: x, x, times=2.0, **options),
        lambda: velocity_loss(lambda x, t, c: x, x / 0, **options),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
