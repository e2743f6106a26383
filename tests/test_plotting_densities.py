"""Densities, samples and clusters in the plane: what is drawn is what was given."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from galflow_lite import plotting

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def axis():
    with matplotlib.rc_context({"backend": "Agg"}):
        plotting.use_style()
        figure, axis = plt.subplots()
        yield axis
        figure.canvas.draw()
        plt.close("all")


def normal(x):
    """Standard normal around (1, 0)."""
    return -0.5 * ((x[:, 0] - 1) ** 2 + x[:, 1] ** 2) - math.log(2 * math.pi)


def labelled(axis):
    return axis.get_xlabel(), axis.get_ylabel(), axis.get_aspect()


# ---- density_map ------------------------------------------------------------------------------


def test_a_density_is_drawn_at_the_centres_of_the_pixels(axis):
    image = plotting.density_map(axis, normal, half_width=4.0, pixels=40, decades=20.0)
    drawn = np.asarray(image.get_array())
    edges = np.linspace(-4, 4, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    first, second = np.meshgrid(centres, centres)
    wanted = -((first - 1) ** 2 + second**2) / 2 / math.log(10) - math.log10(2 * math.pi)
    np.testing.assert_allclose(drawn, wanted, atol=1e-5)
    # A tenth of a unit is a pixel: the integral of what is drawn is 1.
    assert (10.0**drawn).sum() * 0.2**2 == pytest.approx(1, abs=2e-3)
    assert image.get_extent() == [-4, 4, -4, 4]
    assert image.origin == "lower"
    assert labelled(axis) == ("$x_1$", "$x_2$", 1.0)


def test_the_colours_span_the_decades_below_the_peak(axis):
    image = plotting.density_map(axis, normal, half_width=9.0, pixels=30, decades=4.0)
    low, high = image.get_clim()
    drawn = np.asarray(image.get_array())
    assert high - low == pytest.approx(4.0)
    assert high == drawn.max()
    assert (drawn == low).any()
    assert plotting.density_map(axis, normal, half_width=1.0, peak=0.5).get_clim() == (-5.5, 0.5)


def test_no_density_has_the_palest_colour(axis):
    def half(x):
        return torch.where(x[:, 0] < 0, -math.inf, 0.0)

    image = plotting.density_map(axis, half, half_width=1.0, pixels=4, decades=3.0)
    assert np.array_equal(image.get_array(), [[-3, -3, 0, 0]] * 4)


def test_models_and_targets_can_be_drawn_as_they_are(axis):
    flow = torch.nn.Linear(2, 1)
    plotting.density_map(axis, lambda x: flow(x)[:, 0], half_width=1.0, pixels=4)
    plotting.density_map(axis, lambda x: normal(x.numpy()), half_width=1.0, pixels=4)


@pytest.mark.parametrize(
    ("log_prob", "settings", "message"),
    [
        (lambda x: x, {}, r"gave the shape \(16, 2\) for 16 points, expected one value a point"),
        (lambda x: x[:, 0] * math.nan, {}, "NaN or .inf at 16 of 16 points, expected densities"),
        (lambda x: x[:, 0].sign() * math.inf, {}, "NaN or .inf at 8 of 16 points"),
        (lambda x: x[:, 0] * 0 - math.inf, {}, "-inf everywhere within half_width=1"),
        (normal, {"half_width": 0.0}, "found half_width=0.0, expected a number above 0"),
        (normal, {"pixels": 0}, "found pixels=0"),
        (normal, {"decades": math.nan}, "found decades=nan"),
    ],
)
def test_densities_refuse(axis, log_prob, settings, message):
    with pytest.raises(ValueError, match=message):
        plotting.density_map(axis, log_prob, **{"half_width": 1.0, "pixels": 4, **settings})


# ---- sample_map -------------------------------------------------------------------------------


def test_a_sample_is_drawn_as_its_density(axis):
    samples = torch.tensor([[0.5, 1.5], [0.5, 1.5], [-1.5, 0.5], [50.0, 0.0]])
    image = plotting.sample_map(axis, samples, half_width=2.0, bins=4)
    drawn = image.get_array().filled(np.nan)
    wanted = np.full((4, 4), np.nan)
    wanted[3, 2], wanted[2, 0] = math.log10(2 / 4), math.log10(1 / 4)
    np.testing.assert_allclose(drawn, wanted)
    assert image.origin == "lower"
    assert image.get_extent() == [-2, 2, -2, 2]
    assert labelled(axis) == ("$x_1$", "$x_2$", 1.0)


def test_a_sample_and_its_density_have_the_same_scale_and_look(axis):
    samples = np.random.default_rng(0).normal(size=(200_000, 2)) + [1, 0]
    density = plotting.density_map(axis, normal, half_width=1.0, pixels=10)
    sample = plotting.sample_map(axis, samples, half_width=1.0, bins=10, peak=density.norm.vmax)
    assert sample.get_clim() == density.get_clim()
    assert sample.get_cmap() == density.get_cmap()
    per_density = len(samples) * 0.2**2
    counts, expected = (10.0 ** each.get_array() * per_density for each in (sample, density))
    assert np.abs((counts - expected) / np.sqrt(expected)).max() < 5


@pytest.mark.parametrize(
    ("samples", "settings", "message"),
    [
        (np.zeros((3, 3)), {}, r"found points of shape \(3, 3\) with 0 values that are not finite"),
        (np.zeros(3), {}, r"shape \(3,\)"),
        (np.zeros((0, 2)), {}, r"shape \(0, 2\)"),
        (np.full((3, 2), np.nan), {}, "with 6 values that are not finite"),
        (np.full((3, 2), 9.0), {}, "found none of 3 samples within half_width=1, expected some"),
        (np.zeros((3, 2)), {"bins": -1}, "found bins=-1"),
    ],
)
def test_samples_refuse(axis, samples, settings, message):
    with pytest.raises(ValueError, match=message):
        plotting.sample_map(axis, samples, **{"half_width": 1.0, **settings})


# ---- clusters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_every_cluster_is_drawn_with_its_number(axis, kind):
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.4, 0.1], [5.0, 5.0], [6.0, 6.0]])
    drawn = plotting.clusters(axis, x, kind([7, 7, 7, -1, 2]))
    assert [each.get_label() for each in drawn] == ["-1", "2", "7"]
    for each, own in zip(drawn, (x[3:4], x[4:5], x[:3]), strict=True):
        assert np.array_equal(each.get_offsets(), own)
    texts = {text.get_text(): text.xy for text in axis.texts}
    assert {name: tuple(place) for name, place in texts.items()} == {
        "-1": (5, 5),
        "2": (6, 6),
        "7": (0.4, 0.1),
    }
    assert labelled(axis) == ("$x_1$", "$x_2$", 1.0)
    plotting.clusters(axis, x, [0, 0, 0, 1, 1], numbers=False)
    assert len(axis.texts) == 3


@pytest.mark.parametrize("seed", range(5))
def test_twenty_clusters_differ_and_the_nearest_ones_in_colour(axis, seed):
    angles = np.random.default_rng(seed).permutation(20) * math.pi / 10
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawn = plotting.clusters(axis, x, range(20))
    colors = [tuple(each.get_facecolor()[0]) for each in drawn]
    shapes = [each.get_paths()[0].vertices.tobytes() for each in drawn]
    assert len(set(zip(colors, shapes, strict=True))) == 20
    around = [colors[i] for i in np.argsort(angles)]
    assert all(one != other for one, other in zip(around, around[1:] + around[:1], strict=True))


def test_every_shape_is_seen(axis):
    """Small markers of some shapes vanish when they have no edge."""
    x = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    drawn = plotting.clusters(axis, x, range(20), numbers=False)
    axis.figure.canvas.draw()
    picture = np.asarray(axis.figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)
    for place, each in zip(axis.transData.transform(x).round().astype(int), drawn, strict=True):
        around = picture[place[1] - 1 : place[1] + 2, place[0] - 1 : place[0] + 2]
        color = 255 * each.get_facecolor()[0, :3]
        assert np.abs(around - color).max(-1).min() < 60


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.zeros((3, 2)), [0, 1], r"labels of shape \(2,\) and type int64 for 3 points"),
        (np.zeros((3, 2)), [0.0, 1.0, 2.0], "type float64 for 3 points, expected one whole number"),
        (np.zeros((3, 2)), [[0], [1], [2]], r"labels of shape \(3, 1\)"),
        (np.zeros((21, 2)), list(range(21)), "found 21 clusters, expected at most 20"),
        (np.zeros((3, 1)), [0, 1, 2], r"found points of shape \(3, 1\)"),
    ],
)
def test_clusters_refuse(axis, x, labels, message):
    with pytest.raises(ValueError, match=message):
        plotting.clusters(axis, x, labels)
