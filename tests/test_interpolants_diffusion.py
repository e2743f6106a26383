"""The stochastic equation has the law of the ordinary one, whatever its diffusion."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import figure_two, from_noise, seeded

from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    decreasing,
    inpainting,
    sample_ode,
    sample_sde,
)
from galflow_lite.interpolants.sampling import SolverError

LINEAR = Schedule.linear()


def rising(epsilon):
    """ε_t that vanishes at both ends."""
    return lambda t: 4 * epsilon * t * (1 - t)


N = 4_000


def z_scores(x: torch.Tensor, values: torch.Tensor) -> list[float]:
    """How many standard errors the moments of `x` are from those of independent exact draws."""
    scores = []
    for statistic in (lambda u: u, torch.square, torch.abs, lambda u: (u.abs() < 3).double()):
        a, b = statistic(x.flatten()), statistic(values.flatten())
        error = math.sqrt(float(a.var() / len(a) + b.var() / len(b)))
        scores.append(float(a.mean() - b.mean()) / error)
    return scores


def exact_data(mixture, seed: int = 99, n: int = 400_000) -> torch.Tensor:
    return mixture.sample_pairs(n, generator=seeded(seed))[1]


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("diffusion", [decreasing(0.5), decreasing(2.0), rising(1.0)])
def test_law_from_the_velocity_alone(diffusion, method):
    """γ = 0: the score comes from the velocity, no second network (Corollary 3.1)."""
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(N, generator=seeded(1))[0]
    found = sample_sde(
        mixture.velocity,
        x0,
        schedule=LINEAR,
        diffusion=diffusion,
        base=mixture.base(x0),
        method=method,
        steps=200,
        generator=seeded(2),
    )
    assert max(map(abs, z_scores(found.samples, exact_data(mixture)))) < 4.5
    # Not the ordinary equation in disguise: the same start, another end.
    ordinary = sample_ode(mixture.velocity, x0, method="rk4", steps=50).samples
    assert max(map(abs, z_scores(ordinary, exact_data(mixture)))) < 4.5
    assert (found.samples - ordinary).abs().mean() > 0.2


@pytest.mark.parametrize("gamma", ["brownian", "smooth"])
def test_law_with_a_denoiser(gamma):
    schedule = Schedule.linear(gamma=gamma)
    mixture = figure_two(schedule, "dependent")
    x0 = mixture.sample_pairs(N, generator=seeded(3))[0]
    found = sample_sde(
        mixture.velocity,
        x0,
        schedule=schedule,
        diffusion=rising(0.5),
        denoiser=mixture.denoiser,
        method="heun",
        steps=200,
        generator=seeded(4),
    )
    assert max(map(abs, z_scores(found.samples, exact_data(mixture)))) < 4.5


def test_law_backward():
    """From the data to the base (eqs. 13-14)."""
    mixture = from_noise(LINEAR)
    x1 = mixture.sample_pairs(N, generator=seeded(5))[1]
    found = sample_sde(
        mixture.velocity,
        x1,
        schedule=LINEAR,
        diffusion=rising(1.0),
        base=mixture.base(x1),
        method="heun",
        steps=200,
        start=1.0,
        end=0.0,
        generator=seeded(6),
    )
    exact = torch.randn(400_000, dtype=torch.float64, generator=seeded(7))
    assert max(map(abs, z_scores(found.samples, exact))) < 4.5


def test_a_wrong_score_is_seen():
    """The tests of the law above can fail: they do where the mean of the base is off by 1."""
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(N, generator=seeded(1))[0]
    found = sample_sde(
        mixture.velocity,
        x0,
        schedule=LINEAR,
        diffusion=rising(1.0),
        base=GaussianBase(torch.ones_like(x0)),
        steps=200,
        generator=seeded(2),
    )
    assert max(map(abs, z_scores(found.samples, exact_data(mixture)))) > 10


def test_no_diffusion_is_the_ordinary_equation():
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(100, generator=seeded())[0]
    options = {"schedule": LINEAR, "base": mixture.base(x0), "steps": 30}
    still = sample_sde(mixture.velocity, x0, diffusion=0.0, **options)
    ordinary = sample_ode(mixture.velocity, x0, steps=30)
    assert torch.allclose(still.samples, ordinary.samples, atol=1e-12)
    assert still.evaluations == ordinary.evaluations


def test_last_step_is_the_denoised_mean():
    """In one step from the start it hits E[x1 | x_0.98], without noise."""
    mixture = from_noise(LINEAR)
    x = mixture.sample_pairs(50, generator=seeded())[0]
    options = {"schedule": mixture.schedule, "diffusion": 0.1, "base": mixture.base(x)}
    found = sample_sde(mixture.velocity, x, start=0.98, steps=1, **options).samples
    assert torch.allclose(found, mixture.data_mean(x, 0.98), atol=1e-10)


def test_seed():
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(20, generator=seeded())[0]
    options = {"schedule": LINEAR, "diffusion": 0.1, "base": mixture.base(x0), "steps": 10}
    first, second, other = (
        sample_sde(mixture.velocity, x0, generator=seeded(k), **options).samples for k in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_law_in_a_hole_given_the_known_pixel():
    """Bivariate normal of correlation 0.8, u = 1 known: v ~ N(0.8, 0.36)."""

    def network(x, t, condition):
        t = t[:, None]
        variance = (1 - t) ** 2 + 0.36 * t**2
        return 0.8 + (0.36 * t - (1 - t)) / variance * (x - 0.8 * t)

    mask = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(N, 2)
    known = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(N, 2)
    coupling = inpainting()
    found = sample_sde(
        MaskedVelocity(network),
        coupling(known, mask, generator=seeded(1)),
        mask,
        schedule=LINEAR,
        diffusion=decreasing(1.0),
        base=coupling.base(known, mask),
        steps=200,
        method="heun",
        generator=seeded(2),
    )
    u, v = found.samples.T
    assert (u == 1).all()
    assert abs(v.mean() - 0.8) < 4 * 0.6 / math.sqrt(N)
    assert abs(v.var() - 0.36) < 4 * 0.36 * math.sqrt(2 / N)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_network_never_sees_noise_on_known_pixels(method):
    """Also a plain network, whose known pixels the hole of the base holds."""
    x1 = torch.randn(4, 3)
    mask = torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3)
    coupling, seen = inpainting(), []

    def network(x, t, condition):
        seen.append(x[:, [0, 2]])
        return x.sum(1, keepdim=True).expand(x.shape)

    found = sample_sde(
        network,
        coupling(x1, mask),
        mask,
        schedule=LINEAR,
        diffusion=decreasing(1.0),
        base=coupling.base(x1, mask),
        method=method,
        steps=5,
    )
    assert all(torch.equal(known, x1[:, [0, 2]]) for known in [*seen, found.samples[:, [0, 2]]])


def test_a_score_needs_one_source_and_a_diffusion_is_no_less_than_zero():
    x = torch.zeros(3, 1)
    base, velocity = GaussianBase(x), from_noise(LINEAR).velocity
    for options in (
        {},
        {"base": base, "denoiser": velocity},
        {"base": base, "diffusion": -1.0},
        {"base": GaussianBase(x, 0.0)},
    ):
        with pytest.raises(ValueError, match="pass one|from 0|sigma is 0"):
            sample_sde(velocity, x, schedule=LINEAR, **{"diffusion": 0.1, **options})


def test_nan_on_the_way_is_reported():
    x = torch.zeros(3, 1)
    with pytest.raises(SolverError, match="the velocity is NaN or infinite"):
        sample_sde(lambda x, t, c: x / 0, x, schedule=LINEAR, diffusion=0.1, base=GaussianBase(x))
