"""The U-Net: shapes, conditions, gradients, sizes, parameter counts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from galflow_lite.networks import MLP, UNet
from galflow_lite.networks.blocks import Attention, TimeFeatures


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def alive(net: UNet, seed: int = 0) -> UNet:
    """The network with a last layer that is not zero, as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(net.head.weight, std=0.1)
    return net


def images(n: int = 3, channels: int = 1, side: int = 16, dtype: torch.dtype = torch.float32):
    return torch.randn(
        n, channels, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


NETS = {
    "plain": {},
    "patch": {"patch": 2},
    "no attention": {"heads": 0},
    "two blocks": {"blocks": 2, "multipliers": (1, 1, 2)},
    "one level": {"multipliers": (2,)},
    "conditions": {"condition_channels": {"mask": 1, "known": 2}, "classes": 4, "patch": 2},
}


def condition_for(net: UNet, x: torch.Tensor) -> dict:
    parts = {k: torch.ones(len(x), n, *x.shape[2:]) for k, n in net.condition_channels.items()}
    return parts | {"label": torch.tensor([0, 3, -1, 1, 2][: len(x)])}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_the_output_has_the_shape_of_the_image_and_starts_at_zero(options):
    net = UNet(2, **options)
    for side in (8, 16, 32):
        x = images(3, 2, side)
        out = net(x, torch.rand(3), condition_for(net, x))
        assert out.shape == x.shape
        assert not out.any()
    x = torch.randn(2, 2, 16, 24)
    assert alive(net)(x, torch.rand(2), condition_for(net, x)).shape == x.shape


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_a_gradient_reaches_every_parameter(options):
    net = alive(UNet(2, **options))
    x = images(5, 2)
    net(x, torch.rand(5), condition_for(net, x)).square().mean().backward()
    without = [
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert without == []
    if net.classes:
        # Each class, and "none", has its own row.
        assert (net.label.weight.grad.abs().sum(1) > 0).all()


def test_time_class_and_condition_change_the_output_and_stay_with_their_image():
    net = alive(UNet.lite(1, condition_channels=1, classes=3))
    x, t = images(3, 1), torch.tensor([0.1, 0.5, 0.9])
    condition = {"channels": images(3, 1) > 0, "label": torch.tensor([0, 1, 2])}
    out = net(x, t, condition)
    with torch.no_grad():
        later = net(x, t + torch.tensor([0.05, 0, 0]), condition)
        other = net(x, t, condition | {"label": torch.tensor([-1, 1, 2])})
        masked = net(x, t, condition | {"channels": ~condition["channels"]})
    for changed in (later, other):
        assert (changed[0] - out[0]).abs().max() > 1e-4
        torch.testing.assert_close(changed[1:], out[1:])
    assert (masked - out).abs().amax((1, 2, 3)).min() > 1e-4


def test_no_class_is_a_class_of_its_own():
    net = alive(UNet.lite(1, classes=2))
    x, t = images(3)[:1].expand(3, 1, 16, 16), torch.full((3,), 0.3)
    out = net(x, t, {"label": torch.tensor([0, 1, -1])})
    pairs = ((0, 1), (0, 2), (1, 2))
    assert all((out[i] - out[j]).abs().max() > 1e-4 for i, j in pairs)


def test_conditions_are_appended_in_the_order_of_the_network_and_others_left_alone():
    net = alive(UNet(1, condition_channels={"mask": 1, "known": 2}))
    x, t = images(2), torch.rand(2)
    mask, known = images(2, 1), images(2, 2)
    out = net(x, t, {"mask": mask, "known": known})
    torch.testing.assert_close(net(x, t, {"known": known, "mask": mask, "seed": None}), out)
    assert not torch.allclose(net(x, t, {"mask": known[:, :1], "known": known}), out)
    # A single condition needs no name.
    single = alive(UNet(1, condition_channels=2))
    torch.testing.assert_close(single(x, t, known), single(x, t, {"channels": known}))


def test_the_same_seed_gives_the_same_network_and_output():
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = alive(UNet.lite(3))
        outs.append(net(images(2, 3), torch.tensor([0.2, 0.8])))
    assert torch.equal(*outs)
    # Images of one batch do not mix.
    alone = net(images(2, 3)[:1], torch.tensor([0.2]))
    torch.testing.assert_close(alone, outs[0][:1])


def test_double_precision_and_channels_last_agree_with_single():
    net = alive(UNet.lite(1, condition_channels=1))
    x, c, t = images(2), images(2), torch.tensor([0.2, 0.8])
    single = net(x, t, c)
    last = {"memory_format": torch.channels_last}
    torch.testing.assert_close(net.to(**last)(x.to(**last), t, c.to(**last)), single)
    double = net.double()(x.double(), t.double(), c)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


def test_a_few_steps_learn_to_copy_an_image_scaled_by_time():
    net = UNet.lite(1)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 1, 8, 8, generator=generator)
        t = torch.rand(16, generator=generator)
        loss = (net(x, t) - x * t[:, None, None, None]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # At the start the output is zero and the loss E[t^2] = 1/3.
    assert losses[0] == pytest.approx(1 / 3, abs=0.1)
    assert sum(losses[-10:]) / 10 < 0.1


def test_time_features_are_the_time_and_pairs_of_sine_and_cosine():
    features = TimeFeatures(6)
    t = torch.tensor([0.0, 0.3, 1.0])
    found = features(t)
    assert found.shape == (3, 7)
    torch.testing.assert_close(found[:, 0], t)
    torch.testing.assert_close(found[:, 1:4].square() + found[:, 4:].square(), torch.ones(3, 3))
    torch.testing.assert_close(found[1, 4:], torch.cos(0.6 * torch.pi * features.frequencies))


def test_attention_is_that_of_torch():
    attention = Attention(16, heads=4, head_width=8, groups=8).double()
    h = images(2, 16, 4, torch.float64)
    projected = attention.project(attention.norm(h)).flatten(2).unflatten(1, (3, 4, 8))
    fused = nn.functional.scaled_dot_product_attention(*projected.transpose(-1, -2).unbind(1))
    merged = attention.merge(fused.transpose(-1, -2).flatten(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(attention(h), h + merged)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_derivatives_that_likelihoods_need():
    net = alive(UNet.lite(1)).double()
    x, t = images(1, 1, 8, torch.float64), torch.tensor([0.4], dtype=torch.float64)
    direction = torch.randn(x.shape, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return net(x, t)

    _, forward = torch.func.jvp(f, (x,), (direction,))
    step = 1e-6 * direction
    torch.testing.assert_close(forward, (f(x + step) - f(x - step)) / 2e-6, rtol=1e-5, atol=1e-7)
    jacobian = torch.func.jacrev(f)(x).reshape(64, 64)
    torch.testing.assert_close(forward.flatten(), jacobian @ direction.flatten())
    # A second derivative, for gradients of a divergence.
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((f(x) * direction).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((gradient * direction).sum(), x)
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


# --- sizes and counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": 1, "condition_channels": 1}, 212_468),
        ({"channels": 3, "condition_channels": 1}, 213_756),
        ({"channels": 1, "condition_channels": 1, "classes": 3}, 212_724),
        ({"channels": 1, "condition_channels": 1, "patch": 1}, 211_553),
        ({"channels": 3, "condition_channels": {"mask": 1, "known": 3}, "classes": 10}, None),
    ],
)
def test_parameters_of_the_lite_network(options, expected):
    found = count(UNet.lite(**options))
    assert found < 250_000
    if expected:
        assert found == expected
        assert f"{found:,}" in UNet.lite.__doc__


def test_parameters_of_the_network_of_the_paper():
    with torch.device("meta"):
        net = UNet.paper()
    assert count(net) == 237_312_019
    # What the docstring says of the implementation that the paper names.
    blocks = [m for m in net.modules() if hasattr(m, "scale_and_shift")]
    side_by_side = sum(block.scale_and_shift.weight.numel() for block in blocks)
    widths = [256, 256, 256, 512, 768, 1024]
    kernels = (16 - 9) * sum(a * b for a, b in zip(widths[:-2], widths[1:-1], strict=True))
    attended = [w for pair in zip(widths[:-1], widths[1:], strict=True) for w in pair]
    linear_attention = sum(4 * w * 4 * 32 + w + 2 * w for w in attended)
    theirs = 1000 * 256 + 256 + (256 + 1) * 1024 + (1024 + 1) * 1024
    label = theirs - net.label.weight.numel()
    stem = (49 - 9) * 6 * 256
    parts = {
        "24.6": side_by_side,
        "4.6": kernels,
        "2.5": linear_attention,
        "0.5": label,
        "0.06": stem,
    }
    for text, n in parts.items():
        assert f"({text} million)" in re.sub(r"\s+", " ", UNet.paper.__doc__)
        assert float(text) == pytest.approx(n / 1e6, abs=0.05)
    assert count(net) + sum(parts.values()) == pytest.approx(269.65e6, abs=0.01e6)


def test_the_network_of_the_paper_has_the_stated_settings():
    with torch.device("meta"):
        net = UNet.paper()
    assert [down[-1].out_channels for down in net.down] == [256, 256, 512, 768, 1024]
    assert net.stem.in_channels == 6
    assert {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)} == {8}
    assert net.time[0].frequencies.numel() * 2 == 32
    assert net.attention.heads == 4
    assert net.attention.project.out_channels == 3 * 4 * 64
    assert net.divisor == 16


@pytest.mark.parametrize(("patch", "divisor"), [(1, 4), (2, 8), (4, 16)])
def test_sizes_that_work_are_named(patch, divisor):
    net = UNet.lite(1, patch=patch)
    assert net.divisor == divisor
    net(torch.zeros(1, 1, 2 * divisor, divisor), torch.zeros(1))
    message = (
        rf"the images have {divisor} x {3 * divisor - 1} pixels, expected sides that are multiples "
        rf"of {divisor} \(near these: {divisor}, {2 * divisor}, {3 * divisor}\): crop or pad them"
    )
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(1, 1, divisor, 3 * divisor - 1), torch.zeros(1))
    with pytest.raises(ValueError, match=rf"3 x 3 pixels.*near these: {divisor}\):"):
        net(torch.zeros(1, 1, 3, 3), torch.zeros(1))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "t", "condition", "message"),
    [
        ((2, 3, 8, 8), (2,), None, r"shape \(2, 3, 8, 8\), expected \(batch, 1, height, width\)"),
        ((2, 1, 8), (2,), None, r"shape \(2, 1, 8\), expected \(batch, 1"),
        ((2, 1, 8, 8), (), None, r"times have the shape \(\), expected \(2,\), one for each image"),
        ((2, 1, 8, 8), (2, 1), None, r"times have the shape \(2, 1\), expected \(2,\)"),
        ((2, 1, 8, 8), (2,), None, "has nothing, expected mask, known, label: add mask, known, la"),
        ((2, 1, 8, 8), (2,), {"mask": (2, 1, 8, 8)}, "has mask, expected mask, known, label"),
        ((2, 1, 8, 8), (2,), (2, 1, 8, 8), "is one tensor, but the network expects mask, known"),
        (
            (2, 1, 8, 8),
            (2,),
            {"mask": (2, 2, 8, 8), "known": (2, 1, 8, 8), "label": (2,)},
            r"'mask' has the shape \(2, 2, 8, 8\), expected \(2, 1, 8, 8\): make it fit",
        ),
    ],
)
def test_inputs_that_do_not_fit(x, t, condition, message):
    net = UNet.lite(1, condition_channels={"mask": 1, "known": 1}, classes=3)
    if isinstance(condition, dict):
        condition = {name: torch.zeros(shape) for name, shape in condition.items()}
    elif condition is not None:
        condition = torch.zeros(condition)
    with pytest.raises(ValueError, match=message) as caught:
        net(torch.zeros(x), torch.zeros(t), condition)
    assert "\n" not in str(caught.value)


