"""The U-Net and the feature network: shapes, conditions, gradients, sizes, files, training."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from galflow_lite.files import share
from galflow_lite.images import PARAMETERS, hubble_patches, parametric_galaxies
from galflow_lite.networks import MLP, FeatureNetwork, UNet, train_feature_network
from galflow_lite.networks.mlp_and_unet import Attention, TimeFeatures


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def alive(net: UNet) -> UNet:
    """The network with a last layer that is not zero, as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
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
    "two blocks": {"blocks": 2, "multipliers": (1, 1, 2)},
    "one level": {"multipliers": (2,)},
    "conditions": {"condition_channels": {"mask": 1, "known": 2}, "classes": 4, "patch": 2},
}


def condition_for(net: UNet, x: torch.Tensor) -> dict:
    parts = {k: torch.ones(len(x), n, *x.shape[2:]) for k, n in net.condition_channels.items()}
    return parts | {"label": torch.tensor([0, 3, -1, 1, 2][: len(x)])}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_shapes_first_output_and_gradients(options):
    net = UNet(2, **options)
    for side in (8, 16, 32):
        x = images(3, 2, side)
        out = net(x, torch.rand(3), condition_for(net, x))
        assert out.shape == x.shape
        assert not out.any()
    x = torch.randn(5, 2, 16, 24)
    out = alive(net)(x, torch.rand(5), condition_for(net, x))
    assert out.shape == x.shape
    out.square().mean().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
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
        others = [net(x, t, condition | {"label": torch.tensor([k, 1, 2])}) for k in (-1, 1, 2)]
        masked = net(x, t, condition | {"channels": ~condition["channels"]})
    for changed in (later, *others):
        assert (changed[0] - out[0]).abs().max() > 1e-4
        torch.testing.assert_close(changed[1:], out[1:])
    assert (masked - out).abs().amax((1, 2, 3)).min() > 1e-4
    # Images of one batch do not mix.
    alone = net(x[:1], t[:1], {name: part[:1] for name, part in condition.items()})
    torch.testing.assert_close(alone, out[:1])


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
    for wrong in (mask, {"mask": mask}):
        with pytest.raises((ValueError, KeyError)):
            net(x, t, wrong)


def test_images_of_other_types_and_memory_agree_with_single_precision():
    net = alive(UNet.lite(1, condition_channels=1))
    x, c, t = images(2), images(2), torch.tensor([0.2, 0.8])
    single = net(x, t, c)
    torch.testing.assert_close(net(x.double(), t.double(), c.double()), single)
    half = [v.half() for v in (x, t, c)]
    torch.testing.assert_close(net(*half), net(*(v.float() for v in half)))
    last = {"memory_format": torch.channels_last}
    torch.testing.assert_close(net.to(**last)(x.to(**last), t, c.to(**last)), single)
    double = net.double()(x.double(), t.double(), c)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


def test_time_features_are_the_time_and_pairs_of_sine_and_cosine():
    features = TimeFeatures(6)
    t = torch.tensor([0.0, 0.3, 1.0])
    found = features(t)
    assert found.shape == (3, 7)
    torch.testing.assert_close(found[:, 0], t)
    torch.testing.assert_close(found[:, 1:4].square() + found[:, 4:].square(), torch.ones(3, 3))
    torch.testing.assert_close(found[1, 4:], torch.cos(0.6 * torch.pi * features.frequencies))


def test_attention_is_that_of_torch():
    attention = Attention(16, head_width=8).double()
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


@pytest.mark.parametrize("net", [UNet.lite(1), FeatureNetwork(), MLP(3, 2, hidden=(4,))])
def test_networks_can_be_copied_and_pickled(net):
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for a, b in zip(again.parameters(), net.parameters(), strict=True):
            assert torch.equal(a, b)


# --- sizes and counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channels": 1, "condition_channels": 1}, 212_468),
        ({"channels": 3, "condition_channels": 1}, 213_756),
        ({"channels": 1, "condition_channels": 1, "classes": 3}, 212_724),
    ],
)
def test_parameters_of_the_lite_network(options, expected):
    assert count(UNet.lite(**options)) == expected
    assert f"{expected:,}" in UNet.lite.__doc__


