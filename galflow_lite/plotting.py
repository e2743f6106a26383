"""The figures that the notebooks share: style, maps, rows of images, galaxies; how to show them."""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tomlkit
import torch
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .files import share
from .galaxies import Galaxy
from .inputs import as_array, as_number, as_tensor

__all__ = [
    "COLORS",
    "LABELS",
    "animate",
    "contours",
    "corner",
    "density_map",
    "image_rows",
    "show",
    "sky",
    "slider",
    "use_style",
]

# Okabe & Ito's palette: told apart in every common form of colour blindness.
COLORS = {
    "data": "#000000",
    "flow": "#D55E00",
    "nearest": "#0072B2",
    "mixture": "#009E73",
    "other": "#CC79A7",
    "light": "#56B4E9",
}

DENSITY_MAP = "magma_r"


def use_style() -> None:
    """Apply the figure style of the notebooks to matplotlib."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    style = {"figure.dpi": 100, "figure.constrained_layout.use": True, "image.origin": "lower"}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    style |= {"font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 9}
    hues = [color for name, color in COLORS.items() if name != "data"]
    plt.rcParams.update(style | {"axes.prop_cycle": plt.cycler(color=hues)})


def draw_map(axis: Axes, values: np.ndarray, extent: list[float], **style: Any) -> AxesImage:
    """Pixels of a map of the plane, the lowest row at the bottom; NaN stays blank."""
    return axis.imshow(values, extent=extent, interpolation="nearest", origin="lower", **style)


def show(
    figure: Figure,
    name: str | None = None,
    *,
    caption: str | None = None,
    alt: str | None = None,
    dpi: int = 150,
) -> None:
    """Display a figure in a notebook with its caption and a text for those who cannot see it.

    The picture is stored with at most 256 colours, which keeps a notebook small.

    Args:
        figure: Figure to show; closed afterwards.
        name: Where caption and alt text stand: ``"01.profiles"`` is the entry ``profiles`` of
            ``notebooks/captions/01.toml``.
        caption: One or two sentences under the figure, Markdown, where it has no name.
        alt: What the figure shows, in words, where it has no name.
        dpi: Resolution.

    Raises:
        ValueError: There is no such entry.
    """
    if name is not None:
        caption, alt = _texts(name)
    small = io.BytesIO()
    _picture(figure, dpi).save(small, "PNG", optimize=True)
    plt.close(figure)
    display(Image(small.getvalue(), alt=_line(alt)))
    display(Markdown(f"**Figure.** {_line(caption)}"))


def animate(
    figure: Figure,
    draw: Callable[[Any], None],
    frames: Iterable[Any],
    name: str,
    *,
    dpi: int = 80,
) -> None:
    """Display a figure that changes: an animated picture, which plays without a network.

    Args:
        figure: Figure to draw on; closed afterwards.
        draw: Changes the figure to what it shows at a frame.
        frames: What `draw` is called with, in turn; the last one stays for two seconds.
        name: Where caption and alt text stand, as in :func:`show`.
        dpi: Resolution.

    Raises:
        ValueError: There is no such entry.
    """
    (caption, alt), pictures, film = _texts(name), [], io.BytesIO()
    for frame in frames:
        draw(frame)
        pictures.append(_picture(figure, dpi))
    plt.close(figure)
    durations = [int(1000 / 6)] * (len(pictures) - 1) + [2000]
    first, *rest = pictures
    first.save(film, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    display(Image(film.getvalue(), format="gif", alt=_line(alt)))
    display(Markdown(f"**Figure.** {_line(caption)}"))


def slider(draw: Callable[[Any], None], label: str, values: Sequence[Any], start: Any) -> None:
    """Let a slider choose what is drawn; where ipywidgets is absent, draw the start alone.

    Args:
        draw: Called with the chosen value; it shows a figure.
        label: What the slider sets.
        values: What can be chosen.
        start: The value at first, one of `values`.
    """
    try:
        import ipywidgets
    except ImportError:
        ipywidgets = None
    if ipywidgets is None or os.environ.get("GALFLOW_QUIET") == "1":  # a stored page cannot move
        return draw(start)
    chooser = ipywidgets.SelectionSlider(options=values, value=start, description=label)
    ipywidgets.interact(draw, **{next(iter(signature(draw).parameters)): chooser})


def _picture(figure: Figure, dpi: int) -> PillowImage.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    picture = PillowImage.open(buffer).convert("RGB")
    return picture.quantize(256, dither=PillowImage.Dither.NONE)


def _texts(name: str) -> tuple[str, str]:
    """Caption and alt text of a figure."""
    number, _, entry = name.partition(".")
    path = share("notebooks") / "captions" / f"{number}.toml"
    known = tomlkit.parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if entry not in known:
        raise ValueError(f"found no entry {entry!r} in {path.name}, expected caption and alt there")
    return known[entry]["caption"], known[entry]["alt"]


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


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
    # The palest colour in place of -inf, which would be blank.
    shown, extent = np.maximum(log10, top - decades), [-half_width, half_width] * 2
    image = draw_map(axis, shown, extent, vmin=top - decades, vmax=top, cmap=DENSITY_MAP)
    axis.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return image


def image_rows(
    rows: Mapping[str, Any],
    *,
    columns: Sequence[str] | None = None,
    width: float = 1.9,
    maps: Mapping[str, tuple[str, float, float]] | None = None,
) -> Figure:
    """Draw images in rows, each with its name at the left.

    Args:
        rows: name to images, shape (n, height, width), (n, 1, height, width), or
            (n, 3, height, width) for colour, -1 black and 1 white; the same n in all rows.
        columns: a title over each column.
        width: of an image, in inches.
        maps: rows that are not images but maps of something, such as an answer less the truth:
            colour map and limits by name; each gets a colour bar.
    """
    arrays = {name: _images(name, row) for name, row in rows.items()}
    n, maps = len(next(iter(arrays.values()))), maps or {}
    size = (0.3 + 0.6 * bool(maps) + width * n, 0.3 * bool(columns) + width * len(arrays))
    figure, axes = plt.subplots(len(arrays), n, squeeze=False, figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for (name, row), line in zip(arrays.items(), axes, strict=True):
        cmap, low, high = maps.get(name, ("gray", -1.0, 1.0))
        for image, axis in zip(row, line, strict=True):
            # Colour images take no limits: they are scaled here.
            shown = np.clip((image - low) / (high - low), 0, 1) if image.ndim == 3 else image
            # Rows as in memory, whatever the style says of maps.
            drawn = axis.imshow(shown, cmap, vmin=low, vmax=high, origin="upper")
            drawn.set_interpolation("nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=11)
        if name in maps:
            figure.colorbar(drawn, cax=line[-1].inset_axes([1.04, 0.05, 0.06, 0.9]))
    for axis, title in zip(axes[0], columns or [""] * n, strict=True):
        axis.set_title(title, fontsize=11)
    return figure


def _images(name: str, row: Any) -> np.ndarray:
    """Images, shape (n, height, width), or (n, height, width, 3) in colour."""
    array = as_array(row, name, finite=False)
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array


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
