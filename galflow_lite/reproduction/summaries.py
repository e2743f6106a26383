"""Several values of one number: their summary, an interval for one more, and how to print it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Number = float | int | str
COVERAGE = 0.999
ALLOWANCE = 0.02


@dataclass(frozen=True)
class Summary:
    """Several values of one number, such as those of ten seeds.

    Attributes:
        n: how many.
        mean: their mean.
        standard_error: of the mean, ``scatter / sqrt(n)``.
        scatter: standard deviation over the values, with n - 1 in the denominator.
        values: the values themselves.
    """

    n: int
    mean: float
    standard_error: float
    scatter: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise two or more finite numbers.

        Raises:
            ValueError: fewer than two values, or a value that is not finite.
        """
        found = tuple(float(value) for value in values)
        if len(found) < 2 or not all(map(math.isfinite, found)):
            raise ValueError(
                f"found the values {', '.join(map(str, found)) or 'none'}, expected two or more "
                "finite numbers: run more seeds, or find out why a run gave such a value"
            )
        scatter = statistics.stdev(found)
        error = scatter / math.sqrt(len(found))
        return cls(len(found), statistics.fmean(found), error, scatter, found)

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return format_number(self.mean, self.standard_error, self.scatter, self.n)


def prediction_interval(
    values: np.ndarray | Sequence[float],
    *,
    coverage: float = COVERAGE,
    allowance: float = ALLOWANCE,
    law: str = "normal",
) -> tuple[np.ndarray, np.ndarray]:
    """Interval that holds one new value of the same law with probability ``coverage``.

    Args:
        values: shape (..., n), n >= 2 independent finite values.
        coverage: probability, for ``allowance`` 0.
        allowance: fraction of |mean| added at either end.
        law: ``"normal"``, or ``"lognormal"`` for values above zero that scatter by factors.

    Returns:
        Lower and upper ends, each of shape (...).
    """
    values = np.asarray(values, dtype=float)
    if law == "lognormal":
        low, high = prediction_interval(np.log(values), coverage=coverage, allowance=0)
        return np.exp(low) * (1 - allowance), np.exp(high) * (1 + allowance)
    n, mean = values.shape[-1], values.mean(-1)
    half = stats.t.isf((1 - coverage) / 2, n - 1) * values.std(-1, ddof=1) * math.sqrt(1 + 1 / n)
    half = half + allowance * np.abs(mean)
    return mean - half, mean + half


def format_number(
    value: Number | None,
    standard_error: float | None = None,
    scatter: float | None = None,
    runs: int | None = None,
) -> str:
    """A number with four significant digits, whole numbers in full with thousands separated.

    With a standard error both are rounded to its second digit. ``scatter``, the standard deviation
    over ``runs`` runs, follows in brackets.
    """
    if scatter is not None:
        # Two digits of 150 would be 1.5e+02.
        spread = f"{scatter:,.0f}" if abs(scatter) >= 99.5 else f"{scatter:.2g}"
        return f"{format_number(value, standard_error)} (scatter {spread}, {runs} runs)"
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}"
    if standard_error and math.isfinite(value) and math.isfinite(standard_error):
        # Two digits of the standard error say where the value stops to mean anything.
        decimals = max(0, 1 - math.floor(math.log10(standard_error)))
        if decimals > 6:
            return f"{value:.3g} ± {standard_error:.1g}"
        return f"{value:,.{decimals}f} ± {standard_error:.{decimals}f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:.4g}"