def test_the_network_of_the_paper():
    with torch.device("meta"):
        net = UNet.paper()
    assert [down[-1].out_channels for down in net.down] == [256, 256, 512, 768, 1024]
    assert net.stem.in_channels == 6
    assert {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)} == {8}
    assert net.time[0].frequencies.numel() * 2 == 32
    assert net.attention.project.out_channels == 3 * 4 * 64
    assert net.divisor == 16
    assert count(net) == 237_312_019


def test_images_that_do_not_fit():
    net = UNet.lite(1)
    assert net.divisor == 8
    net(torch.zeros(1, 1, 16, 8), torch.zeros(1))
    for shape in ((2, 3, 8, 8), (2, 1, 8), (2, 1, 8, 12)):
        with pytest.raises(ValueError, match=r"\(batch, 1, height, width\) .* multiples of 8"):
            net(torch.zeros(shape), torch.zeros(2))


# --- the feature network ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (64, 64)])
def test_any_size_from_16_pixels_gives_64_features(size):
    network = FeatureNetwork.shipped()
    assert not network.training
    assert f"{count(network):,} weights" in FeatureNetwork.__doc__
    features = network(torch.zeros(3, 1, *size, dtype=torch.float64))
    assert (features.shape, features.dtype) == ((3, 64), torch.float32)
    # A constant image looks the same at every size: no border is seen.
    torch.testing.assert_close(
        features[0], network(torch.zeros(1, 1, 32, 32))[0], rtol=0, atol=1e-4
    )
    with pytest.raises(ValueError, match=r"expected \(batch, 1, height, width\)"):
        network(torch.zeros(3, 3, *size))


def test_other_weights_under_the_name_of_the_shipped_are_refused(tmp_path, monkeypatch):
    path = shutil.copy(share("data") / "feature_network.safetensors", tmp_path)
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    shipped = FeatureNetwork.shipped()
    other = FeatureNetwork()
    other.save(path)
    for a, b in zip(FeatureNetwork.load(path).parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="other weights than those that ship"):
        FeatureNetwork.shipped()
    shipped.save(path)
    FeatureNetwork.shipped()
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="expected a feature network"):
        FeatureNetwork.load(path)


@torch.no_grad()
def probe(train, test, targets: str) -> torch.Tensor:
    """Prediction of numbers of test images by least squares in the features of training images."""
    network = FeatureNetwork.shipped()
    x, z = (
        torch.cat([network(s.images).double(), torch.ones(len(s), 1)], dim=1) for s in (train, test)
    )
    y = nn.functional.one_hot(train.labels) if targets == "labels" else train.targets
    return z @ torch.linalg.lstsq(x, y.double()).solution


def test_a_linear_map_of_the_features_knows_class_and_shape():
    # Neither has been seen in training: that had another seed and the training part.
    train, test = parametric_galaxies(1500, seed=1), parametric_galaxies(700, seed=2, split="test")
    found = probe(train, test, "labels").argmax(1)
    assert (found == test.labels).double().mean() > 0.97
    errors = (probe(train, test, "targets") - test.targets).square().mean(0)
    explained = 1 - errors / test.targets.double().var(0)
    known = {name: float(explained[PARAMETERS.index(name)]) for name in PARAMETERS}
    for name in ("axis ratio", "effective radius", "bulge fraction", "Sersic index"):
        assert known[name] > 0.7, known


@torch.no_grad()
def test_features_are_white_over_both_sets():
    network = FeatureNetwork.shipped()
    # Galaxies of another seed than those of the training: agreement up to sampling.
    sets = [parametric_galaxies(1500, seed=3).images, hubble_patches().images[::3]]
    values = [network(images).double() for images in sets]
    mean = sum(v.mean(0) for v in values) / 2
    covariance = sum((v - mean).T @ (v - mean) / len(v) for v in values) / 2
    assert mean.abs().max() < 0.1
    variances = torch.linalg.eigvalsh(covariance)
    assert 0.7 < variances.min()
    assert variances.max() < 1.4


def test_training_learns_and_leaves_no_trace():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    _, found = train_feature_network(steps=40, batch_size=16, galaxies=64)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert set(found) > {"accuracy", "axis ratio", "noise", "flux", "handedness"}
    # A guess explains nothing.
    assert found["concentration"] > 0.2
