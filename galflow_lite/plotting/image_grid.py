"""Rows of images side by side, all on one grey scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..inputs import as_array

# Dots an inch, margins for names and titles, and the gap between images, in dots.
_DPI, _LEFT, _TOP, _GAP = 100, 120, 30, 8


def image_rows(
    rows: Mapping[str, Any],
    *,
    columns: Sequence[str] | None = None,
    width: float = 0.72,
    maps: Mapping[str, tuple[str, float, float]] | None = None,
) -> Figure:
    """Draw images in rows, each with its name at the left.

    Args:
        rows: name to images, shape (n, height, width), (n, 1, height, width), or
            (n, 3, height, width) for colour, -1 black and 1 white; the same n in all rows.
        columns: a title over each column.
        width: of an image, in inches; without `maps` rounded so that at 100 dots an inch every
            pixel of the largest images covers a whole number of dots: it keeps noise as it is, and
            files small.
        maps: rows that are not images but maps of something: colour map and limits by name; each
            gets a colour bar.
    """
    arrays = {name: _images(name, row) for name, row in rows.items()}
    n = len(next(iter(arrays.values())))
    maps = maps or {}
    figure, axes = plt.subplots(
        len(arrays), n, squeeze=False, figsize=(1.3 + width * n, 0.3 + width * len(arrays))
    )
    for (name, row), line in zip(arrays.items(), axes, strict=True):
        cmap, low, high = maps.get(name, ("gray", -1.0, 1.0))
        for image, axis in zip(row, line, strict=True):
            # Colour images take no limits: they are scaled here.
            shown = np.clip((image - low) / (high - low), 0, 1) if image.ndim == 3 else image
            drawn = axis.imshow(
                shown,
                cmap=cmap,
                vmin=low,
                vmax=high,
                interpolation="nearest",
                origin="upper",  # rows as in memory, whatever the style says of maps
                aspect="equal" if maps else "auto",
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        if name in maps:
            figure.colorbar(drawn, ax=list(line), shrink=0.9, pad=0.01)
    for axis, title in zip(axes[0], columns or [""] * n, strict=True):
        axis.set_title(title, fontsize=8)
    if not maps:
        _place(axes, max((row[0].shape[:2] for row in arrays.values()), key=max), width)
    return figure


def _place(axes: np.ndarray, shape: tuple[int, int], width: float) -> None:
    """Put the axes where pixels of images of this shape fall on whole dots."""
    rows, columns = axes.shape
    scale = max(1, round(width * _DPI / shape[1]))
    height, side = scale * shape[0], scale * shape[1]
    total = (_LEFT + columns * (side + _GAP), _TOP + rows * (height + _GAP))
    axes[0, 0].figure.set_size_inches(total[0] / _DPI, total[1] / _DPI)
    for (i, j), axis in np.ndenumerate(axes):
        x, y = _LEFT + j * (side + _GAP), total[1] - _TOP - (i + 1) * height - i * _GAP
        axis.set_position((x / total[0], y / total[1], side / total[0], height / total[1]))


def _images(name: str, row: Any) -> np.ndarray:
    """Images, shape (n, height, width), or (n, height, width, 3) in colour."""
    array = as_array(row, name, finite=False)
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
