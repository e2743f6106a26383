"""Figures of galaxies: the sky as one would see it, contours, and the corner plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from ..galaxies import Galaxy
from ..inputs import as_number
from .figures import COLORS, draw_map

LABELS = {name: f"${name}$ [kpc]" for name in "xyz"}
LABELS |= {f"v{name}": f"$v_{name}$ [km/s]" for name in "xyz"}
LABELS |= {"Z": "$Z$", "feh": "[Fe/H] [dex]", "ofe": "[O/Fe] [dex]", "age": "age [Gyr]"}
LABELS |= {"M_stars": "$M_\\star$ [M$_\\odot$]", "Z_av": "$Z_{\\rm av}$"}
LABELS |= {"tau50": "$\\tau_{50}$ [Gyr]", "tau10": "$\\tau_{10}$ [Gyr]"}

Span = tuple[float, float]


def sky(
    axis: Axes,
    stars: Any,
    side: str = "face-on",
    *,
    half_width: float,
    pixels: int = 200,
    decades: float = 3.5,
) -> AxesImage:
    """Draw stars as light on a dark sky: log10 of the share of the stars per kpc^2.

    Args:
        axis: where to draw.
        stars: x, y, z [kpc] and any further columns, shape (n, 3 or more).
        side: ``"face-on"``, a square, or ``"edge-on"``, 0.4 times as high as it is wide.
        half_width: the picture reaches from -half_width to half_width.
        pixels: across the picture; they are square.
        decades: range of the colours below the brightest pixel; empty pixels are black.
    """
    half_width = as_number(half_width, "half_width", above=0)
    second, height = (1, half_width) if side == "face-on" else (2, 0.4 * half_width)
    extent = [-half_width, half_width, -height, height]
    bins = pixels, max(1, round(pixels * height / half_width))
    counts = np.histogram2d(stars[:, 0], stars[:, second], bins, (extent[:2], extent[2:]))[0].T
    light = counts / len(stars) * (pixels / (2 * half_width)) ** 2
    top = np.log10(max(light.max(), np.finfo(float).tiny))
    with np.errstate(divide="ignore"):
        shown = np.maximum(np.log10(light), top - decades)
    image = draw_map(axis, shown, extent, vmin=top - decades, vmax=top, cmap="magma")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    white = {"color": "white", "path_effects": [withStroke(linewidth=2, foreground="black")]}
    axis.text(0.03, 0.97, side, va="top", transform=axis.transAxes, **white)
    if side == "face-on":
        right, low, length = 0.92 * half_width, -0.88 * half_width, 5 if half_width > 5 else 1
        axis.plot([right - length, right], [low, low], c="white", lw=2)
        place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "right"}
        axis.annotate(f"{length} kpc", (right, low), **place, **white)
    return image


def contours(
    axis: Axes,
    first: Any,
    second: Any,
    *,
    limits: tuple[Span, Span],
    shares: Sequence[float] = (0.9, 0.5),
    **style: Any,
) -> None:
    """Draw the lines within which these shares of the stars lie, the largest share first.

    Args:
        axis: where to draw.
        first, second: two columns of the stars, each of shape (n,).
        limits: the ranges shown.
        shares: of the stars in the picture.
        **style: of matplotlib's ``contour``, such as ``colors``.
    """
    counts, x, y = np.histogram2d(first, second, bins=32, range=limits)
    smooth = gaussian_filter(counts.T, 1.3)
    ordered = np.sort(smooth, axis=None)[::-1]
    within = np.cumsum(ordered) / max(ordered.sum(), np.finfo(float).tiny)
    last = len(ordered) - 1
    levels = np.unique([ordered[min(np.searchsorted(within, share), last)] for share in shares])
    if levels[0] > 0:  # else there is no star in sight
        axis.contour((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, smooth, levels, **style)
    axis.set(xlim=limits[0], ylim=limits[1])


def corner(data: Galaxy, model: Galaxy, *, limits: Mapping[str, Span] | None = None) -> Figure:
    """Corner plot: contours of the data below the diagonal, of the model above it, both on it.

    Args:
        data, model: Galaxies; the columns are those of the data.
        limits: Display range of columns; by default the central 99 % of the data.
    """
    columns, n = data.columns, len(data.columns)
    ranges = {c: _central(data[c]) for c in columns} | dict(limits or {})
    figure, axes = plt.subplots(n, n, figsize=(1.65 * n, 1.5 * n), squeeze=False)
    for (i, j), axis in np.ndenumerate(axes):
        row, column = columns[i], columns[j]
        if i == j:
            for galaxy, color in ((data, COLORS["data"]), (model, COLORS["flow"])):
                values = galaxy[row][
                    (galaxy[row] >= ranges[row][0]) & (galaxy[row] <= ranges[row][1])
                ]
                if len(values):  # matplotlib would divide by their number
                    axis.hist(
                        values, 30, range=ranges[row], density=True, histtype="step", color=color
                    )
            axis.set(xlim=ranges[row], yticks=[])
        else:
            galaxy, color = (data, COLORS["data"]) if i > j else (model, COLORS["flow"])
            span = ranges[column], ranges[row]
            contours(axis, galaxy[column], galaxy[row], limits=span, colors=color, linewidths=1)
        axis.locator_params(nbins=3)
        axis.tick_params(labelbottom=i == n - 1, labelleft=j == 0 and i > 0)
        axis.set_xlabel(LABELS.get(column, column) if i == n - 1 else "")
        axis.set_ylabel(LABELS.get(row, row) if j == 0 < i else "")
    axes[0, 0].set_title("data: below the diagonal", loc="left", color=COLORS["data"])
    axes[0, -1].set_title("flow: above the diagonal", loc="right", color=COLORS["flow"])
    figure.align_ylabels(axes[:, 0])
    return figure


def _central(values: np.ndarray) -> Span:
    """Central 99 % of the values; a range of some width even where they are all the same."""
    low, high = (float(end) for end in np.quantile(values, [0.005, 0.995]))
    return (low, high) if low < high else (low - 0.5, high + 0.5)
