"""Figures of the notebooks: what is shown is described, labelled, small, and without warnings."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex

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
    monkeypatch.setattr(plotting, "display", lambda each: shown.append(store(each)))
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    plotting.show(figure, caption="A line\n    that rises.", alt="A straight\n  line.")
    (picture, metadata), (text, _) = shown
    assert metadata["image/png"]["alt"] == "A straight line."
    assert text["text/markdown"] == "**Figure.** A line that rises."
    assert not plt.fignum_exists(figure.number)


# --- figures ----------------------------------------------------------------------------------


def test_corner_shows_data_below_and_model_above_with_the_axes_exchanged():
    data, model = galaxy(400), galaxy(300, seed=1, shift=0.7)
    limits = {"x": (-1.0, 2.0), "age": (-2.0, 2.0)}
    figure = plotting.corner(data.select(("x", "age")), model, limits=limits)
    figure.canvas.draw()
    axes = np.reshape(figure.axes, (2, 2))
    for axis, name, mirrored in ((axes[1, 0], "data", False), (axes[0, 1], "flow", True)):
        spans = [axis.get_xlim(), axis.get_ylim()]
        assert spans[:: -1 if mirrored else 1] == [limits["x"], limits["age"]]
        (lines,) = axis.collections
        assert to_hex(lines.get_edgecolor()[0]) == plotting.COLORS[name].lower()
        middle = np.concatenate([path.vertices for path in lines.get_paths()]).mean(axis=0)
        assert (middle[1 if mirrored else 0] > 0.35) == mirrored
    assert (axes[1, 0].get_xlabel(), axes[1, 0].get_ylabel()) == ("$x$ [kpc]", "age [Gyr]")


@pytest.mark.parametrize("side", ["face-on", "edge-on"])
def test_sky_shows_the_share_of_the_stars_and_north_up(side):
    stars = np.zeros((100, 10))
    stars[:, 0], stars[:, 1], stars[:, 2] = -2.5, 2.5, 1.2
    image = plotting.sky(plt.subplots()[1], stars, side, half_width=4.0, pixels=8)
    drawn = np.asarray(image.get_array())
    row = 6 if side == "face-on" else 2
    assert drawn.shape == ((8, 8) if side == "face-on" else (3, 8))
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (row, 1)
    assert 10 ** drawn.max() == pytest.approx(1.0)  # all of them on one kpc^2
    assert image.origin == "lower"


def test_contours_hold_the_shares_of_the_stars():
    x, y = np.random.default_rng(0).normal(size=(2, 100_000))
    axis = plt.subplots()[1]
    plotting.contours(axis, x, y, limits=((-4, 4), (-4, 4)), shares=(0.9, 0.5))
    outer, inner = (path.vertices for path in axis.collections[0].get_paths())
    for found, share in ((outer, 0.9), (inner, 0.5)):
        expected = math.sqrt(-2 * math.log(1 - share))  # of a normal density in the plane
        assert np.hypot(*found.T).mean() == pytest.approx(expected, rel=0.08)
    plotting.contours(axis, x + 99, y, limits=((-4, 4), (-4, 4)))  # no star in sight


# --- densities in the plane ---------------------------------------------------------------------


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    figure.canvas.draw()
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
    assert len(shown[8].child_axes) == 1  # one colour bar, that of the map
    assert not shown[0].child_axes
