"""Figures of galaxies: corner plot, maps, profiles and the plane of abundances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..galaxies import PROFILES, UNITS, Galaxy, face_on_map, radial_profile
from .style import COLORS, DENSITY_MAP, RESIDUAL_MAP, VALUE_MAP

__all__ = ["LABELS", "abundance_plane", "corner", "face_on", "profiles"]

LABELS = {
    "x": "$x$ [kpc]",
    "y": "$y$ [kpc]",
    "z": "$z$ [kpc]",
    "vx": "$v_x$ [km/s]",
    "vy": "$v_y$ [km/s]",
    "vz": "$v_z$ [km/s]",
    "Z": "$Z$",
    "feh": "[Fe/H]",
    "ofe": "[O/Fe]",
    "age": "age [Gyr]",
    "M_stars": "$M_\\star$ [M$_\\odot$]",
    "tau50": "$\\tau_{50}$ [Gyr]",
    "tau10": "$\\tau_{10}$ [Gyr]",
    "Z_av": "$Z_{\\rm av}$",
}


def corner(
    data: Galaxy,
    model: Galaxy,
    columns: Sequence[str] | None = None,
    *,
    limits: Mapping[str, tuple[float, float]] | None = None,
    bins: int = 36,
) -> Figure:
    """Corner plot: data below the diagonal, model above it, both on the diagonal.

    Both triangles share limits and colour scales, so that a panel and its partner across the
    diagonal compare as mirror images.

    Args:
        data, model: Galaxies with the same columns.
        columns: Columns to show; all by default.
        limits: Display range of columns; by default the central 99 % of the data.
        bins: Bins on a side.

    Raises:
        ValueError: If a galaxy lacks a column.
    """
    columns = tuple(columns or data.columns)
    ranges = {c: _central(data[c]) for c in columns}
    ranges.update({c: v for c, v in (limits or {}).items() if c in columns})
    n = len(columns)
    figure, axes = plt.subplots(
        n, n, figsize=(1.15 * n + 0.6, 1.15 * n + 0.4), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for i, row in enumerate(columns):
        for j, column in enumerate(columns):
            axis = axes[i, j]
            if i == j:
                for galaxy, name in ((data, "data"), (model, "flow")):
                    inside = (ranges[row][0] <= galaxy[row]) & (galaxy[row] <= ranges[row][1])
                    if not inside.any():
                        continue  # matplotlib would divide by their number
                    axis.hist(
                        galaxy[row][inside],
                        bins=bins,
                        range=ranges[row],
                        density=True,
                        histtype="step",
                        color=COLORS[name],
                        lw=1.2,
                    )
                axis.set(xlim=ranges[row], yticks=[])
            else:
                _density(axis, data if i > j else model, data, column, row, ranges, bins)
            axis.tick_params(labelsize=7, length=2)
            axis.locator_params(nbins=3)
            if i < n - 1:
                axis.set_xticklabels([])
            else:
                axis.set_xlabel(LABELS.get(column, column), fontsize=10)
            if j > 0 or i == 0:
                axis.set_yticklabels([])
            if j == 0:
                axis.set_ylabel(LABELS.get(row, row) if i else "", fontsize=10)
    figure.align_ylabels(axes[:, 0])
    return figure


def _central(values: np.ndarray) -> tuple[float, float]:
    """Central 99 % of the values; a range of some width even where they are all the same."""
    low, high = (float(end) for end in np.quantile(values, [0.005, 0.995]))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _density(axis, galaxy, reference, first, second, ranges, bins) -> None:
    """Two-dimensional histogram on the reference's colour scale, log-scaled."""
    span = [ranges[first], ranges[second]]
    counts = np.histogram2d(galaxy[first], galaxy[second], bins=bins, range=span)[0].T
    top = np.histogram2d(reference[first], reference[second], bins=bins, range=span)[0].max()
    # Without a star of the reference in sight, one star sets the scale.
    top = max(top, 1.0) / len(reference)
    share = counts / len(galaxy)
    axis.imshow(
        np.where(share > 0, share, np.nan),
        extent=[*ranges[first], *ranges[second]],
        aspect="auto",
        norm=LogNorm(vmin=top / 300, vmax=top),
        cmap=DENSITY_MAP,
        interpolation="nearest",
        origin="lower",
    )


# Fewest stars in a pixel of a map.
_FEWEST = {"density": 1, "feh": 5}


