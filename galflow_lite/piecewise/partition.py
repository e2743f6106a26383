"""Rows, their weights and a partition of them: input checked, small clusters dissolved."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

__all__ = [
    "NOISE",
    "check_minimum",
    "checked_candidates",
    "dissolve",
    "draw",
    "effective_number",
    "own_labels",
    "real_rows",
    "sample_weights",
    "weighted_sums",
]

NOISE = -1  # scikit-learn's label of a row in no cluster
_BATCH = 65_536


def effective_number(w: np.ndarray) -> float:
    """Kish's effective number of rows, (sum w)^2 / sum w^2; the number itself for equal weights."""
    return float(w.sum() ** 2 / (w**2).sum())


def weighted_sums(x: np.ndarray, labels: np.ndarray, w: np.ndarray, k: int) -> np.ndarray:
    """Sums of w, w^2 and w x over the rows of each cluster, shape (k, 2 + d)."""
    columns = [w, w**2, *(w * column for column in x.T)]
    return np.stack([np.bincount(labels, column, k) for column in columns], axis=1)


def dissolve(
    x: np.ndarray, raw: np.ndarray, w: np.ndarray, minimum: float
) -> tuple[np.ndarray, int]:
    """Moves the rows of clusters below the minimum to clusters that stay.

    The smallest goes first, each of its rows to the nearest centre (weighted mean) among all that
    are left, until none is below the minimum or one is left. Noise goes before the first.

    Args:
        x: rows, shape (n, d).
        raw: labels, integers in any numbering, `NOISE` for rows in no cluster, shape (n,).
        w: sample weights, shape (n,).
        minimum: least effective number of rows, above 0.

    Returns:
        Labels 0 to k - 1 in the order of `raw`, int64, and the number of rows that were moved.
    """
    names, labels = np.unique(raw, return_inverse=True)
    k = len(names)
    sums = weighted_sums(x, labels, w, k)
    sums[names == NOISE] = 0
    live, moved = np.ones(k, bool), np.zeros(len(labels), bool)
    while live.sum() > 1:
        effective = np.divide(sums[:, 0] ** 2, sums[:, 1], np.zeros(k), where=sums[:, 1] > 0)
        # The tolerance is for rounding: n rows of one weight count as n.
        small = live & (effective < minimum * (1 - 1e-9))
        if not small.any():
            break
        # Clusters without weight, and noise, have no centre and go together.
        gone = small & (effective == 0)
        if not gone.any():
            gone[np.argmin(np.where(small, effective, np.inf))] = True
        if gone.sum() == live.sum():
            return np.zeros(len(labels), np.int64), len(labels)
        live &= ~gone
        rows = np.flatnonzero(gone[labels])
        centres = sums[live, 2:] / sums[live, :1]
        labels[rows] = np.flatnonzero(live)[_nearest(x[rows], centres)]
        moved[rows] = True
        sums += weighted_sums(x[rows], labels[rows], w[rows], k)
        sums[gone] = 0
    labels = np.unique(labels, return_inverse=True)[1]
    return labels.astype(np.int64), int(moved.sum())


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    starts = range(0, len(x), _BATCH)
    return np.concatenate([cdist(x[i : i + _BATCH], centres).argmin(1) for i in starts])


def draw(w: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """At most so many row numbers, drawn in proportion to the weights.

    Systematic draw on rows in random order: a row comes up as often as it is expected to, rounded
    up or down, so that no row comes twice where all weights are equal.
    """
    m = min(most or len(w), len(w))
    order = rng.permutation(len(w))
    if np.ptp(w) == 0:
        return order[:m]
    cumulative = np.cumsum(w[order])
    at = (rng.random() + np.arange(m)) / m * cumulative[-1]
    return order[np.minimum(np.searchsorted(cumulative, at, side="right"), len(w) - 1)]


def real_rows(x: Any) -> np.ndarray:
    """x as float64, shape (n, d).

    Raises:
        ValueError: not numbers, not 2-D, fewer than 2 rows, NaN or infinite values, no column that
            varies, or a spread whose square float64 cannot hold.
    """
    x = _array(x, "x", "biuf")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x has shape {x.shape}, expected (rows, columns): reshape it")
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} rows, expected at least 2: use a larger sample")
    x = np.ascontiguousarray(x, np.float64)
    bad = int((~np.isfinite(x)).any(1).sum())
    if bad:
        raise ValueError(
            f"x has {bad} of {len(x)} rows with NaN or infinite values, expected none: remove or "
            "repair these rows"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.ptp(x, 0).max())
    if spread == 0:
        raise ValueError(
            "x has the same value in all rows of each column, expected one column that varies: "
            "there is nothing to cluster"
        )
    if not 1e-140 < spread < 1e140:
        raise ValueError(
            f"x spans {spread:.1e}, whose square is out of the range of float64: rescale x"
        )
    return x


