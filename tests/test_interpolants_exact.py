"""Schedules; exact mixtures: the theorems of arXiv:2310.03725, and the score of a velocity."""

from __future__ import annotations

import pytest
import torch
from exact_mixtures import (
    MODES,
    WIDTH,
    ExactMixture,
    figure_two,
    from_noise,
    trigonometric,
)

from galflow_lite.interpolants import Schedule
from galflow_lite.interpolants.sampling import score_from_velocity

LINEAR = Schedule.linear()
# In the last one the rate of alpha is infinite at t = 1.
SCHEDULES = {
    "linear": LINEAR,
    "trigonometric": trigonometric(),
    "own": Schedule(lambda t: (1 - t) ** 2, lambda t: t**3),
    "circle": Schedule(lambda t: ((1 - t) * (1 + t)).sqrt(), lambda t: t.clone()),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(ValueError, match="t = 0 is the base"):
        Schedule(lambda t: t, lambda t: 1 - t)


GRID = torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None]


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
@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_score_follows_from_the_velocity_alone(name, mean, sigma):
    schedule = SCHEDULES[name]
    mixture = from_noise(schedule, mean=mean, sigma=sigma)
    for t in (0.0, 0.05, 0.5, 0.99):
        found = score_from_velocity(
            schedule, GRID, t, mixture.velocity(GRID, t), base=mixture.base(GRID)
        )
        assert torch.allclose(found, mixture.score(GRID, t), rtol=1e-9, atol=1e-9)


def test_conditional_velocity_leads_to_one_mode():
    mixture = figure_two(LINEAR, "independent")
    label = torch.full((len(GRID),), 2)
    single = ExactMixture(LINEAR, MODES, (5.75,), base_width=WIDTH, data_width=WIDTH)
    found = mixture.velocity(GRID, 0.3, label)
    assert torch.allclose(found, single.velocity(GRID, 0.3), atol=1e-12)
    assert torch.allclose(found, mixture.velocity(GRID, 0.3, {"label": label}))
    density = single.log_density(GRID, 0.3)
    assert torch.allclose(mixture.log_density(GRID, 0.3, label), density, atol=1e-12)
