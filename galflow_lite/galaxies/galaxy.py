"""A galaxy as a table of stars, the cuts of the paper and its four conditions.

Source: Wolf & Buck 2023, arXiv:2312.06017, and the settings in the authors' public code.
Lengths are in kpc, velocities in km/s, ages in Gyr, masses in solar masses, metallicity
``Z`` is a mass fraction, ``feh`` and ``ofe`` are [Fe/H] and [O/Fe] in dex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..inputs import as_array, as_number, as_whole

COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "age")
CONDITIONS = ("M_stars", "tau50", "tau10", "Z_av")
UNITS = dict(x="kpc", y="kpc", z="kpc", vx="km/s", vy="km/s", vz="km/s", feh="dex", ofe="dex")
UNITS |= dict(Z="mass fraction", Z_av="mass fraction", mass="Msun", M_stars="Msun")
UNITS |= dict(age="Gyr", tau50="Gyr", tau10="Gyr")

# Cuts of the public code: percentile of the radius, least [Fe/H] and [O/Fe] in dex.
_FEH_MIN, _OFE_MIN = -8.0, -1.0
# Side of the face-on histogram, in pixels, and the quantile of its counts above which a
# pixel belongs to the bright body whose major axis is sought.
_BAR_PIXELS = 100
_BAR_QUANTILE = 0.9


class TooFewStars(ValueError):
    """A galaxy has fewer stars than asked for once the cuts are made."""


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

    def has(self, *columns: str) -> bool:
        """Return whether the galaxy has all of these columns."""
        return all(name in self.columns for name in columns)

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

    def require_finite(self, *, drop_invalid: bool = False) -> Galaxy:
        """Return the galaxy if all values are finite; drop the other rows only when asked.

        Raises:
            ValueError: If a row has a NaN or infinite value and ``drop_invalid`` is false, or
                if the one mass that all stars share is not finite.
        """
        masses = 0.0 if self.masses is None else self.masses
        if drop_invalid:
            self = self.take(np.isfinite(self.stars).all(axis=1) & np.isfinite(masses))
        name = f"the table of galaxy {self.id!r}"
        as_array(self.stars, name, dtype=self.stars.dtype, columns=with_units(self.columns))
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


def with_units(names: Sequence[str], units: Mapping[str, str] = UNITS) -> tuple[str, ...]:
    """Names for a message: ``"age [Gyr]"``."""
    return tuple(f"{name} [{units[name]}]" if units.get(name) else name for name in names)


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
    if galaxy.has("age"):
        tau50, tau10 = np.percentile(galaxy["age"].astype(np.float64), [50.0, 10.0])
        found["tau50"], found["tau10"] = float(tau50), float(tau10)
    if galaxy.has("Z"):
        found["Z_av"] = float(galaxy["Z"].mean(dtype=np.float64))
    return found


def clean(
    galaxy: Galaxy,
    *,
    percentile: float = 95.0,
    r_max: float = 27.7,
    n_top_metallicity: int = 10,
    min_stars: int = 500,
    align_bar: bool = True,
) -> Galaxy:
    """Apply the cuts of the paper, in its order, and compute the conditions anew.

    The galaxy must be centred and seen face-on in the x-y plane already: the paper's code does
    neither. A step that needs an absent column is skipped. The steps (arXiv:2312.06017, defaults
    of the public code):

    1. R = min(``percentile``-th percentile of the spherical radius, ``r_max``); keep r <= R.
    2. Only where ``r_max`` was the smaller one: take the percentile again among the kept stars
       and cut there, which removes what is left of a companion that had inflated the first one.
    3. Drop the ``n_top_metallicity`` stars of highest Z. They are found among all stars, so
       some may have gone with step 1 or 2 already.
    4. Keep [Fe/H] >= -8 and [O/Fe] >= -1. A star without iron or oxygen, whose [Fe/H] or [O/Fe]
       is minus infinity, goes here too and is no invalid row.
    5. Refuse a galaxy with fewer than ``min_stars`` stars left.
    6. Turn the galaxy about z until its face-on major axis lies along x: principal axis of the
       pixels at or above the 0.9 quantile of a 100 x 100 histogram of (x, y), computed on the
       pixel indices as in the paper, so that unequal ranges of x and y shift the angle a
       little. Empty pixels never count, which matters only for small galaxies: there the
       quantile is zero and the published rule would select the whole square. The turn is by
       at most 90 degrees.
    7. Compute the conditions; those that cannot be computed (no masses, no such column) are
       kept as they were given.

    Args:
        galaxy: Stars in kpc and km/s, centred.
        percentile: Percentile of r for steps 1 and 2, within (0, 100].
        r_max: Largest radius [kpc].
        n_top_metallicity: Number of stars dropped in step 3.
        min_stars: Least number of stars a galaxy must keep.
        align_bar: Whether to do step 6.

    Returns:
        A new galaxy with the same columns; the given one is unchanged.

    Raises:
        ValueError: If rows hold NaN or infinite values (see `Galaxy.require_finite`), or a
            setting is out of range.
        TooFewStars: If fewer than ``min_stars`` stars are left (a ValueError).
    """
    percentile = as_number(percentile, "percentile", above=0, most=100)
    r_max = as_number(r_max, "r_max", above=0)
    top = as_whole(n_top_metallicity, "n_top_metallicity")
    raw = len(galaxy)
    galaxy = _bound_abundances(galaxy).require_finite()
    keep = np.ones(len(galaxy), dtype=bool)
    if galaxy.has("x", "y", "z") and len(galaxy):
        radius = np.sqrt(sum(galaxy[c].astype(np.float64) ** 2 for c in ("x", "y", "z")))
        limit = np.percentile(radius, percentile)
        keep = radius <= min(limit, r_max)
        if r_max < limit and keep.any():
            keep &= radius <= np.percentile(radius[keep], percentile)
    if galaxy.has("Z") and top:
        keep[np.argsort(galaxy["Z"], kind="stable")[-top:]] = False
    for name, least in (("feh", _FEH_MIN), ("ofe", _OFE_MIN)):
        if galaxy.has(name):
            keep &= galaxy[name] >= least
    galaxy = galaxy.take(keep)
    least = max(as_whole(min_stars, "min_stars"), 1)
    if len(galaxy) < least:
        found = f"galaxy {galaxy.id!r} keeps {len(galaxy)} of {raw} stars after the cuts"
        raise TooFewStars(f"{found}, expected at least {least}: drop it or lower min_stars")
    if align_bar and galaxy.has("x", "y"):
        galaxy = _rotate(galaxy, -_major_axis_angle(galaxy["x"], galaxy["y"]))
    return replace(galaxy, conditions={**galaxy.conditions, **conditions(galaxy)})


def _bound_abundances(galaxy: Galaxy) -> Galaxy:
    """Give stars without iron or oxygen a finite abundance that no cut keeps."""
    places = [galaxy.columns.index(name) for name in ("feh", "ofe") if galaxy.has(name)]
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
        if galaxy.has(*pair):
            first, second = (galaxy[name].astype(np.float64) for name in pair)
            stars[:, galaxy.columns.index(pair[0])] = cos * first - sin * second
            stars[:, galaxy.columns.index(pair[1])] = sin * first + cos * second
    return replace(galaxy, stars=stars)
