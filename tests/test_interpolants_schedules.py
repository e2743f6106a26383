"""Schedules: boundary values, exact derivatives, and the interpolant they make."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from galflow_lite.interpolants import Gamma, Schedule

GAMMAS = ["zero", "brownian", "quadratic", "smooth"]
MAKERS = [Schedule.linear, Schedule.trigonometric, Schedule.variance_preserving]
NAMED = [make(gamma=gamma) for make in MAKERS for gamma in GAMMAS]
NAMED += [Schedule.encoding_decoding(), Schedule.encoding_decoding(gamma="brownian")]
OWN = Schedule.custom(lambda t: (1 - t) ** 2, lambda t: t**3, lambda t: t * torch.sin(math.pi * t))
SCHEDULES = [*NAMED, OWN]


def name_of(schedule: Schedule) -> str:
    return f"{schedule.name}-{schedule.gamma.name}"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_boundary_values(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    curves = (schedule.alpha, [1, 0]), (schedule.beta, [0, 1]), (schedule.gamma.value, [0, 0])
    for curve, expected in curves:
        assert torch.allclose(curve(ends), torch.tensor(expected).double(), atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
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


def test_linear_schedule_goes_from_the_base_to_the_data():
    x0, x1 = torch.zeros(2, 3), torch.ones(2, 3)
    value, rate = Schedule.linear().interpolate(x0, x1, 0.25)
    assert torch.equal(value, torch.full((2, 3), 0.25))
    assert torch.equal(rate, x1 - x0)


def test_brownian_product_is_finite_where_its_rate_is_not():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    gamma = Gamma.brownian(3.0)
    assert torch.isinf(gamma.rate(ends)).all()
    assert gamma.product(ends).tolist() == [1.5, -1.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_data(dtype):
    x = torch.zeros(4, 2, dtype=dtype)
    point = Schedule.trigonometric(gamma="smooth").interpolate(x, x, 0.3, x)
    assert point.value.dtype == point.rate.dtype == dtype


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
        Schedule.encoding_decoding(gamma="zero")
