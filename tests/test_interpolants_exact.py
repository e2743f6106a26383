"""Schedules; exact mixtures: the theorems of arXiv:2310.03725, and the score of a velocity."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from exact_mixtures import MODES, WIDTH, ExactMixture, figure_two, from_noise

from galflow_lite.interpolants import Gamma, GaussianBase, Schedule
from galflow_lite.interpolants.sampling import score_from_velocity

GAMMAS = ["zero", "brownian", "quadratic", "smooth"]
MAKERS = [Schedule.linear, Schedule.trigonometric, Schedule.variance_preserving]
NAMED = [make(gamma=gamma) for make in MAKERS for gamma in GAMMAS]
OWN = Schedule.custom(lambda t: (1 - t) ** 2, lambda t: t**3, lambda t: t * torch.sin(math.pi * t))


def name_of(schedule: Schedule) -> str:
    return f"{schedule.name}-{schedule.gamma.name}"


@pytest.mark.parametrize("schedule", [*NAMED, OWN], ids=name_of)
def test_boundary_values(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    curves = (schedule.alpha, [1, 0]), (schedule.beta, [0, 1]), (schedule.gamma.value, [0, 0])
    for curve, expected in curves:
        assert torch.allclose(curve(ends), torch.tensor(expected).double(), atol=1e-15)


@pytest.mark.parametrize("schedule", [*NAMED, OWN], ids=name_of)
def test_rates_are_derivatives_and_not_their_negatives(schedule):
    torch.manual_seed(0)
    x0, x1, z = torch.randn(3, 40, 2, dtype=torch.float64)
    t, step = torch.linspace(0.03, 0.97, 40, dtype=torch.float64), 1e-6
    rate = schedule.interpolate(x0, x1, t, z).rate
    after, before = (schedule.interpolate(x0, x1, t + s, z).value for s in (step, -step))
    assert torch.allclose(rate, (after - before) / (2 * step), atol=1e-7)
    gamma = schedule.gamma
    difference = (gamma.value(t + step) ** 2 - gamma.value(t - step) ** 2) / (2 * step)
    assert torch.allclose(2 * gamma.product(t), difference, atol=1e-7)


def test_brownian_product_is_finite_where_its_rate_is_not():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    gamma = Gamma.of("brownian")
    assert torch.isinf(gamma.rate(ends)).all()
    assert gamma.product(ends).tolist() == [1, -1]


@pytest.mark.parametrize("schedule", NAMED, ids=name_of)
def test_schedules_can_be_sent_to_another_process(schedule):
    t = torch.linspace(0.1, 0.9, 5)
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert torch.equal(again.alpha_rate(t), schedule.alpha_rate(t))
        assert torch.equal(again.gamma.value(t), schedule.gamma.value(t))


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(ValueError, match="t = 0 is the base"):
        Schedule.custom(lambda t: t, lambda t: 1 - t)
    with pytest.raises(ValueError, match="never all zero"):
        Schedule.custom(lambda t: (1 - 2 * t).relu(), lambda t: (2 * t - 1).relu())


LINEAR = Schedule.linear()
SCHEDULES = [
    LINEAR,
    Schedule.linear(gamma="brownian"),
    Schedule.trigonometric(gamma="smooth"),
    Schedule.variance_preserving(),
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


def test_score_from_a_point_mass_needs_latent_noise():
    schedule = Schedule.linear(gamma="brownian")
    narrow = ExactMixture(schedule, (0.4,), (-1.0, 2.0), base_width=1e-9, data_width=0.3)
    base = GaussianBase(torch.full_like(GRID, 0.4), 0.0)
    b = narrow.velocity(GRID, 0.3)
    found = score_from_velocity(schedule, GRID, 0.3, b, base=base)
    assert torch.allclose(found, narrow.score(GRID, 0.3), atol=1e-9)
    with pytest.raises(ValueError, match="sigma is 0"):
        score_from_velocity(LINEAR, GRID, 0.3, b, base=base)


def test_conditional_velocity_leads_to_one_mode():
    mixture = figure_two(LINEAR, "independent")
    label = torch.full((len(GRID),), 2)
    single = ExactMixture(LINEAR, MODES, (5.75,), base_width=WIDTH, data_width=WIDTH)
    found = mixture.velocity(GRID, 0.3, label)
    assert torch.allclose(found, single.velocity(GRID, 0.3), atol=1e-12)
    assert torch.allclose(found, mixture.velocity(GRID, 0.3, {"label": label}))
    density = single.log_density(GRID, 0.3)
    assert torch.allclose(mixture.log_density(GRID, 0.3, label), density, atol=1e-12)
