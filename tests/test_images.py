"""Image sets: stretches, flips, the Hubble deep field, parametric galaxies, digits."""

from __future__ import annotations

import math
import socket
from importlib.metadata import files

import numpy as np
import pytest
import torch
from skimage import data

from galflow_lite import images
from galflow_lite.images import ImageSet, Stretch, digits, hubble_patches, parametric_galaxies
from galflow_lite.images.parametric import _render

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


# --- parametric galaxies ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def galaxies() -> ImageSet:
    return parametric_galaxies(3000, seed=5)


def test_statistics_of_the_parametric_galaxies(galaxies):
    x = galaxies.images.double()
    assert x.shape == (3000, 1, 32, 32)
    # Known values of this recipe from an independent program, 4,000 images of another seed: mean
    # -0.848, standard deviation 0.346, mean square 0.840, median -0.948; of means of 2 x 2 pixels,
    # mean square 0.831. The standard errors here, from the scatter between images:
    per_image = x.flatten(1)
    error = per_image.mean(1).std().item() / math.sqrt(len(x))
    error_square = per_image.square().mean(1).std().item() / math.sqrt(len(x))
    assert x.mean().item() == pytest.approx(-0.848, abs=0.0005 + 4 * error)
    assert x.square().mean().item() == pytest.approx(0.840, abs=0.0005 + 4 * error_square)
    assert x.std().item() == pytest.approx(0.346, abs=0.004)
    assert x.median().item() == pytest.approx(-0.948, abs=0.004)
    assert x.min().item() == pytest.approx(-1.2, abs=1e-6)
    assert x.max() < 1.15
    small = galaxies.binned(2).images.double()
    assert small.shape[2:] == (16, 16)
    assert small.square().mean().item() == pytest.approx(0.831, abs=0.0005 + 4 * error_square)


def test_an_image_does_not_depend_on_how_many_are_drawn(galaxies):
    for n in (1, 7, 600):
        few = parametric_galaxies(n, seed=5)
        assert torch.equal(few.images, galaxies.images[:n])
        assert torch.equal(few.labels, galaxies.labels[:n])
        assert torch.equal(few.targets, galaxies.targets[:n])


def test_seeds_parts_and_images_differ(galaxies):
    sets = [galaxies[:50], parametric_galaxies(50, seed=6), parametric_galaxies(50, seed=5)]
    sets.append(parametric_galaxies(50, seed=5, split="test"))
    assert torch.equal(sets[0].images, sets[2].images)
    for other in (sets[1], sets[3]):
        # A shift by one image is caught as well.
        assert not np.isin(other.targets[:, 0].numpy(), galaxies.targets[:, 0].numpy()).any()
    assert len(galaxies.images[:, 0, 0, 0].unique()) > 1000
    # Neither does the size change the parameters.
    large = parametric_galaxies(50, 64, seed=5)
    assert torch.equal(large.targets, sets[0].targets)


