"""Figures of the notebooks: what is shown is described, labelled, small, and without warnings."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from galflow_lite import plotting
from galflow_lite.galaxies import COLUMNS, Galaxy

# An older matplotlib calls what a newer pyparsing has renamed.
RENAMED = "ignore::DeprecationWarning:(matplotlib|pyparsing)"
pytestmark = pytest.mark.filterwarnings("error", RENAMED)


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context({"backend": "Agg"}):
        plotting.use_style()
        yield
        plt.close("all")


def galaxy(stars: int, *, seed: int = 0, shift: float = 0.0) -> Galaxy:
    table = np.random.default_rng(seed).normal(size=(stars, len(COLUMNS))) + shift
    return Galaxy(table, masses=1e5)


# --- show -------------------------------------------------------------------------------------


def test_show_stores_alt_text_and_caption_and_closes_the_figure(monkeypatch):
    shown: list = []  # as Jupyter would store it: pairs of data and metadata
    store = DisplayFormatter().format
    monkeypatch.setattr(plotting.figures, "display", lambda each: shown.append(store(each)))
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    plotting.show(figure, caption="A line\n    that rises.", alt="A straight\n  line.")
    (picture, metadata), (text, _) = shown
    assert metadata["image/png"]["alt"] == "A straight line."
    assert text["text/markdown"] == "**Figure.** A line that rises."
    assert not plt.fignum_exists(figure.number)


# --- figures ----------------------------------------------------------------------------------


def test_corner_shows_data_below_and_model_above_as_mirror_images():
    data, model = galaxy(400), galaxy(300, seed=1)
    limits = {"x": (-1.0, 2.0), "age": (-2.0, 2.0)}
    figure = plotting.corner(data.select(("x", "age")), model, limits=limits)
    axes = np.reshape(figure.axes, (2, 2))
    span = [(-2, 2), (-1, 2)]
    for axis, source, mirrored in ((axes[1, 0], data, False), (axes[0, 1], model, True)):
        image = axis.images[0]
        # The horizontal axis is that of the column's label, the vertical one that of the row's.
        assert image.get_extent() == ([-2, 2, -1, 2] if mirrored else [-1, 2, -2, 2])
        counts = np.histogram2d(source["age"], source["x"], bins=36, range=span)[0]
        drawn = np.nan_to_num(image.get_array().filled(0))
        np.testing.assert_allclose(drawn.T if mirrored else drawn, counts / len(source))
        # The lowest value is drawn at the bottom.
        assert image.origin == "lower"
    assert axes[1, 0].images[0].get_clim() == axes[0, 1].images[0].get_clim()


def test_face_on_has_north_up_and_residuals_of_flow_minus_data():
    """Data at the upper left, model at the lower right."""
    data, model = galaxy(100), galaxy(100)
    for which, x, y in ((data, -2.5, 2.5), (model, 2.5, -2.5)):
        which["x"][:], which["y"][:] = x, y
    figure = plotting.face_on(data, model, half_width=4.0, pixels=8)
    density, _, residual = (axis.images[0] for axis in figure.axes[:3])
    for image in (density, residual):
        assert image.origin == "lower"
        assert image.get_extent() == [-4, 4, -4, 4]
    assert np.isfinite(density.get_array().filled(np.nan)[6, 1])
    # 100 stars against none: 10 standard deviations of Poisson.
    assert residual.get_array()[1, 6] == pytest.approx(10)
    assert residual.get_array()[6, 1] == pytest.approx(-10)


@pytest.mark.parametrize("stars", [1, 400])
def test_abundance_plane(stars):
    data = galaxy(stars)
    data.stars *= 0.1
    figure = plotting.abundance_plane({"data": data, "flow": galaxy(30, shift=9.0)})
    figure.canvas.draw()
    first, second = figure.axes[:2]
    assert (first.get_xlabel(), first.get_ylabel()) == ("[Fe/H] [dex]", "[O/Fe] [dex]")
    assert first.images[0].get_clim() == second.images[0].get_clim()
    shares = first.images[0].get_array().filled(0)
    expected = np.histogram2d(data["ofe"], data["feh"], 60, range=[(-0.1, 0.5), (-2.3, 0.6)])[0]
    np.testing.assert_allclose(np.nan_to_num(shares), expected / stars)


# --- densities and clusters in the plane --------------------------------------------------------


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    figure.canvas.draw()
    # Both kinds of figures lie in the plane.
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_aspect()) == ("$x_1$", "$x_2$", 1.0)


def normal(x):
    """Standard normal around (1, 0)."""
    return -0.5 * ((x[:, 0] - 1) ** 2 + x[:, 1] ** 2) - math.log(2 * math.pi)


# --- density_map ------------------------------------------------------------------------------


def test_a_density_is_drawn_at_the_centres_of_the_pixels(axis):
    image = plotting.density_map(axis, normal, half_width=4.0, pixels=40, decades=20.0)
    drawn = np.asarray(image.get_array())
    edges = np.linspace(-4, 4, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    wanted = normal(grid).reshape(40, 40) / math.log(10)
    np.testing.assert_allclose(drawn, wanted, atol=1e-5)
    # A tenth of a unit is a pixel: the integral of what is drawn is 1.
    assert (10.0**drawn).sum() * 0.2**2 == pytest.approx(1, abs=2e-3)
    assert image.get_extent() == [-4, 4, -4, 4]
    assert image.origin == "lower"


# --- clusters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_every_cluster_is_drawn_with_its_number(axis, kind):
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.4, 0.1], [5.0, 5.0], [6.0, 6.0]])
    drawn = plotting.clusters(axis, x, kind([7, 7, 7, -1, 2]))
    assert [each.get_label() for each in drawn] == ["-1", "2", "7"]
    for each, own in zip(drawn, (x[3:4], x[4:5], x[:3]), strict=True):
        assert np.array_equal(each.get_offsets(), own)
    texts = {text.get_text(): tuple(text.xy) for text in axis.texts}
    assert texts == {"-1": (5, 5), "2": (6, 6), "7": (0.4, 0.1)}


@pytest.mark.parametrize("seed", range(5))
def test_twenty_clusters_differ_and_the_nearest_ones_in_colour(axis, seed):
    angles = np.random.default_rng(seed).permutation(20) * math.pi / 10
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawn = plotting.clusters(axis, x, list(range(20)))
    colors = [tuple(each.get_facecolor()[0]) for each in drawn]
    shapes = [each.get_paths()[0].vertices.tobytes() for each in drawn]
    assert len(set(zip(colors, shapes, strict=True))) == 20
    around = [colors[i] for i in np.argsort(angles)]
    assert all(one != other for one, other in zip(around, around[1:] + around[:1], strict=True))


# --- rows of images ---------------------------------------------------------------------------


def test_rows_are_drawn_on_one_scale():
    grey, colour = torch.zeros(3, 1, 8, 8), torch.ones(3, 3, 8, 8)
    figure = plotting.image_rows(
        {"grey": grey, "colour": colour, "map": grey[:, 0].numpy()},
        columns=["a", "b", "c"],
        maps={"map": ("viridis", 0.0, 0.5)},
    )
    shown = [axis for axis in figure.axes if axis.images and axis.get_xlabel() == ""][:9]
    assert [axis.get_title() for axis in shown[:3]] == ["a", "b", "c"]
    assert shown[0].images[0].get_clim() == (-1, 1)
    assert shown[6].images[0].get_clim() == (0, 0.5)
    # Value 1 is white on the scale from -1 to 1.
    np.testing.assert_array_equal(shown[3].images[0].get_array(), np.ones((8, 8, 3)))
    assert len(figure.axes) == 10  # one colour bar, that of the map


def test_pixels_cover_whole_dots():
    """Otherwise noise is drawn in blocks of unequal size, and a picture is four times larger."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16))
    figure = plotting.image_rows({"noise": noise, "small": noise[:, ::2, ::2]}, width=0.33)
    figure.set_dpi(100)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    for axis, image in zip(figure.axes, [*noise, *noise[:, ::2, ::2]], strict=True):
        box = axis.get_window_extent()
        x, y = round(box.x0), drawn.shape[0] - round(box.y1)
        part = drawn[y : y + 32, x : x + 32].astype(float)
        block = 32 // image.shape[0]
        expected = np.kron((image + 1) / 2 * 255, np.ones((block, block)))
        assert np.abs(part - expected).max() < 2  # two roundings to whole grey levels
