"""Samples of the targets: moments, counts, radii and shares against the density, and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_simpson
from target_grids import TARGETS, every_target, grid

from galflow_lite.targets import CircleOfGaussians, TwoMoons, TwoRings

# A test at this level fails for one seed in ten thousand when all is well.
LEVEL = 1e-4


@every_target
def test_moments_of_samples_agree_with_quadrature(name):
    target, _ = TARGETS[name]
    n = 100_000
    x = target.sample(n, seed=1).numpy()
    points, share, _ = grid(name)
    for moment in (
        lambda x: x[:, 0],
        lambda x: x[:, 1],
        lambda x: x[:, 0] ** 2,
        lambda x: x[:, 1] ** 2,
        lambda x: x[:, 0] * x[:, 1],
        lambda x: x[:, 0] ** 2 * x[:, 1] ** 2,
        lambda x: np.hypot(*x.T),
        # Smooth, as the grid asks, and blind to no reflection.
        lambda x: np.sin(3 * x[:, 0] + 1) * np.cos(2 * x[:, 1] + 0.5),
    ):
        mean = share @ moment(points)
        variance = share @ moment(points) ** 2 - mean**2
        assert abs(moment(x).mean() - mean) < 4.5 * math.sqrt(variance / n)


@every_target
def test_mean_log_prob_of_samples_is_minus_the_entropy(name):
    target, _ = TARGETS[name]
    log_p = target.log_prob(target.sample(100_000, seed=2))
    assert abs(float(log_p.mean()) + target.entropy) < 4.5 * float(log_p.std()) / math.sqrt(100_000)


def p_of_cells(name: str, x: np.ndarray, side: int = 24) -> float:
    """Chi-square of counts in square cells, those with few expected points put together.

    A sum over the grid is not quite the integral over a cell; here cells span 4 steps or more.
    """
    target, width = TARGETS[name]
    # Edges on every so many steps of the grid, half a step off its points.
    step = width / 8
    stride = max(1, round(2 * target.box / side / step))
    low = -(2 + 11 * width) - step / 2

    def cells(x: np.ndarray) -> np.ndarray:
        column, row = np.floor((x - low) / (stride * step)).astype(int).clip(0, 499).T
        return column * 500 + row

    points, share, _ = grid(name)
    expected = np.bincount(cells(points), share, 250_000) * len(x)
    observed = np.bincount(cells(x), minlength=250_000)
    many = expected > 20
    expected = np.append(expected[many], expected[~many].sum())
    observed = np.append(observed[many], observed[~many].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, len(expected) - 1)


@every_target
def test_counts_of_samples_in_cells_agree_with_the_density(name):
    target, _ = TARGETS[name]
    assert p_of_cells(name, target.sample(20_000, seed=3).numpy()) > LEVEL


@every_target
def test_counts_in_cells_would_notice_a_wrong_sampler(name):
    x = TARGETS[name][0].sample(20_000, seed=3).numpy()
    assert p_of_cells(name, 1.03 * x) < LEVEL
    assert p_of_cells(name, np.where(x[:, :1] > 0.3, x, x[::-1])) < LEVEL


def radial_cdf(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distribution function of |x| in one dimension: of moons by angles, of rings by their form."""
    r = np.linspace(0, 5, 20_001)
    if name == "moons":
        angle = 2 * np.pi * (np.arange(2000) + 0.5) / 2000
        side = np.array(
            [np.exp(-0.5 * ((np.abs(a * np.cos(angle)) - 2) / 0.3) ** 2).mean() for a in r]
        )
        density = r * np.exp(-0.5 * ((r - 2) / 0.2) ** 2) * side
    else:
        n = int(name.split()[1])
        centre = 2 * np.arange(1, n + 1) / n
        density = r * np.exp(-((r[:, None] - centre) ** 2) * 8 * n**2).sum(1)
    cdf = cumulative_simpson(density, x=r, initial=0)
    return r, cdf / cdf[-1]


@pytest.mark.parametrize("name", ["moons", "rings 1", "rings 2", "rings 3", "rings 6"])
def test_radii_of_samples(name):
    r, cdf = radial_cdf(name)
    radii = np.hypot(*TARGETS[name][0].sample(200_000, seed=4).numpy().T)
    assert stats.kstest(radii, lambda x: np.interp(x, r, cdf)).pvalue > LEVEL
    # The same without the factor r of the area, which a careless sampler leaves out.
    bare = np.cumsum(np.gradient(cdf, r) / np.maximum(r, 1e-3))
    assert stats.kstest(radii, lambda x: np.interp(x, r, bare / bare[-1])).pvalue < LEVEL


@pytest.mark.parametrize("modes", [2, 3, 8, 25])
def test_modes_have_equal_shares(modes):
    circle = CircleOfGaussians(modes)
    n = 20_000
    nearest = torch.cdist(circle.sample(n, seed=5), circle.means).argmin(1)
    counts = torch.bincount(nearest, minlength=modes).tolist()
    for count in counts:
        # Symmetry makes the cells of nearest modes equally likely, exactly.
        assert stats.binomtest(count, n, 1 / modes).pvalue > LEVEL / modes


@pytest.mark.parametrize("rings", [2, 3, 6])
def test_rings_have_their_shares(rings):
    target = TwoRings(rings)
    n = 20_000
    radii = torch.linalg.vector_norm(target.sample(n, seed=6), dim=1)
    between = (target.radii[1:] + target.radii[:-1]) / 2
    counts = torch.bincount(torch.bucketize(radii, between), minlength=rings).tolist()
    # Neighbours meet four widths from either: what crosses is 1e-4 and nearly balanced.
    for count, share in zip(counts, target.shares.tolist(), strict=True):
        assert stats.binomtest(count, n, share).pvalue > LEVEL / rings


def test_moons_have_equal_shares():
    n = 20_000
    right = int((TwoMoons().sample(n, seed=7)[:, 0] > 0).sum())
    assert stats.binomtest(right, n, 0.5).pvalue > LEVEL


@every_target
def test_seeds(name):
    target, _ = TARGETS[name]
    first = target.sample(50, seed=3)
    assert first.shape == (50, 2)
    assert first.dtype == torch.float64
    assert torch.equal(first, target.sample(np.int64(50), seed=3))
    assert not torch.equal(first, target.sample(50, seed=4))
    assert not torch.equal(target.sample(50), target.sample(50))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, target.sample(50, generator=generator))
    assert not torch.equal(first, target.sample(50, generator=generator))
    state = torch.get_rng_state()
    target.sample(50, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(8)
    free = target.sample(5)
    torch.manual_seed(8)
    assert torch.equal(free, target.sample(5))
    assert target.sample(0).shape == (0, 2)
