"""A galaxy as a table of stars, the cuts of the paper and its four conditions.

Source: Wolf & Buck 2023, arXiv:2312.06017, and the settings in the authors' public code.
Lengths are in kpc, velocities in km/s, ages in Gyr, masses in solar masses, metallicity
``Z`` is a mass fraction, ``feh`` and ``ofe`` are [Fe/H] and [O/Fe] in dex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "UNITS",
    "Galaxy",
    "TooFewStars",
    "clean",
    "conditions",
]

COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "age")
CONDITIONS = ("M_stars", "tau50", "tau10", "Z_av")
UNITS = {
    "x": "kpc",
    "y": "kpc",
    "z": "kpc",
    "vx": "km/s",
    "vy": "km/s",
    "vz": "km/s",
    "Z": "mass fraction",
    "feh": "dex",
    "ofe": "dex",
    "age": "Gyr",
    "mass": "Msun",
    "M_stars": "Msun",
    "tau50": "Gyr",
    "tau10": "Gyr",
    "Z_av": "mass fraction",
}

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
        stars: Array, shape (n, len(columns)); one row a star, in the units of `UNITS`.
        conditions: Global parameters by name, e.g. those of `conditions`.
        id: Name of the galaxy, unique within a catalogue.
        columns: Names of the columns of ``stars``, each once.
        masses: Stellar masses [Msun]: one for each star, shape (n,), or one value that every
            star has, or None where they are unknown.
        attributes: Anything else worth keeping with the galaxy (numbers or text).

    Raises:
        ValueError: If the shapes do not fit each other or a column is named twice.

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
        self.stars = np.asarray(self.stars)
        if self.stars.dtype not in (np.float32, np.float64):
            try:
                self.stars = self.stars.astype(np.float64)
            except (TypeError, ValueError):
                raise ValueError(
                    f"galaxy {self.id!r} has stars of type {self.stars.dtype}, expected numbers: "
                    "give an array of floats."
                ) from None
        self.columns = tuple(self.columns)
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise ValueError(
                f"galaxy {self.id!r} names the column(s) {', '.join(twice)} more than once, "
                "expected each once: rename or drop the others."
            )
        if self.stars.ndim != 2 or self.stars.shape[1] != len(self.columns):
            raise ValueError(
                f"galaxy {self.id!r} has stars of shape {self.stars.shape}, expected "
                f"(n, {len(self.columns)}) for the columns {', '.join(self.columns)}: give one "
                "row a star and name its columns with columns=."
            )
        if self.masses is not None:
            masses = np.asarray(self.masses, dtype=np.float64)
            if masses.ndim == 0:
                self.masses = float(masses)
            elif masses.shape == (len(self.stars),):
                self.masses = masses
            else:
                raise ValueError(
                    f"galaxy {self.id!r} has masses of shape {masses.shape}, expected "
                    f"({len(self.stars)},) or one value for all: give one mass a star."
                )

    @classmethod
    def from_columns(
        cls,
        table: Mapping[str, Sequence[float] | np.ndarray],
        *,
        columns: Sequence[str] | None = None,
        id: str = "",
        masses: np.ndarray | float | None = None,
    ) -> Galaxy:
        """Build a galaxy from a mapping of name to values (a dict, an npz file, a DataFrame).

        Args:
            table: Column name to array of shape (n,). A column ``mass`` becomes the masses
                unless ``masses`` is given.
            columns: Columns to take. None takes `COLUMNS`, and then any other column in the
                table is an error, because it is more often a misspelling than a wish.
            id: Name of the galaxy.
            masses: As in `Galaxy`.

        Raises:
            ValueError: If columns are missing or extra, or differ in length.
        """
        names = [str(name) for name in table.keys()]
        wanted = COLUMNS if columns is None else tuple(columns)
        missing = [name for name in wanted if name not in names]
        extra = [name for name in names if name not in wanted and name != "mass"]
        if missing or (extra and columns is None):
            raise ValueError(
                f"galaxy {id!r} has the columns {', '.join(names)}: "
                f"missing {', '.join(missing) or 'none'}, extra {', '.join(extra) or 'none'}, "
                f"expected {', '.join(wanted)}; choose the columns to use with columns=."
            )
        values = [np.asarray(table[name]) for name in wanted]
        lengths = {name: len(value) for name, value in zip(wanted, values, strict=True)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"galaxy {id!r} has columns of different lengths {lengths}, expected one value "
                "a star in each: check how the table was read."
            )
        if masses is None and "mass" in names and "mass" not in wanted:
            masses = np.asarray(table["mass"])
        return cls(np.stack(values, axis=1), id=id, columns=wanted, masses=masses)

    def __len__(self) -> int:
        return len(self.stars)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} = {value:.4g}" for name, value in self.conditions.items())
        return (
            f"Galaxy({self.id!r}: {len(self)} stars, columns {', '.join(self.columns)}; "
            f"{values or 'no conditions'})"
        )

    def __getitem__(self, column: str) -> np.ndarray:
        """Return one column, shape (n,), as a view of the stars."""
        return self.stars[:, self._position(column)]

    def _position(self, column: str) -> int:
        try:
            return self.columns.index(column)
        except ValueError:
            raise ValueError(
                f"galaxy {self.id!r} has no column {column!r}, it has "
                f"{', '.join(self.columns)}: choose among these."
            ) from None

    def has(self, *columns: str) -> bool:
        """Return whether the galaxy has all of these columns."""
        return all(name in self.columns for name in columns)

    def select(self, columns: Sequence[str]) -> Galaxy:
        """Return the galaxy with these columns, in this order; conditions and masses stay.

        Raises:
            ValueError: If a column is missing (all missing ones are named).
        """
        columns = tuple(columns)
        if columns == self.columns:
            return self
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise ValueError(
                f"galaxy {self.id!r} has no column(s) {', '.join(missing)}, it has "
                f"{', '.join(self.columns)}: choose among these."
            )
        return replace(
            self, stars=self.stars[:, [self._position(c) for c in columns]], columns=columns
        )

    def take(self, rows: np.ndarray | slice) -> Galaxy:
        """Return the galaxy with these rows (a mask, indices or a slice); conditions stay."""
        masses = self.masses[rows] if isinstance(self.masses, np.ndarray) else self.masses
        return replace(self, stars=self.stars[rows], masses=masses)

    def invalid(self) -> dict[str, int]:
        """Count the rows with a NaN or infinite value, by column (``mass`` included)."""
        counts = {name: int(np.count_nonzero(~np.isfinite(self[name]))) for name in self.columns}
        if self.masses is not None:
            counts["mass"] = int(np.count_nonzero(~np.isfinite(self.masses)))
        return {name: count for name, count in counts.items() if count}

    def require_finite(self, *, drop_invalid: bool = False) -> Galaxy:
        """Return the galaxy if all values are finite; drop the other rows only when asked.

        Raises:
            ValueError: If a row has a NaN or infinite value and ``drop_invalid`` is false, or
                if the one mass that all stars share is not finite.
        """
        counts = self.invalid()
        if not counts:
            return self
        finite = np.isfinite(self.stars).all(axis=1)
        if self.masses is not None:
            finite = finite & np.isfinite(self.masses)
        if drop_invalid and (isinstance(self.masses, np.ndarray) or "mass" not in counts):
            return self.take(finite)
        by_column = ", ".join(f"{name} in {count}" for name, count in counts.items())
        raise ValueError(
            f"galaxy {self.id!r} has {np.count_nonzero(~finite)} of {len(self)} rows with NaN or "
            f"infinite values ({by_column}), expected none: pass drop_invalid=True to drop "
            "these rows."
        )


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
        raise ValueError(
            f"galaxy {galaxy.id!r} has no stars, expected at least one: conditions cannot be "
            "computed, drop the galaxy."
        )
    found: dict[str, float] = {}
    if galaxy.masses is not None:
        masses = np.broadcast_to(np.asarray(galaxy.masses, dtype=np.float64), (len(galaxy),))
        found["M_stars"] = float(masses.sum())
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
    feh_min: float = -8.0,
    ofe_min: float = -1.0,
    n_top_metallicity: int = 10,
    min_stars: int = 500,
    align_bar: bool = True,
    drop_invalid: bool = False,
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
    4. Keep [Fe/H] >= ``feh_min`` and [O/Fe] >= ``ofe_min``. A star without iron or oxygen,
       whose [Fe/H] or [O/Fe] is minus infinity, goes here too and is no invalid row.
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
        feh_min: Least [Fe/H] [dex].
        ofe_min: Least [O/Fe] [dex].
        n_top_metallicity: Number of stars dropped in step 3.
        min_stars: Least number of stars a galaxy must keep.
        align_bar: Whether to do step 6.
        drop_invalid: Drop rows with NaN or infinite values first instead of raising.

    Returns:
        A new galaxy with the same columns; the given one is unchanged.

    Raises:
        ValueError: If rows hold NaN or infinite values and ``drop_invalid`` is false, or a
            setting is out of range.
        TooFewStars: If fewer than ``min_stars`` stars are left (a ValueError).
    """
    if not 0 < percentile <= 100 or not r_max > 0 or n_top_metallicity < 0:
        raise ValueError(
            f"found percentile={percentile}, r_max={r_max}, n_top_metallicity="
            f"{n_top_metallicity}, expected a percentile in (0, 100], a positive radius and a "
            "number of stars that is not negative: mend the setting."
        )
    raw = len(galaxy)
    galaxy = _bound_abundances(galaxy).require_finite(drop_invalid=drop_invalid)
    keep = np.ones(len(galaxy), dtype=bool)
    if galaxy.has("x", "y", "z") and len(galaxy):
        radius = np.sqrt(sum(galaxy[c].astype(np.float64) ** 2 for c in ("x", "y", "z")))
        limit = np.percentile(radius, percentile)
        keep = radius <= min(limit, r_max)
        if r_max < limit and keep.any():
            keep &= radius <= np.percentile(radius[keep], percentile)
    if galaxy.has("Z") and n_top_metallicity:
        keep[np.argsort(galaxy["Z"], kind="stable")[-n_top_metallicity:]] = False
    if galaxy.has("feh"):
        keep &= galaxy["feh"] >= feh_min
    if galaxy.has("ofe"):
        keep &= galaxy["ofe"] >= ofe_min
    galaxy = galaxy.take(keep)
    if len(galaxy) < max(min_stars, 1):
        raise TooFewStars(
            f"galaxy {galaxy.id!r} keeps {len(galaxy)} of {raw} stars after the cuts, expected "
            f"at least {max(min_stars, 1)}: drop the galaxy or lower min_stars."
        )
    if align_bar and galaxy.has("x", "y"):
        galaxy = _rotate(galaxy, -_major_axis_angle(galaxy["x"], galaxy["y"]))
    return replace(galaxy, conditions={**galaxy.conditions, **conditions(galaxy)})


def _bound_abundances(galaxy: Galaxy) -> Galaxy:
    """Give stars without iron or oxygen a finite abundance that no cut keeps."""
    abundances = [name for name in ("feh", "ofe") if galaxy.has(name)]
    without = np.zeros(len(galaxy), dtype=bool)
    for name in abundances:
        without |= np.isneginf(galaxy[name])
    if not without.any():
        return galaxy
    galaxy = replace(galaxy, stars=galaxy.stars.copy())
    # Without iron [O/Fe] is infinite or undefined: both go with the star.
    for name in abundances:
        galaxy[name][without] = np.finfo(galaxy.stars.dtype).min
    return galaxy


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
