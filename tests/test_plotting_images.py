"""Rows of images: what is drawn, and what is refused."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from galflow_lite import plotting


def test_rows_are_drawn_on_one_scale():
    grey, colour = torch.zeros(3, 1, 8, 8), torch.ones(3, 3, 8, 8)
    figure = plotting.image_rows(
        {"grey": grey, "colour": colour, "map": grey[:, 0].numpy()},
        columns=["a", "b", "c"],
        maps={"map": ("viridis", 0.0, 0.5)},
    )
    shown = [axis for axis in figure.axes if axis.images and axis.get_xlabel() == ""][:9]
    assert [axis.get_title() for axis in shown[:3]] == ["a", "b", "c"]
    assert shown[0].get_ylabel() == "grey"
    assert shown[0].images[0].get_clim() == (-1, 1)
    assert shown[6].images[0].get_clim() == (0, 0.5)
    assert shown[3].images[0].get_array().shape == (8, 8, 3)
    # Value 1 is white on the scale from -1 to 1.
    assert np.all(shown[3].images[0].get_array() == 1)
    assert len(figure.axes) == 10  # one colour bar, that of the map
    plt.close(figure)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "expected the same number in each, at least one"),
        ({"a": torch.zeros(2, 8, 8), "b": torch.zeros(3, 8, 8)}, "expected the same number"),
        ({"a": torch.zeros(2, 2, 8, 8)}, r"the row 'a' has shape \(2, 2, 8, 8\)"),
    ],
)
def test_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        plotting.image_rows(rows)


def test_pixels_cover_whole_dots():
    """Otherwise noise is drawn in blocks of unequal size, and a picture is four times larger."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16))
    with plt.rc_context({"image.origin": "lower"}):  # as in the style of maps
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
    plt.close(figure)
