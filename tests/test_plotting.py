"""Figures of the notebooks: what is shown is described, labelled, small, and without warnings."""

from __future__ import annotations

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from galflow_lite import plotting
from galflow_lite.galaxies import COLUMNS, PROFILES, Galaxy

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "styled"])
def style(request):
    """With matplotlib's own settings and with those of the notebooks."""
    with matplotlib.rc_context({"backend": "Agg"}):
        if request.param:
            plotting.use_style()
        yield
        plt.close("all")


def galaxy(stars: int, *, seed: int = 0, shift: float = 0.0) -> Galaxy:
    table = np.random.default_rng(seed).normal(size=(stars, len(COLUMNS))) + shift
    return Galaxy(table, masses=1e5)


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed, as Jupyter would store it: pairs of data and metadata."""
    found: list = []
    monkeypatch.setattr(
        plotting.style, "display", lambda o: found.append(DisplayFormatter().format(o))
    )
    return found


# --- show -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "alt"), [("", "a line"), (" \n", "a line"), ("A", ""), ("A", " ")]
)
def test_figures_need_words(shown, caption, alt):
    figure = plt.figure()
    with pytest.raises(ValueError, match="found an empty caption or alt text, expected both"):
        plotting.show(figure, caption=caption, alt=alt)
    assert shown == []


def test_show_stores_alt_text_and_caption_and_closes_the_figure(shown):
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    plotting.show(figure, caption="A line\n    that rises.", alt="A straight\n  line.")
    (picture, metadata), (text, _) = shown
    assert metadata["image/png"]["alt"] == "A straight line."
    assert text["text/markdown"] == "**Figure.** A line that rises."
    assert not plt.fignum_exists(figure.number)


def pixels(data: dict) -> Image.Image:
    content = data["image/png"]
    return Image.open(
        io.BytesIO(base64.b64decode(content) if isinstance(content, str) else content)
    )


def test_pictures_have_at_most_256_colours_and_the_size_asked_for(shown):
    figure = plt.figure(figsize=(2, 1.5), layout="none")
    axis = figure.add_axes([0, 0, 1, 1])
    axis.imshow(np.random.default_rng(0).random((60, 80, 3)))
    axis.axis("off")
    plotting.show(figure, caption="Noise.", alt="Noise.", dpi=80)
    picture = pixels(shown[0][0])
    assert picture.size == (160, 120)
    assert 100 < len(picture.convert("RGB").getcolors(10**6)) <= 256


# --- figures ----------------------------------------------------------------------------------


SIZES = [(1, 1), (4, 3), (400, 300)]


@pytest.mark.parametrize(("data", "model"), SIZES)
def test_corner(data, model):
    columns = COLUMNS[::3]
    figure = plotting.corner(galaxy(data).select(columns), galaxy(model, seed=1), bins=8)
    figure.canvas.draw()
    axes = np.reshape(figure.axes, (len(columns), len(columns)))
    assert [axis.get_xlabel() for axis in axes[-1]] == [plotting.LABELS[c] for c in columns]
    assert [axis.get_ylabel() for axis in axes[1:, 0]] == [plotting.LABELS[c] for c in columns[1:]]


def test_corner_shows_data_below_and_model_above_as_mirror_images():
    data, model = galaxy(400), galaxy(300, seed=1)
    limits = {"x": (-1.0, 2.0), "age": (-2.0, 2.0)}
    figure = plotting.corner(data, model, ("x", "age"), limits=limits, bins=6)
    axes = np.reshape(figure.axes, (2, 2))
    span = [(-2, 2), (-1, 2)]
    for axis, source, mirrored in ((axes[1, 0], data, False), (axes[0, 1], model, True)):
        image = axis.images[0]
        # The horizontal axis is that of the column's label, the vertical one that of the row's.
        assert image.get_extent() == ([-2, 2, -1, 2] if mirrored else [-1, 2, -2, 2])
        counts = np.histogram2d(source["age"], source["x"], bins=6, range=span)[0]
        drawn = np.nan_to_num(image.get_array().filled(0))
        np.testing.assert_allclose(drawn.T if mirrored else drawn, counts / len(source))
        # The lowest value is drawn at the bottom.
        assert image.origin == "lower"
    assert axes[1, 0].images[0].get_clim() == axes[0, 1].images[0].get_clim()


@pytest.mark.parametrize("columns", [["age"], ["x", "age"]])
def test_corner_of_a_model_far_from_the_data_or_limits_without_stars(columns):
    figure = plotting.corner(galaxy(50), galaxy(50, shift=100.0), columns, bins=8)
    figure.canvas.draw()
    limits = {"age": (50.0, 60.0)}
    plotting.corner(galaxy(50), galaxy(50), columns, limits=limits).canvas.draw()


@pytest.mark.parametrize(("data", "model"), SIZES)
def test_face_on(data, model):
    figure = plotting.face_on(galaxy(data), galaxy(model, seed=1), half_width=6.0, pixels=12)
    figure.canvas.draw()
    maps = np.reshape(figure.axes[:6], (2, 3))
    assert {axis.get_xlabel() for axis in maps[1]} == {"$x$ [kpc]"}
    assert {axis.get_ylabel() for axis in maps[:, 0]} == {"$y$ [kpc]"}
    assert [a.get_title() for a in maps[0]] == ["data: density", "flow: density", "residual"]
    labels = " ".join(axis.get_ylabel() for axis in figure.axes[6:])
    for words in ("share of stars kpc", "(flow - data) / $\\sigma$", "dex", "flow - data [dex]"):
        assert words in labels


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


def test_face_on_of_nothing():
    with pytest.raises(ValueError, match="no star of the data within half_width=2 kpc, expected"):
        plotting.face_on(galaxy(5, shift=50.0), galaxy(5), half_width=2.0)
    plotting.face_on(galaxy(50), galaxy(5, shift=50.0), half_width=2.0).canvas.draw()


@pytest.mark.parametrize(("data", "model"), [(4, 3), (900, 700)])
def test_profiles(data, model):
    galaxies = {"data": galaxy(data), "flow": galaxy(model, seed=1)}
    figure = plotting.profiles(galaxies, rings=3)
    figure.canvas.draw()
    used = figure.axes[: len(PROFILES)]
    assert [axis.get_ylabel() for axis in used] == [label for label, *_ in PROFILES.values()]
    assert [axis.get_xlabel() for axis in used[-4:]] == ["$R$ [kpc]"] * 4
    legend = figure.axes[len(PROFILES)].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["flow", "data"]
    one = plotting.profiles(galaxies, rings=2, quantities=["age"])
    one.canvas.draw()
    assert one.axes[0].get_xlabel() == "$R$ [kpc]"


def test_profiles_of_a_single_star():
    with pytest.raises(ValueError, match="expected at least two radii that increase: .* fewer"):
        plotting.profiles({"data": galaxy(1)})


@pytest.mark.parametrize("stars", [1, 4, 400])
def test_abundance_plane(stars):
    data = galaxy(stars)
    data.stars *= 0.1
    figure = plotting.abundance_plane({"data": data, "flow": galaxy(30, shift=9.0)}, bins=10)
    figure.canvas.draw()
    first, second, bar = figure.axes
    assert [axis.get_title() for axis in (first, second)] == ["data", "flow"]
    assert [axis.get_xlabel() for axis in (first, second)] == ["[Fe/H] [dex]"] * 2
    assert first.get_ylabel() == "[O/Fe] [dex]"
    assert bar.get_ylabel() == "share of stars in a pixel"
    assert first.images[0].get_clim() == second.images[0].get_clim()
    shares = first.images[0].get_array().filled(0)
    expected = np.histogram2d(data["ofe"], data["feh"], 10, range=[(-0.1, 0.5), (-2.3, 0.6)])[0]
    np.testing.assert_allclose(np.nan_to_num(shares), expected / stars)


def test_abundance_plane_without_a_star_in_it():
    plotting.abundance_plane({"data": galaxy(5, shift=9.0)}).canvas.draw()
