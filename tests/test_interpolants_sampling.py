"""Samplers of the ordinary equation: order, evaluations, known pixels, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import figure_two, from_noise
from torch import nn

from galflow_lite.interpolants import (
    MaskedVelocity,
    Schedule,
    SolverError,
    decreasing,
    independent,
    inpainting,
    sample_ode,
    sample_sde,
    sample_several,
    super_resolution,
    tile_mask,
)

LINEAR = Schedule.linear()
METHODS = ["euler", "midpoint", "heun", "rk4", "dopri5"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Convolution(nn.Module):
    """An untrained network that moves every pixel."""

    def __init__(self, channels: int, *, conditions: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(channels + conditions, 8, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(8, channels, 3, padding=1),
        )

    def forward(self, x, t, condition):
        return self.layers(torch.cat([x, condition], 1)) + t[:, None, None, None]


def growth(x, t, condition=None):
    """dx/dt = (1 + t) x, solved by x0 exp(t + t²/2)."""
    return (1 + t)[:, None] * x


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)]
)
def test_order_of_the_fixed_methods(method, order):
    x0 = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    exact = x0 * math.exp(1.5)
    errors = [
        (sample_ode(growth, x0, method=method, steps=n).samples - exact).abs().max()
        for n in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_euler_is_algorithm_2():
    mixture, x = from_noise(LINEAR), torch.randn(50, 1, dtype=torch.float64, generator=seeded())
    by_hand = x
    for n in range(10):
        by_hand = by_hand + mixture.velocity(by_hand, n / 10) / 10
    found = sample_ode(mixture.velocity, x, steps=10)
    assert torch.allclose(found.samples, by_hand, atol=1e-13)
    assert found.evaluations == 10


@pytest.mark.parametrize(
    ("method", "each"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)]
)
def test_evaluations_of_fixed_methods(method, each):
    assert sample_ode(growth, torch.ones(3, 1), method=method, steps=7).evaluations == 7 * each


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
def test_dopri5_counts_its_evaluations_and_stays_between_its_ends(start, end):
    seen = []

    def watched(x, t, condition=None):
        seen.append(float(t[0]))
        return growth(x, t)

    x0 = torch.tensor([[1.0]], dtype=torch.float64)
    found = sample_ode(watched, x0, method="dopri5", start=start, end=end)
    assert found.evaluations == len(seen)
    assert min(seen) >= min(start, end)
    assert max(seen) <= max(start, end)
    exact = math.exp(end + end**2 / 2 - start - start**2 / 2)
    assert found.samples.item() == pytest.approx(exact, rel=1e-6)


def test_a_smaller_tolerance_costs_more_and_is_closer():
    mixture = from_noise(LINEAR)
    x0 = torch.randn(100, 1, dtype=torch.float64, generator=seeded())
    exact = sample_ode(mixture.velocity, x0, method="rk4", steps=1000).samples
    loose, tight = (
        sample_ode(mixture.velocity, x0, method="dopri5", rtol=tol, atol=tol)
        for tol in (1e-2, 1e-8)
    )
    assert tight.evaluations > loose.evaluations
    assert (tight.samples - exact).abs().max() < 1e-5
    assert (tight.samples - exact).abs().max() < (loose.samples - exact).abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_backward_undoes_forward(method):
    mixture = figure_two(LINEAR, "dependent")
    x0 = mixture.sample_pairs(100, generator=seeded())[0]
    x1 = sample_ode(mixture.velocity, x0, method=method, steps=2000 if method == "euler" else 200)
    back = sample_ode(
        mixture.velocity,
        x1.samples,
        method=method,
        start=1.0,
        end=0.0,
        steps=2000 if method == "euler" else 200,
    )
    error = (back.samples - x0).abs().max()
    assert error < (2e-2 if method == "euler" else 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_path_at_given_times(method):
    x0 = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    times = (0.0, 0.3, 0.5, 1.0)
    found = sample_ode(growth, x0, method=method, steps=1000, times=times)
    exact = torch.stack([x0 * math.exp(t + t * t / 2) for t in times])
    assert found.path.shape == (4, 2, 1)
    assert found.times == times
    tolerance = 1e-2 if method == "euler" else 1e-4
    assert torch.allclose(found.path, exact, rtol=tolerance)
    assert torch.equal(found.path[-1], found.samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*METHODS, "sde euler", "sde heun"])
def test_known_pixels_are_bit_identical(method, dtype):
    x1 = torch.rand(3, 2, 16, 16, generator=seeded()).to(dtype) * 3 - 1
    x1[0, :, :4] = -0.0
    coupling = inpainting(hole_probability=0.5)
    pair = coupling.pair(x1, generator=seeded(1))
    velocity = MaskedVelocity(Convolution(2).to(dtype))
    times = (0.0, 0.31, 1.0)
    if method.startswith("sde"):
        found = sample_sde(
            velocity,
            pair.x0,
            pair.condition,
            schedule=LINEAR,
            diffusion=decreasing(0.5),
            base=pair.base,
            method=method[4:],
            steps=20,
            times=times,
        )
    else:
        found = sample_ode(velocity, pair.x0, pair.condition, method=method, steps=7, times=times)
    known = ~pair.hole
    for state in (found.samples, *found.path):
        assert torch.equal(state[known], x1[known])
        assert torch.equal(torch.signbit(state[known]), torch.signbit(x1[known]))
    assert (found.samples[pair.hole] != pair.x0[pair.hole]).float().mean() > 0.99
    assert found.samples.dtype == dtype


def test_overflow_of_the_network_does_not_reach_known_pixels():
    velocity = MaskedVelocity(lambda x, t, c: torch.full_like(x, math.inf))
    mask = torch.tensor([[1.0, 0.0]])
    found = velocity(torch.zeros(1, 2), torch.zeros(1), mask)
    assert found.tolist() == [[0.0, math.inf]]


def test_several_samples_agree_on_known_pixels_and_differ_in_the_hole():
    x1 = torch.rand(3, 1, 16, 16, generator=seeded())
    mask = tile_mask(3, 16, hole_probability=0.4, generator=seeded(1))
    found = sample_several(
        MaskedVelocity(Convolution(1)),
        x1,
        mask,
        coupling=inpainting(),
        count=5,
        generator=seeded(2),
        steps=3,
    )
    assert found.samples.shape == (5, 3, 1, 16, 16)
    assert found.evaluations == 3
    known = mask.bool()
    assert torch.equal(found.samples[:, known], x1[known].expand(5, -1))
    assert not found.standard_deviation[known].any()
    assert (found.standard_deviation[~known] > 0).all()
    assert torch.allclose(found.mean[~known], found.samples.mean(0)[~known])


def test_several_samples_by_the_stochastic_equation():
    x1 = torch.rand(2, 1, 16, 16, generator=seeded())
    velocity = MaskedVelocity(Convolution(1))
    found, again = (
        sample_several(
            velocity,
            x1,
            coupling=inpainting(hole_probability=0.5),
            count=4,
            sampler=sample_sde,
            generator=seeded(2),
            schedule=LINEAR,
            diffusion=decreasing(0.5),
            steps=5,
        )
        for _ in range(2)
    )
    assert torch.equal(found.samples, again.samples)
    known = (found.samples == x1).all(0)
    assert 0.3 < known.double().mean() < 0.7
    assert not found.standard_deviation[known].any()


def test_several_samples_share_the_mask_that_is_drawn_and_repeat_dicts():
    seen = {}

    def velocity(x, t, condition):
        seen.update(condition)
        return torch.zeros_like(x)

    x1 = torch.rand(2, 1, 8, 8)
    label = torch.tensor([4, 7])
    sample_several(
        MaskedVelocity(velocity), x1, {"label": label}, coupling=inpainting(), count=3, steps=1
    )
    assert seen["label"].tolist() == [4, 7, 4, 7, 4, 7]
    first, *others = seen["mask"].chunk(3)
    assert all(torch.equal(first, other) for other in others)


def test_spread_of_several_samples_is_that_of_the_exact_law():
    mixture, n = from_noise(LINEAR), 4000
    found = sample_several(
        mixture.velocity,
        torch.zeros(2, 1, dtype=torch.float64),
        coupling=independent(),
        count=n,
        generator=seeded(),
        method="rk4",
        steps=50,
    )
    exact = 2 / 3 * 5.75**2 + 0.65**2
    spread = found.samples.square()
    error = spread.std(0) / math.sqrt(n)
    assert ((spread.mean(0) - exact).abs() < 4 * error).all()


def test_super_resolution_is_sampled_from_the_low_resolution_image_alone():
    x1 = torch.rand(2, 1, 8, 8, generator=seeded())
    coupling = super_resolution(factor=4, sigma=0.2)
    low = coupling.condition(x1)
    options = {"coupling": coupling, "count": 2, "steps": 2}
    first, second = (
        sample_several(Convolution(1), x, low, generator=seeded(), **options).samples
        for x in (x1, torch.zeros_like(x1))
    )
    assert torch.equal(first, second)


X = torch.ones(2, 1)


def test_solver_that_does_not_converge_is_reported():
    def explosive(x, t, condition=None):
        return x**2 * 4

    with pytest.raises(SolverError, match="dopri5 cannot go on|evaluations of the velocity"):
        sample_ode(explosive, X, method="dopri5")
    with pytest.raises(
        SolverError, match="found 20 evaluations of the velocity at t = .*raise max"
    ):
        sample_ode(growth, X, method="dopri5", rtol=1e-9, atol=1e-12, max_evaluations=20)
    with pytest.raises(SolverError, match="NaN or infinite values of the velocity at t = 0.5"):
        sample_ode(lambda x, t, c: x / (t - 0.5)[:, None], X, steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "leapfrog"}, "method='leapfrog', expected one of euler, midpoint"),
        ({"end": 1.2}, r"start=0.0 and end=1.2, expected two different times in \[0, 1\]"),
        ({"end": 0.0}, "two different times"),
        ({"times": [0.5, 1.1]}, r"times \[0.5, 1.1\], expected times in \[0, 1\]"),
        ({"steps": 0}, "steps=0, expected at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sample_ode(growth, X, **options)


def test_bad_starts_and_velocities():
    with pytest.raises(ValueError, match="NaN or infinite values in the start"):
        sample_ode(growth, torch.tensor([[math.nan]]))
    with pytest.raises(
        ValueError, match=r"velocity of shape \(2, 2\), expected that of x, \(2, 1\)"
    ):
        sample_ode(lambda x, t, c: torch.cat([x, x], 1), X)
    with pytest.raises(ValueError, match="count=0, expected at least 1"):
        sample_several(growth, X, coupling=independent(), count=0)
