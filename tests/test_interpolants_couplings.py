"""Couplings and masks: what x0 and the condition are, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import seeded, trigonometric

from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    custom,
    independent,
    inpainting,
    optimal_transport,
    super_resolution,
    tile_mask,
)
from galflow_lite.interpolants.velocities import draw_interpolant

LINEAR = Schedule.linear()


def images(n: int = 4, channels: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=seeded(9)) + 5.0


def test_tile_mask_is_made_of_equal_tiles():
    mask = tile_mask(500, (16, 24), generator=seeded())
    assert mask.shape == (500, 1, 16, 24)
    tiles = mask.unfold(2, 2, 2).unfold(3, 3, 3).flatten(4)
    assert torch.equal(tiles.amin(-1), tiles.amax(-1))
    # 32,000 tiles, each a hole with probability 0.3.
    assert abs(1 - mask.mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 32_000)
    assert torch.equal(mask, tile_mask(500, (16, 24), generator=seeded()))


def test_inpainting_keeps_known_pixels_and_draws_noise_for_each_channel():
    x1 = images(200)
    pair = inpainting().pair(x1, generator=seeded())
    known = (pair.condition == 1).expand(x1.shape)
    assert pair.condition.shape == (200, 1, 16, 16)
    assert torch.equal(pair.x0[known], x1[known])
    hole = pair.x0.movedim(1, -1)[(pair.condition == 0)[:, 0]]
    assert abs(hole.mean()) < 4 / math.sqrt(hole.numel())
    assert abs(hole.std() - 1) < 4 / math.sqrt(2 * hole.numel())
    assert abs(torch.corrcoef(hole.T)[0, 1]) < 4 / math.sqrt(len(hole))


def test_inpainting_does_not_read_the_hole_of_a_damaged_image():
    mask = torch.tensor([[1.0, 0.0]])
    x0 = inpainting()(torch.tensor([[7.0, math.nan]]), mask, generator=seeded())
    assert torch.isfinite(x0).all()
    with pytest.raises(ValueError, match="the known pixels has NaN"):
        inpainting()(torch.tensor([[math.nan, 1.0]]), mask)


@pytest.mark.parametrize("coupling", [inpainting(), super_resolution()])
def test_no_holes_are_invented_where_samples_are_asked_for(coupling):
    for condition in (None, {}, {"masks": torch.ones(4, 1, 16, 16)}):
        with pytest.raises(ValueError, match="expected a tensor or a mapping with"):
            coupling(images(), condition)


@pytest.mark.parametrize("schedule", [LINEAR, trigonometric()])
def test_interpolant_of_inpainting_leaves_known_pixels_alone(schedule):
    x1 = images()
    draw = draw_interpolant(x1, schedule=schedule, coupling=inpainting())
    known = ~draw.pair.hole
    assert torch.equal(draw.x[known], x1[known])
    assert not draw.rate[known].any()
    assert draw.rate[draw.pair.hole].all()


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_super_resolution_repeats_block_means_and_adds_noise(sigma):
    x1 = images(20).double()
    pair = super_resolution(factor=4, sigma=sigma).pair(x1, generator=seeded())
    assert pair.condition.shape == pair.x0.shape == x1.shape
    expected = x1[3, 1, 4:8, 8:12].mean().expand(4, 4)
    assert torch.allclose(pair.condition[3, 1, 4:8, 8:12], expected, atol=1e-12)
    noise = pair.x0 - pair.condition
    assert noise.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * noise.numel()))
    assert torch.equal(pair.base.mean, pair.condition)


def test_super_resolution_starts_from_the_condition_alone():
    coupling, x1 = super_resolution(factor=2, sigma=0.1), images()
    condition = coupling.condition(x1)
    starts = [coupling(x, condition, generator=seeded()) for x in (x1, torch.zeros_like(x1))]
    assert torch.equal(*starts)
    uncoupled = coupling.uncoupled().pair(x1)
    assert torch.equal(uncoupled.condition, condition)
    assert abs(uncoupled.x0.mean()) < 0.2


def test_optimal_transport_is_a_permutation_of_least_cost():
    x1 = torch.randn(7, 3, dtype=torch.float64, generator=seeded(1))
    noise = torch.randn(7, 3, dtype=torch.float64, generator=seeded(2))
    x0 = optimal_transport()(x1, generator=seeded(2))
    assert torch.equal(x0.sort(0).values, noise.sort(0).values)
    orders = torch.stack([torch.randperm(7, generator=seeded(k)) for k in range(3000)])
    others = (noise[orders] - x1).square().sum((1, 2))
    assert (x0 - x1).square().sum() <= others.min() + 1e-12


def test_law_of_the_base_is_a_density():
    base = GaussianBase(torch.tensor([[1.0, 2.0]]).double(), 0.5)
    normal = torch.distributions.Normal(base.mean, 0.5)
    x = torch.tensor([[0.3, 2.2]]).double()
    assert torch.allclose(base.log_prob(x), normal.log_prob(x).sum(1))
    part = GaussianBase(base.mean, 0.5, torch.tensor([[True, False]])).log_prob(x)
    assert torch.allclose(part, normal.log_prob(x)[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "coupling", [independent(), inpainting(), super_resolution(), optimal_transport()]
)
def test_pairs_have_the_dtype_and_shape_of_the_data_and_follow_the_seed(coupling, dtype):
    x1 = images().to(dtype)
    first, second = (coupling.pair(x1, generator=seeded(5)).x0 for _ in range(2))
    assert first.dtype == dtype
    assert first.shape == x1.shape
    assert torch.equal(first, second)


MASK = torch.ones(4, 1, 16, 16)


@pytest.mark.parametrize(
    "call",
    [
        lambda: custom(lambda x1, c: x1[:, :1]).pair(images()),
        lambda: custom(lambda x1, c: x1 / 0).pair(torch.zeros(2, 1)),
        lambda: tile_mask(1, 20),
        lambda: super_resolution(factor=3).pair(images()),
        lambda: inpainting().pair(images(), MASK / 2),
        lambda: super_resolution().pair(images(), torch.zeros(4, 2, 4, 4)),
        lambda: MaskedVelocity(lambda x, t, c: x[:, :1])(images(), torch.zeros(4), MASK),
    ],
)
def test_what_torch_would_broadcast_or_round_off_is_refused(call):
    with pytest.raises(ValueError, match="expected|does not divide"):
        call()