def test_a_condition_for_a_network_without_one():
    with pytest.raises(ValueError, match="expects none, since it has no condition channels"):
        UNet.lite(1)(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 3]), "classes go from 0 to 3, expected 0 to 2, or -1 for none"),
        (torch.tensor([-2, 1]), "classes go from -2 to 1"),
        (
            torch.tensor([0.0, 1.0]),
            r"type torch.float32, expected whole numbers of the shape \(2,\)",
        ),
        (torch.tensor([True, False]), "type torch.bool, expected whole numbers"),
        (torch.tensor([[0], [1]]), r"shape \(2, 1\) and the type torch.int64"),
    ],
)
def test_classes_that_do_not_fit(label, message):
    with pytest.raises(ValueError, match=message):
        UNet.lite(1, classes=3)(torch.zeros(2, 1, 8, 8), torch.zeros(2), {"label": label})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0, expected at least 1"),
        ({"blocks": 0}, "blocks is 0"),
        ({"patch": 0}, "patch is 0"),
        ({"groups": 0}, "groups is 0"),
        ({"condition_channels": -1}, "the channels of 'channels' is -1, expected at least 1"),
        ({"condition_channels": {"label": 1}}, "called 'label', expected another name"),
        ({"classes": -1}, "classes is -1, expected 0 for none"),
        ({"time_features": 7}, "time_features is 7, expected an even number"),
        ({"multipliers": ()}, "levels have 16 channels, expected at least one multiplier"),
        ({"width": 12}, "levels have 12, 12, 24, 24 channels, expected .* multiples of the 8 gr"),
        ({"multipliers": (1, 0)}, "levels have 16, 16, 0 channels"),
    ],
)
def test_numbers_that_make_no_network(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        UNet(**({"channels": 1} | options))
    assert "\n" not in str(caught.value)


def test_the_perceptron_is_still_here():
    assert MLP(3, 2, hidden=(4,))(torch.zeros(5, 3)).shape == (5, 2)
