"""Galaxy Zoo as images with classes: made-up files, and the real galaxies where they are here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from galflow_lite.images import galaxy_zoo
from galflow_lite.images.zoo import CLASSES


def written(folder: Path, x: np.ndarray, y: np.ndarray) -> Path:
    path = folder / "galaxies.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 16, 16, 3), dtype=np.uint8)
    x[:, 0, 0] = np.arange(40)[:, None]
    return x, (np.arange(40) % 6).astype(np.uint8)


def test_loading_in_colour_grey_and_smaller(tmp_path, arrays):
    x, y = arrays
    path = written(tmp_path, x, y)
    parts = {split: galaxy_zoo(path, size=16, split=split) for split in ("train", "test")}
    assert [len(part) for part in parts.values()] == [34, 6]
    numbers = torch.cat([part.flux[:, 0, 0, 0] * 255 for part in parts.values()])
    order = numbers.round().long()
    # Shuffled, and together each galaxy once.
    assert sorted(order.tolist()) == list(range(40))
    assert order.tolist() != list(range(40))
    full = torch.from_numpy(x)[order].permute(0, 3, 1, 2).float() / 255
    clipped = full.clamp(max=0.6)
    found = torch.cat([part.flux for part in parts.values()])
    torch.testing.assert_close(found, clipped, rtol=1e-4, atol=1e-6)
    labels = torch.cat([part.labels for part in parts.values()])
    assert labels.tolist() == y[order].tolist()
    small = galaxy_zoo(path, size=4, channels=1)
    assert small.images.shape == (34, 1, 4, 4)
    means = full[:34].mean(1).reshape(34, 4, 4, 4, 4).mean((2, 4)).clamp(max=0.6)
    torch.testing.assert_close(small.flux[:, 0], means, rtol=1e-4, atol=1e-6)
    # Grey files have one channel.
    grey = galaxy_zoo(written(tmp_path, x[..., 0], y), size=16)
    assert grey.images.shape == (34, 1, 16, 16)


def test_the_split_is_seeded(tmp_path, arrays):
    path = written(tmp_path, *arrays)
    labels = [galaxy_zoo(path, size=16, seed=seed).labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    few = galaxy_zoo(path, size=16, n=5)
    assert torch.equal(few.labels, labels[0][:5])


def test_a_flip_exchanges_the_spirals(tmp_path, arrays):
    galaxies = galaxy_zoo(written(tmp_path, *arrays), size=16)
    views = galaxies.augmented(copies=30, seed=0)
    old = galaxies.labels.repeat(30)
    assert galaxies.class_names == CLASSES
    for k, mirrored in ((0, 0), (1, 2), (2, 1), (3, 3), (4, 4), (5, 5)):
        assert set(views.labels[old == k].tolist()) == {k, mirrored}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 5}, "a size of 5 pixels is asked of images of 16 x 16, expected a divisor of 16"),
        ({"size": 32}, "a size of 32 pixels"),
        ({"size": 0}, "a size of 0 pixels"),
        ({"size": 16, "channels": 2}, "2 channels are asked of images with 3, expected 1 or 3"),
        ({"size": 16, "split": "all"}, "no part 'all'"),
        ({"size": 16, "test_fraction": 0.0}, "40 images are to be split with a test fraction of 0"),
        ({"size": 16, "n": 35}, "35 images are asked for, expected 1 to 34 in the train part"),
        ({"size": 16, "n": 0}, "0 images are asked for"),
    ],
)
def test_options_that_do_not_fit(tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        galaxy_zoo(written(tmp_path, *arrays), **options)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, 8, 8), dtype=np.float32), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 6), dtype=np.uint8), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 8, 4), dtype=np.uint8), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.zeros(3, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.full(4, 6, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.full(4, -1)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.zeros(4)),
        (np.zeros((0, 8, 8), dtype=np.uint8), np.zeros(0, dtype=np.uint8)),
    ],
)
def test_arrays_of_another_layout(tmp_path, x, y):
    with pytest.raises(ValueError, match=r"has x with .* expected uint8 .* classes from 0 to 5"):
        galaxy_zoo(written(tmp_path, x, y), size=8)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "galaxies.npz"
    with pytest.raises(FileNotFoundError, match="there is no file .*galaxies.npz"):
        galaxy_zoo(path)
    # An array of objects is a pickle, which is never loaded.
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([{}, []], dtype=object), y=np.zeros(2, dtype=np.uint8))
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    other = io.BytesIO()
    np.savez(other, a=np.zeros(3))
    contents = (b"no archive", pickled.getvalue(), single.getvalue(), other.getvalue(), b"PK\3\4x")
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read \(\w+\), expected an .npz file"):
            galaxy_zoo(path)


# --- real galaxies ----------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_galaxies(real_data):
    path = real_data / "galaxyzoo_sdss_64_grey.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    train, test = (galaxy_zoo(path, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5664, 1000)
    counts = train.labels.bincount(minlength=6) + test.labels.bincount(minlength=6)
    assert counts.tolist() == [4645, 414, 436, 998, 56, 115]
    # The shuffle leaves both parts alike: classes to 4 standard errors.
    share = counts / 6664
    error = (share * (1 - share) / 1000).sqrt()
    assert ((test.labels.bincount(minlength=6) / 1000 - share).abs() < 4 * error).all()
    assert (train.images.min(), train.images.max()) == (-1, 1)
    # Dark as they are, the stretch brings the median galaxy pixel well above black.
    assert train.flux.median() < 0.05
    assert -0.8 < train.images.median() < -0.3


@pytest.mark.realdata
def test_real_galaxies_in_colour_and_grey_agree(real_data):
    path = real_data / "galaxyzoo_sdss_32_rgb.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    colour = galaxy_zoo(path, size=32, split="test")
    assert colour.images.shape == (1000, 3, 32, 32)
    grey = galaxy_zoo(path, size=16, channels=1, split="test")
    torch.testing.assert_close(grey.labels, colour.labels)
    same = galaxy_zoo(real_data / "galaxyzoo_sdss_64_grey.npz", size=16, split="test")
    assert torch.equal(same.labels, grey.labels)
    # The same galaxies, rounded to whole counts at another size on the way.
    assert (same.flux - grey.flux).abs().mean() < 1 / 255
