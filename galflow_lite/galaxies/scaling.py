"""The scales on which a flow sees stars and conditions, their Jacobian, and the range seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..inputs import as_array, as_choice, as_number, warn_of_far_points
from .catalogue import Catalogue
from .galaxy import CONDITIONS, UNITS, Galaxy


class OutsideTrainingRange(UserWarning):
    """Conditions lie outside the range of the galaxies that the flow has seen."""


@dataclass(frozen=True)
class Scaling:
    """Invertible map of named columns to columns of zero mean and unit variance.

    Args:
        columns: Names of the columns, each once.
        mean, std: Moments, shape (len(columns),); None before a fit.
        range: Name to the least and the largest value seen in a fit, of conditions.
    """

    columns: tuple[str, ...]
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    range: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"found the columns {self.columns}, expected each once: drop others")

    def with_moments(self, mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """The same scales with these moments.

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
            ValueError: If the catalogue lacks a column, or one does not vary.

        Warns:
            RuntimeWarning: A single star makes up nearly all variance of a column.
        """
        mean, std, farthest = catalogue.moments(self.columns)
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

    def curve(self, values: np.ndarray) -> np.ndarray:
        """Values as they are standardised, shape (n, columns), float64."""
        return np.asarray(values, dtype=np.float64)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Standardised values, shape (n, columns), float64."""
        self.require_fitted()
        return (self.curve(values) - self.mean) / self.std

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Values in physical units, shape (n, columns), float32."""
        return (np.asarray(scaled, dtype=np.float64) * self.std + self.mean).astype(np.float32)

    def log_abs_det(self, values: np.ndarray) -> np.ndarray:
        """log |d scaled / d values| of each row, shape (n,): the Jacobian of these columns alone.

        The public code of arXiv:2312.06017 subtracts the log std of the conditions as well, which
        shifts its log-densities by a constant: conditions are given, not transformed variables.
        """
        return np.full(len(values), -np.log(self.std).sum())


def stars_and_conditions(
    stars: Any, conditions: Any, columns: tuple[str, ...]
) -> tuple[np.ndarray, Any]:
    """Stars as an array, shape (n, columns), and the conditions that come with a Galaxy."""
    if isinstance(stars, Galaxy):
        conditions = stars.conditions if conditions is None else conditions
        stars = stars.select(columns).stars
    return as_array(stars, "stars", ("n", len(columns)), columns=columns), conditions


class Conditions(Scaling):
    """Named global parameters of galaxies, standardised, with the range seen in training.

    The stellar mass enters as log10.
    """

    def curve(self, values: np.ndarray) -> np.ndarray:
        """As of a Scaling.

        Raises:
            ValueError: If a stellar mass is not positive.
        """
        curved = np.array(values, dtype=np.float64)
        if "M_stars" in self.columns:
            mass = curved[:, self.columns.index("M_stars")]
            as_number(float(mass.min()), "the least M_stars", above=0)
            mass[:] = np.log10(mass)
        return curved

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

    def one(self, conditions: Any) -> np.ndarray:
        """Conditions of one galaxy, float64, shape (columns,).

        Args:
            conditions: A mapping by name, a Galaxy, a table of one row whose columns are matched by
                name, or a sequence in the order of ``columns``.

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
            return np.zeros(0)
        row = as_array([] if given is None else given, "conditions", columns=self.columns)
        return as_array(np.atleast_2d(row), "conditions of one galaxy", (1, len(self.columns)))[0]

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
            # The flow sees the mass in dex: that is how far outside it is.
            ends, unit = np.array([low, value, high]), UNITS.get(name, "")
            ends, step = (np.log10(ends), "dex") if name == "M_stars" else (ends, unit)
            excess, width = -np.diff(ends).min(), ends[2] - ends[0]
            if excess > 0:
                message = (
                    f"{name} = {value:.4g} {unit} lies outside the training range {low:.4g} to "
                    f"{high:.4g} {unit} by {excess:.2g} {step} ({excess / width:.0%} of its "
                    "width): the flow extrapolates there"
                )
                warnings.warn(message, OutsideTrainingRange, stacklevel=4)
