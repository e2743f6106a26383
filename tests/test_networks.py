"""The U-Net and the feature network: shapes, conditions, gradients, sizes, files, training."""

from __future__ import annotations

import runpy
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from galflow_lite.files import share, write_state
from galflow_lite.images import PARAMETERS, hubble_patches, parametric_galaxies
from galflow_lite.interpolants import shipped
from galflow_lite.networks import FEATURE_FILE, FEATURE_KIND, Attention, FeatureNetwork, UNet


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def alive(net: UNet) -> UNet:
    """The network with a last layer that is not zero, as after some training."""
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
    "one level": {"multipliers": (2,)},
    "two blocks": {"blocks": 2, "multipliers": (1, 1, 2)},
    "conditions": {"condition_channels": {"mask": 1, "known": 2}, "classes": 4, "patch": 2},
}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_shapes_first_output_and_gradients(options):
    net = UNet(2, **options)
    x = torch.randn(5, 2, 16, 24)
    condition = {k: torch.ones(5, n, 16, 24) for k, n in net.condition_channels.items()}
    if net.classes:
        condition["label"] = torch.tensor([0, 3, -1, 1, 2])
    assert not net(x, torch.rand(5), condition).any()
    out = alive(net)(x, torch.rand(5), condition)
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
    # Other types count as the network's own.
    doubles = [v.double() for v in (x, t, condition["channels"])]
    again = net(*doubles[:2], {"channels": doubles[2], "label": condition["label"].int()})
    torch.testing.assert_close(again, out)


def test_conditions_are_appended_in_the_order_of_the_network_and_others_refused():
    net = alive(UNet(1, condition_channels={"mask": 1, "known": 2}))
    x, t, mask, known = images(2), torch.rand(2), images(2, 1), images(2, 2)
    out = net(x, t, {"mask": mask, "known": known})
    torch.testing.assert_close(net(x, t, {"known": known, "mask": mask}), out)
    assert not torch.allclose(net(x, t, {"mask": known[:, :1], "known": known}), out)
    # A single condition needs no name.
    single = alive(UNet(1, condition_channels=2))
    torch.testing.assert_close(single(x, t, known), single(x, t, {"channels": known}))
    for wrong in ({"mask": mask}, {"mask": mask, "known": known, "lable": t}, known, None):
        with pytest.raises(ValueError, match=r"holds .*, expected \['mask', 'known'\]: corr"):
            net(x, t, wrong)
    with pytest.raises(ValueError, match=r"holds \['label'\], expected \[\]"):
        UNet(1)(x, t, {"label": t})


def test_attention_is_that_of_torch():
    attention = Attention(16, head_width=8).double()
    h = images(2, 16, 4, torch.float64)
    projected = attention.project(attention.norm(h)).flatten(2).unflatten(1, (3, 4, 8))
    fused = nn.functional.scaled_dot_product_attention(*projected.transpose(-1, -2).unbind(1))
    merged = attention.merge(fused.transpose(-1, -2).flatten(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(attention(h), h + merged)


# The feature network


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (64, 64)])
def test_any_size_from_16_pixels_gives_64_features(size):
    network = FeatureNetwork.shipped()
    assert not network.training
    assert f"{count(network):,} weights" in FeatureNetwork.__doc__
    features = network(torch.zeros(3, 1, *size, dtype=torch.float64))
    # A constant image looks the same at every size: no border is seen.
    other = network(torch.zeros(3, 1, 32, 32))
    torch.testing.assert_close(features, other, rtol=0, atol=1e-4)
    assert features.shape == (3, 64)
    with pytest.raises(ValueError, match=r"expected \(batch, 1, height, width\)"):
        network(torch.zeros(3, 3, *size))


def test_other_weights_under_the_name_of_the_shipped_are_refused(tmp_path, monkeypatch):
    for name in ("feature_network.safetensors", "SHA256SUMS"):
        shutil.copy(share("data") / name, tmp_path)
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    own, other = FeatureNetwork.shipped(), FeatureNetwork()
    write_state(path := tmp_path / FEATURE_FILE, {"weights": other.state_dict()}, kind=FEATURE_KIND)
    with pytest.raises(ValueError, match="is not the file that data/SHA256SUMS names"):
        FeatureNetwork.shipped()
    write_state(path, {"weights": own.state_dict()}, kind=FEATURE_KIND)
    FeatureNetwork.shipped()


@torch.no_grad()
def test_features_are_white_over_both_sets_and_know_class_and_shape():
    network = FeatureNetwork.shipped()
    # Galaxies of other seeds and parts than those of the training: agreement up to sampling.
    train, test = parametric_galaxies(900, seed=1), parametric_galaxies(500, seed=2, split="test")
    x, z, patches = (
        network(part).double() for part in (train.images, test.images, hubble_patches().images[::4])
    )
    mean = (x.mean(0) + patches.mean(0)) / 2
    covariance = sum((v - mean).T @ (v - mean) / len(v) for v in (x, patches)) / 2
    assert mean.abs().max() < 0.1
    # Unit variances scatter by d / n (Marchenko and Pastur); the extremes of 64 by far more.
    variances = torch.linalg.eigvalsh(covariance)
    scatter = len(mean) * (1 / len(x) + 1 / len(patches)) / 4
    assert (variances - 1).square().mean() < 1.5 * scatter
    # Least squares in the features: class, and the numbers that a galaxy was drawn with.
    x, z = (torch.cat([v, torch.ones(len(v), 1)], dim=1) for v in (x, z))
    labels = nn.functional.one_hot(train.labels).double()
    y = torch.cat([labels, train.targets.double()], dim=1)
    chance, found = (z @ torch.linalg.lstsq(x, y).solution).tensor_split([labels.shape[1]], dim=1)
    assert (chance.argmax(1) == test.labels).double().mean() > 0.97
    explained = 1 - (found - test.targets).square().mean(0) / test.targets.double().var(0)
    known = {name: float(explained[PARAMETERS.index(name)]) for name in PARAMETERS}
    for name in ("axis ratio", "effective radius", "bulge fraction", "Sersic index"):
        assert known[name] > 0.7, known


def test_the_shipped_weights_can_be_made_anew(monkeypatch, tmp_path, capsys):
    made = runpy.run_path(str(share("data") / "make_weights.py"))
    few = {"hubble_patches": lambda *_, **options: hubble_patches(**options)[::8]}
    monkeypatch.setattr("sys.argv", ["make_weights.py", "--folder", str(tmp_path), "--steps", "3"])
    for name in ("main", "train_feature_network", "train_velocities", "_held_out"):
        made[name].__globals__.update(few)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    made["main"]()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert "'accuracy'" in capsys.readouterr().out
    for name in (FEATURE_FILE, shipped.FILE):
        there, here = (load_file(folder / name) for folder in (share("data"), tmp_path))
        assert {k: v.shape for k, v in there.items()} == {k: v.shape for k, v in here.items()}
    _, found = made["train_feature_network"](steps=40, batch_size=16, galaxies=64)
    assert set(found) > {"accuracy", "axis ratio", "noise", "flux", "handedness"}
    # After one step -1.2 +- 0.2, after 40 0.8 +- 0.2 over seeds.
    assert found["size"] + found["concentration"] > -0.2
