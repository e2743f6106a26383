"""Image sets: stretches, flips, the Hubble deep field, digits."""

from __future__ import annotations

import math
import socket
from importlib.metadata import files

import numpy as np
import pytest
import torch
from skimage import data
from sklearn.datasets import load_digits

from galflow_lite import images
from galflow_lite.images import ImageSet, Stretch, digits, hubble_patches

# --- stretches --------------------------------------------------------------------------------

STRETCHES = [
    Stretch("linear"),
    Stretch("linear", scale=2.0, low=-0.5, high=3.0),
    Stretch("square root"),
    Stretch("square root", scale=0.6),
    Stretch("arcsinh", low=-0.05, high=1.2),
    Stretch("arcsinh", scale=10.0, softening=100.0),
]


@pytest.mark.parametrize("stretch", STRETCHES, ids=str)
def test_a_stretch_and_its_inverse(stretch):
    flux = torch.linspace(stretch.low, stretch.high, 101, dtype=torch.float64)
    values = stretch(flux)
    assert (values.diff() > 0).all()
    torch.testing.assert_close(stretch.inverse(values), flux, rtol=1e-12, atol=1e-12)
    ends = torch.tensor([0.0, stretch.scale], dtype=torch.float64)
    torch.testing.assert_close(stretch(ends), torch.tensor([-1.0, 1.0], dtype=torch.float64))
    # Fluxes outside are set to the ends; values outside go on.
    outside = torch.tensor([stretch.low - 1, stretch.high + 1], dtype=torch.float64)
    torch.testing.assert_close(stretch(outside), values[[0, -1]])
    beyond = stretch.inverse(torch.linspace(-3, 3, 61, dtype=torch.float64))
    assert (beyond.diff() > 0).all()


