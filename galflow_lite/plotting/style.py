"""One look for all figures, and one way to show a figure."""

from __future__ import annotations

import io
import logging
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image as PillowImage

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
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "image.origin": "lower",
            "axes.prop_cycle": plt.cycler(color=[c for k, c in COLORS.items() if k != "data"]),
        }
    )


def draw_map(axis: Axes, values: np.ndarray, extent: list[float], **style: Any) -> AxesImage:
    """Pixels of a map of the plane, the lowest row at the bottom; NaN stays blank."""
    return axis.imshow(values, extent=extent, interpolation="nearest", origin="lower", **style)


def show(figure: Figure, *, caption: str, alt: str, dpi: int = 100) -> None:
    """Display a figure in a notebook with its caption and a text for those who cannot see it.

    The picture is stored with at most 256 colours, which keeps a notebook small.

    Args:
        figure: Figure to show; closed afterwards.
        caption: One or two sentences under the figure, Markdown.
        alt: What the figure shows, in words.
        dpi: Resolution.
    """
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    plt.close(figure)
    picture = PillowImage.open(buffer).convert("RGB")
    picture.quantize(256, dither=PillowImage.Dither.NONE).save(small, "PNG", optimize=True)
    display(Image(small.getvalue(), alt=" ".join(alt.split())))
    display(Markdown(f"**Figure.** {' '.join(caption.split())}"))
