"""The scales on which a flow sees stars and conditions, their Jacobian, and the range seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from ..inputs import as_array, as_choice, warn_of_far_points
from .catalogue import Catalogue
from .galaxy import CONDITIONS, UNITS, Galaxy


class OutsideTrainingRange(UserWarning):
    """Conditions lie outside the range of the galaxies that the flow has seen."""


@dataclass(frozen=True)
class Scaling:
    """Invertible map of named columns to columns of zero mean and unit variance.

    Each column goes through a curve of its own, then (u - mean) / std:

    * a column in ``log``: u = log10(value), for positive values;
    * a column in ``bounds`` (low, high): u = logit((value - low) / (high - low)), which turns a
      sharp edge, where a flow would leak over, into a tail (as arXiv:2205.01129 does with
      the radius of its sphere);
    * any other column: u = value.

    Args:
        columns: Names of the columns.
        log: Columns on a logarithmic scale. Names that are not among the columns are passed over.
        bounds: Open interval (low, high) of each bounded column, in its unit; likewise.
        mean, std: Moments of u, shape (len(columns),); None before a fit.
        range: Name to the least and the largest value seen in a fit, of conditions.
    """

    columns: tuple[str, ...]
    log: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    range: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log = tuple(name for name in self.log if name in self.columns)
        kept = {name: ends for name, ends in self.bounds.items() if name in self.columns}
        ends = {name: as_array(v, f"bounds of {name}", (2,)).tolist() for name, v in kept.items()}
        if set(log) & set(ends):
            raise ValueError(f"log {log} and bounds {ends} share a column, expected one of them")
        object.__setattr__(self, "log", log)
        object.__setattr__(self, "bounds", ends)

    def with_moments(self, mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """The same scales with these moments of u.

        Raises:
            ValueError: If a column is constant.
        """
        mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        flat = np.flatnonzero(~(std > 1e-9 * np.maximum(np.abs(mean), 1e-30)))
        if len(flat):
            names = ", ".join(self.columns[place] for place in flat)
            raise ValueError(f"found the same value everywhere in {names}: leave it out")
        return replace(self, mean=mean, std=std)

    def fitted(self, catalogue: Catalogue) -> Scaling:
        """The same scales with the moments of the stars of a catalogue.

        Raises:
            ValueError: If the catalogue lacks a column, one does not vary, or stars lie where its
                curve is not defined.

        Warns:
            RuntimeWarning: A single star makes up nearly all variance of a column.
        """
        mean, std, farthest = catalogue.moments(self.columns, transform=self.curve)
        fitted, n = self.with_moments(mean, std), int(catalogue.n_stars.sum())
        far = (farthest - mean) / std
        warn_of_far_points(self.columns, fitted.inverse(far[None])[0], far**2 / n, n)
        return fitted

    def require_fitted(self) -> None:
        """Refuse to go on without moments.

        Raises:
            ValueError: Before a fit.
        """
        if self.mean is None:
            raise ValueError("this model has seen no galaxies yet: call fit() or load() first")

    def _edges(self) -> dict[str, tuple[float, float]]:
        """Open intervals of the columns that have one."""
        return {name: (0.0, np.inf) for name in self.log} | dict(self.bounds)

    def curve(self, values: np.ndarray) -> np.ndarray:
        """u of values, shape (n, columns), before standardisation.

        Raises:
            ValueError: If a value lies where its column's curve is not defined.
        """
        curved = np.array(values, dtype=np.float64)
        for name, (low, high) in self._edges().items():
            column = curved[:, self.columns.index(name)]
            outside = np.count_nonzero(~((column > low) & (column < high)))
            if outside:
                raise ValueError(
                    f"{name} has {outside} values out of range, expected {low:g} < {name} < "
                    f"{high:g}: remove these rows, or change log or bounds"
                )
            logs = name in self.log
            column[:] = np.log10(column) if logs else logit((column - low) / (high - low))
        return curved

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Standardised values, shape (n, columns), float64."""
        self.require_fitted()
        return (self.curve(values) - self.mean) / self.std

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Values in physical units, shape (n, columns), float32, where `forward` takes them."""
        values = np.asarray(scaled, dtype=np.float64) * self.std + self.mean
        for name, (low, high) in self._edges().items():
            column = values[:, self.columns.index(name)]
            with np.errstate(over="ignore"):
                column[:] = 10.0**column if name in self.log else low + (high - low) * expit(column)
            # As a float32 number, a value next to an edge may lie on it.
            np.clip(column, _inside(low, np.inf), _inside(high, -np.inf), out=column)
        return values.astype(np.float32)

    def log_abs_det(self, values: np.ndarray) -> np.ndarray:
        """log |d scaled / d values| of each row, shape (n,): the Jacobian of these columns alone.

        The public code of arXiv:2312.06017 subtracts the log std of the conditions as well, which
        shifts its log-densities by a constant: conditions are given, not transformed variables.
        """
        values = np.asarray(values, dtype=np.float64)
        total = np.full(len(values), -np.log(self.std).sum())
        for name, (low, high) in self._edges().items():
            column = values[:, self.columns.index(name)]
            if name in self.log:
                total -= np.log(column * np.log(10.0))
            else:
                total += np.log((high - low) / ((column - low) * (high - column)))
        return total


def scalings(
    columns: Sequence[str], conditions: Sequence[str], log: Any, bounds: Mapping | None = None
) -> tuple[Scaling, Conditions]:
    """The scales of stars and of conditions from the names that a person gives.

    Raises:
        ValueError: On a name twice, or a name in ``log`` or ``bounds`` that is no column.
    """
    columns, conditions, bounds = tuple(columns), tuple(conditions), bounds or {}
    log = (log,) if isinstance(log, str) else tuple(log)
    for names in (columns, conditions):
        if len(set(names)) < len(names):
            raise ValueError(f"found the columns {names}, expected each once: drop the others")
    for name in log:
        # The default of log may stay where there is no such condition.
        as_choice(name, "a name in log", (*columns, *conditions, "M_stars"))
    for name in bounds:
        as_choice(name, "a name in bounds", columns)
    return Scaling(columns, log, bounds), Conditions(conditions, log)


def stars_and_conditions(
    stars: Any, conditions: Any, columns: tuple[str, ...]
) -> tuple[np.ndarray, Any]:
    """Stars as an array, shape (n, columns), and the conditions that come with a Galaxy."""
    if isinstance(stars, Galaxy):
        conditions = stars.conditions if conditions is None else conditions
        stars = stars.select(columns).stars
    return as_array(stars, "stars", ("n", len(columns)), columns=columns), conditions


def _inside(edge: float, towards: float) -> np.float32:
    """The float32 number nearest to an edge of an open interval, on the side of ``towards``."""
    near = np.float32(edge)
    crossed = near <= edge if towards > edge else near >= edge
    return np.nextafter(near, np.float32(towards)) if crossed else near


class Conditions(Scaling):
    """Named global parameters of galaxies, standardised, with the range seen in training."""

    def fitted(self, catalogue: Catalogue, *, by_star: bool = True) -> Conditions:
        """The same conditions with moments and range from galaxies.

        Args:
            catalogue: The galaxies.
            by_star: Whether a galaxy counts in the moments by its stars, as in the paper, or once.

        Raises:
            ValueError: If the catalogue lacks a condition, or one does not vary.
        """
        table = catalogue.condition_table(self.columns)
        curved = self.curve(table)
        weights = catalogue.n_stars.astype(np.float64) if by_star else None
        mean = np.average(curved, axis=0, weights=weights)
        variance = np.average((curved - mean) ** 2, axis=0, weights=weights)
        ends = zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True)
        seen = dict(zip(self.columns, ends, strict=True))
        return replace(self.with_moments(mean, np.sqrt(variance)), range=seen)

    def rows(self, conditions: Any) -> np.ndarray:
        """Conditions as an array, float64, shape (rows, columns); one row where there is none.

        Args:
            conditions: A mapping by name, a Galaxy, a table whose columns are matched by name, a
                sequence in the order of ``columns``, or an array with one row for each star.

        Raises:
            ValueError: On missing or unknown names, a wrong length, or values that are not finite
                numbers.
        """
        given = conditions.conditions if isinstance(conditions, Galaxy) else conditions
        # The conditions of a galaxy may go to a flow that depends on some of them.
        known = dict.fromkeys((*self.columns, *CONDITIONS))
        for name in conditions if isinstance(conditions, Mapping) else ():
            as_choice(name, "a name in conditions", known)
        if not self.columns:
            return np.zeros((1, 0))
        rows = as_array([] if given is None else given, "conditions", columns=self.columns)
        return as_array(np.atleast_2d(rows), "conditions", ("n", len(self.columns)))

    def one(self, conditions: Any) -> np.ndarray:
        """Conditions of one galaxy, float64, shape (columns,).

        Raises:
            ValueError: As :meth:`rows`, or if there are several galaxies.
        """
        shape = (1, len(self.columns))
        return as_array(self.rows(conditions), "conditions of one galaxy", shape)[0]

    def galaxy(self, stars: np.ndarray, conditions: Any, columns: Sequence[str], id: str) -> Galaxy:
        """Stars drawn at one galaxy's conditions, as a Galaxy.

        The stars share the mass asked for equally; without M_stars they have none.
        """
        named = dict(zip(self.columns, self.one(conditions).tolist(), strict=True))
        masses = named["M_stars"] / len(stars) if "M_stars" in named else None
        return Galaxy(stars, named, id, tuple(columns), masses)

    def warn_outside(self, row: np.ndarray) -> None:
        """Warn of each condition outside the range seen in training, and say by how much.

        The warning is shown where `GalaxyFlow.sample` was called.
        """
        for name, value in zip(self.columns, row, strict=True):
            low, high = self.range[name]
            # The flow sees a logarithmic condition in dex: that is how far outside it is.
            ends, unit = np.array([low, value, high]), UNITS.get(name, "")
            ends, step = (np.log10(ends), "dex") if name in self.log else (ends, unit)
            excess, width = -np.diff(ends).min(), ends[2] - ends[0]
            if excess > 0:
                message = (
                    f"{name} = {value:.4g} {unit} lies outside the training range {low:.4g} to "
                    f"{high:.4g} {unit} by {excess:.2g} {step} ({excess / width:.0%} of its "
                    "width): the flow extrapolates there"
                )
                warnings.warn(message, OutsideTrainingRange, stacklevel=4)