def test_the_values_of_a_stretch():
    flux = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert Stretch("square root")(flux).tolist() == [-1, 0, 1]
    found = Stretch("arcsinh", softening=6.0)(flux)[1].item()
    assert found == pytest.approx(2 * math.asinh(1.5) / math.asinh(6) - 1, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "log"}, "no stretch 'log', expected one of linear, square root, arcsinh"),
        ({"kind": "linear", "scale": 0.0}, "found scale 0.0, .* expected positive numbers"),
        ({"kind": "linear", "low": 2.0}, "fluxes from 2.0 to 1.0, expected .* below the high one"),
        ({"kind": "arcsinh", "softening": -1.0}, "softening -1.0"),
        ({"kind": "square root", "low": -0.1}, "start at the flux -0.1, expected 0 or more"),
    ],
)
def test_numbers_that_make_no_stretch(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stretch(**arguments)


# --- sets and their augmentation --------------------------------------------------------------


def small_set(**changes) -> ImageSet:
    values = {
        "images": torch.arange(4 * 9.0).reshape(4, 1, 3, 3) / 36,
        "labels": torch.tensor([0, 1, 2, 1]),
        "class_names": ("round", "left", "right"),
        "name": "signs",
        "split": "train",
        "stretch": Stretch("linear"),
        "mirror": (0, 2, 1),
    }
    return ImageSet(**(values | changes))


def test_the_repr_says_what_a_set_is():
    assert repr(small_set()) == (
        "<ImageSet signs, train: 4 images, 1 x 3 x 3, values 0.00 to 0.97; round 1, left 2, "
        "right 1; linear of fluxes 0 to 1 (1 at 1)>"
    )
    assert repr(small_set()[:0]) == (
        "<ImageSet signs, train: 0 images, 1 x 3 x 3; round 0, left 0, right 0; linear of fluxes "
        "0 to 1 (1 at 1)>"
    )


def test_parts_of_a_set():
    full = small_set(targets=torch.arange(8.0).reshape(4, 2), target_names=("a", "b"))
    assert (len(full), full.shape) == (4, (1, 3, 3))
    for rows in (slice(1, 3), torch.tensor([1, 2]), full.labels.cumsum(0) % 3 == 1):
        part = full[rows]
        assert part.labels.tolist() == full.labels[rows].tolist()
        assert torch.equal(part.images, full.images[rows])
        assert torch.equal(part.targets, full.targets[rows])
    assert torch.equal(full[-1].images, full.images[3:])


def test_binning_averages_the_flux():
    stretch = Stretch("square root")
    flux = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    binned = small_set(images=stretch(flux), labels=torch.tensor([0, 1]), stretch=stretch).binned(2)
    expected = flux.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(binned.flux, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="of 3 x 3 pixels are to be averaged in squares of 2, exp"):
        small_set().binned(2)


def test_all_eight_views_come_out_and_the_classes_follow_the_mirror():
    one = small_set()[1]
    views = one.augmented(copies=400, seed=0)
    assert len(views) == 400
    turned = [one.images[0, 0].rot90(k) for k in range(4)]
    found = np.zeros(8, dtype=int)
    for image, label in zip(views.images[:, 0], views.labels, strict=True):
        plain = [torch.equal(image, view) for view in turned]
        flipped = [torch.equal(image, view.flip(1)) for view in turned]
        assert sum(plain + flipped) == 1
        # A turned "left" stays left, a flipped one is right.
        assert label == (1 if any(plain) else 2)
        found += plain + flipped
    # 50 expected of each, standard deviation 6.6.
    assert found.min() > 23
    assert found.max() < 77


def test_rotations_alone_keep_every_class():
    turned = small_set().augmented(copies=50, seed=1, flips=False)
    assert torch.equal(turned.labels, small_set().labels.repeat(50))
    assert len({tuple(image.flatten().tolist()) for image in turned.images}) == 4 * 4


def test_augmentation_is_seeded():
    views = [small_set().augmented(copies=5, seed=seed).images for seed in (3, 3, 4)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    generator = torch.Generator().manual_seed(3)
    first, _ = images.flip_and_rotate(small_set().images.repeat(5, 1, 1, 1), seed=generator)
    assert torch.equal(first, views[0])
    again, _ = images.flip_and_rotate(small_set().images.repeat(5, 1, 1, 1), seed=generator)
    assert not torch.equal(again, first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 3, 3)}, r"images of signs have the shape \(4, 3, 3\), expected"),
        ({"images": torch.full((4, 1, 3, 3), torch.nan)}, "and finite values"),
        ({"labels": torch.tensor([0, 1])}, "labels of signs do not fit, expected 4 of them"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "between 0 and 2"),
        ({"split": "validation"}, "no part 'validation', expected 'train' or 'test'"),
        ({"targets": torch.zeros(4, 1)}, "targets of signs do not fit, expected the shape None"),
        ({"target_names": ("a",)}, r"expected the shape \(4, 1\) for a"),
    ],
)
def test_a_set_that_does_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        small_set(**changes)


def test_what_cannot_be_augmented():
    with pytest.raises(ValueError, match="of digits are to be turned, expected a set that has no"):
        digits().augmented(seed=0)
    with pytest.raises(ValueError, match="found 0 copies, expected at least 1"):
        small_set().augmented(copies=0, seed=0)
    with pytest.raises(ValueError, match="only square images can be turned"):
        images.flip_and_rotate(torch.zeros(2, 1, 3, 4), seed=0)


# --- the Hubble deep field --------------------------------------------------------------------


