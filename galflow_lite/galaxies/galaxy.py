"""A galaxy as a table of stars: the paper's cuts and conditions, its radial profiles.

Source: Wolf & Buck 2023, arXiv:2312.06017, and the settings in the authors' public code.
Lengths are in kpc, velocities in km/s, ages in Gyr, masses in solar masses, metallicity
``Z`` is a mass fraction, ``feh`` and ``ofe`` are [Fe/H] and [O/Fe] in dex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import binned_statistic

from ..inputs import as_array, as_number

COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "age")
CONDITIONS = ("M_stars", "tau50", "tau10", "Z_av")
UNITS = dict(x="kpc", y="kpc", z="kpc", vx="km/s", vy="km/s", vz="km/s", feh="dex", ofe="dex")
UNITS |= dict(Z="mass fraction", Z_av="mass fraction", mass="Msun", M_stars="Msun")
UNITS |= dict(age="Gyr", tau50="Gyr", tau10="Gyr")

# Cuts of the public code: percentile and cap [kpc] of the radius, number of stars of highest Z,
# least [Fe/H] and [O/Fe] [dex], least number of stars.
_PERCENTILE, _R_MAX, _TOP_Z = 95.0, 27.7, 10
_LEAST = {"feh": -8.0, "ofe": -1.0}
_FEWEST_STARS = 500
# Side of the face-on histogram, in pixels, and the quantile of its counts above which a
# pixel belongs to the bright body whose major axis is sought.
_BAR_PIXELS = 100
_BAR_QUANTILE = 0.9


class TooFewStars(ValueError):
    """A galaxy has fewer than 500 stars once the cuts are made."""


@dataclass(eq=False, repr=False)
class Galaxy:
    """The stars of one galaxy and the global parameters that describe it.

    Args:
        stars: Array, shape (n, len(columns)); one row a star, in the units of `UNITS`. Of a table
            with names (DataFrame, structured array, mapping) the columns are taken by name.
        conditions: Global parameters by name, e.g. those of `conditions`.
        id: Name of the galaxy, unique within a catalogue.
        columns: Names of the columns of ``stars``, each once.
        masses: Stellar masses [Msun]: one for each star, shape (n,), or one value that every
            star has, or None where they are unknown.
        attributes: Anything else worth keeping with the galaxy (numbers or text).

    Raises:
        ValueError: If the shapes do not fit each other or a column is missing or named twice.

    Example:
        >>> galaxy = Galaxy(np.zeros((3, 2)), id="g1", columns=("x", "age"), masses=1e5)
        >>> len(galaxy), galaxy["age"].shape, galaxy.select(("age",)).stars.shape
        (3, (3,), (3, 1))
    """

    stars: np.ndarray
    conditions: dict[str, float] = field(default_factory=dict)
    id: str = ""
    columns: tuple[str, ...] = COLUMNS
    masses: np.ndarray | float | None = None
    attributes: dict[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.columns = tuple(self.columns)
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"galaxy {self.id!r} has the columns {', '.join(self.columns)}, expected each "
                "once: rename or drop the others"
            )
        dtype = np.float32 if getattr(self.stars, "dtype", None) == np.float32 else np.float64
        name, shape = f"the table of galaxy {self.id!r}", ("n", len(self.columns))
        options = dict(columns=self.columns, dtype=dtype, finite=False)
        self.stars = as_array(self.stars, name, shape, **options)
        if self.masses is not None:
            shape = () if np.ndim(self.masses) == 0 else (len(self.stars),)
            masses = as_array(self.masses, f"the mass [Msun] in {name}", shape, finite=False)
            least = float(np.fmin.reduce(masses, axis=None, initial=0.0))  # NaN may be cleaned yet
            as_number(least, f"the least mass [Msun] in {name}", least=0)
            self.masses = masses if shape else float(masses)

    def __len__(self) -> int:
        return len(self.stars)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} = {value:.4g}" for name, value in self.conditions.items())
        table = f"{len(self)} stars, columns {', '.join(self.columns)}"
        return f"Galaxy({self.id!r}: {table}; {values or 'no conditions'})"

    def __getitem__(self, column: str) -> np.ndarray:
        """Return one column, shape (n,), as a view of the stars."""
        return self.stars[:, positions((column,), self.columns, f"galaxy {self.id!r}")[0]]

    def select(self, columns: Sequence[str]) -> Galaxy:
        """Return the galaxy with these columns, in this order; conditions and masses stay.

        Raises:
            ValueError: If a column is missing (all missing ones are named).
        """
        if tuple(columns) == self.columns:
            return self
        places = positions(columns, self.columns, f"galaxy {self.id!r}")
        return replace(self, stars=self.stars[:, places], columns=tuple(columns))

    def take(self, rows: np.ndarray | slice) -> Galaxy:
        """Return the galaxy with these rows (a mask, indices or a slice); conditions stay."""
        masses = self.masses[rows] if isinstance(self.masses, np.ndarray) else self.masses
        return replace(self, stars=self.stars[rows], masses=masses)

    def require_finite(self) -> Galaxy:
        """Return the galaxy if all its values and masses are finite.

        Raises:
            ValueError: If a row or a mass is NaN or infinite.
        """
        name = f"the table of galaxy {self.id!r}"
        as_array(self.stars, name, dtype=self.stars.dtype, columns=self.columns)
        as_array(0.0 if self.masses is None else self.masses, f"the mass [Msun] in {name}")
        return self


def positions(names: Sequence[str], known: Sequence[str], owner: str) -> list[int]:
    """Where these names stand among the known ones of ``owner``.

    Raises:
        ValueError: If it has not all of them.
    """
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{owner} has no {', '.join(missing)}, choose among {', '.join(known)}")
    return [known.index(name) for name in names]


def conditions(galaxy: Galaxy) -> dict[str, float]:
    """Compute the paper's global parameters of a galaxy from its stars, unweighted.

    M_stars is the sum of the stellar masses [Msun], tau50 the median and tau10 the 10th
    percentile of the ages [Gyr], Z_av the mean of Z [mass fraction]: arXiv:2312.06017, on the
    cleaned stars. A parameter whose column (or mass) is absent is left out.

    Args:
        galaxy: At least one star.

    Returns:
        Name to value, in the order of `CONDITIONS`.

    Raises:
        ValueError: If the galaxy has no stars.
    """
    if not len(galaxy):
        raise ValueError(f"galaxy {galaxy.id!r} has no stars: drop it")
    found: dict[str, float] = {}
    if galaxy.masses is not None:
        found["M_stars"] = float(np.broadcast_to(galaxy.masses, (len(galaxy),)).sum())
    if "age" in galaxy.columns:
        tau50, tau10 = np.percentile(galaxy["age"].astype(np.float64), [50.0, 10.0])
        found["tau50"], found["tau10"] = float(tau50), float(tau10)
    if "Z" in galaxy.columns:
        found["Z_av"] = float(galaxy["Z"].mean(dtype=np.float64))
    return found


def clean(galaxy: Galaxy) -> Galaxy:
    """Apply the cuts of the paper, in its order, and compute the conditions again.

    The galaxy must be centred and seen face-on in the x-y plane already: the paper's code does
    neither. The steps, with the numbers of the public code of arXiv:2312.06017:

    1. R = min(95th percentile of the spherical radius, 27.7 kpc); keep r <= R.
    2. Only where 27.7 kpc was the smaller one: take the percentile again among the kept stars
       and cut there, which removes what is left of a companion that had inflated the first one.
    3. Drop the 10 stars of highest Z. They are found among all stars, so some may have gone with
       step 1 or 2 already.
    4. Keep [Fe/H] >= -8 and [O/Fe] >= -1. A star without iron or oxygen, whose [Fe/H] or [O/Fe]
       is minus infinity, goes here too and is no invalid row.
    5. Refuse a galaxy with fewer than 500 stars left.
    6. Turn the galaxy about z until its face-on major axis lies along x: principal axis of the
       pixels at or above the 0.9 quantile of a 100 x 100 histogram of (x, y), computed on the
       pixel indices as in the paper, so that unequal ranges of x and y shift the angle a
       little. Empty pixels never count, which matters only for small galaxies: there the
       quantile is zero and the published rule would select the whole square. The turn is by
       at most 90 degrees.
    7. Compute the conditions; others are kept as they were given.

    Args:
        galaxy: Stars in kpc and km/s, centred; of `COLUMNS` the abundances may be absent.

    Returns:
        A new galaxy; the given one is unchanged.

    Raises:
        ValueError: If rows hold NaN or infinite values (see `Galaxy.require_finite`).
        TooFewStars: If fewer than 500 stars are left (a ValueError).
    """
    raw = len(galaxy)
    galaxy = _bound_abundances(galaxy).require_finite()
    radius = np.sqrt(sum(galaxy[c].astype(np.float64) ** 2 for c in ("x", "y", "z")))
    limit = np.percentile(radius, _PERCENTILE) if raw else 0.0
    keep = radius <= min(limit, _R_MAX)
    if limit > _R_MAX and keep.any():
        keep &= radius <= np.percentile(radius[keep], _PERCENTILE)
    keep[np.argsort(galaxy["Z"], kind="stable")[-_TOP_Z:]] = False
    for name in _LEAST.keys() & galaxy.columns:
        keep &= galaxy[name] >= _LEAST[name]
    galaxy = galaxy.take(keep)
    if len(galaxy) < _FEWEST_STARS:
        found = f"galaxy {galaxy.id!r} keeps {len(galaxy)} of {raw} stars after the cuts"
        raise TooFewStars(f"{found}, expected at least {_FEWEST_STARS}: drop it")
    galaxy = _rotate(galaxy, -_major_axis_angle(galaxy["x"], galaxy["y"]))
    return replace(galaxy, conditions={**galaxy.conditions, **conditions(galaxy)})


def _bound_abundances(galaxy: Galaxy) -> Galaxy:
    """Give stars without iron or oxygen a finite abundance that no cut keeps."""
    places = [galaxy.columns.index(name) for name in _LEAST if name in galaxy.columns]
    without = np.isneginf(galaxy.stars[:, places]).any(axis=1)
    if not without.any():
        return galaxy
    stars = galaxy.stars.copy()
    # Without iron [O/Fe] is infinite or undefined: both go with the star.
    stars[np.ix_(without, places)] = np.finfo(stars.dtype).min
    return replace(galaxy, stars=stars)


def _major_axis_angle(x: np.ndarray, y: np.ndarray) -> float:
    """Angle of the major axis of the bright body against x [rad], within [-pi/2, pi/2]."""
    counts, _, _ = np.histogram2d(x, y, bins=_BAR_PIXELS)
    pixels = np.argwhere(counts >= max(np.quantile(counts, _BAR_QUANTILE), 1.0))
    if len(pixels) < 2:
        return 0.0
    # eigh sorts the variances in ascending order: the last axis is the major one.
    _, axes = np.linalg.eigh(np.cov(pixels.T.astype(np.float64)))
    along_x, along_y = axes[:, -1]
    return float(np.arctan2(along_y, along_x) if along_x >= 0 else np.arctan2(-along_y, -along_x))


def _rotate(galaxy: Galaxy, angle: float) -> Galaxy:
    """Rotate positions and velocities about z by an angle [rad], counter-clockwise."""
    stars = galaxy.stars.copy()
    cos, sin = np.cos(angle), np.sin(angle)
    for pair in (("x", "y"), ("vx", "vy")):
        first, second = (galaxy[name].astype(np.float64) for name in pair)
        stars[:, galaxy.columns.index(pair[0])] = cos * first - sin * second
        stars[:, galaxy.columns.index(pair[1])] = sin * first + cos * second
    return replace(galaxy, stars=stars)


# Name of a profile: the column it is made of, and the statistic taken.
_PROFILES = {
    "rotation": ("v_phi", "mean"),
    "sigma_R": ("v_R", "std"),
    "sigma_phi": ("v_phi", "std"),
    "sigma_z": ("vz", "std"),
}


class Profile(NamedTuple):
    """A quantity in rings of cylindrical radius.

    Attributes:
        radius: Median radius of the stars in each ring [kpc], shape (rings,).
        value: The quantity, NaN where a ring has too few stars.
    """

    radius: np.ndarray
    value: np.ndarray


def radial_profile(galaxy: Galaxy, quantity: str, edges: Sequence[float]) -> Profile:
    """Profile of one quantity in rings; those with fewer than 20 stars are NaN.

    Args:
        galaxy: Stars, centred and face-on.
        quantity: ``"rotation"``, the mean velocity around z, positive if counter-clockwise seen
            from +z; ``"sigma_R"``, ``"sigma_phi"`` or ``"sigma_z"``, standard deviations of the
            velocity; or the name of a column, whose mean is taken.
        edges: Edges of the rings in cylindrical radius [kpc], shape (rings + 1,).

    Raises:
        ValueError: If the galaxy lacks a column that the profile needs.
    """
    edges = as_array(edges, "edges", ("rings + 1",))
    name, statistic = _PROFILES.get(quantity, (quantity, "mean"))
    x, y = (galaxy[column].astype(np.float64) for column in ("x", "y"))
    radius = np.hypot(x, y)
    if name in ("v_R", "v_phi"):
        vx, vy = (galaxy[column].astype(np.float64) for column in ("vx", "vy"))
        phi = np.arctan2(y, x)
        cos, sin = np.cos(phi), np.sin(phi)
        values = vx * cos + vy * sin if name == "v_R" else vy * cos - vx * sin
    else:
        values = galaxy[name].astype(np.float64)
    centre, value, count = (
        binned_statistic(radius, taken, statistic=of, bins=edges).statistic
        for taken, of in ((radius, "median"), (values, statistic), (values, "count"))
    )
    return Profile(centre, np.where(count < 20, np.nan, value))


def profile_distance(data: Galaxy, model: Galaxy, quantity: str) -> float:
    """Root mean square difference of a profile, in units of its spread over the data's rings.

    The eight rings hold equal numbers of the data's stars; those with fewer than 20, in the data
    or in the model, do not count. 0 is perfect; 1 is as far off as a flat profile.

    Args:
        data: The galaxy to match; sets the rings.
        model: The sample.
        quantity: As in :func:`radial_profile`.

    Returns:
        The distance; NaN where fewer than two rings count or the data's profile is flat.

    Raises:
        ValueError: If a galaxy lacks a column that the profile needs.
    """
    edges = np.quantile(np.hypot(data["x"], data["y"], dtype=np.float64), np.linspace(0, 1, 9))
    one, other = (radial_profile(galaxy, quantity, edges).value for galaxy in (data, model))
    valid = np.isfinite(one) & np.isfinite(other)
    spread = one[valid].std() if valid.sum() > 1 else 0.0
    if not spread > 0:
        return float("nan")
    return float(np.sqrt(np.mean((other[valid] - one[valid]) ** 2)) / spread)
