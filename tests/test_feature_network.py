"""The network behind the Frechet distance: sizes, its file, its features, its training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from galflow_lite.files import share
from galflow_lite.images import PARAMETERS, hubble_patches, parametric_galaxies
from galflow_lite.networks import FeatureNetwork
from galflow_lite.networks.feature_training import train_feature_network

FILE = "feature_network.safetensors"


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (32, 32), (64, 64)])
def test_any_size_from_16_pixels_gives_64_features(size):
    network = FeatureNetwork.shipped()
    assert not network.training
    features = network(torch.zeros(3, 1, *size))
    assert features.shape == (3, 64)
    # A constant image looks the same at every size: no border is seen.
    torch.testing.assert_close(
        features[0], network(torch.zeros(1, 1, 32, 32))[0], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 32, 32), (2, 1, 15, 32), (4, 64)])
def test_other_shapes_are_refused(shape):
    message = r"images have the shape \(.*\), expected \(batch, 1, height, width\) with sides of at"
    with pytest.raises(ValueError, match=message):
        FeatureNetwork()(torch.zeros(shape))


def test_the_docstring_states_the_number_of_weights():
    weights = sum(parameter.numel() for parameter in FeatureNetwork().parameters())
    assert f"{weights:,} weights" in FeatureNetwork.__doc__


# --- its file ---------------------------------------------------------------------------------


def test_the_file_that_ships_is_small_and_is_the_one_that_is_named():
    path = share("data") / FILE
    assert path.stat().st_size < 500_000
    shipped, loaded = FeatureNetwork.shipped(), FeatureNetwork.load(path)
    for name, weight in shipped.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (FILE, "SHA256SUMS"):
        shutil.copy(share("data") / name, tmp_path)
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    return tmp_path


def test_other_weights_under_its_name_are_refused(tmp_path, monkeypatch):
    folder = data_folder(tmp_path, monkeypatch)
    FeatureNetwork.shipped()
    FeatureNetwork().save(folder / FILE)
    with pytest.raises(ValueError, match=r"has the SHA-256 \w{12}\.\.\., expected \w{12}\.\.\."):
        FeatureNetwork.shipped()
    (folder / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .* expected the weights of a"):
        FeatureNetwork.shipped()


def test_a_file_without_a_checksum_is_refused(tmp_path, monkeypatch):
    folder = data_folder(tmp_path, monkeypatch)
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(ValueError, match="SHA256SUMS beside .* has no line for it, expected one"):
        FeatureNetwork.shipped()


def test_damaged_files_and_files_of_another_kind(tmp_path):
    path = tmp_path / FILE
    network = FeatureNetwork()
    network.save(path)
    for name, weight in FeatureNetwork.load(path).state_dict().items():
        assert torch.equal(weight, network.state_dict()[name])
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        FeatureNetwork.load(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no description by galflow_lite, expected a feature netw"):
        FeatureNetwork.load(path)
    network.out = torch.nn.Linear(112, 32)
    network.save(path)
    with pytest.raises(ValueError, match="holds weights of another feature network"):
        FeatureNetwork.load(path)


# --- what its features know -------------------------------------------------------------------


@torch.no_grad()
def probe(train, test, targets: str) -> torch.Tensor:
    """Prediction of numbers of test images by least squares in the features of training images."""
    network = FeatureNetwork.shipped()
    x, z = (
        torch.cat([network(s.images).double(), torch.ones(len(s), 1)], dim=1) for s in (train, test)
    )
    y = torch.nn.functional.one_hot(train.labels) if targets == "labels" else train.targets
    return z @ torch.linalg.lstsq(x, y.double()).solution


def test_a_linear_map_of_the_features_knows_class_and_shape():
    # Neither has been seen in training: that had another seed and the training part.
    train, test = parametric_galaxies(2000, seed=1), parametric_galaxies(1000, seed=2, split="test")
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
    sets = [parametric_galaxies(3000, seed=3).images, hubble_patches().images[::2]]
    values = [network(images).double() for images in sets]
    mean = sum(v.mean(0) for v in values) / 2
    covariance = sum((v - mean).T @ (v - mean) / len(v) for v in values) / 2
    assert mean.abs().max() < 0.1
    variances = torch.linalg.eigvalsh(covariance)
    assert 0.7 < variances.min()
    assert variances.max() < 1.4


# --- its training -----------------------------------------------------------------------------


def test_training_gives_the_same_weights_again_and_leaves_no_trace():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    options = {"steps": 12, "batch_size": 16, "galaxies": 64, "progress": False}
    first, second = (train_feature_network(**options) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.accuracy == second.accuracy
    assert set(first.explained) > {"axis ratio", "noise", "flux"}


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"galaxies": 100, "batch_size": 128}])
def test_training_needs_full_batches(options):
    with pytest.raises(ValueError, match="found batches of .* expected at least 2 and no more"):
        train_feature_network(**options)