def test_the_parameters_are_those_of_the_recipe(galaxies):
    named = dict(zip(images.PARAMETERS, galaxies.targets.T.numpy(), strict=True))
    label = galaxies.labels.numpy()
    # 1,000 of each expected, standard deviation 26.
    assert np.bincount(label).min() > 890
    ranges = {
        ("axis ratio", 0): (0.6, 1),
        ("axis ratio", 1): (0.55, 1),
        ("axis ratio", 2): (0.12, 0.3),
        ("effective radius", None): (0.18, 0.38),
        ("position angle", None): (0, math.pi),
        ("arm phase", None): (0, 2 * math.pi),
        ("bulge fraction", 1): (0.1, 0.5),
        ("bulge fraction", 2): (0.1, 0.5),
        ("Sersic index", 0): (2.5, 4),
        ("arm amplitude", 1): (0.5, 0.95),
    }
    for (name, k), (low, high) in ranges.items():
        values = np.sort(named[name] if k is None else named[name][label == k])
        assert values[0] >= np.float32(low)
        assert values[-1] <= np.float32(high)
        # Uniform: Kolmogorov and Smirnov, far beyond the one in a thousand at 1.95.
        steps = np.arange(len(values)) / len(values)
        assert np.abs((values - low) / (high - low) - steps).max() * math.sqrt(len(values)) < 2.2
    for name, k, value in (
        ("bulge fraction", 0, 1),
        ("Sersic index", 1, 1),
        ("Sersic index", 2, 1),
        ("arm amplitude", 0, 0),
        ("arm amplitude", 2, 0),
    ):
        assert (named[name][label == k] == value).all()
    pitch = named["pitch angle"]
    assert 0.25 - 1e-6 <= np.abs(pitch).min() <= np.abs(pitch).max() <= 0.55 + 1e-6
    assert 0.45 < (pitch > 0).mean() < 0.55
    for name in ("x offset", "y offset"):
        assert named[name].std() == pytest.approx(0.04, rel=0.06)
    # One draw does not decide another.
    correlation = np.corrcoef(galaxies.targets[galaxies.labels == 1][:, [0, 1, 2, 3, 5, 6]].T)
    assert np.abs(correlation - np.eye(6)).max() < 0.15


def test_a_mirrored_galaxy_is_the_galaxy_of_mirrored_parameters(galaxies):
    some = galaxies[:40]
    parameters = some.targets.double().numpy()
    mirrored = parameters.copy()
    for name in ("position angle", "pitch angle", "arm phase", "x offset"):
        mirrored[:, images.PARAMETERS.index(name)] *= -1
    plain = _render(some.labels.numpy(), parameters, size=32)
    flipped = _render(some.labels.numpy(), mirrored, size=32)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-12)
    # The handedness of a spiral is seen: the flip alone is not the same image.
    spirals = some.labels.numpy() == 1
    assert np.abs(flipped - plain)[spirals].max(axis=(1, 2)).min() > 0.05


def test_shape_and_centre_of_a_rendered_galaxy():
    # Edge-on, along the diagonal, off centre.
    parameters = np.array([[0.2, math.pi / 4, 0.3, 0.2, 1, 0.4, 0, 0, 0.1, -0.05]])
    flux = _render(np.array([2]), parameters, size=64)[0]
    axis = (np.arange(64) + 0.5) / 32 - 1
    weight = flux / flux.sum()
    x, y = (weight * axis).sum(), (weight * axis[:, None]).sum()
    assert x == pytest.approx(0.1, abs=0.02)
    assert y == pytest.approx(-0.05, abs=0.02)
    dx, dy = axis[None] - x, axis[:, None] - y
    xx, yy, xy = ((weight * a).sum() for a in (dx * dx, dy * dy, dx * dy))
    assert xy / math.sqrt(xx * yy) > 0.7


def test_memory_is_bounded_by_pieces(monkeypatch):
    from galflow_lite.images import parametric

    sizes = []
    render = parametric._render

    def watched(label, parameters, *, size):
        sizes.append(len(label))
        return render(label, parameters, size=size)

    monkeypatch.setattr(parametric, "_render", watched)
    parametric_galaxies(1200, 8)
    assert sizes == [512, 512, 176]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0, expected at least 1"),
        ({"n": 2, "size": 4}, "size is 4, expected at least 8"),
        ({"n": 2, "seed": -1}, "seed is -1, expected at least 0"),
        ({"n": 2, "split": "both"}, "no part 'both'"),
    ],
)
def test_galaxies_that_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        parametric_galaxies(**arguments)


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
    from sklearn.datasets import load_digits

    whole = torch.from_numpy(load_digits().data).float() / 8 - 1
    assert sorted(both.tolist()) == sorted(whole.tolist())
    assert torch.equal(digits().labels, train.labels)
    assert not torch.equal(digits(seed=1).labels, train.labels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1e-5])
def test_digits_need_both_parts(fraction):
    with pytest.raises(ValueError, match="1797 images are to be split .* that leaves images in bo"):
        digits(test_fraction=fraction)
