"""The style of all figures, maps of densities in the plane, and rows of images."""

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
from PIL import Image as PillowImage
from torch import Tensor

from ..files import share
from ..inputs import as_array, as_tensor

# Okabe & Ito's palette: told apart in every common form of colour blindness.
COLORS = {
    "data": "#000000",
    "flow": "#D55E00",
    "nearest": "#0072B2",
    "mixture": "#009E73",
    "other": "#CC79A7",
    "light": "#56B4E9",
}

DENSITY_MAP, VALUE_MAP, RESIDUAL_MAP = "magma_r", "viridis", "RdBu_r"


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
    per_second: float = 6.0,
    dpi: int = 80,
) -> None:
    """Display a figure that changes: an animated picture, which plays without a network.

    Args:
        figure: Figure to draw on; closed afterwards.
        draw: Changes the figure to what it shows at a frame.
        frames: What `draw` is called with, in turn; the last one stays for two seconds.
        name: Where caption and alt text stand, as in :func:`show`.
        per_second: Frames a second.
        dpi: Resolution.

    Raises:
        ValueError: There is no such entry.
    """
    (caption, alt), pictures, film = _texts(name), [], io.BytesIO()
    for frame in frames:
        draw(frame)
        pictures.append(_picture(figure, dpi))
    plt.close(figure)
    durations = [int(1000 / per_second)] * (len(pictures) - 1) + [2000]
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
