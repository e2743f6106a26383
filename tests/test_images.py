"""Image sets: stretches, flips, the Hubble deep field, the Galaxy Zoo, drawn galaxies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import data

from galflow_lite.images import (
    ImageSet,
    Stretch,
    _render,
    galaxy_zoo,
    hubble_patches,
    parametric_galaxies,
)

# --- stretches --------------------------------------------------------------------------------

STRETCHES = [
    Stretch("linear", scale=2.0, low=-0.5, high=3.0),
    Stretch("square root", scale=0.6),
    Stretch("arcsinh", low=-0.05, high=1.2),
    Stretch("arcsinh", scale=10.0),
]


@pytest.mark.parametrize("stretch", STRETCHES, ids=str)
def test_a_stretch_and_its_inverse(stretch):
    flux = torch.linspace(stretch.low, stretch.high, 101, dtype=torch.float64)
    values = stretch(flux)
    assert (values.diff() > 0).all()
    torch.testing.assert_close(stretch.inverse(values), flux, rtol=1e-12, atol=1e-12)
    ends = torch.tensor([0.0, stretch.scale], dtype=torch.float64)
    torch.testing.assert_close(stretch(ends).tolist(), [-1.0, 1.0])
    # Fluxes outside are set to the ends; values outside go on.
    outside = torch.tensor([stretch.low - 1, stretch.high + 1], dtype=torch.float64)
    torch.testing.assert_close(stretch(outside), values[[0, -1]])
    beyond = stretch.inverse(torch.linspace(-3, 3, 61, dtype=torch.float64))
    assert (beyond.diff() > 0).all()


def test_the_values_of_a_stretch():
    assert Stretch("square root")([0.0, 0.25, 1.0]).tolist() == [-1, 0, 1]
    found = Stretch("arcsinh")([0.25]).item()
    assert found == pytest.approx(2 * math.asinh(1.5) / math.asinh(6) - 1, rel=1e-12)


# --- sets and their augmentation --------------------------------------------------------------


PLAIN = torch.arange(4 * 9.0).reshape(4, 1, 3, 3) / 36
LABELS = np.array([0, 1, 2, 1], np.uint8)
ABOUT = {"mirror": (0, 2, 1), "targets": PLAIN[:, 0, 0, :2]}
SIGNS = ImageSet(
    PLAIN, LABELS, ("round", "left", "right"), "signs", "train", Stretch("linear"), **ABOUT
)


def test_all_eight_views_come_out_and_the_classes_follow_the_mirror():
    one = SIGNS[1]
    views = one.augmented(copies=400, seed=0)
    turned = [one.images[0, 0].rot90(k) for k in range(4)]
    found = np.zeros(8, dtype=int)
    for image, label in zip(views.images[:, 0], views.labels, strict=True):
        plain = [torch.equal(image, view) for view in turned]
        flipped = [torch.equal(image, view.flip(1)) for view in turned]
        assert sum(plain + flipped) == 1
        # A turned "left" stays left, a flipped one is right.
        assert label == (1 if any(plain) else 2)
        found += plain + flipped
    # 50 expected of each of 400, standard deviation 6.6.
    assert 23 < found.min() <= found.max() < 77
    assert torch.equal(one.augmented(copies=400, seed=0).images, views.images)


# --- the Hubble deep field --------------------------------------------------------------------


def test_hubble_patches_are_the_sky_at_their_position_and_share_no_pixel():
    sky = torch.from_numpy(data.hubble_deep_field()).float() / 255
    columns = []
    for split, number in (("train", 4391), ("test", 993)):
        part = hubble_patches(split=split)
        assert len(part) == number
        columns.append(part.targets[:, 1])
        for k in (0, 500, 992):
            row, column = part.targets[k].int().tolist()
            window = sky[row : row + 32, column : column + 32].mean(2)
            torch.testing.assert_close(part[k].flux[0, 0], window, rtol=1e-4, atol=1e-6)
            # The source: bright somewhere in the central 16 x 16 pixels.
            assert window[8:24, 8:24].max() > 90 / 255
    # A patch is 32 pixels wide, and a gap of another 32 lies between the parts.
    assert columns[1].min() - columns[0].max() > 63


# --- the Galaxy Zoo ----------------------------------------------------------------


def test_galaxy_zoo_in_colour_grey_and_smaller(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, size=(40, 16, 16, 3), dtype=np.uint8)
    x[:, 0, 0] = np.arange(40)[:, None]
    y = (np.arange(40) % 6).astype(np.uint8)
    path = tmp_path / "galaxies.npz"
    np.savez(path, x=x, y=y)
    parts = [galaxy_zoo(path, size=16, split=split) for split in ("train", "test")]
    assert [len(part) for part in parts] == [34, 6]
    order = torch.cat([part.flux[:, 0, 0, 0] * 255 for part in parts]).round().long()
    # Shuffled, and together each galaxy once.
    assert sorted(order.tolist()) == list(range(40)) != order.tolist()
    full = torch.from_numpy(x)[order].permute(0, 3, 1, 2).float() / 255
    found = torch.cat([part.flux for part in parts])
    torch.testing.assert_close(found, full.clamp(max=0.6), rtol=1e-4, atol=1e-6)
    assert torch.cat([part.labels for part in parts]).tolist() == y[order].tolist()
    small = galaxy_zoo(path, size=4, channels=1)
    means = full[:34].mean(1).reshape(34, 4, 4, 4, 4).mean((2, 4)).clamp(max=0.6)
    torch.testing.assert_close(small.flux[:, 0], means, rtol=1e-4, atol=1e-6)
    # The two spirals change places in a mirror.
    assert small.mirror == (0, 2, 1, 3, 4, 5)
    assert small.class_names[1:3] == ("clockwise spiral", "anticlockwise spiral")
    # An array of objects is a pickle, which is never loaded.
    np.savez(path, x=np.array([{}, []], dtype=object), y=y[:2])
    with pytest.raises(ValueError, match="galaxies.npz cannot be read .*allow_pickle=False"):
        galaxy_zoo(path)
    for bad in ({"x": x}, {"x": x, "y": y[1:]}, {"x": x[:, 8:], "y": y}, {"x": x[:, 0, 0], "y": y}):
        np.savez(path, **bad)
        with pytest.raises(ValueError, match="galaxies.npz (cannot be read|has x of)"):
            galaxy_zoo(path, size=8)


@pytest.mark.realdata
def test_the_real_galaxies_in_colour_and_grey(real_data):
    path = real_data / "galaxyzoo_sdss_64_grey.npz"
    train, test = (galaxy_zoo(path, channels=1, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5664, 1000)
    counts = train.labels.bincount(minlength=6) + test.labels.bincount(minlength=6)
    assert counts.tolist() == [4645, 414, 436, 998, 56, 115]
    # The shuffle leaves both parts alike: classes to 4 standard errors.
    share = counts / 6664
    error = (share * (1 - share) / 1000).sqrt()
    assert ((test.labels.bincount(minlength=6) / 1000 - share).abs() < 4 * error).all()
    # Dark as they are, the stretch brings the median galaxy pixel well above black.
    assert -0.8 < train.images.median() < -0.3
    colour = real_data / "galaxyzoo_sdss_32_rgb.npz"
    grey, same = (galaxy_zoo(p, size=16, channels=1, split="test") for p in (colour, path))
    assert torch.equal(same.labels, grey.labels)
    # The same galaxies, rounded to whole counts at another size on the way.
    assert (same.flux - grey.flux).abs().mean() < 1 / 255


# --- drawn galaxies ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def galaxies() -> ImageSet:
    return parametric_galaxies(3000, seed=5)


def test_statistics_of_the_parametric_galaxies(galaxies):
    x = galaxies.images.double()
    assert x.shape == (3000, 1, 32, 32)
    # Known values of this recipe from an independent program, 4,000 images of another seed: mean
    # -0.848, standard deviation 0.346, mean square 0.840, median -0.948. The standard errors here
    # are those of the scatter between images.
    for values, known in ((x, -0.848), (x.square(), 0.840)):
        error = values.flatten(1).mean(1).std().item() / math.sqrt(len(x))
        assert values.mean().item() == pytest.approx(known, abs=0.0005 + 4 * error)
    # Standard error of either program 0.001, from eight seeds.
    assert x.std().item() == pytest.approx(0.346, abs=0.004)
    assert x.median().item() == pytest.approx(-0.948, abs=0.004)
    assert x.min().item() == pytest.approx(-1.2, abs=1e-6)
    assert x.max() < 1.15


def test_an_image_does_not_depend_on_how_many_are_drawn(galaxies):
    for n in (1, 7, 600):
        few = parametric_galaxies(n, seed=np.int64(5))
        for name in ("images", "labels", "targets"):
            assert torch.equal(getattr(few, name), getattr(galaxies, name)[:n])
    # Neither does the size change the parameters.
    assert torch.equal(parametric_galaxies(50, 64, seed=5).targets, galaxies.targets[:50])
    # Another seed or part has other galaxies; a shift by one image is caught as well.
    for other in ({"seed": 6}, {"seed": 5, "split": "test"}):
        found = parametric_galaxies(50, **other).targets[:, 0]
        assert not torch.isin(found, galaxies.targets[:, 0]).any()


# Row and column on a fine grid, where the blur of 0.8 pixels changes next to nothing.
@pytest.mark.parametrize(("row", "column"), [(256, 300), (256, 420), (330, 200), (100, 256)])
def test_profiles_of_face_on_galaxies(row, column):
    def flux(label: int, share: float, index: float, amplitude: float) -> float:
        parameters = [1, 0, 0.3, share, index, 0.4, 1.0, amplitude, 0, 0]
        return _render(np.array([label]), np.array([parameters]), size=512)[0, row, column]

    x, y = ((pixel + 0.5) / 256 - 1 for pixel in (column, row))
    r, theta = math.hypot(x, y), math.atan2(y, x)
    # The radius is softened by 0.001, below 1 % of the flux. First a disc with two logarithmic
    # arms, and an exponential bulge a third as wide.
    arms = math.cos(2 * (theta - math.log(r / 0.3 + 0.05) / math.tan(0.4) - 1.0))
    bulge = 0.12 * math.exp(-5 / 3 * (r / (0.35 * 0.3) - 1))
    for amplitude in (0.0, 0.8):
        disc = math.exp(-1.68 * r / 0.3) * (1 + amplitude * arms)
        assert flux(1, 0.4, 1, amplitude) == pytest.approx(0.6 * disc + 0.4 * bulge, rel=0.03)
    # An elliptical is the Sersic bulge alone, here of index 3; 0.12 at the effective radius.
    elliptical = 0.12 * math.exp(-(17 / 3) * ((r / 0.3) ** (1 / 3) - 1))
    assert flux(0, 1, 3, 0) == pytest.approx(elliptical, rel=0.03)


def test_shape_and_centre_of_a_rendered_galaxy():
    # Edge-on, along the diagonal, off centre.
    parameters = np.array([[0.2, math.pi / 4, 0.3, 0.2, 1, 0.4, 0, 0, 0.1, -0.05]])
    flux = _render(np.array([2]), parameters, size=64)[0]
    axis = (np.arange(64) + 0.5) / 32 - 1
    weight = flux / flux.sum()
    x, y = (weight * axis).sum(), (weight * axis[:, None]).sum()
    assert (x, y) == pytest.approx((0.1, -0.05), abs=0.02)
    dx, dy = axis[None] - x, axis[:, None] - y
    xx, yy, xy = ((weight * a).sum() for a in (dx * dx, dy * dy, dx * dy))
    assert xy / math.sqrt(xx * yy) > 0.7
