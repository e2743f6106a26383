"""Classifier two-sample test (C2ST)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from ..inputs import as_whole
from .estimate import Estimate, sample_pair, subsample

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
