"""Exact mixtures: the theorems of arXiv:2310.03725, and conversions between velocity and score."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import figure_two, from_noise

from galflow_lite.interpolants import (
    GaussianBase,
    MixtureInterpolant,
    Schedule,
    base_mean,
    base_noise,
    data_mean,
    denoiser_from_score,
    score_from_denoiser,
    score_from_velocity,
    velocity_from_data_mean,
    velocity_from_score,
)

LINEAR = Schedule.linear()
SCHEDULES = [
    LINEAR,
    Schedule.linear(gamma="brownian"),
    Schedule.trigonometric(gamma="smooth"),
    Schedule.variance_preserving(),
    Schedule.encoding_decoding(),
]
GRID = torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None]


def name_of(schedule: Schedule) -> str:
    return f"{schedule.name}-{schedule.gamma.name}"


def autograd_score(mixture: MixtureInterpolant, x: torch.Tensor, t: float) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(mixture.log_density(x, t).sum(), x)[0]


@pytest.mark.parametrize("panel", ["dependent", "independent"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
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


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_score_and_denoiser_agree_with_the_gradient_of_the_density(schedule):
    mixture = figure_two(schedule, "independent")
    for t in (0.1, 0.4, 0.8):
        score = autograd_score(mixture, GRID, t)
        assert torch.allclose(mixture.score(GRID, t), score, atol=1e-11)
        if schedule.has_noise:
            denoiser = mixture.denoiser(GRID, t)
            assert torch.allclose(score_from_denoiser(schedule, GRID, t, denoiser), score)
            assert torch.allclose(denoiser_from_score(schedule, GRID, t, score), denoiser)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_ends_are_base_and_data(schedule):
    mixture = figure_two(schedule, "dependent")
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    modes = torch.distributions.Normal(mixture.base_modes[:, 0], 0.65)
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), modes)
    for t in (0.0, 1.0):
        assert torch.allclose(mixture.log_density(GRID, t), law.log_prob(GRID[:, 0]), atol=1e-12)


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 1.0), (1.3, 0.5)])
@pytest.mark.parametrize("schedule", SCHEDULES[:-1], ids=name_of)
def test_score_follows_from_the_velocity_alone(schedule, mean, sigma):
    mixture = from_noise(schedule, mean=mean, sigma=sigma)
    base = mixture.base(GRID)
    for t in (0.0, 0.05, 0.5, 0.99):
        score, b = autograd_score(mixture, GRID, t), mixture.velocity(GRID, t)
        found = score_from_velocity(schedule, GRID, t, b, base=base)
        assert torch.allclose(found, score, rtol=1e-9, atol=1e-9)
        if t > 0:
            back = velocity_from_score(schedule, GRID, t, score, base=base)
            assert torch.allclose(back, b, rtol=1e-8, atol=1e-8)


def test_score_of_the_linear_schedule_as_in_its_simple_form():
    mixture, t = from_noise(LINEAR, mean=1.3, sigma=0.5), 0.4
    b = mixture.velocity(GRID, t)
    simple = -(GRID - t * b - 1.3) / ((1 - t) * 0.25)
    assert torch.allclose(mixture.score(GRID, t), simple, atol=1e-12)


def test_score_from_a_point_mass_with_latent_noise():
    """σ = 0 has a score where γ is not zero."""
    schedule = Schedule.linear(gamma="brownian")
    narrow = MixtureInterpolant(schedule, (0.4,), (-1.0, 2.0), base_width=1e-9, data_width=0.3)
    base = GaussianBase(torch.full_like(GRID, 0.4), 0.0)
    b = narrow.velocity(GRID, 0.3)
    found = score_from_velocity(schedule, GRID, 0.3, b, base=base)
    assert torch.allclose(found, narrow.score(GRID, 0.3), atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES[:-1], ids=name_of)
def test_means_of_both_ends(schedule):
    mixture = from_noise(schedule, mean=0.3, sigma=0.8)
    base = mixture.base(GRID)
    for t in (0.02, 0.3, 0.9):
        b, g = mixture.velocity(GRID, t), mixture.denoiser(GRID, t)
        for source in ({"denoiser": g}, {"base": base}):
            found = data_mean(schedule, GRID, t, b, **source)
            assert torch.allclose(found, mixture.data_mean(GRID, t), atol=1e-9)
            found = base_mean(schedule, GRID, t, b, **source)
            assert torch.allclose(found, mixture.base_mean(GRID, t), atol=1e-9)
        noise = (mixture.base_mean(GRID, t) - 0.3) / 0.8
        assert torch.allclose(base_noise(schedule, GRID, t, b, base=base), noise, atol=1e-9)
        again = velocity_from_data_mean(
            schedule,
            GRID,
            t,
            mixture.data_mean(GRID, t),
            denoiser=g if schedule.has_noise else None,
        )
        assert torch.allclose(again, b, atol=1e-9)


def test_means_of_encoding_decoding_where_they_are_known():
    schedule = Schedule.encoding_decoding()
    mixture = figure_two(schedule, "dependent")
    parts = {t: (mixture.velocity(GRID, t), mixture.denoiser(GRID, t)) for t in (0.3, 0.7)}
    b, g = parts[0.7]
    found = data_mean(schedule, GRID, 0.7, b, denoiser=g)
    assert torch.allclose(found, mixture.data_mean(GRID, 0.7), atol=1e-9)
    b, g = parts[0.3]
    found = base_mean(schedule, GRID, 0.3, b, denoiser=g)
    assert torch.allclose(found, mixture.base_mean(GRID, 0.3), atol=1e-9)
    with pytest.raises(ValueError, match="x_t says nothing of x1"):
        data_mean(schedule, GRID, 0.3, b, denoiser=g)


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=name_of)
def test_velocity_is_the_conditional_mean_of_the_rate(schedule):
    """b_t(x) = E[İ_t | I_t = x] (eq. 4): averages over narrow bins of draws."""
    mixture, t = figure_two(schedule, "independent"), 0.4
    generator = torch.Generator().manual_seed(0)
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
    single = MixtureInterpolant(
        LINEAR, (-5.75, 0.0, 5.75), (5.75,), base_width=0.65, data_width=0.65
    )
    found = mixture.velocity(GRID, 0.3, label)
    assert torch.allclose(found, single.velocity(GRID, 0.3), atol=1e-12)
    assert torch.allclose(found, mixture.velocity(GRID, 0.3, {"label": label}))
    density = single.log_density(GRID, 0.3)
    assert torch.allclose(mixture.log_density(GRID, 0.3, label), density, atol=1e-12)


def test_dtype_and_shape_follow_x():
    mixture = MixtureInterpolant(LINEAR, torch.zeros(1, 3), torch.ones(2, 3))
    x = torch.zeros(5, 3)
    assert mixture.velocity(x, torch.full((5,), 0.5)).dtype == torch.float32
    assert mixture.score(x, 0.5).shape == (5, 3)


POINT = torch.zeros(2, 1)
NOISY = Schedule.linear(gamma="smooth")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: score_from_velocity(LINEAR, POINT, 0.5, POINT, base=GaussianBase(POINT, 0.0)),
            "found sigma = 0, for which there is no density, and a score was asked for",
        ),
        (
            lambda: score_from_velocity(
                LINEAR, POINT, 0.5, POINT, base=GaussianBase(POINT, 1.0, None, False)
            ),
            "noise depends on the data",
        ),
        (lambda: score_from_denoiser(LINEAR, POINT, 0.5, POINT), "gamma = 0 at a time"),
        (lambda: score_from_denoiser(NOISY, POINT, 0.0, POINT), "gamma = 0 at a time"),
        (lambda: data_mean(NOISY, POINT, 0.5, POINT), "no denoiser for a schedule with latent"),
        (lambda: velocity_from_data_mean(LINEAR, POINT, 1.0, POINT), "alpha = 0 at a time"),
        (
            lambda: velocity_from_score(LINEAR, POINT, 0.0, POINT, base=GaussianBase(POINT)),
            "beta = 0 at a time",
        ),
        (lambda: GaussianBase(POINT, 0.0).log_prob(POINT), "found sigma = 0"),
        (lambda: GaussianBase(POINT, -1.0), "noise scale of -1.0"),
        (lambda: figure_two(LINEAR, "dependent").base(POINT), "base of 3 modes"),
        (
            lambda: figure_two(LINEAR, "dependent").velocity(torch.zeros(2, 2), 0.5),
            r"points of shape \(2, 2\), expected \(n, 1\)",
        ),
        (
            lambda: figure_two(LINEAR, "dependent").velocity(POINT, 0.5, torch.tensor([0, 3])),
            "mode of x1 from 0 to 2",
        ),
        (
            lambda: MixtureInterpolant(LINEAR, (0.0,), (1.0,), weights=[[1.0, 1.0]]),
            r"pair weights of shape \(1, 2\), expected \(1, 1\)",
        ),
        (lambda: MixtureInterpolant(LINEAR, (0.0,), (1.0,), base_width=0), "widths 0 and 1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
