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
N = 4_000


def rising(epsilon):
    """ε_t that vanishes at both ends."""
    return lambda t: 4 * epsilon * t * (1 - t)


def largest_z_score(x: torch.Tensor, values: torch.Tensor) -> float:
    """How many standard errors the moments of `x` are from those of independent exact draws."""
    scores = []
    for statistic in (lambda u: u, torch.square, torch.abs, lambda u: (u.abs() < 3).double()):
        a, b = statistic(x.flatten()), statistic(values.flatten())
        error = math.sqrt(float(a.var() / len(a) + b.var() / len(b)))
        scores.append(abs(float(a.mean() - b.mean()) / error))
    return max(scores)


def exact_data(mixture) -> torch.Tensor:
    return mixture.sample_pairs(400_000, generator=seeded(99))[1]


def solve(mixture, x, diffusion, *, generator=None, **options):
    options = {"base": mixture.base(x), "steps": 200, **options}
    generator = generator or seeded(2)
    return sample_sde(
        mixture.velocity, x, schedule=mixture.schedule, diffusion=diffusion, generator=generator,
        **options,
    ).samples  # fmt: skip


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("diffusion", [decreasing(0.5), decreasing(2.0), rising(1.0)])
def test_law_from_the_velocity_alone(diffusion, method):
    """γ = 0: the score comes from the velocity, no second network (Corollary 3.1)."""
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(N, generator=seeded(1))[0]
    found = solve(mixture, x0, diffusion, method=method)
    assert largest_z_score(found, exact_data(mixture)) < 4.5
    # Not the ordinary equation in disguise: the same start, another end.
    ordinary = sample_ode(mixture.velocity, x0, method="rk4", steps=50).samples
    assert largest_z_score(ordinary, exact_data(mixture)) < 4.5
    assert (found - ordinary).abs().mean() > 0.2


@pytest.mark.parametrize("gamma", ["brownian", "smooth"])
def test_law_with_a_denoiser(gamma):
    mixture = figure_two(Schedule.linear(gamma=gamma), "dependent")
    x0 = mixture.sample_pairs(N, generator=seeded(3))[0]
    source = {"base": None, "denoiser": mixture.denoiser}
    found = solve(mixture, x0, rising(0.5), method="heun", **source)
    assert largest_z_score(found, exact_data(mixture)) < 4.5


def test_law_backward():
    """From the data to the base (eqs. 13-14)."""
    mixture = from_noise(LINEAR)
    x1 = mixture.sample_pairs(N, generator=seeded(5))[1]
    found = solve(mixture, x1, rising(1.0), method="heun", start=1.0, end=0.0)
    exact = torch.randn(400_000, dtype=torch.float64, generator=seeded(7))
    assert largest_z_score(found, exact) < 4.5


def test_a_wrong_score_is_seen():
    """The tests of the law above can fail: they do where the mean of the base is off by 1."""
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(N, generator=seeded(1))[0]
    found = solve(mixture, x0, rising(1.0), base=GaussianBase(torch.ones_like(x0)))
    assert largest_z_score(found, exact_data(mixture)) > 10


def test_no_diffusion_is_the_ordinary_equation_and_a_seed_fixes_the_noise():
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(100, generator=seeded())[0]
    ordinary = sample_ode(mixture.velocity, x0, steps=200).samples
    assert torch.allclose(solve(mixture, x0, 0.0), ordinary, atol=1e-12)
    first, second, other = (solve(mixture, x0, 0.1, generator=seeded(k)) for k in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_last_step_is_the_mean_of_the_data():
    """In one step from the start it hits E[x1 | x_0.98], without noise."""
    mixture = from_noise(LINEAR)
    x = mixture.sample_pairs(50, generator=seeded())[0]
    found = solve(mixture, x, 0.1, start=0.98, steps=1)
    assert torch.allclose(found, mixture.data_mean(x, 0.98), atol=1e-10)


def test_law_in_a_hole_given_the_known_pixel():
    """Bivariate normal of correlation 0.8, u = 1 known: v ~ N(0.8, 0.36)."""

    def network(x, t, condition):
        t = t[:, None]
        variance = (1 - t) ** 2 + 0.36 * t**2
        return 0.8 + (0.36 * t - (1 - t)) / variance * (x - 0.8 * t)

    mask = known = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(N, 2)
    options = {"schedule": LINEAR, "diffusion": decreasing(1.0), "generator": seeded(2)}
    options |= {"base": inpainting().base(known, mask), "method": "heun"}
    x0 = inpainting()(known, mask, generator=seeded(1))
    u, v = sample_sde(MaskedVelocity(network), x0, mask, **options).samples.T
    assert (u == 1).all()
    assert abs(v.mean() - 0.8) < 4 * 0.6 / math.sqrt(N)
    assert abs(v.var() - 0.36) < 4 * 0.36 * math.sqrt(2 / N)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_network_never_sees_noise_on_known_pixels(method):
    """Also a plain network, whose known pixels the hole of the base holds."""
    x1 = torch.randn(4, 3)
    mask = torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3)
    seen = []

    def network(x, t, condition):
        seen.append(x[:, [0, 2]])
        return x.sum(1, keepdim=True).expand(x.shape)

    options = {"schedule": LINEAR, "diffusion": decreasing(1.0), "method": method, "steps": 5}
    options |= {"base": inpainting().base(x1, mask)}
    found = sample_sde(network, inpainting()(x1, mask), mask, **options).samples
    assert all(torch.equal(known, x1[:, [0, 2]]) for known in [*seen, found[:, [0, 2]]])


def test_what_has_no_score_or_no_end_is_reported():
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
    with pytest.raises(SolverError, match="the velocity is NaN or infinite"):
        sample_sde(lambda x, t, c: x / 0, x, schedule=LINEAR, diffusion=0.1, base=base)