def test_the_picture_is_in_the_wheel_and_needs_no_connection(monkeypatch):
    assert any(str(file).endswith("data/hubble_deep_field.jpg") for file in files("scikit-image"))

    def refused(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert len(hubble_patches(split="test")) > 900


@pytest.mark.parametrize(
    "options", [{}, {"size": 48, "stride": 4}, {"gap": 0}, {"test_fraction": 0.5, "gap": 100}]
)
def test_training_and_test_patches_share_no_pixel(options):
    size = options.get("size", 32)
    seen = {}
    for split in ("train", "test"):
        seen[split] = np.zeros((872, 1000), dtype=bool)
        patches = hubble_patches(**options, split=split)
        assert patches.target_names == ("row", "column")
        for row, column in patches.targets.int().tolist():
            seen[split][row : row + size, column : column + size] = True
    assert not (seen["train"] & seen["test"]).any()
    edges = np.flatnonzero(seen["train"].any(0)).max(), np.flatnonzero(seen["test"].any(0)).min()
    assert edges[1] - edges[0] > options.get("gap", 32)


def test_patches_are_the_sky_at_their_position():
    sky = torch.from_numpy(data.hubble_deep_field()).float() / 255
    for channels in (1, 3):
        patches = hubble_patches(split="test", channels=channels)
        assert patches.images.shape == (993, channels, 32, 32)
        assert patches.images.dtype == torch.float32
        for k in (0, 500, 992):
            row, column = patches.targets[k].int().tolist()
            window = sky[row : row + 32, column : column + 32].permute(2, 0, 1)
            window = window if channels == 3 else window.mean(0, keepdim=True)
            torch.testing.assert_close(patches[k].flux[0], window, rtol=1e-4, atol=1e-6)
            # The source: bright somewhere in the central 16 x 16 pixels.
            assert window.mean(0)[8:24, 8:24].max() > 90 / 255


def test_numbers_of_the_patches():
    train, test = (hubble_patches(split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4391, 993)
    for text in ("4,391 training", "993 test"):
        assert text in hubble_patches.__doc__
    assert -1 <= train.images.min() < train.images.max() <= 1
    # A stretch is needed: half of the pixels are fainter than a tenth of the largest flux.
    assert train.flux.median() < 0.1
    assert train.images.median() > -0.7
    assert len(hubble_patches(threshold=200.0)) < len(train) < len(hubble_patches(threshold=50.0))


def test_another_stretch_of_the_patches():
    stretch = Stretch("arcsinh", softening=10.0)
    plain, other = hubble_patches(split="test"), hubble_patches(split="test", stretch=stretch)
    assert other.stretch == stretch
    torch.testing.assert_close(other.flux, plain.flux, rtol=1e-4, atol=1e-5)
    assert (other.images - plain.images).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "all"}, "no part 'all', expected 'train' or 'test'"),
        ({"size": 0}, "size is 0, expected at least 1"),
        ({"stride": 0}, "stride is 0"),
        ({"gap": -1}, r"gap \+ 1 is 0"),
        ({"channels": 2}, r"found 2 channels, expected 1 \(grey\) or 3 \(colour\)"),
        ({"test_fraction": 1.0}, "test fraction is 1.0, expected a number between 0 and 1"),
        ({"size": 300, "split": "test"}, "patches of 300 pixels are to be cut from 200 columns"),
        ({"gap": 900}, "from 0 columns of the sky"),
        ({"threshold": 300.0}, "no patch has a source above 300.0"),
    ],
)
def test_patches_that_cannot_be_cut(options, message):
    with pytest.raises(ValueError, match=message):
        hubble_patches(**options)


# --- digits -----------------------------------------------------------------------------------


def test_digits():
    train, test = (digits(split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == (1, 8, 8)
    assert (train.images.min(), train.images.max()) == (-1, 1)
    assert train.class_names == tuple("0123456789")
    assert len(train.labels.unique()) == 10
    # Together they are the whole set, each image once.
    both = torch.cat((train.images, test.images)).flatten(1)
    whole = torch.from_numpy(load_digits().data).float() / 8 - 1
    assert sorted(both.tolist()) == sorted(whole.tolist())
    assert torch.equal(digits().labels, train.labels)
    assert not torch.equal(digits(seed=1).labels, train.labels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1e-5])
def test_digits_need_both_parts(fraction):
    with pytest.raises(ValueError, match="1797 images are to be split .* that leaves images in bo"):
        digits(test_fraction=fraction)
