"""Stein variational gradient descent: the direction, its fixed point, moments of the particles."""

from __future__ import annotations

import math

import pytest
import torch

from galflow_lite.mcmc import stein_direction, svgd
from galflow_lite.targets import NAMED


def test_stein_direction_is_its_formula():
    target = NAMED["donut"]()
    x = target.sample(12, seed=16)
    score = target.score(x)
    pairs = torch.pdist(x)
    h = float(pairs.median()) ** 2 / math.log(12)
    for bandwidth in (None, 0.7):
        width = h if bandwidth is None else bandwidth
        expected = torch.zeros(12, 2, dtype=torch.float64)
        for i in range(12):
            for j in range(12):
                other = x[j].clone().requires_grad_()
                kernel = torch.exp(-(other - x[i]).square().sum() / width)
                (slope,) = torch.autograd.grad(kernel, other)
                expected[i] += (kernel.detach() * score[j] + slope) / 12
        torch.testing.assert_close(stein_direction(x, score, bandwidth=bandwidth), expected)


@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_stein_direction_in_single_precision_far_from_the_origin(bandwidth):
    generator = torch.Generator().manual_seed(3)
    x = 1000 + torch.randn(200, 2, generator=generator)
    score = 1000 - x
    exact = stein_direction(x.double(), score.double(), bandwidth=bandwidth)
    found = stein_direction(x, score, bandwidth=bandwidth)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    # The direction is that of the particles about any origin; their coordinates are exact here.
    moved = stein_direction(x.double() - 1000, score.double(), bandwidth=bandwidth)
    torch.testing.assert_close(exact, moved, rtol=0, atol=1e-13)


def test_one_particle_climbs_to_the_mode():
    start = torch.tensor([[3.0, -2.0]]).double()
    chains = svgd(NAMED["gaussian"](), start, steps=400, step_size=0.2, decay=None)
    torch.testing.assert_close(chains.samples, torch.zeros(1, 2).double(), atol=1e-6, rtol=0)


def test_fixed_point_of_the_particles():
    target = NAMED["gaussian"]()
    chains = svgd(target, 8, steps=4000, step_size=0.5, bandwidth=1.0, decay=None, seed=17)
    x = chains.samples
    rest = stein_direction(x, target.score(x), bandwidth=1.0)
    draws = target.sample(8, seed=1)
    start = stein_direction(draws, target.score(draws), bandwidth=1.0)
    assert float(rest.abs().max()) < 1e-8 < 1e-2 < float(start.abs().max())
    # There the mean force vanishes by the symmetry of the kernel's gradient: sum_ij k s_j = 0.
    kernel = (-torch.cdist(x, x).square()).exp()
    force = (kernel @ target.score(x)).mean(0)
    assert float(force.abs().max()) < 1e-8


def test_direction_vanishes_on_exact_samples():
    target = NAMED["mog2"]()
    n = 2000
    sizes = []
    for part in (n // 16, n):
        x = target.sample(part, seed=18)
        direction = stein_direction(x, target.score(x), bandwidth=1.0)
        sizes.append(float(direction.square().mean().sqrt()))
    # Stein's identity: a mean of zero-mean terms, so a quarter of it with 16 times the samples.
    assert sizes[1] / sizes[0] == pytest.approx(0.25, abs=0.1)


def test_particles_reach_moments():
    chains = svgd(NAMED["gaussian"](), 200, steps=400, step_size=0.05, seed=19)
    x = chains.samples
    assert float(x.mean(0).abs().max()) < 0.1
    torch.testing.assert_close(torch.cov(x.T), NAMED["gaussian"]().covariance, atol=0.1, rtol=0)
