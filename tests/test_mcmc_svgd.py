"""Stein variational gradient descent: the direction, its fixed point, moments of the particles."""

from __future__ import annotations

import math

import torch

from galflow_lite.mcmc import svgd
from galflow_lite.mcmc.svgd import stein_direction
from galflow_lite.targets import BENCHMARKS


def test_stein_direction_is_its_formula():
    target = BENCHMARKS["donut"]()
    x = target.sample(12, seed=16)
    score = target.score(x)
    width = float(torch.pdist(x).median()) ** 2 / math.log(12)
    expected = torch.zeros(12, 2, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            other = x[j].clone().requires_grad_()
            kernel = torch.exp(-(other - x[i]).square().sum() / width)
            (slope,) = torch.autograd.grad(kernel, other)
            expected[i] += (kernel.detach() * score[j] + slope) / 12
    torch.testing.assert_close(stein_direction(x, score), expected)


def test_stein_direction_in_single_precision_far_from_the_origin():
    generator = torch.Generator().manual_seed(3)
    x = 1000 + torch.randn(200, 2, generator=generator)
    score = 1000 - x
    exact = stein_direction(x.double(), score.double())
    found = stein_direction(x, score)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    # The direction is that of the particles about any origin; their coordinates are exact here.
    moved = stein_direction(x.double() - 1000, score.double())
    torch.testing.assert_close(exact, moved, rtol=0, atol=1e-13)


def test_one_particle_climbs_to_the_mode():
    x = torch.tensor([[3.0, -2.0]]).double()
    torch.testing.assert_close(stein_direction(x, -x), -x)
    chains = svgd(BENCHMARKS["gaussian"](), x, steps=400, step_size=0.05)
    assert float(chains.samples.abs().max()) < 0.1


def test_fixed_point_of_the_particles():
    target = BENCHMARKS["gaussian"]()
    draws = target.sample(8, seed=1)
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(17))
    for _ in range(4000):
        x = x + 0.5 * stein_direction(x, target.score(x))
    rest = stein_direction(x, target.score(x))
    start = stein_direction(draws, target.score(draws))
    assert float(rest.abs().max()) < 1e-8 < 1e-2 < float(start.abs().max())
    # There the mean force vanishes by the symmetry of the kernel's gradient: sum_ij k s_j = 0.
    width = torch.pdist(x).median().square() / math.log(8)
    force = ((-torch.cdist(x, x).square() / width).exp() @ target.score(x)).mean(0)
    assert float(force.abs().max()) < 1e-8


def test_direction_vanishes_on_exact_samples():
    target = BENCHMARKS["mog2"]()
    sizes = []
    for part in (60, 960):
        x = target.sample(part, seed=18)
        sizes.append(float(stein_direction(x, target.score(x)).square().mean().sqrt()))
    # Stein's identity: a mean of zero-mean terms, which falls as more samples come.
    assert sizes[1] < 0.5 * sizes[0]


def test_particles_reach_moments():
    chains = svgd(BENCHMARKS["gaussian"](), 200, steps=400, step_size=0.05, seed=19)
    assert float(chains.samples.mean(0).abs().max()) < 0.1
    expected = BENCHMARKS["gaussian"]().covariance
    torch.testing.assert_close(torch.cov(chains.samples.T), expected, atol=0.1, rtol=0)
