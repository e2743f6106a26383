"""Numbers of several seeds: how they are summed up, printed, and told apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

Number = float | int | str
COVERAGE = 0.999
ALLOWANCE = 0.02
LEVEL = 0.05
"""Largest probability of a difference that is not there, for `decide` to call it one."""


@dataclass(frozen=True)
class Summary:
    """Several values of one number, such as those of ten seeds.

    Attributes:
        n: how many.
        mean: their mean.
        standard_error: of the mean, ``scatter / sqrt(n)``.
        scatter: standard deviation over the values, with n - 1 in the denominator.
        values: the values themselves; empty where only their summary is known.
        seeds: those of the values, where they are known.
    """

    n: int
    mean: float
    standard_error: float
    scatter: float
    values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Iterable[float], seeds: Iterable[int] = ()) -> Summary:
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
        return cls(len(found), statistics.fmean(found), error, scatter, found, tuple(seeds))

    def __neg__(self) -> Summary:
        return replace(self, mean=-self.mean, values=tuple(-value for value in self.values))

    def __str__(self) -> str:
        # Two digits of 150 would be 1.5e+02.
        scatter = f"{self.scatter:,.0f}" if self.scatter >= 99.5 else f"{self.scatter:.2g}"
        return f"{format_number(self)} (scatter {scatter}, {self.n} runs)"


@dataclass(frozen=True)
class Decision:
    """Whether a number lies below another, see `decide`.

    Attributes:
        p: probability of so low a difference, or a lower one, where there is none beyond the
            margin; NaN where a single run leaves it open.
    """

    p: float

    @property
    def below(self) -> bool:
        """Whether it is: ``p`` is at most `LEVEL`."""
        return self.p <= LEVEL


def decide(ours: Summary, other: Summary | float, *, margin: float = 0.0) -> Decision:
    """Whether a number over seeds lies below another one by more than a margin.

    The one rule for every number with an error: the difference over its standard error against
    Student's t, one-sided. Two standard errors of three runs would be exceeded by chance in 9
    cases of 100 and not in 2. Numbers of the same seeds, which share their draws, are compared
    seed by seed (n - 1 degrees of freedom); others as Welch does.

    Args:
        ours: the number.
        other: what it is compared with: another number over seeds, or a fixed one.
        margin: by how much it has to be lower to mean something; negative where it may be higher
            by so much.
    """
    if ours.n < 2 or getattr(other, "n", 2) < 2:
        return Decision(math.nan)
    if math.isnan(ours.mean) or math.isnan(getattr(other, "mean", 0.0)):
        return Decision(1.0)
    fixed = (getattr(other, "mean", other), 0.0, math.inf)
    if isinstance(other, Summary):
        if ours.values and len(ours.values) == len(other.values) and ours.seeds == other.seeds:
            ours, fixed = Summary.of(np.subtract(ours.values, other.values)), (0.0, 0.0, math.inf)
        else:
            fixed = (other.mean, other.scatter, other.n)
    found = stats.ttest_ind_from_stats(
        ours.mean + margin, ours.scatter, ours.n, *fixed, equal_var=False, alternative="less"
    )
    # Equal numbers without any scatter have no p: nothing says that ours is lower.
    return Decision(1.0 if math.isnan(found.pvalue) else float(found.pvalue))


def prediction_interval(
    values: np.ndarray | Sequence[float],
    *,
    allowance: float = ALLOWANCE,
    law: str = "normal",
) -> tuple[np.ndarray, np.ndarray]:
    """Interval that holds one new value of the same kind with probability `COVERAGE`.

    Args:
        values: shape (..., n), n >= 2 independent finite values.
        allowance: fraction of |mean| added at either end, which only raises the probability.
        law: ``"normal"``, or ``"lognormal"`` for values above zero that scatter by factors.

    Returns:
        Lower and upper ends, each of shape (...).
    """
    values = np.asarray(values, dtype=float)
    if law == "lognormal":
        low, high = prediction_interval(np.log(values), allowance=0)
        return np.exp(low) * (1 - allowance), np.exp(high) * (1 + allowance)
    n, mean = values.shape[-1], values.mean(-1)
    half = stats.t.isf((1 - COVERAGE) / 2, n - 1) * values.std(-1, ddof=1) * math.sqrt(1 + 1 / n)
    half = half + allowance * np.abs(mean)
    return mean - half, mean + half


def format_number(value: Number | Summary | None, standard_error: float | None = None) -> str:
    """A number with four significant digits, whole numbers in full with thousands separated.

    With a standard error, which a summary brings along, both are rounded to its second digit.
    """
    if isinstance(value, Summary):
        return format_number(value.mean, value.standard_error)
    if value is None or isinstance(value, str):
        return value or ""
    if standard_error and math.isfinite(value) and math.isfinite(standard_error):
        # Two digits of the standard error say where the value stops to mean anything.
        decimals = max(0, 1 - math.floor(math.log10(standard_error)))
        if decimals > 6:
            return f"{value:.3g} ± {standard_error:.1g}"
        return f"{value:,.{decimals}f} ± {standard_error:.{decimals}f}"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:.4g}"
