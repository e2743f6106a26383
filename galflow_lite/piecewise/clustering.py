"""Cutting data into clusters, and how many: the mean silhouette (arXiv:2305.02930)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import cluster, config_context
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .partition import (
    check_minimum,
    checked_candidates,
    dissolve,
    draw,
    effective_number,
    own_labels,
    real_rows,
    sample_weights,
    weighted_sums,
)

__all__ = ["ALGORITHMS", "Clustering", "choose_clusters"]

# Name: class, and rows that are fitted by default. Agglomerative and spectral clustering hold a
# matrix of all pairs of these rows; Birch does when each row is a sub-cluster of its own.
ALGORITHMS: Mapping[str, tuple[type, int]] = {
    "kmeans": (cluster.KMeans, 50_000),
    "mini_batch_kmeans": (cluster.MiniBatchKMeans, 50_000),
    "mean_shift": (cluster.MeanShift, 10_000),
    "spectral": (cluster.SpectralClustering, 3_000),
    "agglomerative": (cluster.AgglomerativeClustering, 5_000),
    "birch": (cluster.Birch, 5_000),
}
_USER_FIT_ROWS = 10_000
_BATCH = 65_536


@dataclass(frozen=True, eq=False, repr=False)
class Clustering:
    """Rows of data in k clusters; made by `choose_clusters` or `Clustering.from_labels`.

    Attributes:
        labels: cluster of each row, int64, shape (n,), each of 0 to k - 1 at least once.
        k: number of clusters.
        weights: share of the sample weight in each cluster, shape (k,), sum 1.
        sizes: rows in each cluster, shape (k,).
        centres: (weighted) mean of the rows of each cluster, shape (k, d), in the units of x.
        scores: candidate -> mean silhouette; NaN where it is not defined.
        counts: candidate -> clusters that came out of it, small ones dissolved.
        algorithm: name of the algorithm, or of the user's function; "labels" for given labels.
        silhouette: mean silhouette of these labels; NaN for one cluster and for given labels.
        dissolved: rows that were moved out of small clusters; 0 where no candidate has a silhouette
            and all rows are one cluster.
    """

    labels: np.ndarray
    k: int
    weights: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray
    scores: Mapping[int, float] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    algorithm: str = "labels"
    silhouette: float = float("nan")
    dissolved: int = 0

    @classmethod
    def from_labels(
        cls, x: Any, labels: Any, *, minimum: float = 1, weights: Any = None
    ) -> Clustering:
        """The user's own clusters.

        Each distinct label is a cluster, -1 too; they are numbered in sorted order. Clusters below
        `minimum` are dissolved as in `choose_clusters`.

        Args:
            x: rows, shape (n, d).
            labels: integers or strings, shape (n,).
            minimum: least number of rows of a cluster; with weights, least effective number.
            weights: sample weights, at least 0, shape (n,).

        Raises:
            ValueError: labels of another length or type, or bad x, weights or minimum.
        """
        x = real_rows(x)
        w = sample_weights(weights, len(x))
        check_minimum(minimum, w)
        labels, moved = dissolve(x, own_labels(labels, len(x)), w, minimum)
        return cls._of(x, labels, w, dissolved=moved)

    @classmethod
    def _of(cls, x: np.ndarray, labels: np.ndarray, w: np.ndarray, **more: Any) -> Clustering:
        k = int(labels.max()) + 1
        sums = weighted_sums(x, labels, w, k)
        return cls(
            labels=labels.astype(np.int64),
            k=k,
            weights=sums[:, 0] / sums[:, 0].sum(),
            sizes=np.bincount(labels, minlength=k),
            centres=sums[:, 2:] / sums[:, :1],
            **more,
        )

    def __repr__(self) -> str:
        return f"Clustering({self})"

    def __str__(self) -> str:
        text = f"{self.k} cluster{'s' * (self.k > 1)} of {len(self.labels):,} rows, "
        text += f"{self.sizes.min():,} to {self.sizes.max():,} in each, by {self.algorithm}"
        if np.isfinite(self.silhouette):
            text += f", mean silhouette {self.silhouette:.3f}"
        return text + (f", {self.dissolved:,} rows moved" if self.dissolved else "")


def choose_clusters(
    x: Any,
    *,
    algorithm: str | Callable[[int], Any] = "kmeans",
    candidates: Iterable[int] = range(2, 21),
    weights: Any = None,
    minimum: float = 100,
    options: Mapping[str, Any] | None = None,
    standardise: bool = False,
    score_rows: int | None = 2000,
    fit_rows: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Clustering:
    """Clusters x with the number of clusters that has the largest mean silhouette.

    The silhouette is Rousseeuw's (1987, J. Comput. Appl. Math. 20:53), the choice that of
    arXiv:2305.02930, section 2. Where the curve of `scores` is flat, as on the two rings, the
    choice is noise. All clustering is scikit-learn's, on one thread, so that the result does not
    depend on the number of cores. Labels, number and score are always those of one fit.

    Small clusters are dissolved before the score is computed: the smallest first, each of its rows
    to the nearest centre among the clusters that stay, until none is below `minimum`. A candidate
    of which one cluster is left has no silhouette; if none has one, the answer is one cluster.
    (The paper's code lowers k by one until no cluster has fewer than 100 rows, which may end at 2
    for the sake of one stray point; here k keeps what its other clusters found.)

    Large data: candidates are fitted on `fit_rows` rows, where the minimum shrinks in proportion.
    The winner is extended to all rows by its own `predict`, else by the nearest fitted row
    (spectral, agglomerative). If clusters must be dissolved then, its score and number are made
    anew, and the next candidate is considered should that one be better now.

    Sample weights decide cluster weights, centres, `minimum` and the rows that are scored (drawn in
    proportion). They enter the fit itself where the estimator takes them (k-means, mini-batch
    k-means); the other fits ignore them, except that rows of weight 0 take no part in any fit.

    Args:
        x: rows, shape (n, d).
        algorithm: "kmeans", "mini_batch_kmeans", "mean_shift", "spectral", "agglomerative",
            "birch", or a function k -> scikit-learn clusterer (anything with `fit_predict`; rows
            that it labels -1, noise, go to the nearest centre).
        candidates: numbers of clusters to try, from 2 to n - 1. Mean shift has a number of its own
            and is scored once, under the number that came out.
        weights: sample weights, at least 0, shape (n,).
        minimum: least number of rows of a cluster; with weights, least effective number
            (sum w)^2 / sum w^2 (Kish).
        options: parameters of the scikit-learn estimator. Defaults are scikit-learn's, except for
            those that depend on the scale of x. With V the total variance of the fitted rows:
            mean shift has `bin_seeding` and the bandwidth of `estimate_bandwidth` at quantile 0.1
            (scikit-learn's 0.3 merges the modes of the circle of Gaussians; the paper's code has
            0.5 in units of x), or 0.1 sqrt(V) if that is 0; Birch has threshold 0.05 sqrt(V), since
            0.5 yields fewer than 20 sub-clusters on the paper's data; spectral has gamma 4 / V,
            which is scikit-learn's 1 on the two moons (V = 4).
        standardise: cluster x divided by its standard deviations; the paper takes x as it is.
        score_rows: rows of which the silhouette is the mean, the same for all candidates, drawn
            from the fitted rows; `None` takes all of those, at a cost that grows as their square.
        fit_rows: most rows to fit. `None`: 50,000 for both k-means, 10,000 for mean shift and
            functions, 5,000 for agglomerative and Birch, 3,000 for spectral (about 1 s a fit).
        seed: of the estimators and of the drawn rows.
        progress: show a bar; the environment variable GALFLOW_PROGRESS=0 hides all bars.

    Raises:
        ValueError: x is not 2-D, has fewer than 2 rows, NaN, infinite values or nothing but
            constant columns; candidates are none, below 2 or not below the number of points;
            weights are negative, NaN, all zero or of another length; minimum is above the number
            of points; an unknown algorithm or option; a clusterer without `fit_predict`.
    """
    x = real_rows(x)
    w = sample_weights(weights, len(x))
    check_minimum(minimum, w)
    for name, rows in (("score_rows", score_rows), ("fit_rows", fit_rows)):
        if rows is not None and rows < 2:
            raise ValueError(f"{name} is {rows}, expected at least 2 or None: raise it")
    name, make, most = _algorithm(algorithm, options, seed)
    rng = np.random.default_rng(seed)
    fitted = np.flatnonzero(w)
    if len(fitted) > (fit_rows or most):
        fitted = np.sort(rng.choice(fitted, fit_rows or most, replace=False))
    tried = [None] if algorithm == "mean_shift" else checked_candidates(candidates, len(fitted))
    scored = draw(w[fitted], score_rows, rng)
    points = (x - x.mean(0)) / np.where(np.ptp(x, 0) > 0, x.std(0), 1) if standardise else x

    sample, sample_w = points[fitted], w[fitted]
    share = effective_number(sample_w) / effective_number(w)
    quiet = not progress or os.environ.get("GALFLOW_PROGRESS", "1") == "0"
    # One thread: sums over threads differ in the last digits with their number. The working memory
    # (MiB) bounds the block of distances that the silhouette holds at a time.
    with threadpool_limits(1), config_context(working_memory=64), warnings.catch_warnings():
        # Fewer clusters than asked for are a result, and `counts` tells it.
        warnings.simplefilter("ignore")
        trials = []
        for k in tqdm(tried, desc=name, unit="fit", disable=quiet):
            trial = _Trial(k, *_fit(make(k, sample), sample, weights is not None, sample_w))
            trial.finish(sample, sample_w, minimum * share, sample[scored], scored)
            trials.append(trial)
        while scores := {i: t.score for i, t in enumerate(trials) if np.isfinite(t.score)}:
            best = trials[max(scores, key=scores.__getitem__)]
            if len(best.labels) == len(x):
                break
            best.extend(points, fitted)
            best.finish(points, w, minimum, sample[scored], fitted[scored])
    found = dict(
        scores={t.candidate or t.k: t.score for t in trials},
        counts={t.candidate or t.k: t.k for t in trials},
        algorithm=name,
    )
    if not scores:
        return Clustering._of(x, np.zeros(len(x), np.int64), w, **found)
    return Clustering._of(
        x, best.labels, w, silhouette=best.score, dissolved=best.dissolved, **found
    )


@dataclass
class _Trial:
    """One candidate: the labels of its estimator and what became of them."""

    candidate: int | None
    raw: np.ndarray  # as the estimator has them, noise among them
    predict: Callable[[np.ndarray], np.ndarray] | None
    labels: np.ndarray = field(init=False)  # small clusters dissolved
    k: int = field(init=False)
    dissolved: int = field(init=False)
    score: float = field(init=False)

    def finish(
        self,
        points: np.ndarray,
        w: np.ndarray,
        minimum: float,
        sample: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        """Dissolves small clusters and scores what is left on a sample, which is points[rows]."""
        self.labels, self.dissolved = dissolve(points, self.raw, w, minimum)
        self.k = int(self.labels.max()) + 1
        labels = self.labels[rows]
        defined = 1 < len(np.unique(labels)) < len(rows)
        # Centred, since scikit-learn's distances lose digits far from the origin.
        self.score = (
            float(silhouette_score(sample - sample.mean(0), labels)) if defined else float("nan")
        )

    def extend(self, points: np.ndarray, fitted: np.ndarray) -> None:
        """Labels all points; the fitted ones keep the labels that they have."""
        predict, centre = self.predict, 0.0
        if predict is None:
            centre = points[fitted].mean(0)
            predict = KNeighborsClassifier(1).fit(points[fitted] - centre, self.raw).predict
        raw = np.empty(len(points), np.int64)
        for start in range(0, len(points), _BATCH):
            batch = slice(start, start + _BATCH)
            raw[batch] = predict(points[batch] - centre)
        raw[fitted] = self.raw
        self.raw = raw


def _algorithm(
    algorithm: Any, options: Mapping[str, Any] | None, seed: int
) -> tuple[str, Callable[[int | None, np.ndarray], Any], int]:
    """Name, function (k, sample) -> clusterer, and default number of rows to fit."""
    options = dict(options or {})
    if callable(algorithm):
        if options:
            raise ValueError(
                f"options are {sorted(options)}, expected none beside a function as algorithm: "
                "set them inside that function"
            )
        name = getattr(algorithm, "__name__", type(algorithm).__name__)
        return name, lambda k, _: algorithm(k), _USER_FIT_ROWS
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm is {algorithm!r}, expected one of {', '.join(ALGORITHMS)} or a function "
            "k -> clusterer: choose one"
        )
    kind, most = ALGORITHMS[algorithm]
    known = set(kind().get_params()) - {"n_clusters"}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"options have {unknown}, expected parameters of {kind.__name__} "
            f"({', '.join(sorted(known))}): rename or remove them"
        )

    def make(k: int | None, sample: np.ndarray) -> Any:
        settings: dict[str, Any] = {} if k is None else {"n_clusters": k}
        if "random_state" in known:
            settings["random_state"] = seed
        variance = sample.var(0).sum()
        if algorithm == "birch":
            settings["threshold"] = 0.05 * float(np.sqrt(variance))
        elif algorithm == "spectral":
            settings["gamma"] = 4 / float(variance)
        elif algorithm == "mean_shift":
            settings["bin_seeding"] = True
            if "bandwidth" not in options:
                width = cluster.estimate_bandwidth(
                    sample, quantile=0.1, n_samples=min(2000, len(sample)), random_state=seed
                )
                # Zero where rows are repeated that often.
                settings["bandwidth"] = width or 0.1 * float(np.sqrt(variance))
        return kind(**settings | options)

    return algorithm, make, most


def _fit(
    clusterer: Any, sample: np.ndarray, weighted: bool, w: np.ndarray
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray] | None]:
    """Labels of the sample, and `predict` where the clusterer has it."""
    if not hasattr(clusterer, "fit_predict"):
        raise ValueError(
            f"the function given as algorithm returned {type(clusterer).__name__}, expected a "
            "clusterer with fit_predict: return for example sklearn.cluster.KMeans(k)"
        )
    takes = weighted and has_fit_parameter(clusterer, "sample_weight")
    raw = np.asarray(clusterer.fit_predict(sample, **({"sample_weight": w} if takes else {})))
    if raw.shape != (len(sample),) or raw.dtype.kind not in "iu":
        raise ValueError(
            f"fit_predict returned {raw.dtype} of shape {raw.shape}, expected integers of shape "
            f"({len(sample)},): repair the clusterer"
        )
    # Without predict the clusterer is let go: a spectral one holds all pairs of rows.
    return raw.astype(np.int64), getattr(clusterer, "predict", None)
