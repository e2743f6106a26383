"""Cutting data into clusters, and how many: the mean silhouette (arXiv:2305.02930)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
from scipy.spatial.distance import cdist
from sklearn import cluster, config_context
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from ..inputs import as_array, as_choice, as_number, as_whole

# Name: class, and the most rows that are fitted. Agglomerative and spectral clustering hold a
# matrix of all pairs of these rows; Birch does when each row is a sub-cluster of its own.
ALGORITHMS: dict[str, tuple[type, int]] = {
    "kmeans": (cluster.KMeans, 50_000),
    "mini_batch_kmeans": (cluster.MiniBatchKMeans, 50_000),
    "mean_shift": (cluster.MeanShift, 10_000),
    "spectral": (cluster.SpectralClustering, 3_000),
    "agglomerative": (cluster.AgglomerativeClustering, 5_000),
    "birch": (cluster.Birch, 5_000),
}
SCORED_ROWS = 2_000  # the silhouette's price grows as their square
# The number of BLAS threads belongs to the process: calls that overlap would restore each other's.
_ONE_AT_A_TIME = threading.RLock()


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
        algorithm: name of the algorithm; "labels" for given labels.
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
    algorithm: str = "labels"
    silhouette: float = float("nan")
    dissolved: int = 0

    @classmethod
    def from_labels(
        cls, x: Any, labels: Any, *, minimum: float = 1, weights: Any = None
    ) -> Clustering:
        """The user's own clusters, made by any means.

        Each distinct label is a cluster, -1 too; they are numbered in sorted order. Clusters below
        `minimum` are dissolved as in `choose_clusters`.

        Args:
            x: rows, shape (n, d).
            labels: integers or strings, shape (n,).
            minimum: least number of rows of a cluster; with weights, least effective number.
            weights: sample weights, at least 0, shape (n,).
        """
        x = as_array(x, "x", ("n", "d"))
        w = sample_weights(weights, len(x))
        labels = labels.detach().cpu() if hasattr(labels, "detach") else labels
        masked, labels = np.ma.is_masked(labels), np.asarray(labels)
        if masked or labels.shape != (len(x),) or labels.dtype.kind not in "biuSUOT":
            wanted = f"expected {len(x)} integers or strings, one for each row of x"
            raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}, {wanted}")
        numbers = np.unique(labels, return_inverse=True)[1]
        numbers, moved = _dissolve(x, numbers, w, _checked_minimum(minimum, w))
        return cls._of(x, numbers, w, dissolved=moved)

    @classmethod
    def _of(cls, x: np.ndarray, labels: np.ndarray, w: np.ndarray, **more: Any) -> Clustering:
        k = int(labels.max()) + 1
        sums = _weighted_sums(x, labels, w, k)
        shares, centres = sums[:, 0] / sums[:, 0].sum(), sums[:, 2:] / sums[:, :1]
        sizes = np.bincount(labels, minlength=k)
        return cls(labels.astype(np.int64), k, shares, sizes, centres, **more)

    def __repr__(self) -> str:
        text = f"{self.k} cluster{'s' * (self.k > 1)} of {len(self.labels):,} rows, "
        text += f"{self.sizes.min():,} to {self.sizes.max():,} in each, by {self.algorithm}"
        if np.isfinite(self.silhouette):
            text += f", mean silhouette {self.silhouette:.3f}"
        return text + (f", {self.dissolved:,} rows moved" if self.dissolved else "")


def choose_clusters(
    x: Any,
    *,
    algorithm: str = "kmeans",
    candidates: Iterable[int] = range(2, 21),
    weights: Any = None,
    minimum: float = 100,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
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

    Large data: candidates are fitted on a part of the rows (50,000 for both k-means, 10,000 for
    mean shift, 5,000 for agglomerative and Birch, 3,000 for spectral: about 1 s a fit), where the
    minimum shrinks in proportion, and scored on 2,000 of those. The winner is extended to all rows
    by its own `predict`, else by the nearest fitted row (spectral, agglomerative). If clusters must
    be dissolved then, its score and number are made again, and the next candidate is considered
    should that one be better now.

    Sample weights decide cluster weights, centres, `minimum` and the rows that are scored (drawn in
    proportion). They enter the fit itself where the estimator takes them (k-means, mini-batch
    k-means); the other fits ignore them, except that rows of weight 0 take no part in any fit.

    Args:
        x: rows, shape (n, d), clustered in the units that they have, as in the paper.
        algorithm: "kmeans", "mini_batch_kmeans", "mean_shift", "spectral", "agglomerative" or
            "birch". Labels from elsewhere: `Clustering.from_labels`.
        candidates: numbers of clusters to try, from 2 to n - 1. Mean shift has a number of its own
            and is scored once, under the number that came out.
        weights: sample weights, at least 0, shape (n,).
        minimum: least number of rows of a cluster; with weights, least effective number
            (sum w)^2 / sum w^2 (Kish).
        options: parameters of the scikit-learn estimator. Defaults are scikit-learn's, except for
            those that depend on the scale of x. With V the total variance of the fitted rows:
            mean shift has `bin_seeding` and, unless it is given, the bandwidth of
            `estimate_bandwidth` at quantile 0.1 (scikit-learn's 0.3 merges the modes of the circle
            of Gaussians; the paper's code has 0.5 in units of x), or 0.1 sqrt(V) if that is 0;
            Birch has threshold 0.05 sqrt(V), since 0.5 yields fewer than 20 sub-clusters on the
            paper's data; spectral has gamma 4 / V, scikit-learn's 1 on the two moons (V = 4).
        seed: of the estimators and of the drawn rows.
    """
    x = as_array(x, "x", ("n", "d"))
    w = sample_weights(weights, len(x))
    minimum = _checked_minimum(minimum, w)
    kind, most = ALGORITHMS[as_choice(algorithm, "algorithm", ALGORITHMS)]
    seed = as_whole(seed, "seed")
    rng = np.random.default_rng(seed)
    fitted = np.flatnonzero(w)
    if len(fitted) > most:
        fitted = np.sort(rng.choice(fitted, most, replace=False))
    tried: list[int | None] = sorted({as_whole(k, "candidates", least=2) for k in candidates})
    if algorithm == "mean_shift":
        tried = [None]
    scored = _draw(w[fitted], SCORED_ROWS, rng)

    sample, sample_w = x[fitted], w[fitted]
    share = effective_number(sample_w) / effective_number(w)
    takes_weights = weights is not None and algorithm in ("kmeans", "mini_batch_kmeans")
    more = {"sample_weight": sample_w} if takes_weights else {}
    # One thread: sums over threads differ in the last digits with their number. The working memory
    # (MiB) bounds the block of distances that the silhouette holds at a time.
    with _ONE_AT_A_TIME, threadpool_limits(1), config_context(working_memory=64), catch_warnings():
        # Fewer clusters than asked for are a result, and the labels tell it.
        simplefilter("ignore")
        trials = []
        settings = _settings(algorithm, sample, seed, options or {})
        for k in tried:
            estimator = kind(**settings | ({} if k is None else {"n_clusters": k}))
            raw = estimator.fit_predict(sample, **more).astype(np.int64)
            # Without predict the estimator is let go: a spectral one holds all pairs of rows.
            predict = getattr(estimator, "predict", None)
            cleaned = _cleaned(sample, raw, sample_w, minimum * share, scored)
            trials.append(_Trial(k, raw, predict, *cleaned))
        while scores := {i: t.score for i, t in enumerate(trials) if np.isfinite(t.score)}:
            number = max(scores, key=scores.__getitem__)
            best = trials[number]
            if len(best.labels) == len(x):
                break
            # Labels of all points; the fitted ones keep the labels that they have.
            predict, centre = best.predict, 0.0
            if predict is None:
                centre = sample.mean(0)
                predict = KNeighborsClassifier(1).fit(sample - centre, best.raw).predict
            raw = predict(x - centre).astype(np.int64)
            raw[fitted] = best.raw
            cleaned = _cleaned(x, raw, w, minimum, fitted[scored])
            trials[number] = _Trial(best.candidate, raw, None, *cleaned)
    found = {t.candidate or int(t.labels.max()) + 1: t.score for t in trials}
    labels, more = np.zeros(len(x), int), {"scores": found, "algorithm": algorithm}
    if scores:
        labels, more = best.labels, more | {"silhouette": best.score, "dissolved": best.dissolved}
    return Clustering._of(x, labels, w, **more)


