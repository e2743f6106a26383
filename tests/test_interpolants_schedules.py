"""Schedules: boundary values, exact derivatives, and the interpolant they make."""

from __future__ import annotations

import math

import pytest
import torch

from galflow_lite.interpolants import Gamma, Schedule

GAMMAS = ["zero", "brownian", "quadratic", "smooth", "sigmoid"]
NAMED = {
    "linear": Schedule.linear,
    "trigonometric": Schedule.trigonometric,
    "variance_preserving": Schedule.variance_preserving,
}
SCHEDULES = [make(gamma=gamma) for make in NAMED.values() for gamma in GAMMAS]
SCHEDULES += [Schedule.encoding_decoding(), Schedule.encoding_decoding(gamma="brownian")]
SCHEDULES += [
    Schedule.trigonometric(gamma=Gamma.brownian(1.0), keep_variance=True),
    Schedule.custom(lambda t: (1 - t) ** 2, lambda t: t**3, lambda t: t * torch.sin(math.pi * t)),
]


def name_of(schedule: Schedule) -> str:
    return f"{schedule.name}-{schedule.gamma.name}"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_boundary_values_and_finite_differences(schedule):
    schedule.check(derivatives=True)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for curve, expected in (
        (schedule.alpha, [1, 0]),
        (schedule.beta, [0, 1]),
        (schedule.gamma.value, [0, 0]),
    ):
        assert torch.allclose(curve(ends), torch.tensor(expected).double(), atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_rate_of_the_interpolant_is_its_derivative_and_not_its_negative(schedule):
    torch.manual_seed(0)
    x0, x1, z = torch.randn(3, 40, 2, dtype=torch.float64)
    t, step = torch.linspace(0.03, 0.97, 40, dtype=torch.float64), 1e-6
    rate = schedule.interpolate(x0, x1, t, z).rate
    after = schedule.interpolate(x0, x1, t + step, z).value
    before = schedule.interpolate(x0, x1, t - step, z).value
    assert torch.allclose(rate, (after - before) / (2 * step), atol=1e-7)


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


def test_keep_variance():
    schedule = Schedule.trigonometric(gamma=Gamma.brownian(2.0), keep_variance=True)
    c = schedule.coefficients(torch.linspace(0, 1, 101, dtype=torch.float64))
    size = c.alpha.square() + c.beta.square() + c.gamma.square()
    assert torch.allclose(size, torch.ones_like(size), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_data(dtype):
    x = torch.zeros(4, 2, dtype=dtype)
    point = Schedule.trigonometric(gamma="smooth").interpolate(x, x, 0.3, x)
    assert point.value.dtype == point.rate.dtype == dtype


def test_user_schedule_with_swapped_coefficients_is_refused():
    with pytest.raises(ValueError, match="found alpha = 0 at t = 0, expected 1 .t = 0 is the base"):
        Schedule.custom(lambda t: t, lambda t: 1 - t)


def test_user_derivative_that_is_wrong_is_refused_on_request():
    wrong = {"alpha_rate": lambda t: torch.ones_like(t)}
    Schedule.custom(lambda t: 1 - t, lambda t: t.clone(), **wrong)
    with pytest.raises(ValueError, match="derivative of alpha of 1 .* expected -1 by finite"):
        Schedule.custom(
            lambda t: 1 - t, lambda t: t.clone(), check_finite_differences=True, **wrong
        )


def test_user_schedule_that_vanishes_is_refused():
    def half(t):
        return (t > 0.6).to(t) * torch.sin(math.pi * t / 2) ** 2

    with pytest.raises(ValueError, match="alpha = beta = gamma = 0 .* at t = 0.4"):
        Schedule.custom(lambda t: half(1 - t), half)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule.linear(gamma="browian"), "gamma='browian', expected one of zero, "),
        (lambda: Gamma.brownian(-1.0), "a=-1.0, expected a positive number"),
        (lambda: Schedule.encoding_decoding(gamma="zero"), "gamma of zero at t = 1/2"),
        (
            lambda: Schedule.trigonometric(gamma="smooth", keep_variance=True),
            "reaches 1, expected less than 1",
        ),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (1.5, r"times from 1.5 to 1.5, expected times in \[0, 1\]"),
        (torch.tensor([0.1, -0.1]), r"times from -0.1 to 0.1"),
        (math.nan, "times from nan"),
        (torch.zeros(3), r"times of shape \(3,\), expected \(2,\)"),
    ],
)
def test_bad_times(t, message):
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=message):
        Schedule.linear().interpolate(x, x, t)


def test_interpolate_needs_noise_and_equal_shapes():
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="found no z for a schedule with latent noise"):
        Schedule.linear(gamma="smooth").interpolate(x, x, 0.5)
    with pytest.raises(ValueError, match="expected equal shapes"):
        Schedule.linear().interpolate(x, torch.zeros(2, 3), 0.5)
