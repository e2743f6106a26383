"""The figures that the notebooks share: one look, one way to show a figure."""

from __future__ import annotations

from .figures import (
    COLORS,
    animate,
    density_map,
    image_rows,
    show,
    slider,
    use_style,
)
from .galaxy_figures import LABELS, contours, corner, sky

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