def sample_weights(weights: Any, n: int) -> np.ndarray:
    """Weights divided by the largest, shape (n,); ones for `None`."""
    if weights is None:
        return np.ones(n)
    w = as_array(weights, "weights", (n,))
    as_number(w.min(), "the least of the weights", least=0)
    return w / as_number(w.max(), "the largest of the weights", above=0)


class _Trial(NamedTuple):
    """One candidate: the labels of its estimator and what became of them."""

    candidate: int | None
    raw: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray] | None
    labels: np.ndarray  # small clusters dissolved
    dissolved: int
    score: float


def _cleaned(
    points: np.ndarray, raw: np.ndarray, w: np.ndarray, minimum: float, rows: np.ndarray
) -> tuple[np.ndarray, int, float]:
    """Labels without small clusters, how many rows were moved, the mean silhouette of `rows`."""
    labels, moved = _dissolve(points, raw, w, minimum)
    sample, own, score = points[rows], labels[rows], float("nan")
    if 1 < len(np.unique(own)) < len(rows):
        # Centred, since scikit-learn's distances lose digits far from the origin.
        score = float(silhouette_score(sample - sample.mean(0), own))
    return labels, moved, score


def _settings(algorithm: str, sample: np.ndarray, seed: int, options: Mapping[str, Any]) -> dict:
    """Parameters of an estimator but for the number of clusters."""
    random = algorithm in ("kmeans", "mini_batch_kmeans", "spectral")
    settings: dict[str, Any] = {"random_state": seed} if random else {}
    variance = float(sample.var(0).sum())
    if algorithm == "birch":
        settings["threshold"] = 0.05 * variance**0.5
    elif algorithm == "spectral":
        settings["gamma"] = 4 / variance
    elif algorithm == "mean_shift":
        settings = {"bin_seeding": True}
        if "bandwidth" not in options:
            width = cluster.estimate_bandwidth(
                sample, quantile=0.1, n_samples=min(2000, len(sample)), random_state=seed
            )
            # Zero where rows are repeated that often.
            settings["bandwidth"] = width or 0.1 * variance**0.5
    return settings | dict(options)


