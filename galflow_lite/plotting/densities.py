"""Figures of densities in the plane: a density, a sample of one, and labelled points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from torch import Tensor

from .style import COLORS, DENSITY_MAP

__all__ = ["clusters", "density_map", "sample_map"]

_HUES = tuple(COLORS.values())
_SHAPES = ("o", "s", "^", "D", "v", "*", "<", ">", "p", "h", "d")
_MOST = 20


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
        ValueError: sizes that are not positive, ``log_prob`` of another shape, NaN or +inf, or a
            density that is zero everywhere.
    """
    _positive(half_width=half_width, pixels=pixels, decades=decades)
    centres = half_width * (2 * (torch.arange(pixels) + 0.5) / pixels - 1)
    second, first = torch.meshgrid(centres, centres, indexing="ij")
    with torch.no_grad():
        found = log_prob(torch.stack([first.flatten(), second.flatten()], dim=1))
    found = torch.as_tensor(found).detach().cpu().double().numpy()
    if found.shape != (pixels**2,):
        raise ValueError(
            f"log_prob gave the shape {found.shape} for {pixels**2} points, expected one value a "
            "point: return shape (n,)"
        )
    wrong = int((np.isnan(found) | (found == np.inf)).sum())
    if wrong:
        raise ValueError(
            f"log_prob is NaN or +inf at {wrong} of {found.size} points, expected densities: check "
            "the model"
        )
    if not (found > -np.inf).any():
        raise ValueError(
            f"log_prob is -inf everywhere within half_width={half_width:g}, expected some density: "
            "choose another width, or check the model"
        )
    return _image(axis, found.reshape(pixels, pixels) / math.log(10), half_width, decades, peak)


def sample_map(
    axis: Axes,
    samples: Tensor | np.ndarray,
    *,
    half_width: float,
    bins: int = 100,
    decades: float = 6.0,
    peak: float | None = None,
) -> AxesImage:
    """Draw log10 of the density of a sample, in the look and on the scale of :func:`density_map`.

    A bin shows its share of all samples over its area. Samples outside the square count among all,
    and empty bins stay blank.

    Args:
        axis: where to draw.
        samples: points, shape (n, 2).
        half_width: the square reaches from -half_width to half_width.
        bins: bins on a side.
        decades, peak: as in :func:`density_map`.

    Returns:
        The image, for a colour bar.

    Raises:
        ValueError: sizes that are not positive, samples of another shape, NaN or infinite, or none
            in the square.
    """
    _positive(half_width=half_width, bins=bins, decades=decades)
    points = _points(samples)
    span = [(-half_width, half_width)] * 2
    counts = np.histogram2d(points[:, 1], points[:, 0], bins=bins, range=span)[0]
    if not counts.any():
        raise ValueError(
            f"found none of {len(points)} samples within half_width={half_width:g}, expected some: "
            "choose a larger map"
        )
    density = np.full_like(counts, np.nan)
    area = (2 * half_width / bins) ** 2
    np.log10(counts / (len(points) * area), out=density, where=counts > 0)
    return _image(axis, density, half_width, decades, peak)


def clusters(
    axis: Axes,
    x: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    *,
    size: float = 10.0,
    numbers: bool = True,
) -> list[PathCollection]:
    """Draw labelled points; clusters differ by colour, shape and a number written on them.

    There are fewer colours than clusters: those that share one lie far apart and have other shapes.
    The number stands at the point that is nearest to the mean of the cluster, so that it lies on
    the cluster even where that is bent.

    Args:
        axis: where to draw.
        x: points, shape (n, 2).
        labels: one whole number a point; at most 20 different ones.
        size: area of a marker in square points.
        numbers: whether the labels are written on the clusters.

    Returns:
        The drawn points of each cluster, in the order of the labels.

    Raises:
        ValueError: points of another shape, NaN or infinite; labels that are not one whole number a
            point; or more than 20 clusters.
    """
    points = _points(x)
    labels = torch.as_tensor(labels).cpu().numpy() if isinstance(labels, Tensor) else labels
    labels = np.asarray(labels)
    if labels.shape != (len(points),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"found labels of shape {labels.shape} and type {labels.dtype} for {len(points)} "
            "points, expected one whole number a point"
        )
    names = np.unique(labels)
    if len(names) > _MOST:
        raise ValueError(
            f"found {len(names)} clusters, expected at most {_MOST}, which can be told apart: draw "
            "some of them"
        )
    drawn = []
    looks = _looks(np.array([points[labels == name].mean(0) for name in names]))
    for name, (color, shape) in zip(names, looks, strict=True):
        own = points[labels == name]
        drawn.append(axis.scatter(*own.T, s=size, color=color, marker=shape, lw=0, label=str(name)))
        if numbers:
            centre = own[((own - own.mean(0)) ** 2).sum(1).argmin()]
            axis.annotate(
                str(name),
                centre,
                ha="center",
                va="center",
                weight="bold",
                zorder=3,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    _axes(axis)
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


def _image(
    axis: Axes, log10: np.ndarray, half_width: float, decades: float, peak: float | None
) -> AxesImage:
    top = float(np.nanmax(log10)) if peak is None else float(peak)
    image = axis.imshow(
        # The palest colour in place of -inf, which would be blank; NaN is blank on purpose.
        np.maximum(log10, top - decades),
        extent=[-half_width, half_width] * 2,
        vmin=top - decades,
        vmax=top,
        cmap=DENSITY_MAP,
        interpolation="nearest",
        origin="lower",
    )
    _axes(axis)
    return image


def _axes(axis: Axes) -> None:
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")


def _points(x: Any) -> np.ndarray:
    points = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=float)
    finite = np.isfinite(points)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not finite.all():
        raise ValueError(
            f"found points of shape {points.shape} with {int((~finite).sum())} values that are not "
            "finite, expected shape (n, 2) and finite values"
        )
    return points


def _positive(**sizes: float) -> None:
    for name, value in sizes.items():
        if not 0 < value < math.inf:
            raise ValueError(f"found {name}={value!r}, expected a number above 0")
