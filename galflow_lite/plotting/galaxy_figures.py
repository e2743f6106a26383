"""Figures of galaxies: corner plot, maps, profiles and the plane of abundances."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..galaxies import PROFILES, UNITS, Galaxy, face_on_map, radial_profile
from .figures import COLORS, DENSITY_MAP, RESIDUAL_MAP, VALUE_MAP, draw_map

LABELS = {name: f"${name}$ [kpc]" for name in "xyz"}
LABELS |= {f"v{name}": f"$v_{name}$ [km/s]" for name in "xyz"}
LABELS |= {"Z": "$Z$", "feh": "[Fe/H]", "ofe": "[O/Fe]", "age": "age [Gyr]"}
LABELS |= {"M_stars": "$M_\\star$ [M$_\\odot$]", "Z_av": "$Z_{\\rm av}$"}
LABELS |= {"tau50": "$\\tau_{50}$ [Gyr]", "tau10": "$\\tau_{10}$ [Gyr]"}


def corner(
    data: Galaxy, model: Galaxy, *, limits: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Corner plot: data below the diagonal, model above it, both on the diagonal.

    Both triangles share limits and colour scales, so that a panel and its partner across the
    diagonal compare as mirror images.

    Args:
        data, model: Galaxies with the same columns.
        limits: Display range of columns; by default the central 99 % of the data.
    """
    columns, n = data.columns, len(data.columns)
    ranges = {c: _central(data[c]) for c in columns} | dict(limits or {})
    figure, axes = plt.subplots(
        n, n, figsize=(1.15 * n + 0.6, 1.15 * n + 0.4), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for (i, j), axis in np.ndenumerate(axes):
        row, column = columns[i], columns[j]
        if i == j:
            for galaxy, name in ((data, "data"), (model, "flow")):
                inside = (ranges[row][0] <= galaxy[row]) & (galaxy[row] <= ranges[row][1])
                if not inside.any():
                    continue  # matplotlib would divide by their number
                style = {"histtype": "step", "color": COLORS[name], "lw": 1.2, "density": True}
                axis.hist(galaxy[row][inside], bins=36, range=ranges[row], **style)
            axis.set(xlim=ranges[row], yticks=[])
        else:
            span = ranges[column], ranges[row]
            top = _shares(data, column, row, span, 36).max()
            # Without a star of the data in sight, one star sets the scale.
            top = max(top, 1 / len(data))
            shares = _shares(data if i > j else model, column, row, span, 36)
            _draw_shares(axis, shares, span, top / 300, top)
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


def _shares(galaxy: Galaxy, first: str, second: str, span, bins: int) -> np.ndarray:
    """Share of the stars in each pixel of the plane of two columns, shape (bins, bins)."""
    return np.histogram2d(galaxy[first], galaxy[second], bins=bins, range=span)[0].T / len(galaxy)


def _draw_shares(axis: Axes, shares: np.ndarray, span, low: float, top: float):
    style = {"aspect": "auto", "norm": LogNorm(vmin=low, vmax=top), "cmap": DENSITY_MAP}
    return draw_map(axis, np.where(shares > 0, shares, np.nan), [*span[0], *span[1]], **style)


def face_on(data: Galaxy, model: Galaxy, *, half_width: float, pixels: int = 40) -> Figure:
    """Face-on maps of density and mean metallicity: data, model and residual.

    The density residual is in standard deviations of the star counts, where both together have at
    least five stars; the residual of [Fe/H] is in dex, where both have.

    Args:
        data, model: Galaxies with x, y and feh; at least one star of the data within the map.
        half_width: The maps reach from -half_width to half_width [kpc].
        pixels: Pixels on a side.
    """
    figure, axes = plt.subplots(
        2, 3, figsize=(8.6, 5.4), sharex=True, sharey=True, layout="constrained"
    )
    extent = [-half_width, half_width] * 2
    area = (2 * half_width / pixels) ** 2
    both, size = (data, model), {"half_width": half_width, "pixels": pixels}
    density = [face_on_map(galaxy, "density", min_stars=1, **size) for galaxy in both]
    metallicity = [face_on_map(galaxy, "feh", min_stars=5, **size) for galaxy in both]
    one, other = (np.nan_to_num(values) for values in density)
    with np.errstate(invalid="ignore", divide="ignore"):
        sigmas = (other - one) / np.sqrt(one / len(data) / area + other / len(model) / area)
    # A handful of stars has no Gaussian error.
    sigmas[(one * len(data) + other * len(model)) * area < 5] = np.nan
    filled = metallicity[0][np.isfinite(metallicity[0])]
    # With too few stars for any pixel the stars themselves set the scale.
    low, high = np.quantile(filled if filled.size else data["feh"], [0.02, 0.98])
    counts = LogNorm(vmin=np.nanmin(density[0]), vmax=np.nanmax(density[0]))
    styles = {"norm": counts, "cmap": DENSITY_MAP}, {"vmin": low, "vmax": high, "cmap": VALUE_MAP}
    residuals = (sigmas, 5.0), (metallicity[1] - metallicity[0], 0.5)
    of_density = ("density", "share of stars kpc$^{-2}$", "(flow - data) / $\\sigma$")
    texts = of_density, ("mean [Fe/H]", "dex", "flow - data [dex]")
    rows = zip(axes, (density, metallicity), residuals, styles, texts, strict=True)
    for row, maps, (residual, span), style, words in rows:
        for axis, shown, title in zip(row[:2], maps, ("data", "flow"), strict=True):
            image = draw_map(axis, shown, extent, **style)
            axis.set_title(f"{title}: {words[0]}")
        figure.colorbar(image, ax=row[:2], label=words[1], shrink=0.9, extend="both")
        image = draw_map(row[2], residual, extent, cmap=RESIDUAL_MAP, vmin=-span, vmax=span)
        row[2].set_title("residual")
        figure.colorbar(image, ax=row[2], label=words[2], shrink=0.9, extend="both")
    for axis in axes[-1]:
        axis.set_xlabel(LABELS["x"])
    for axis in axes[:, 0]:
        axis.set_ylabel(LABELS["y"])
    return figure


def profiles(galaxies: Mapping[str, Galaxy]) -> Figure:
    """Radial profiles of several galaxies; the first one sets the rings and is drawn with errors.

    Args:
        galaxies: Label to galaxy; the label ``"data"``, ``"flow"``, ... picks the colour. Ten rings
            hold equal numbers of stars of the first galaxy.
    """
    first = next(iter(galaxies.values()))
    edges = np.quantile(np.hypot(first["x"], first["y"]), np.linspace(0.0, 1.0, 11))
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), sharex=True, layout="constrained")
    used, spare = axes.flat[: len(PROFILES)], axes.flat[len(PROFILES) :]
    for axis, (quantity, (label, *_)) in zip(used, PROFILES.items(), strict=True):
        for name, galaxy in galaxies.items():
            found = radial_profile(galaxy, quantity, edges)
            style = {"color": COLORS.get(name.split()[0], COLORS["other"]), "label": name}
            if galaxy is first:
                axis.errorbar(
                    found.radius, found.value, found.error, fmt="o", ms=3, zorder=3, **style
                )
            else:
                axis.plot(found.radius, found.value, lw=1.6, **style)
        axis.set_ylabel(label)
        if quantity == "surface_density":
            axis.set_yscale("log")
    for axis in used[-4:]:
        axis.set_xlabel("$R$ [kpc]")
        axis.tick_params(labelbottom=True)
    for axis in spare:
        axis.axis("off")
    spare[0].legend(*used[0].get_legend_handles_labels(), loc="center", fontsize=10)
    return figure


def abundance_plane(galaxies: Mapping[str, Galaxy]) -> Figure:
    """The [O/Fe]-[Fe/H] plane, one panel a galaxy; each column of density on the same scale.

    The ranges are those of the paper's corner plot (public code of arXiv:2312.06017).
    """
    span = (-2.3, 0.6), (-0.1, 0.5)
    layout = {"figsize": (2.3 * len(galaxies) + 0.8, 2.6), "layout": "constrained"}
    layout |= {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(1, len(galaxies), **layout)
    shares = [_shares(galaxy, "feh", "ofe", span, 60) for galaxy in galaxies.values()]
    # One star of the first galaxy is the palest colour, its densest pixel the darkest.
    low = 1 / len(next(iter(galaxies.values())))
    top = max(shares[0].max(), low)
    for axis, name, share in zip(axes[0], galaxies, shares, strict=True):
        image = _draw_shares(axis, share, span, low / 2, top)
        axis.set(title=name, xlabel=f"{LABELS['feh']} [{UNITS['feh']}]")
    axes[0, 0].set_ylabel(f"{LABELS['ofe']} [{UNITS['ofe']}]")
    figure.colorbar(image, ax=axes, label="share of stars in a pixel", shrink=0.9)
    return figure