def _checked_minimum(minimum: float, w: np.ndarray) -> float:
    return as_number(minimum, "minimum", least=1, most=effective_number(w) * (1 + 1e-9))


def effective_number(w: np.ndarray) -> float:
    """Kish's effective number of rows, (sum w)^2 / sum w^2; the number itself for equal weights."""
    return float(w.sum() ** 2 / (w**2).sum())


def _weighted_sums(x: np.ndarray, labels: np.ndarray, w: np.ndarray, k: int) -> np.ndarray:
    """Sums of w, w^2 and w x over the rows of each cluster, shape (k, 2 + d)."""
    columns = [w, w**2, *(w * column for column in x.T)]
    return np.stack([np.bincount(labels, column, k) for column in columns], axis=1)


def _dissolve(
    x: np.ndarray, raw: np.ndarray, w: np.ndarray, minimum: float
) -> tuple[np.ndarray, int]:
    """Moves the rows of clusters below the minimum to clusters that stay.

    The smallest goes first, each of its rows to the nearest centre (weighted mean) among all that
    are left, until none is below the minimum or one is left.

    Args:
        x: rows, shape (n, d).
        raw: labels, integers in any numbering, shape (n,).
        w: sample weights, shape (n,).
        minimum: least effective number of rows, above 0.

    Returns:
        Labels 0 to k - 1 in the order of `raw`, int64, and the number of rows that were moved.
    """
    labels = np.unique(raw, return_inverse=True)[1]
    k = int(labels.max()) + 1
    sums = _weighted_sums(x, labels, w, k)
    live, moved = np.ones(k, bool), np.zeros(len(labels), bool)
    while live.sum() > 1:
        effective = np.divide(sums[:, 0] ** 2, sums[:, 1], np.zeros(k), where=sums[:, 1] > 0)
        # The tolerance is for rounding: n rows of one weight count as n.
        small = live & (effective < minimum * (1 - 1e-9))
        if not small.any():
            break
        # Clusters without weight have no centre and go together.
        gone = small & (effective == 0)
        if not gone.any():
            gone[np.argmin(np.where(small, effective, np.inf))] = True
        live &= ~gone
        rows = np.flatnonzero(gone[labels])
        centres = sums[live, 2:] / sums[live, :1]
        labels[rows] = np.flatnonzero(live)[cdist(x[rows], centres).argmin(1)]
        moved[rows] = True
        sums += _weighted_sums(x[rows], labels[rows], w[rows], k)
        sums[gone] = 0
    labels = np.unique(labels, return_inverse=True)[1]
    return labels.astype(np.int64), int(moved.sum())


def _draw(w: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many row numbers, drawn in proportion to the weights.

    Systematic draw on rows in random order: a row comes up as often as it is expected to, rounded
    up or down, so that no row comes twice where all weights are equal.
    """
    m = min(most, len(w))
    order = rng.permutation(len(w))
    if np.ptp(w) == 0:
        return order[:m]
    cumulative = np.cumsum(w[order])
    at = (rng.random() + np.arange(m)) / m * cumulative[-1]
    return order[np.minimum(np.searchsorted(cumulative, at, side="right"), len(w) - 1)]
