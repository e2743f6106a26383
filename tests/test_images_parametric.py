"""Parametric galaxies: statistics, parameters, independence of how many are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from galflow_lite import images
from galflow_lite.images import ImageSet, parametric, parametric_galaxies
from galflow_lite.images.parametric import _render


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
    # Standard error of either program 0.001, from eight seeds.
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


def test_the_profile_of_a_face_on_galaxy():
    # 1 - B of an exponential disc with two logarithmic arms, B of an exponential bulge a third as
    # wide; on a fine grid, where the blur of 0.8 pixels changes next to nothing.
    size, radius, pitch, phase = 512, 0.3, 0.4, 1.0
    for amplitude in (0.0, 0.8):
        parameters = np.array([[1, 0, radius, 0.4, 1, pitch, phase, amplitude, 0, 0]])
        flux = _render(np.array([1]), parameters, size=size)[0]
        axis = (np.arange(size) + 0.5) / (size / 2) - 1
        for row, column in ((256, 300), (256, 420), (330, 200), (100, 256)):
            x, y = axis[column], axis[row]
            r, theta = math.hypot(x, y), math.atan2(y, x)
            arms = math.cos(2 * (theta - math.log(r / radius + 0.05) / math.tan(pitch) - phase))
            disc = math.exp(-1.68 * r / radius) * (1 + amplitude * arms)
            bulge = 0.12 * math.exp(-5 / 3 * (r / (0.35 * radius) - 1))
            # The radius is softened by 0.001, below 1 % of the flux.
            assert flux[row, column] == pytest.approx(0.6 * disc + 0.4 * bulge, rel=0.03)


def test_the_profile_of_an_elliptical():
    # Only the Sersic bulge, here with index 3; 0.12 at the effective radius.
    parameters = np.array([[1, 0, 0.3, 1, 3, 0.4, 0, 0, 0, 0]])
    flux = _render(np.array([0]), parameters, size=512)[0]
    for r in (0.1, 0.3, 0.6):
        column = round((r + 1) * 256 - 0.5)
        r = (column + 0.5) / 256 - 1
        expected = 0.12 * math.exp(-(17 / 3) * ((r / 0.3) ** (1 / 3) - 1))
        assert flux[256, column] == pytest.approx(expected, rel=0.03)


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
    sizes = []
    render = parametric._render

    def watched(label, parameters, *, size):
        sizes.append(len(label))
        return render(label, parameters, size=size)

    monkeypatch.setattr(parametric, "_render", watched)
    parametric_galaxies(1200, 32)
    parametric_galaxies(3, 512)
    assert sizes == [512, 512, 176, 2, 1]


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