def face_on(data: Galaxy, model: Galaxy, *, half_width: float, pixels: int = 40) -> Figure:
    """Face-on maps of density and mean metallicity: data, model and residual.

    The density residual is in standard deviations of the star counts, where both together have at
    least five stars; the residual of [Fe/H] is in dex, where both have.

    Raises:
        ValueError: If no star of the data lies within the map.
    """
    if not np.any(np.maximum(np.abs(data["x"]), np.abs(data["y"])) <= half_width):
        raise ValueError(
            f"found no star of the data within half_width={half_width:g} kpc, expected some: "
            "choose a larger map"
        )
    figure, axes = plt.subplots(
        2, 3, figsize=(8.6, 5.4), sharex=True, sharey=True, layout="constrained"
    )
    extent = [-half_width, half_width] * 2
    area = (2 * half_width / pixels) ** 2
    rows = ("density", "feh")
    for row, quantity in zip(axes, rows, strict=True):
        maps = [
            face_on_map(g, quantity, half_width=half_width, pixels=pixels, min_stars=least)
            for g, least in ((data, _FEWEST[quantity]), (model, _FEWEST[quantity]))
        ]
        if quantity == "density":
            norm = {"norm": LogNorm(vmin=np.nanmin(maps[0]), vmax=np.nanmax(maps[0]))}
            label, unit, cmap = "density", "share of stars kpc$^{-2}$", DENSITY_MAP
            filled = [np.nan_to_num(m) for m in maps]
            variance = filled[0] / len(data) / area + filled[1] / len(model) / area
            with np.errstate(invalid="ignore", divide="ignore"):
                residual = (filled[1] - filled[0]) / np.sqrt(variance)
            # A handful of stars has no Gaussian error.
            stars = (filled[0] * len(data) + filled[1] * len(model)) * area
            residual[stars < 5] = np.nan
            span, residual_unit = 5.0, "(flow - data) / $\\sigma$"
        else:
            filled = maps[0][np.isfinite(maps[0])]
            # With too few stars for any pixel the stars themselves set the scale.
            low, high = np.quantile(filled if filled.size else data["feh"], [0.02, 0.98])
            norm = {"vmin": low, "vmax": high}
            label, unit, cmap = "mean [Fe/H]", "dex", VALUE_MAP
            residual = maps[1] - maps[0]
            span, residual_unit = 0.5, "flow - data [dex]"
        for axis, shown, title in zip(row[:2], maps, ("data", "flow"), strict=True):
            image = axis.imshow(
                shown, extent=extent, cmap=cmap, interpolation="nearest", origin="lower", **norm
            )
            axis.set_title(f"{title}: {label}")
        figure.colorbar(image, ax=row[:2], label=unit, shrink=0.9, extend="both")
        image = row[2].imshow(
            residual,
            extent=extent,
            cmap=RESIDUAL_MAP,
            vmin=-span,
            vmax=span,
            interpolation="nearest",
            origin="lower",
        )
        row[2].set_title("residual")
        figure.colorbar(image, ax=row[2], label=residual_unit, shrink=0.9, extend="both")
    for axis in axes[-1]:
        axis.set_xlabel(LABELS["x"])
    for axis in axes[:, 0]:
        axis.set_ylabel(LABELS["y"])
    return figure


def profiles(
    galaxies: Mapping[str, Galaxy],
    *,
    rings: int = 10,
    quantities: Sequence[str] = tuple(PROFILES),
) -> Figure:
    """Radial profiles of several galaxies; the first one sets the rings and is drawn with errors.

    Args:
        galaxies: Label to galaxy; the label ``"data"``, ``"flow"``, ... picks the colour.
        rings: Rings with equal numbers of stars of the first galaxy.
        quantities: Keys of :data:`galflow_lite.galaxies.PROFILES`.
    """
    first = next(iter(galaxies.values()))
    radius = np.hypot(first["x"], first["y"])
    edges = np.quantile(radius, np.linspace(0.0, 1.0, rings + 1))
    columns = 4
    lines = -(-len(quantities) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(11, 2.6 * lines), sharex=True, layout="constrained"
    )
    axes = np.atleast_2d(axes)
    for axis, quantity in zip(axes.flat, quantities, strict=False):
        for name, galaxy in galaxies.items():
            found = radial_profile(galaxy, quantity, edges)
            style = {"color": COLORS.get(name.split()[0], COLORS["other"]), "label": name}
            if galaxy is first:
                axis.errorbar(
                    found.radius, found.value, found.error, fmt="o", ms=3, zorder=3, **style
                )
            else:
                axis.plot(found.radius, found.value, lw=1.6, **style)
        axis.set_ylabel(PROFILES[quantity][0])
        if quantity == "surface_density":
            axis.set_yscale("log")
    spare = list(axes.flat)[len(quantities) :]
    for axis in spare:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    (spare[0] if spare else axes.flat[0]).legend(handles, labels, loc="center", fontsize=10)
    for axis in list(axes.flat)[max(0, len(quantities) - columns) : len(quantities)]:
        axis.set_xlabel("$R$ [kpc]")
        axis.tick_params(labelbottom=True)
    return figure


def abundance_plane(
    galaxies: Mapping[str, Galaxy],
    *,
    feh: tuple[float, float] = (-2.3, 0.6),
    ofe: tuple[float, float] = (-0.1, 0.5),
    bins: int = 60,
) -> Figure:
    """The [O/Fe]-[Fe/H] plane, one panel a galaxy; each column of density on the same scale.

    The default ranges are those of the paper's corner plot (public code of arXiv:2312.06017).
    """
    figure, axes = plt.subplots(
        1,
        len(galaxies),
        figsize=(2.3 * len(galaxies) + 0.8, 2.6),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    low = top = None
    for axis, (name, galaxy) in zip(np.atleast_1d(axes), galaxies.items(), strict=True):
        counts = np.histogram2d(galaxy["feh"], galaxy["ofe"], bins=bins, range=[feh, ofe])[0].T
        share = counts / len(galaxy)
        # One star of the first galaxy is the palest colour, its densest pixel the darkest.
        if top is None:
            low = 1 / len(galaxy)
            top = max(share.max(), low)
        image = axis.imshow(
            np.where(share > 0, share, np.nan),
            extent=[*feh, *ofe],
            aspect="auto",
            norm=LogNorm(vmin=low / 2, vmax=top),
            cmap=DENSITY_MAP,
            interpolation="nearest",
            origin="lower",
        )
        axis.set(title=name, xlabel=f"{LABELS['feh']} [{UNITS['feh']}]")
    np.atleast_1d(axes)[0].set_ylabel(f"{LABELS['ofe']} [{UNITS['ofe']}]")
    figure.colorbar(image, ax=axes, label="share of stars in a pixel", shrink=0.9)
    return figure
