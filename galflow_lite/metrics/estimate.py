"""An estimate with its standard error, the classifier two-sample test and the shares of modes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..inputs import as_tensor, as_whole, column_names


@dataclass(frozen=True)
class Estimate:
    """A value measured on samples.

    Attributes:
        value: the estimate.
        standard_error: standard deviation of the value over repeated samples.
        null: expected value when both samples share one distribution; `None` when not defined.
    """

    value: float
    standard_error: float
    null: float | None = None

    @property
    def z(self) -> float:
        """(value - null) / standard_error; the null counts as 0 when it is not defined."""
        return (self.value - (self.null or 0.0)) / self.standard_error

    def __str__(self) -> str:
        chance = "" if self.null is None else f" (by chance {self.null:.4g})"
        return f"{self.value:.4g} ± {self.standard_error:.2g}{chance}"


def sample_pair(x: Any, y: Any, *, least: int) -> tuple[Tensor, Tensor]:
    """Two samples as float64 tensors of shapes (n, d) and (m, d) on the device of the first.

    Columns of tables are matched by name.

    Raises:
        ValueError: other shapes, unequal d, fewer than `least` rows, NaN or infinite values.
    """
    names = column_names(x)
    x = sample_rows(x, "x", least=least)
    return x, sample_rows(y, "y", least=least, width=x.shape[1], like=x, columns=names)


def sample_rows(
    sample: Any, name: str, *, least: int = 1, width: int | None = None, **reading: Any
) -> Tensor:
    """A sample as float64 tensor of shape (n, d); a flat one becomes a column.

    Raises:
        ValueError: other shapes, fewer than `least` rows, NaN or infinite values.
    """
    rows = as_tensor(sample, name, dtype=torch.float64, **reading).detach()
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) < least or rows.shape[1] != (width or max(1, rows.shape[1])):
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)}, expected (rows, {width or 'columns'}) with at "
            f"least {least} rows: reshape it, or use a larger sample"
        )
    return rows


def subsample(sample: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
    """At most so many rows, drawn without replacement."""
    if most is None or len(sample) <= most:
        return sample
    return sample[torch.randperm(len(sample), generator=generator)[:most].to(sample.device)]


_FOLDS, _MOST_ROWS = 5, 5000


def c2st(x: Any, y: Any, *, seed: int = 0) -> Estimate:
    """How well a classifier tells two samples apart (Lopez-Paz & Oquab, arXiv:1610.06545).

    The accuracy of gradient-boosted trees: 0.5 means that they cannot, 1 that they always can. Each
    row is judged by trees that were trained on the other four fifths. The larger sample is thinned,
    so that both classes are of one size, of at most 5,000 rows.

    The standard error joins the variance within a fold with the correlation between folds as
    Nadeau & Bengio (2003, Machine Learning 52:239) estimate it: 1 / folds + 1 / (folds - 1) times
    the former. Over simulated repetitions this covers the spread, which exceeds the binomial one
    by a factor of 1.0 to 1.4.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        seed: of the thinning, the folds and the trees.

    Raises:
        ValueError: shapes differ, fewer than 50 rows, NaN.
    """
    x, y = sample_pair(x, y, least=10 * _FOLDS)
    seed = as_whole(seed, "seed")
    size = min(len(x), len(y), _MOST_ROWS)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([subsample(sample, size, generator) for sample in (x, y)]).cpu().numpy()
    labels = np.repeat([0, 1], len(rows) // 2)
    splits = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(rows, labels)
    # No early stopping: it would hold back rows, and only above 10,000 of them.
    # Smaller trees than the default: they memorise less noise, are faster and detect more.
    trees = HistGradientBoostingClassifier(
        max_leaf_nodes=16, min_samples_leaf=40, early_stopping=False, random_state=seed
    )
    values, variances = [], []
    # One thread: many threads on few cores are slower than one for data of this size.
    with threadpool_limits(1, user_api="openmp"):
        for train, test in splits:
            chance = trees.fit(rows[train], labels[train]).predict_proba(rows[test])[:, 1]
            # Ties of the probability count half.
            right = np.sign((chance - 0.5) * (2 * labels[test] - 1)) / 2 + 0.5
            # One half more right and one more wrong: a perfect score of a small sample is not
            # certain.
            share = (right.sum() + 0.5) / (len(right) + 1)
            values.append(right.mean())
            variances.append(share * (1 - share) / len(right))
    # The folds share most of their training rows, so that their scores are correlated.
    variance = float(np.mean(variances)) * (1 / _FOLDS + 1 / (_FOLDS - 1))
    return Estimate(float(np.mean(values)), math.sqrt(variance), 0.5)


@dataclass(frozen=True)
class ModeWeights:
    """Shares of the modes in a sample, beside the true weights.

    Attributes:
        shares: part of the sample that belongs to each mode, shape (k,), float64.
        standard_errors: binomial error of each share, shape (k,). With w the true weight it is
            sqrt(w (1 - w) / n) where the share is 0 or 1, so that it never vanishes.
        expected: shares that exact samples have on average, shape (k,).
        n: number of samples.
    """

    shares: Tensor
    standard_errors: Tensor
    expected: Tensor
    n: int

    @property
    def largest_deviation(self) -> float:
        """Largest |share - expected| over the modes."""
        return float((self.shares - self.expected).abs().max())

    def __str__(self) -> str:
        parts = "/".join(f"{100 * share:.0f}" for share in self.shares.tolist())
        return f"{parts} % (off by up to {100 * self.largest_deviation:.1f} points)"


def mode_weights(x: Any, target: Any) -> ModeWeights:
    """Share of each mode of a target in a sample.

    A point belongs to the mode that ``target.assign`` gives it. Where modes overlap, exact samples
    spread over them by the same rule, which for modes of unequal shape need not give the true
    weights to the last digit; separated modes do.

    Args:
        x: the sample, shape (n, d).
        target: a target with `assign(x)`, the index of the mode of each point, and
            `mode_weights`, the true weights, shape (k,).

    Raises:
        ValueError: an empty sample, NaN or infinite values.
        NotImplementedError: the target has no modes.
    """
    x = sample_rows(x, "x")
    expected = torch.as_tensor(target.mode_weights).double().cpu()
    index = torch.as_tensor(target.assign(x)).long().cpu()
    shares = torch.bincount(index, minlength=len(expected)).double() / len(x)
    spread = shares * (1 - shares)
    spread = torch.where(spread > 0, spread, expected * (1 - expected))
    return ModeWeights(shares, spread.sqrt() / math.sqrt(len(x)), expected, len(x))
