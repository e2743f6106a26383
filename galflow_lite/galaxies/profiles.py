"""What an astronomer looks at: radial profiles and face-on maps of a galaxy's stars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binned_statistic, binned_statistic_2d

from ..inputs import as_array
from .galaxy import Galaxy

# Name of a profile: its label, and the column it is made of with the statistic taken.
PROFILES = {
    "surface_density": ("surface density [M$_\\odot$ kpc$^{-2}$]", None, "density"),
    "rotation": ("mean $v_\\phi$ [km s$^{-1}$]", "v_phi", "mean"),
    "sigma_R": ("$\\sigma_R$ [km s$^{-1}$]", "v_R", "std"),
    "sigma_phi": ("$\\sigma_\\phi$ [km s$^{-1}$]", "v_phi", "std"),
    "sigma_z": ("$\\sigma_z$ [km s$^{-1}$]", "vz", "std"),
    "age": ("mean age [Gyr]", "age", "mean"),
    "feh": ("mean [Fe/H] [dex]", "feh", "mean"),
}


@dataclass(frozen=True)
class Profile:
    """A quantity in rings of cylindrical radius.

    Attributes:
        radius: Median radius of the stars in each ring [kpc], shape (rings,).
        value: The quantity, NaN where a ring has too few stars.
        error: Its standard error from the number of stars.
    """

    radius: np.ndarray
    value: np.ndarray
    error: np.ndarray


def cylindrical(galaxy: Galaxy) -> dict[str, np.ndarray]:
    """Cylindrical coordinates of the stars.

    Returns:
        R [kpc], phi [rad], v_R and v_phi [km/s], each of shape (n,); v_phi is positive for
        counter-clockwise rotation seen from +z. The velocities need the columns vx and vy.
    """
    x, y = (galaxy[name].astype(np.float64) for name in ("x", "y"))
    radius, phi = np.hypot(x, y), np.arctan2(y, x)
    found = {"R": radius, "phi": phi}
    if galaxy.has("vx", "vy"):
        vx, vy = (galaxy[name].astype(np.float64) for name in ("vx", "vy"))
        found["v_R"] = vx * np.cos(phi) + vy * np.sin(phi)
        found["v_phi"] = vy * np.cos(phi) - vx * np.sin(phi)
    return found


def radial_profile(
    galaxy: Galaxy, quantity: str, edges: Sequence[float], *, min_stars: int = 20
) -> Profile:
    """Profile of one quantity in rings.

    Args:
        galaxy: Stars, centred and face-on. With masses the surface density is in Msun: the number
            of stars times their mean mass over the galaxy; without it counts stars.
        quantity: A key of :data:`PROFILES`, or the name of a column, whose mean is taken.
        edges: Edges of the rings in cylindrical radius [kpc], shape (rings + 1,).
        min_stars: Rings with fewer stars are NaN.

    Raises:
        ValueError: If the galaxy lacks a column that the profile needs.
    """
    edges = as_array(edges, "edges", ("rings + 1",))
    if not (np.diff(edges) > 0).all():
        raise ValueError(f"edges {edges}, expected at least two radii that increase: take fewer")
    _, name, statistic = PROFILES.get(quantity, ("", quantity, "mean"))
    frame = cylindrical(galaxy)
    radius = frame["R"]
    counts = np.histogram(radius, edges)[0]
    centre = _in_rings(radius, radius, edges, "median")
    if statistic == "density":
        mass = _total(galaxy) / max(len(galaxy), 1)
        area = np.pi * np.diff(edges**2)
        value, error = counts * mass / area, np.sqrt(counts) * mass / area
    else:
        values = frame[name] if name in frame else galaxy[name].astype(np.float64)
        value = _in_rings(radius, values, edges, statistic)
        spread = value if statistic == "std" else _in_rings(radius, values, edges, "std")
        # The error of a standard deviation is that of a mean over sqrt(2), for a Gaussian.
        error = spread / np.sqrt(np.maximum(counts, 1) * (2 if statistic == "std" else 1))
    few = counts < min_stars
    return Profile(centre, np.where(few, np.nan, value), np.where(few, np.nan, error))


def _in_rings(radius, values, edges, statistic) -> np.ndarray:
    if not len(radius):
        return np.full(len(edges) - 1, np.nan)  # scipy takes no empty sample
    return binned_statistic(radius, values, statistic=statistic, bins=edges).statistic


def profile_distance(
    data: Galaxy, model: Galaxy, quantity: str, *, rings: int = 8, min_stars: int = 20
) -> float:
    """Root mean square difference of a profile, in units of its spread over the data's rings.

    The rings hold equal numbers of the data's stars. For the surface density the difference is
    that of the logarithms. 0 is perfect; 1 is as far off as a flat profile.

    Args:
        data: The galaxy to match; sets the rings.
        model: The sample; its masses, if any, are put on the data's total.
        quantity: As in :func:`radial_profile`.
        rings: Number of rings.
        min_stars: Rings with fewer stars, in the data or in the model, do not count.

    Returns:
        The distance; NaN where fewer than two rings count or the data's profile is flat.

    Raises:
        ValueError: If a galaxy lacks a column that the profile needs.
    """
    edges = np.quantile(cylindrical(data)["R"], np.linspace(0, 1, rings + 1))
    one = radial_profile(data, quantity, edges, min_stars=min_stars).value
    other = radial_profile(model, quantity, edges, min_stars=min_stars).value
    if PROFILES.get(quantity, (None,) * 3)[2] == "density":
        # Per star, so that samples of another size or without masses compare.
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = np.log(one / _total(data)), np.log(other / _total(model))
    valid = np.isfinite(one) & np.isfinite(other)
    spread = one[valid].std() if valid.sum() > 1 else 0.0
    if not spread > 0:
        return float("nan")
    return float(np.sqrt(np.mean((other[valid] - one[valid]) ** 2)) / spread)


def _total(galaxy: Galaxy) -> float:
    """Total mass, or the number of stars where their masses are unknown."""
    masses = 1.0 if galaxy.masses is None else galaxy.masses
    return float(np.broadcast_to(masses, len(galaxy)).sum())


def face_on_map(
    galaxy: Galaxy,
    quantity: str,
    *,
    half_width: float,
    pixels: int = 40,
    min_stars: int = 3,
) -> np.ndarray:
    """Face-on map, shape (pixels, pixels), first axis y: the array that imshow takes.

    Args:
        galaxy: Stars, centred and face-on.
        quantity: ``"density"`` (fraction of the stars per kpc^2) or a column, whose mean is taken.
        half_width: The map covers [-half_width, half_width] in x and y [kpc].
        pixels: Pixels on a side.
        min_stars: Pixels with fewer stars are NaN.
    """
    edges = np.linspace(-half_width, half_width, pixels + 1)
    x, y = galaxy["x"], galaxy["y"]
    counts = np.histogram2d(y, x, bins=(edges, edges))[0]
    if quantity == "density":
        found = counts / len(galaxy) / (edges[1] - edges[0]) ** 2
    else:
        found = binned_statistic_2d(
            y, x, galaxy[quantity], statistic="mean", bins=(edges, edges)
        ).statistic
    return np.where(counts < min_stars, np.nan, found)