def sample_weights(weights: Any, n: int) -> np.ndarray:
    """Weights divided by the largest, shape (n,); ones for `None`.

    Raises:
        ValueError: another shape, not numbers, negative, NaN, infinite or all zero.
    """
    if weights is None:
        return np.ones(n)
    w = _array(weights, "weights", "biuf").astype(np.float64)
    if w.shape != (n,):
        raise ValueError(
            f"weights have shape {w.shape}, expected ({n},): give one weight for each row of x"
        )
    bad = int((~(np.isfinite(w) & (w >= 0))).sum())
    if bad:
        raise ValueError(
            f"weights have {bad} of {n} values that are negative, NaN or infinite, expected finite "
            "values of at least 0: repair them"
        )
    if not w.any():
        raise ValueError("weights are all zero, expected some above 0: repair them")
    return w / w.max()


def check_minimum(minimum: float, w: np.ndarray) -> None:
    """Raises ValueError unless 1 <= minimum <= effective number of rows."""
    most = effective_number(w)
    if not 1 <= minimum <= most * (1 + 1e-9):
        kind = "rows" if np.ptp(w) == 0 else "effective rows (Kish)"
        raise ValueError(
            f"minimum is {minimum}, expected 1 to {most:.6g}, the number of {kind} of x: lower it "
            "or use a larger sample"
        )


def checked_candidates(candidates: Iterable[int], n: int) -> list[int]:
    """Candidates in increasing order, each once.

    Raises:
        ValueError: none, not integers, one below 2 or not below n.
    """
    try:
        found = sorted({operator.index(k) for k in candidates})
    except TypeError:
        raise ValueError(
            f"candidates are {candidates!r}, expected integers: give for example range(2, 21)"
        ) from None
    if not found:
        raise ValueError("candidates are empty, expected at least one: give range(2, 21)")
    if found[0] < 2:
        raise ValueError(f"candidates have {found[0]}, expected 2 or more clusters: remove it")
    if found[-1] >= n:
        raise ValueError(
            f"candidates have {found[-1]} for {n} points to fit, expected fewer clusters than "
            "points: lower the candidates or use a larger sample"
        )
    return found


def own_labels(labels: Any, n: int) -> np.ndarray:
    """The user's labels as 0 to k - 1 in sorted order, shape (n,).

    Raises:
        ValueError: another shape, or neither integers nor strings.
    """
    labels = _array(labels, "labels", "biuUTO")
    if labels.dtype.kind == "O":
        if not all(isinstance(label, str) for label in labels.flat):
            raise ValueError(
                "labels mix types, expected integers or strings: convert them to one of both"
            )
        labels = labels.astype(str)
    if labels.shape != (n,):
        raise ValueError(
            f"labels have shape {labels.shape}, expected ({n},): give one label for each row of x"
        )
    return np.unique(labels, return_inverse=True)[1]


def _array(values: Any, name: str, kinds: str) -> np.ndarray:
    """A NumPy array of one of these kinds of dtype, from arrays, lists and tensors."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array ({error}): convert it with numpy") from None
    if array.dtype.kind not in kinds:
        expected = "real numbers" if "f" in kinds else "integers or strings"
        raise ValueError(f"{name} has dtype {array.dtype}, expected {expected}: convert it")
    return array
