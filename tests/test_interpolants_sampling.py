"""Solvers of the ordinary equation, and the stochastic one, of the same law for any diffusion."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import from_noise, seeded
from torch import nn

from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    decreasing,
    inpainting,
    sample_ode,
    sample_sde,
    sampling,
)
from galflow_lite.interpolants.sampling import SolverError

LINEAR = Schedule.linear()
N = 4_000
METHODS = ["euler", "heun", "rk4", "dopri5"]


def growth(x, t, condition=None):
    """dx/dt = (1 + t) x, solved by x0 exp(t + t²/2)."""
    return (1 + t)[:, None] * x


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order_of_the_fixed_methods_is_what_they_evaluate_in_a_step(method, order):
    x0 = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    coarse, fine = (sample_ode(growth, x0, method=method, steps=n) for n in (20, 40))
    errors = [(found.samples - x0 * math.exp(1.5)).abs().max() for found in (coarse, fine)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert coarse.evaluations == 20 * order


@pytest.mark.parametrize("backward", [False, True])
def test_dopri5_counts_its_evaluations_and_stays_between_its_ends(backward):
    seen = []

    def watched(x, t, condition=None):
        seen.append(float(t[0]))
        return growth(x, t)

    field = sampling.CountedField(watched, torch.tensor([[1.0]], dtype=torch.float64), None)
    found, _ = sampling.solve(field, field.start, method="dopri5", steps=1, backward=backward)
    assert field.evaluations == len(seen)
    assert min(seen) >= 0
    assert max(seen) <= 1
    assert found.item() == pytest.approx(math.exp(-1.5 if backward else 1.5), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_path_at_given_times(method):
    x0 = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    times = (0.0, 0.3, 0.5, 1.0)
    found = sample_ode(growth, x0, method=method, steps=1000, times=times)
    exact = torch.stack([x0 * math.exp(t + t * t / 2) for t in times])
    assert found.path.shape == (4, 2, 1)
    tolerance = 1e-2 if method == "euler" else 1e-4
    assert torch.allclose(found.path, exact, rtol=tolerance)
    assert torch.equal(found.path[-1], found.samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*METHODS, "sde"])
def test_known_pixels_are_bit_identical(method, dtype):
    x1 = torch.rand(3, 2, 16, 16, generator=seeded()).to(dtype) * 3 - 1
    x1[0, :, :4] = -0.0
    coupling = inpainting(hole_probability=0.5)
    pair = coupling.pair(x1, generator=seeded(1))
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 2, 3, padding=1).to(dtype)
    velocity = MaskedVelocity(lambda x, t, c: layer(torch.cat([x, c], 1)).tanh() + 0.1)
    if method == "sde":
        options = {"schedule": LINEAR, "diffusion": decreasing(0.5), "base": pair.base, "steps": 20}
        found = sample_sde(velocity, pair.x0, pair.condition, **options)
    else:
        options = {"method": method, "steps": 7, "times": (0.0, 0.31, 1.0)}
        found = sample_ode(velocity, pair.x0, pair.condition, **options)
    known = ~pair.hole
    for state in (found.samples, *(() if found.path is None else found.path)):
        assert torch.equal(state[known], x1[known])
        assert torch.equal(torch.signbit(state[known]), torch.signbit(x1[known]))
    assert (found.samples[pair.hole] != pair.x0[pair.hole]).float().mean() > 0.99
    assert found.samples.dtype == dtype


def test_overflow_of_the_network_does_not_reach_known_pixels():
    velocity = MaskedVelocity(lambda x, t, c: torch.full_like(x, math.inf))
    mask = torch.tensor([[1.0, 0.0]])
    found = velocity(torch.zeros(1, 2), torch.zeros(1), mask)
    assert found.tolist() == [[0.0, math.inf]]


def test_solver_that_does_not_converge_is_reported(monkeypatch):
    x = torch.ones(2, 1)

    def explosive(x, t, condition=None):
        return x**2 * 4

    with pytest.raises(SolverError, match="dopri5 cannot go on|evaluations have led to"):
        sample_ode(explosive, x, method="dopri5")
    with pytest.raises(SolverError, match="the velocity is NaN or infinite at t = 0.5"):
        sample_ode(lambda x, t, c: x / (t - 0.5)[:, None], x, steps=2)
    with pytest.raises(ValueError, match=r"the velocity returns \(2, 1\), expected"):
        sample_ode(lambda x, t, c: x[:, :1], x.expand(2, 2))
    monkeypatch.setattr(sampling, "MOST_EVALUATIONS", 20)
    with pytest.raises(SolverError, match="20 evaluations have led to t = 0"):
        sample_ode(growth, x, method="dopri5", rtol=1e-9, atol=1e-12)


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


def stochastic(mixture, x, diffusion, *, generator=None, **options):
    options = {"schedule": mixture.schedule, "base": mixture.base(x), "steps": 200, **options}
    options |= {"diffusion": diffusion, "generator": generator or seeded(2)}
    return sample_sde(mixture.velocity, x, **options).samples


@pytest.mark.parametrize("diffusion", [decreasing(0.5), decreasing(2.0), rising(1.0)])
def test_law_from_the_velocity_alone(diffusion):
    """The score comes from the velocity, no second network (Corollary 3.1)."""
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(N, generator=seeded(1))[0]
    found = stochastic(mixture, x0, diffusion)
    assert largest_z_score(found, exact_data(mixture)) < 4.5
    # Not the ordinary equation in disguise: the same start, another end.
    ordinary = sample_ode(mixture.velocity, x0, method="rk4", steps=50).samples
    assert largest_z_score(ordinary, exact_data(mixture)) < 4.5
    assert (found - ordinary).abs().mean() > 0.2


def test_no_diffusion_is_the_ordinary_equation_and_a_seed_fixes_the_noise():
    mixture = from_noise(LINEAR)
    x0 = mixture.sample_pairs(100, generator=seeded())[0]
    ordinary = sample_ode(mixture.velocity, x0, steps=200).samples
    assert torch.allclose(stochastic(mixture, x0, decreasing(0)), ordinary, atol=1e-12)
    first, second, other = (
        stochastic(mixture, x0, rising(0.1), generator=seeded(k)) for k in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_network_never_sees_noise_on_known_pixels():
    """Also a plain network, whose known pixels the hole of the base holds."""
    x1 = torch.randn(4, 3)
    mask = torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3)
    seen = []

    def network(x, t, condition):
        seen.append(x[:, [0, 2]])
        return x.sum(1, keepdim=True).expand(x.shape)

    options = {"schedule": LINEAR, "diffusion": decreasing(1.0), "steps": 5}
    options |= {"base": inpainting().base(x1, mask)}
    found = sample_sde(network, inpainting()(x1, mask), mask, **options).samples
    assert all(torch.equal(known, x1[:, [0, 2]]) for known in [*seen, found[:, [0, 2]]])


def test_what_has_no_score_or_no_end_is_reported():
    x = torch.zeros(3, 1)
    options = {"schedule": LINEAR, "diffusion": decreasing(0.1)}
    with pytest.raises(ValueError, match="sigma is 0"):
        sample_sde(from_noise(LINEAR).velocity, x, base=GaussianBase(x, 0.0), **options)
    with pytest.raises(SolverError, match="the velocity is NaN or infinite"):
        sample_sde(lambda x, t, c: x / 0, x, base=GaussianBase(x), **options)
