"""The conditions of a flow: reading what a person hands over, and the range that was seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .catalogue import Catalogue
from .scaling import Scaling
from .table import UNITS, Galaxy

__all__ = ["Conditions", "OutsideTrainingRange", "star_count"]


class OutsideTrainingRange(UserWarning):
    """Conditions lie outside the range of the galaxies that the flow has seen."""


class Conditions:
    """Named global parameters of galaxies, standardised, with the range seen in training.

    Args:
        names: Names of the conditions, none for a flow that depends on nothing.
        log: Those among them that enter as log10.
    """

    def __init__(self, names: Sequence[str], *, log: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self.scaling = Scaling(self.names, log=tuple(log))
        self.range: dict[str, tuple[float, float]] = {}

    def fit(self, catalogue: Catalogue, *, by_star: bool = True) -> None:
        """Take moments and range from galaxies.

        Args:
            catalogue: The galaxies.
            by_star: Whether a galaxy counts in the moments by its stars, as in the paper, or once.

        Raises:
            ValueError: If the catalogue lacks a condition, or one does not vary.
        """
        if not self.names:
            self.scaling.set_moments([], [])
            return
        table = catalogue.condition_table(self.names)
        curved = self.scaling.curve(table)
        weights = catalogue.n_stars.astype(np.float64) if by_star else None
        mean = np.average(curved, axis=0, weights=weights)
        variance = np.average((curved - mean) ** 2, axis=0, weights=weights)
        self.scaling.set_moments(mean, np.sqrt(variance))
        ends = zip(self.names, table.min(axis=0), table.max(axis=0), strict=True)
        self.range = {name: (float(low), float(high)) for name, low, high in ends}

    def rows(self, conditions: Any) -> np.ndarray:
        """Conditions as an array, float64, shape (rows, names); one row where there is no name.

        Args:
            conditions: A mapping by name, a Galaxy, a sequence in the order of ``names``, or an
                array with one row for each star.

        Raises:
            ValueError: On missing names, a wrong length, or values that are not finite numbers.
        """
        if not self.names:
            return np.zeros((1, 0))
        if isinstance(conditions, Galaxy):
            conditions = conditions.conditions
        if conditions is None:
            raise ValueError(f"found no conditions, expected {', '.join(self.names)}: pass them")
        if isinstance(conditions, Mapping):
            missing = [name for name in self.names if name not in conditions]
            if missing:
                raise ValueError(
                    f"found no value for the condition(s) {', '.join(missing)}, expected "
                    f"{', '.join(self.names)}: add them"
                )
            conditions = [conditions[name] for name in self.names]
        try:
            rows = np.atleast_2d(np.asarray(conditions, dtype=np.float64))
        except (TypeError, ValueError):
            raise ValueError(
                f"found the conditions {conditions!r}, expected {len(self.names)} numbers, in this "
                f"order: {', '.join(self.names)}"
            ) from None
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise ValueError(
                f"found conditions of shape {np.shape(conditions)}, expected {len(self.names)} "
                f"values, in this order: {', '.join(self.names)}"
            )
        if not np.isfinite(rows).all():
            raise ValueError("found a NaN or infinite condition, expected finite numbers")
        return rows

    def one(self, conditions: Any) -> np.ndarray:
        """Conditions of one galaxy, float64, shape (names,).

        Raises:
            ValueError: As :meth:`rows`, or if there are several galaxies.
        """
        rows = self.rows(conditions)
        if len(rows) != 1:
            raise ValueError(
                f"found conditions of {len(rows)} galaxies, expected one: loop over them"
            )
        return rows[0]

    def galaxy(
        self, stars: np.ndarray, conditions: Any, *, columns: Sequence[str], id: str
    ) -> Galaxy:
        """Stars drawn at one galaxy's conditions, as a Galaxy.

        The stars share the mass asked for equally; without M_stars they have none.
        """
        named = dict(zip(self.names, self.one(conditions).tolist(), strict=True))
        mass = named.get("M_stars")
        return Galaxy(
            stars,
            conditions=named,
            id=id,
            columns=tuple(columns),
            masses=None if mass is None else mass / len(stars),
        )

    def warn_outside(self, row: np.ndarray, *, stacklevel: int) -> None:
        """Warn of each condition outside the range seen in training, and say by how much."""
        for name, value in zip(self.names, row, strict=True):
            low, high = self.range[name]
            if low <= value <= high:
                continue
            unit = UNITS.get(name, "")
            # The flow sees a logarithmic condition in dex: that is how far outside it is.
            in_dex = name in self.scaling.log
            ends = np.array([low, high, value])
            ends = np.log10(ends) if in_dex else ends
            excess, width = max(ends[0] - ends[2], ends[2] - ends[1]), ends[1] - ends[0]
            share = f" ({excess / width:.0%} of its width)" if width else ""
            warnings.warn(
                f"{name} = {value:.4g} {unit} lies outside the training range {low:.4g} to "
                f"{high:.4g} {unit} by {excess:.2g} {'dex' if in_dex else unit}{share}: the flow "
                "extrapolates there",
                OutsideTrainingRange,
                stacklevel=stacklevel + 1,
            )


def star_count(n: Any, name: str = "n") -> int:
    """Number of stars that was asked for.

    Raises:
        ValueError: If it is not a positive whole number.
    """
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"found {name}={n!r}, expected a positive number of stars")
    return int(n)
