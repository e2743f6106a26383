"""The figures that the notebooks share: one look, one way to show a figure."""

from __future__ import annotations

from .densities import clusters, density_map, sample_map
from .galaxies import LABELS, abundance_plane, corner, face_on, profiles
from .images import image_rows
from .style import COLORS, show, use_style

__all__ = [
    "COLORS",
    "LABELS",
    "abundance_plane",
    "clusters",
    "corner",
    "density_map",
    "face_on",
    "image_rows",
    "profiles",
    "sample_map",
    "show",
    "use_style",
]
