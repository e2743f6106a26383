"""The scales on which a flow sees stars and conditions, and their Jacobian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, logit

__all__ = ["Scaling"]


@dataclass
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
        log: Columns on a logarithmic scale.
        bounds: Open interval (low, high) of each bounded column, in its unit.
        mean, std: Moments of u, shape (len(columns),), filled in by :meth:`fit`.
    """

    columns: tuple[str, ...]
    log: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    def __post_init__(self) -> None:
        # A wish for a column that is not there is dropped: the defaults name the full table.
        self.columns = tuple(self.columns)
        self.log = tuple(name for name in self.log if name in self.columns)
        self.bounds = {k: tuple(v) for k, v in self.bounds.items() if k in self.columns}
        both = sorted(set(self.log) & set(self.bounds))
        if both:
            raise ValueError(f"found {both[0]!r} in both log and bounds, expected one of them")

    def curve(self, values: np.ndarray) -> np.ndarray:
        """u of values, shape (n, columns), before standardisation.

        Raises:
            ValueError: If a value lies where its column's curve is not defined.
        """
        curved = np.array(values, dtype=np.float64)
        for name in self.log:
            column = curved[:, self.columns.index(name)]
            self._require(name, column > 0, "positive values", "drop it from log")
            column[:] = np.log10(column)
        for name, (low, high) in self.bounds.items():
            column = curved[:, self.columns.index(name)]
            inside = (column > low) & (column < high)
            self._require(name, inside, f"values in ({low:g}, {high:g})", "widen its bounds")
            column[:] = logit((column - low) / (high - low))
        return curved

    @staticmethod
    def _require(name: str, valid: np.ndarray, expected: str, advice: str) -> None:
        if not valid.all():
            raise ValueError(
                f"found {np.count_nonzero(~valid)} values of {name!r} out of range, "
                f"expected {expected}: {advice} or remove these rows"
            )

    def set_moments(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the moments of u.

        Raises:
            ValueError: If a column is constant.
        """
        mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        flat = [
            name
            for name, m, s in zip(self.columns, mean, std, strict=True)
            if not s > 1e-9 * max(abs(m), 1e-30)
        ]
        if flat:
            raise ValueError(
                f"found the same value everywhere in {', '.join(flat)}, expected a column that "
                "varies: leave it out"
            )
        self.mean, self.std = mean, std

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Standardised values, shape (n, columns), float64."""
        return (self.curve(values) - self.mean) / self.std

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Values in physical units, shape (n, columns), float64."""
        values = np.asarray(scaled, dtype=np.float64) * self.std + self.mean
        for name in self.log:
            column = values[:, self.columns.index(name)]
            column[:] = 10.0**column
        for name, (low, high) in self.bounds.items():
            column = values[:, self.columns.index(name)]
            column[:] = low + (high - low) * expit(column)
        return values

    def log_abs_det(self, values: np.ndarray) -> np.ndarray:
        """log |d scaled / d values| of each row, shape (n,): the Jacobian of these columns alone.

        The public code of arXiv:2312.06017 subtracts the log std of the conditions as well, which
        shifts its log-densities by a constant: conditions are given, not transformed variables.
        """
        values = np.asarray(values, dtype=np.float64)
        total = np.full(len(values), -np.log(self.std).sum())
        for name in self.log:
            column = values[:, self.columns.index(name)]
            total -= np.log(column * np.log(10.0))
        for name, (low, high) in self.bounds.items():
            column = values[:, self.columns.index(name)]
            total += np.log((high - low) / ((column - low) * (high - column)))
        return total
