"""Exact mixtures: the theorems of arXiv:2310.03725, and the score that follows from a velocity."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import MODES, WIDTH, ExactMixture, figure_two, from_noise, seeded

from galflow_lite.interpolants import GaussianBase, Schedule, score_from_velocity

LINEAR = Schedule.linear()
SCHEDULES = [
    LINEAR,
    Schedule.linear(gamma="brownian"),
    Schedule.trigonometric(gamma="smooth"),
    Schedule.variance_preserving(),
    Schedule.encoding_decoding(),
]
GRID = torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None]
each_schedule = pytest.mark.parametrize(
    "schedule", SCHEDULES, ids=lambda s: f"{s.name}-{s.gamma.name}"
)


@pytest.mark.parametrize("panel", ["dependent", "independent"])
@each_schedule
def test_transport_equation_holds(schedule, panel):
    """∂_t ρ + ∂_x (b ρ) = 0 (eq. 5), by finite differences."""
    mixture = figure_two(schedule, panel)

    def flux(x, t):
        return mixture.velocity(x, t)[:, 0] * mixture.log_density(x, t).exp()

    h = 1e-5
    for t in (0.1, 0.37, 0.62, 0.9):
        after, before = (mixture.log_density(GRID, t + s).exp() for s in (h, -h))
        divergence = (flux(GRID + h, t) - flux(GRID - h, t)) / (2 * h)
        change = (after - before) / (2 * h)
        assert change.abs().max() > 1e-3
        assert torch.allclose(change, -divergence, atol=1e-7)


@each_schedule
def test_ends_are_base_and_data(schedule):
    mixture = figure_two(schedule, "dependent")
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    modes = torch.distributions.Normal(torch.tensor(MODES).double(), WIDTH)
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), modes)
    for t in (0.0, 1.0):
        assert torch.allclose(mixture.log_density(GRID, t), law.log_prob(GRID[:, 0]), atol=1e-12)


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 1.0), (1.3, 0.5)])
@pytest.mark.parametrize("schedule", SCHEDULES[:-1])
def test_score_follows_from_the_velocity_alone(schedule, mean, sigma):
    mixture = from_noise(schedule, mean=mean, sigma=sigma)
    for t in (0.0, 0.05, 0.5, 0.99):
        found = score_from_velocity(
            schedule, GRID, t, mixture.velocity(GRID, t), base=mixture.base(GRID)
        )
        assert torch.allclose(found, mixture.score(GRID, t), rtol=1e-9, atol=1e-9)


def test_score_of_the_linear_schedule_as_in_its_simple_form():
    mixture, t = from_noise(LINEAR, mean=1.3, sigma=0.5), 0.4
    b = mixture.velocity(GRID, t)
    simple = -(GRID - t * b - 1.3) / ((1 - t) * 0.25)
    assert torch.allclose(mixture.score(GRID, t), simple, atol=1e-12)


def test_score_from_a_point_mass_needs_latent_noise():
    schedule = Schedule.linear(gamma="brownian")
    narrow = ExactMixture(schedule, (0.4,), (-1.0, 2.0), base_width=1e-9, data_width=0.3)
    base = GaussianBase(torch.full_like(GRID, 0.4), 0.0)
    b = narrow.velocity(GRID, 0.3)
    found = score_from_velocity(schedule, GRID, 0.3, b, base=base)
    assert torch.allclose(found, narrow.score(GRID, 0.3), atol=1e-9)
    with pytest.raises(ValueError, match="sigma is 0"):
        score_from_velocity(LINEAR, GRID, 0.3, b, base=base)


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_velocity_is_the_conditional_mean_of_the_rate(schedule):
    """b_t(x) = E[İ_t | I_t = x] (eq. 4): averages over narrow bins of draws."""
    mixture, t = figure_two(schedule, "independent"), 0.4
    generator = seeded()
    x0, x1, _ = mixture.sample_pairs(200_000, generator=generator)
    z = torch.randn(x0.shape, dtype=x0.dtype, generator=generator)
    point = schedule.interpolate(x0, x1, t, z)
    deviation = (point.rate - mixture.velocity(point.value, t))[:, 0]
    bins = torch.bucketize(point.value[:, 0], torch.linspace(-6, 6, 25, dtype=torch.float64))
    z_scores = []
    for k in range(26):
        inside = deviation[bins == k]
        if len(inside) > 500:
            z_scores.append(float(inside.mean() / inside.std() * math.sqrt(len(inside))))
    assert len(z_scores) >= 20
    assert max(map(abs, z_scores)) < 4.5


def test_conditional_velocity_leads_to_one_mode():
    mixture = figure_two(LINEAR, "independent")
    label = torch.full((len(GRID),), 2)
    single = ExactMixture(LINEAR, MODES, (5.75,), base_width=WIDTH, data_width=WIDTH)
    found = mixture.velocity(GRID, 0.3, label)
    assert torch.allclose(found, single.velocity(GRID, 0.3), atol=1e-12)
    assert torch.allclose(found, mixture.velocity(GRID, 0.3, {"label": label}))
    density = single.log_density(GRID, 0.3)
    assert torch.allclose(mixture.log_density(GRID, 0.3, label), density, atol=1e-12)
