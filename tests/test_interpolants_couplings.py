"""Couplings and masks: what x0 and the condition are, and which input is refused."""

from __future__ import annotations

import math

import pytest
import torch

from galflow_lite import interpolants
from galflow_lite.interpolants import (
    GaussianBase,
    MaskedVelocity,
    Schedule,
    assignment,
    custom,
    draw_interpolant,
    independent,
    inpainting,
    optimal_transport,
    super_resolution,
    tile_mask,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, channels: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=seeded(9)) + 5.0


def test_tile_mask_is_made_of_equal_tiles():
    mask = tile_mask(500, (16, 24), generator=seeded())
    assert mask.shape == (500, 1, 16, 24)
    tiles = mask.unfold(2, 2, 2).unfold(3, 3, 3).flatten(4)
    assert torch.equal(tiles.amin(-1), tiles.amax(-1))
    holes = 1 - mask.mean().item()
    # 32,000 tiles, each a hole with probability 0.3.
    assert abs(holes - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 32_000)


def test_tile_mask_is_reproducible():
    first, second = (tile_mask(3, 8, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_inpainting_keeps_known_pixels_and_draws_noise_for_each_channel():
    x1 = images(200)
    pair = inpainting().pair(x1, generator=seeded())
    known = (pair.condition == 1).expand(x1.shape)
    assert pair.condition.shape == (200, 1, 16, 16)
    assert torch.equal(pair.x0[known], x1[known])
    hole = pair.x0.movedim(1, -1)[(pair.condition == 0)[:, 0]]
    assert abs(hole.mean()) < 4 / math.sqrt(hole.numel())
    assert abs(hole.std() - 1) < 4 / math.sqrt(2 * hole.numel())
    correlation = torch.corrcoef(hole.T)[0, 1]
    assert abs(correlation) < 4 / math.sqrt(len(hole))


def test_one_name_for_known_pixels_everywhere():
    """ξ = 1 is known: in the sampler of masks, the coupling, and the masked velocity."""
    mask = torch.tensor([[1.0, 0.0]])
    x1 = torch.tensor([[7.0, 7.0]])
    x0 = inpainting()(x1, mask, generator=seeded())
    assert x0[0, 0] == 7
    assert x0[0, 1] != 7
    moving = MaskedVelocity(lambda x, t, condition: torch.ones_like(x))
    assert moving(x0, torch.zeros(1), mask).tolist() == [[0.0, 1.0]]


def test_inpainting_does_not_read_the_hole_of_a_damaged_image():
    mask = torch.tensor([[1.0, 0.0]])
    x0 = inpainting()(torch.tensor([[7.0, math.nan]]), mask, generator=seeded())
    assert torch.isfinite(x0).all()
    with pytest.raises(ValueError, match="NaN or infinite pixels in 1 of 1 samples"):
        inpainting()(torch.tensor([[math.nan, 1.0]]), mask)


def test_inpainting_adds_its_mask_to_a_dict_and_keeps_a_given_one():
    x1 = images()
    label = torch.arange(4)
    pair = inpainting().pair(x1, {"label": label})
    assert set(pair.condition) == {"label", "mask"}
    again = inpainting().pair(x1, pair.condition)
    assert torch.equal(again.condition["mask"], pair.condition["mask"])


def test_interpolant_of_inpainting_leaves_known_pixels_alone_for_every_schedule():
    x1 = images()
    for schedule in (Schedule.linear(), Schedule.trigonometric(gamma="smooth")):
        draw = draw_interpolant(x1, schedule=schedule, coupling=inpainting())
        known = ~draw.pair.hole
        assert torch.equal(draw.x[known], x1[known])
        assert not draw.rate[known].any()
        assert draw.rate[draw.pair.hole].all()
        if draw.z is not None:
            assert not draw.z[known].any()
            assert draw.z[draw.pair.hole].all()


def test_fair_uncoupled_inpainting_sees_the_known_pixels_but_starts_from_noise():
    x1 = images(50)
    pair = inpainting().uncoupled().pair(x1, generator=seeded())
    mask = pair.condition["mask"]
    assert torch.equal(pair.condition["known"], x1 * mask)
    assert abs(pair.x0.mean()) < 4 / math.sqrt(pair.x0.numel())
    assert pair.hole is None


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_super_resolution_repeats_block_means_and_adds_noise(sigma):
    x1 = images(20).double()
    pair = super_resolution(factor=4, sigma=sigma).pair(x1, generator=seeded())
    assert pair.condition.shape == pair.x0.shape == x1.shape
    block = x1[3, 1, 4:8, 8:12].mean()
    expected = torch.full((4, 4), block.item(), dtype=torch.float64)
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
    order = assignment(noise, x1)
    assert sorted(order.tolist()) == list(range(7))
    cost = (noise[order] - x1).square().sum()
    orders = torch.stack([torch.randperm(7, generator=seeded(k)) for k in range(3000)])
    others = (noise[orders] - x1).square().sum((1, 2))
    assert cost <= others.min() + 1e-12


def test_optimal_transport_in_one_dimension_sorts():
    x1 = torch.randn(50, 1, generator=seeded(3))
    x0 = optimal_transport()(x1, generator=seeded(4))
    assert torch.equal(x0.argsort(0), x1.argsort(0))
    fresh = torch.randn(50, 1, generator=seeded(4))
    assert torch.equal(x0.sort(0).values, fresh.sort(0).values)


def test_user_function_and_its_known_mean():
    coupling = custom(lambda x1, c: c + torch.randn_like(x1), mean=lambda x1, c: c, sigma=1.0)
    x1, condition = torch.zeros(3, 2), torch.ones(3, 2)
    assert torch.equal(coupling.pair(x1, condition).base.mean, condition)
    assert custom(lambda x1, c: x1).pair(x1).base is None


def test_law_of_the_base_is_a_density():
    base = GaussianBase(torch.tensor([[1.0, 2.0]]).double(), 0.5)
    normal = torch.distributions.Normal(base.mean, 0.5)
    x = torch.tensor([[0.3, 2.2]]).double()
    assert torch.allclose(base.log_prob(x), normal.log_prob(x).sum(1))
    hole = torch.tensor([[True, False]])
    part = GaussianBase(base.mean, 0.5, hole).log_prob(x)
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


def test_coupling_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"x0 of shape \(4, 1\) from the coupling, expected that"):
        draw_interpolant(
            torch.zeros(4, 2), schedule=Schedule.linear(), coupling=lambda x1, c: x1[:, :1]
        )


MASK = torch.ones(4, 1, 16, 16)
BAD = {
    "tiles": (lambda: tile_mask(1, 20), "20 x 20 pixels for 8 x 8 tiles, expected a multiple"),
    "tiles of coupling": (lambda: inpainting(tiles=5).pair(images()), "16 x 16 pixels for 5 x 5"),
    "probability": (lambda: inpainting(hole_probability=1.3), "hole_probability=1.3, expected"),
    "factor": (
        lambda: super_resolution(factor=3).pair(images()),
        "16 x 16 pixels for a factor of 3, expected a multiple",
    ),
    "no images": (lambda: inpainting().pair(torch.zeros(3, 2)), r"shape \(3, 2\), expected images"),
    "sigma": (lambda: super_resolution(sigma=-1.0), "sigma=-1.0, expected a number from 0 up"),
    "mask shape": (
        lambda: inpainting().pair(images(), MASK[:, :, :8]),
        r"mask of shape \(4, 1, 8, 16\), expected \(4, 2, 16, 16\) or 1 along some axes",
    ),
    "mask values": (lambda: inpainting().pair(images(), MASK / 2), "values other than 0 and 1"),
    "mask type": (
        lambda: inpainting().pair(images(), {"mask": [[1, 0]]}),
        "mask of type list, expected a tensor of booleans",
    ),
    "low resolution": (
        lambda: super_resolution().pair(images(), torch.zeros(4, 2, 4, 4)),
        r"low-resolution image of shape \(4, 2, 4, 4\), expected \(4, 2, 16, 16\): enlarge",
    ),
    "NaN pixels": (
        lambda: independent().pair(torch.tensor([[math.nan], [1.0]])),
        "NaN or infinite pixels in 1 of 2 samples",
    ),
    "NaN base": (
        lambda: custom(lambda x1, c: x1 / 0).pair(torch.zeros(2, 1)),
        "NaN or infinite values in x0 from the coupling",
    ),
    "no tensor": (lambda: custom(lambda x1, c: 0).pair(MASK), "found int from the coupling"),
    "no function": (
        lambda: draw_interpolant(MASK, schedule=Schedule.linear(), coupling="inpainting"),
        "coupling of type str, expected a Coupling or a function",
    ),
    "mean alone": (lambda: custom(lambda x, c: x, mean=lambda x, c: x), "found no sigma"),
    "assignment": (lambda: assignment(torch.zeros(2, 1), torch.zeros(3, 1)), "equal shapes"),
    "no mask": (
        lambda: MaskedVelocity(lambda x, t, c: x)(MASK, torch.zeros(4), {"label": 1}),
        r"condition of \['label'\] without 'mask'",
    ),
    "velocity shape": (
        lambda: MaskedVelocity(lambda x, t, c: x[:, :1])(images(), torch.zeros(4), MASK),
        r"velocity of shape \(4, 1, 16, 16\), expected that of x, \(4, 2, 16, 16\)",
    ),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input(call):
    make, message = BAD[call]
    with pytest.raises(ValueError, match=message):
        make()


def test_every_public_name_is_there():
    assert all(hasattr(interpolants, name) for name in interpolants.__all__)
