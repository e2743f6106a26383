"""The figures that the notebooks share: one look, one way to show a figure."""

from __future__ import annotations

from .figures import (
    COLORS,
    animate,
    clusters,
    density_map,
    image_rows,
    show,
    slider,
    use_style,
)
from .galaxy_figures import LABELS, abundance_plane, corner, face_on, profiles

__all__ = [
    "COLORS",
    "LABELS",
    "abundance_plane",
    "animate",
    "clusters",
    "corner",
    "density_map",
    "face_on",
    "image_rows",
    "profiles",
    "show",
    "slider",
    "use_style",
]
