"""The figures that the notebooks share: one look, one way to show a figure."""

from __future__ import annotations

from .galaxy_figures import LABELS, abundance_plane, corner, face_on, profiles
from .image_grid import image_rows
from .planar_maps import clusters, density_map
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
    "show",
    "use_style",
]
