"""Figures in the plane: a density, and labelled points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from torch import Tensor

from ..inputs import as_array, as_tensor
from .style import COLORS, DENSITY_MAP, draw_map

_HUES = tuple(COLORS.values())
_SHAPES = ("o", "s", "^", "D", "v", "*", "<", ">", "p", "h", "d")


def density_map(
    axis: Axes,
    log_prob: Callable[[Tensor], Tensor],
    *,
    half_width: float,
    pixels: int = 200,
    decades: float = 6.0,
    peak: float | None = None,
) -> AxesImage:
    """Draw log10 of a density on a square around the origin.

    The logarithm shows what a linear scale hides: the bridges that a flow leaves between modes.

    Args:
        axis: where to draw.
        log_prob: natural logarithm of the density: points of shape (n, 2) to shape (n,).
        half_width: the square reaches from -half_width to half_width.
        pixels: pixels on a side; the density is taken at their centres.
        decades: range of the colours below the peak; lower densities have the palest colour.
        peak: log10 of the density with the darkest colour, for maps that share a scale (the
            ``norm.vmax`` of the first one); left out, the highest of this map.

    Returns:
        The image, for a colour bar.

    Raises:
        ValueError: ``log_prob`` is NaN somewhere, or has another shape.
    """
    centres = half_width * (2 * (torch.arange(pixels) + 0.5) / pixels - 1)
    second, first = torch.meshgrid(centres, centres, indexing="ij")
    with torch.no_grad():
        found = log_prob(torch.stack([first.flatten(), second.flatten()], dim=1))
    found = as_tensor(found, "log_prob", (pixels**2,), dtype=torch.float64, infinite=True)
    log10 = found.cpu().numpy().reshape(pixels, pixels) / math.log(10)
    top = float(np.nanmax(log10)) if peak is None else float(peak)
    image = draw_map(
        axis,
        # The palest colour in place of -inf, which would be blank.
        np.maximum(log10, top - decades),
        [-half_width, half_width] * 2,
        vmin=top - decades,
        vmax=top,
        cmap=DENSITY_MAP,
    )
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return image


def clusters(axis: Axes, x: Any, labels: Any, *, size: float = 10.0) -> list[PathCollection]:
    """Draw labelled points; clusters differ by colour, shape and a number written on them.

    There are fewer colours than clusters: those that share one lie far apart and have other shapes.
    The number stands at the point that is nearest to the mean of the cluster, so that it lies on
    the cluster even where that is bent.

    Args:
        axis: where to draw.
        x: points, shape (n, 2).
        labels: one whole number a point; about 20 different ones can be told apart.
        size: area of a marker in square points.

    Returns:
        The drawn points of each cluster, in the order of the labels.
    """
    points = as_array(x, "x", ("n", 2))
    labels = as_array(labels, "labels", (len(points),), dtype=np.int64)
    names = np.unique(labels)
    drawn = []
    looks = _looks(np.array([points[labels == name].mean(0) for name in names]))
    for name, (color, shape) in zip(names, looks, strict=True):
        own = points[labels == name]
        drawn.append(axis.scatter(*own.T, s=size, color=color, marker=shape, lw=0, label=str(name)))
        axis.annotate(
            str(name),
            own[((own - own.mean(0)) ** 2).sum(1).argmin()],
            ha="center",
            va="center",
            weight="bold",
            zorder=3,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return drawn


def _looks(centres: np.ndarray) -> list[tuple[str, str]]:
    """Colour and shape for each centre, one by one; the colour is that whose nearest centre so far
    is farthest."""
    taken: dict[str, list[np.ndarray]] = {hue: [] for hue in _HUES}
    looks = []
    for centre in centres:
        room = {
            hue: min((float(np.hypot(*(centre - other))) for other in others), default=math.inf)
            for hue, others in taken.items()
        }
        _, _, hue = max((room[hue], -len(taken[hue]), hue) for hue in _HUES)
        looks.append((hue, _SHAPES[(_HUES.index(hue) + len(taken[hue])) % len(_SHAPES)]))
        taken[hue].append(centre)
    return looks
