"""Number of clusters by mean silhouette, small clusters, weights, and bad input."""

from __future__ import annotations

import re
import warnings
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score
from threadpoolctl import threadpool_info, threadpool_limits

from galflow_lite.piecewise.clustering import ALGORITHMS, Clustering, choose_clusters

every_algorithm = pytest.mark.parametrize("algorithm", list(ALGORITHMS))


@pytest.fixture(autouse=True)
def no_warning():
    """No warning may reach the user, scikit-learn's least of all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def circle(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gaussians, and which of them each row is from."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(8, size=n)
    angle = 2 * np.pi * mode / 8
    means = 2 * np.c_[np.sin(angle), np.cos(angle)]
    return means + 0.2551 * rng.normal(size=(n, 2)), mode


def rings(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    r = np.where(rng.random(n) < 1 / 3, 1, 2) + 0.125 * rng.normal(size=n)
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.c_[r * np.cos(angle), r * np.sin(angle)]


def moons(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (40 * n, 2))
    a = abs(x[:, 0])
    log_f = -(((np.hypot(*x.T) - 2) / 0.2) ** 2) / 2 - ((a - 2) / 0.3) ** 2 / 2
    log_f += np.log1p(np.exp(-4 * a / 0.09))
    return x[np.log(rng.random(len(x))) < log_f][:n]


def blobs(*sizes: int, apart: float = 10.0, seed: int = 0) -> np.ndarray:
    """Standard normal groups of rows at 0, 10, 20, ... on the first axis."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), 2))
    x[:, 0] += apart * np.repeat(np.arange(len(sizes)), sizes)
    return x


# The silhouettes of the paper's targets


@every_algorithm
def test_two_moons_are_two(algorithm):
    found = choose_clusters(moons(2000), algorithm=algorithm, candidates=[2, 3, 4, 6, 8])
    if algorithm == "mean_shift":
        # It counts modes of the density, and each moon is flat along its arc.
        assert 2 <= found.k <= 5
        return
    assert found.k == 2
    x = moons(2000)
    assert (found.labels == found.labels[x[:, 0] > 0][0])[x[:, 0] > 0].all()
    np.testing.assert_allclose(np.abs(found.centres[:, 0]), 1.8, atol=0.2)


@every_algorithm
def test_the_circle_has_eight(algorithm):
    x, mode = circle(2000)
    found = choose_clusters(x, algorithm=algorithm, candidates=[2, 4, 6, 7, 8, 9, 10, 12, 16])
    assert found.k == 8
    assert adjusted_rand_score(mode, found.labels) > 0.95
    np.testing.assert_allclose(np.hypot(*found.centres.T), 2, atol=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_the_rings_are_flat(seed):
    found = choose_clusters(rings(10_000, seed))
    assert 13 <= found.k <= 20
    best = max(found.scores.values())
    assert all(found.scores[k] > best - 0.05 for k in range(14, 20))


# Mean silhouettes of k-means on 10,000 rows, k = 2 to 20.
KNOWN = {
    "moons": ".740 .639 .554 .519 .485 .465 .445 .421 .409 .395",
    "circle": ".420 .474 .530 .498 .525 .589 .664 .613 .563 .518",
    "rings": ".367 .404 .400 .385 .360 .343 .372 .366 .397 .433",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_silhouettes(name):
    x = {"moons": moons, "circle": lambda n: circle(n)[0], "rings": rings}[name](4000)
    found = choose_clusters(x, candidates=range(2, 12), score_rows=None, minimum=1)
    known = np.array(KNOWN[name].split(), float)
    scores = np.array([found.scores[k] for k in range(2, 12)])
    # k-means starts at random: which of its local optima it finds moves the score of a wrong k.
    best = known.argmax() if name != "rings" else 0
    rows = silhouette_samples(x, KMeans(int(best) + 2, random_state=0).fit_predict(x))
    assert abs(scores[best] - known[best]) < 4 * rows.std() * np.sqrt(1 / 4000 + 1 / 10_000)
    assert np.abs(scores - known).max() < 0.06


# Labels, number and score of one fit


@every_algorithm
def test_labels_number_and_score_are_of_one_fit(algorithm):
    """The published script took the labels of the last k with the number of the best one."""
    x, _ = circle(1500, seed=3)
    found = choose_clusters(
        x, algorithm=algorithm, candidates=[4, 8, 12], score_rows=None, minimum=20
    )
    assert np.array_equal(np.unique(found.labels), np.arange(found.k))
    assert found.labels.dtype == np.int64
    assert found.sizes.sum() == len(x)
    assert found.sizes.min() >= 20
    best = max(found.scores, key=found.scores.get)
    assert found.counts[best] == found.k
    assert found.silhouette == found.scores[best]
    assert silhouette_score(x, found.labels) == pytest.approx(found.silhouette, rel=1e-9)
    assert set(found.scores) == ({found.k} if algorithm == "mean_shift" else {4, 8, 12})


@every_algorithm
def test_labels_and_number_stay_together_on_data_larger_than_the_fit(algorithm):
    x, mode = circle(3000, seed=4)
    found = choose_clusters(x, algorithm=algorithm, candidates=[4, 8, 12], fit_rows=800)
    assert found.k == len(np.unique(found.labels)) == 8
    assert len(found.labels) == 3000
    assert adjusted_rand_score(mode, found.labels) > 0.95
    assert found.counts[max(found.scores, key=found.scores.get)] == 8


def test_the_labels_are_those_of_scikit_learn():
    x, _ = circle(1000)
    found = choose_clusters(x, minimum=1)
    with threadpool_limits(1):
        expected = KMeans(found.k, random_state=0).fit_predict(x)
    assert np.array_equal(found.labels, expected)


def test_birch_gives_the_number_that_came_out():
    x = blobs(200, 200, 200)
    found = choose_clusters(x, algorithm="birch", candidates=[8, 12], options={"threshold": 4.0})
    assert found.counts[8] < 8
    assert found.k == len(found.sizes) == found.counts[8]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("algorithm", ["mean_shift", "spectral", "birch"])
def test_the_unit_of_x_does_not_matter(algorithm, scale):
    x, _ = circle(1000)
    settings = dict(algorithm=algorithm, candidates=[6, 8], minimum=20)
    found = choose_clusters(x, **settings)
    other = choose_clusters(x * scale, **settings)
    assert adjusted_rand_score(found.labels, other.labels) > 0.99
    np.testing.assert_allclose(
        sorted(other.centres[:, 0] / scale), sorted(found.centres[:, 0]), atol=0.02
    )


def test_a_large_offset_costs_no_digits():
    x, _ = circle(1000)
    near, far = (choose_clusters(x + c, candidates=[7, 8, 9], minimum=20) for c in (0, 1e8))
    assert np.array_equal(near.labels, far.labels)
    assert far.silhouette == pytest.approx(near.silhouette, abs=1e-5)


def test_standardise():
    x = blobs(300, 300) * [1e-3, 10.0]
    plain, scaled = (
        choose_clusters(x, candidates=[2], standardise=s, minimum=10) for s in (False, True)
    )
    truth = np.repeat([0, 1], 300)
    assert adjusted_rand_score(truth, scaled.labels) == 1
    assert adjusted_rand_score(truth, plain.labels) < 0.2
    np.testing.assert_allclose(
        sorted(scaled.centres[:, 0]), [x[:300, 0].mean(), x[300:, 0].mean()], rtol=1e-9
    )


# Determinism


@every_algorithm
def test_one_seed_one_answer(algorithm):
    x = rings(1200)
    settings = dict(algorithm=algorithm, candidates=[3, 9], fit_rows=600, score_rows=300)
    a, b = (choose_clusters(x, **settings, seed=5) for _ in range(2))
    assert np.array_equal(a.labels, b.labels)
    assert a.scores == b.scores
    other = choose_clusters(x, **settings, seed=6)
    assert other.scores != a.scores


def test_the_number_of_threads_does_not_matter():
    x, _ = circle(20_000)
    found = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            found.append(choose_clusters(x, candidates=[8, 11]))
    assert found[0].scores == found[1].scores == found[2].scores
    assert np.array_equal(found[0].labels, found[2].labels)
    assert np.array_equal(found[0].labels, found[1].labels)


def test_every_fit_runs_on_one_thread():
    """What makes the above hold on any machine."""
    pools = []

    class Watched(KMeans):
        def fit_predict(self, *args, **more):
            pools.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit_predict(*args, **more)

    with threadpool_limits(2):
        assert any(pool["num_threads"] == 2 for pool in threadpool_info())
        choose_clusters(blobs(200, 200), algorithm=Watched, candidates=[2, 3])
        assert any(pool["num_threads"] == 2 for pool in threadpool_info())
    assert set(pools) == {1}


def test_random_state_of_the_user_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    choose_clusters(blobs(200, 200), candidates=[2, 3])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


# Small clusters


def test_a_small_cluster_goes_to_its_neighbour():
    x = blobs(500, 500, 30)
    x[1000:, 0] += 5
    found = choose_clusters(x, candidates=[3], minimum=100, score_rows=None)
    assert found.k == 2
    assert found.dissolved == 30
    assert found.counts == {3: 2}
    assert len(np.unique(found.labels[500:])) == 1
    # The score is that of the labels returned, not of the three clusters before.
    assert found.silhouette == pytest.approx(silhouette_score(x, found.labels), rel=1e-9)
    kept = choose_clusters(x, candidates=[3], minimum=30)
    assert (kept.k, kept.dissolved) == (3, 0)
    assert kept.sizes.min() == 30


def test_the_smallest_goes_first_and_may_save_the_next():
    x = blobs(300, 60, 50)
    found = Clustering.from_labels(x, np.repeat([0, 1, 2], [300, 60, 50]), minimum=100)
    assert found.sizes.tolist() == [300, 110]
    assert found.dissolved == 50


def test_rows_moved_twice_count_once():
    x = blobs(300, 20, 10)
    found = Clustering.from_labels(x, np.repeat([0, 1, 2], [300, 20, 10]), minimum=100)
    assert (found.k, found.dissolved) == (1, 30)


def test_one_cluster_when_no_candidate_has_a_silhouette():
    x = blobs(150, 40)
    found = choose_clusters(x, candidates=[2], minimum=100)
    assert found.k == 1
    assert not found.labels.any()
    assert found.weights.tolist() == [1.0]
    assert np.isnan(found.silhouette)
    assert np.isnan(found.scores[2])
    assert found.counts == {2: 1}
    np.testing.assert_allclose(found.centres, x.mean(0, keepdims=True))


def test_a_candidate_without_silhouette_does_not_win():
    x = blobs(400, 400, 20, apart=6)
    x[800:] += [200, 0]  # k = 2 takes the far group alone
    found = choose_clusters(x, candidates=[2, 3], minimum=100)
    assert np.isnan(found.scores[2])
    assert (found.k, found.counts[3]) == (2, 2)
    assert found.dissolved == 20


def test_the_minimum_holds_on_all_rows_when_a_part_is_fitted():
    x = blobs(4000, 4000, 150)
    x[8000:, 0] += 20
    for minimum, k in ((100, 3), (200, 2)):
        found = choose_clusters(x, candidates=[2, 3], minimum=minimum, fit_rows=1000)
        assert found.k == k
        assert found.sizes.min() >= minimum
        assert found.counts[max(found.scores, key=found.scores.get)] == k


def test_a_candidate_that_loses_clusters_on_all_rows_is_scored_again():
    """The sample makes the small group look just large enough; all rows do not."""
    x = blobs(4000, 4000, 150)
    x[8000:, 0] += 20
    drawn = [np.random.default_rng(i).choice(len(x), 1000, replace=False) for i in range(12)]
    in_group = [(rows >= 8000).sum() for rows in drawn]
    seed = int(np.argmax(in_group))
    # Above the 150 rows of the group, and what its share of this sample amounts to.
    minimum = int(in_group[seed] / 1000 * len(x))
    assert minimum > 150
    found = choose_clusters(
        x, candidates=[3], minimum=minimum, fit_rows=1000, score_rows=None, seed=seed
    )
    assert (found.k, found.counts, found.dissolved) == (2, {3: 2}, 150)
    rows = drawn[seed]
    expected = silhouette_score(x[rows], found.labels[rows])
    assert found.scores[3] == found.silhouette == pytest.approx(expected, rel=1e-9)


# Weights


def test_weights():
    x = blobs(300, 300, 300)
    w = np.repeat([1.0, 2.0, 5.0], 300)
    found = choose_clusters(x, weights=w, candidates=[2, 3, 4])
    assert found.k == 3
    order = np.argsort(found.centres[:, 0])
    np.testing.assert_allclose(found.weights[order], [1 / 8, 2 / 8, 5 / 8])
    assert found.sizes.tolist() == [300] * 3


def test_equal_weights_are_no_weights():
    x, _ = circle(1500)
    plain = choose_clusters(x, candidates=[7, 8])
    weighted = choose_clusters(x, candidates=[7, 8], weights=np.full(1500, 0.3))
    assert np.array_equal(plain.labels, weighted.labels)
    assert plain.scores == pytest.approx(weighted.scores, rel=1e-9)


@every_algorithm
def test_rows_of_weight_zero_change_nothing_but_get_labels(algorithm):
    x, mode = circle(1600)
    extra = np.random.default_rng(1).uniform(-3, 3, (400, 2))
    x = np.concatenate([x, extra])
    w = np.repeat([1.0, 0.0], [1600, 400])
    found = choose_clusters(x, algorithm=algorithm, candidates=[6, 8, 10], weights=w)
    plain = choose_clusters(x[:1600], algorithm=algorithm, candidates=[6, 8, 10])
    assert np.array_equal(found.labels[:1600], plain.labels)
    assert len(found.labels) == 2000
    np.testing.assert_allclose(found.centres, plain.centres)
    np.testing.assert_allclose(found.weights, plain.weights)
    assert adjusted_rand_score(mode, found.labels[:1600]) > 0.95


def test_weights_enter_the_fit_of_kmeans():
    x = np.random.default_rng(0).uniform(0, 1, (2000, 1))
    w = np.where(x[:, 0] < 0.5, 1.0, 1e-3)
    found = choose_clusters(x, weights=w, candidates=[2])
    # Nearly all weight lies uniformly in [0, 1/2]: two halves of it.
    np.testing.assert_allclose(sorted(found.centres[:, 0]), [0.125, 0.375], atol=0.03)


def test_scored_rows_follow_the_weights():
    """A tight and a wide cluster: the mean silhouette moves to the one that has the weight."""
    rng = np.random.default_rng(0)
    x = np.concatenate([0.1 * rng.normal(size=(800, 2)), 2 * rng.normal(size=(800, 2)) + [10, 0]])
    group = np.repeat([0, 1], 800)
    each = silhouette_samples(x, group)
    settings = dict(algorithm="agglomerative", candidates=[2], minimum=20, score_rows=800)
    scores = []
    for heavy in (0, 1):
        w = np.where(group == heavy, 1.0, 0.05)
        found = choose_clusters(x, weights=w, **settings)
        assert adjusted_rand_score(group, found.labels) > 0.99
        expected = np.average(each, weights=w)
        scores.append(found.scores[2])
        assert abs(scores[-1] - expected) < 4 * each.std() / np.sqrt(800)
    assert scores[0] > scores[1] + 0.1


def test_the_minimum_counts_effective_rows():
    x = blobs(500, 500)
    w = np.ones(1000)
    w[500:] = 1e-4
    w[500] = 1.0
    # The second cluster has 500 rows and hardly more than one effective row.
    settings = dict(algorithm="agglomerative", candidates=[2], minimum=100)
    assert choose_clusters(x, **settings).k == 2
    assert choose_clusters(x, **settings, weights=w).k == 1
    found = Clustering.from_labels(x, np.repeat([0, 1], 500), weights=w, minimum=2)
    assert (found.k, found.dissolved) == (1, 500)
    kept = Clustering.from_labels(x, np.repeat([0, 1], 500), weights=w, minimum=1)
    assert kept.k == 2


# The user's own algorithm and labels


def test_a_function_of_the_user():
    x = blobs(200, 200, 200)

    def medians(k):
        return KMeans(k, init="random", n_init=10, random_state=1)

    found = choose_clusters(x, algorithm=medians, candidates=[2, 3, 4])
    assert (found.k, found.algorithm) == (3, "medians")
    part = choose_clusters(x, algorithm=medians, candidates=[2, 3, 4], fit_rows=200)
    assert part.sizes.tolist() == [200, 200, 200]


def test_a_function_may_have_the_name_of_an_algorithm():
    def mean_shift(k):
        return KMeans(k, random_state=0)

    found = choose_clusters(blobs(200, 200), algorithm=mean_shift, candidates=[2, 3])
    assert set(found.scores) == {2, 3}


def test_fitted_rows_keep_the_labels_that_were_scored():
    class Halves:
        def fit_predict(self, x):
            return (x[:, 0] > 0.5).astype(int)

        def predict(self, x):  # as an estimator that is not quite its own fit
            return (x[:, 0] > 0.6).astype(int)

    x = np.linspace(0, 1, 1001)[:, None]
    settings = dict(algorithm=lambda k: Halves(), candidates=[2], fit_rows=300, score_rows=None)
    found = choose_clusters(x, **settings)
    fitted = np.sort(np.random.default_rng(0).choice(1001, 300, replace=False))
    assert np.array_equal(found.labels[fitted], x[fitted, 0] > 0.5)
    rest = np.setdiff1d(np.arange(1001), fitted)
    assert np.array_equal(found.labels[rest], x[rest, 0] > 0.6)
    assert silhouette_score(x[fitted], found.labels[fitted]) == pytest.approx(found.silhouette)


def test_noise_goes_to_the_nearest_centre():
    x = np.concatenate([blobs(300, 300, apart=20), [[7.0, 0.0], [14.0, 0.0]]])
    raw = DBSCAN(2.0).fit_predict(x)
    assert raw[-2:].tolist() == [-1, -1]
    found = choose_clusters(x, algorithm=lambda k: DBSCAN(2.0), candidates=[2], minimum=1)
    assert found.k == 2
    assert found.labels[-2:].tolist() == found.labels[[0, 300]].tolist()
    assert found.dissolved == (raw == -1).sum()


def test_nothing_but_noise_is_one_cluster():
    found = choose_clusters(blobs(100, 100), algorithm=lambda k: DBSCAN(1e-9), candidates=[2])
    assert found.k == 1


@pytest.mark.parametrize(
    "labels",
    [
        [7, 7, -1, 3],
        ["c", "c", "a", "b"],
        np.array(["c", "c", "a", "b"], dtype=object),
        torch.tensor([9, 9, 0, 5]),
    ],
)
def test_own_labels(labels):
    x = torch.tensor([[0.0, 0], [2, 0], [5, 5], [9, 9]], requires_grad=True)
    found = Clustering.from_labels(x, labels, weights=[1, 3, 2, 2])
    assert found.labels.tolist() == [2, 2, 0, 1]
    assert found.sizes.tolist() == [1, 1, 2]
    np.testing.assert_allclose(found.weights, [0.25, 0.25, 0.5])
    np.testing.assert_allclose(found.centres, [[5, 5], [9, 9], [1.5, 0]])
    assert (found.k, found.scores, found.algorithm) == (3, {}, "labels")


def test_text_and_frozen():
    found = choose_clusters(blobs(200, 250), candidates=[2, 3])
    expected = r"2 clusters of 450 rows, 200 to 250 in each, by kmeans, mean silhouette 0\.\d{3}"
    assert re.fullmatch(expected, str(found))
    assert repr(found) == f"Clustering({found})"
    with pytest.raises(FrozenInstanceError):
        found.k = 3
    own = Clustering.from_labels(blobs(200, 9), np.repeat([0, 1], [200, 9]), minimum=10)
    assert str(own) == "1 cluster of 209 rows, 209 to 209 in each, by labels, 9 rows moved"


def test_progress(capsys, monkeypatch):
    choose_clusters(blobs(200, 250), candidates=[2, 3], progress=True)
    assert "kmeans" in capsys.readouterr().err
    monkeypatch.setenv("GALFLOW_PROGRESS", "0")
    choose_clusters(blobs(200, 250), candidates=[2, 3], progress=True)
    assert not capsys.readouterr().err


# Tiny and odd data


def test_three_points():
    found = choose_clusters([[0.0], [0.1], [5.0]], candidates=[2], minimum=1)
    assert found.k == 2
    assert found.labels[0] == found.labels[1] != found.labels[2]


@every_algorithm
def test_fewer_distinct_points_than_clusters(algorithm):
    x = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]], 60, axis=0)
    found = choose_clusters(x, algorithm=algorithm, candidates=[2, 3, 5], minimum=20)
    assert found.k == 3
    assert found.silhouette == pytest.approx(1)
    assert found.sizes.tolist() == [60] * 3


def test_a_constant_column_is_allowed():
    x = np.c_[blobs(200, 200), np.full(400, 3.0)]
    for standardise in (False, True):
        found = choose_clusters(x, candidates=[2, 3], standardise=standardise)
        assert found.k == 2
        np.testing.assert_allclose(found.centres[:, 2], 3.0)


def test_input_is_not_changed():
    x, w = blobs(200, 200), np.ones(400)
    before = x.copy()
    choose_clusters(x, weights=w, candidates=[2], standardise=True)
    assert np.array_equal(x, before)
    assert (w == 1).all()


# Bad input

GOOD = blobs(100, 100)
NAN = np.where(np.arange(200)[:, None] < 3, np.nan, GOOD)
NEGATIVE = np.where(np.arange(200) < 2, -1.0, 1.0)


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (GOOD[:, 0], {}, r"x has shape \(200,\), expected \(rows, columns\)"),
        (GOOD[:, :0], {}, r"x has shape \(200, 0\), expected \(rows, columns\)"),
        (GOOD[:1], {}, "x has 1 rows, expected at least 2"),
        ([["a", "b"], ["c", "d"]], {}, "x has dtype <U1, expected real numbers"),
        (GOOD * 1j, {}, "x has dtype complex128, expected real numbers"),
        ([[1.0], [1.0, 2.0]], {}, "x is not an array"),
        (NAN, {}, "x has 3 of 200 rows with NaN or infinite values"),
        (np.where(GOOD > 12, np.inf, GOOD), {}, "rows with NaN or infinite values"),
        (np.ones((200, 2)), {}, "same value in all rows of each column"),
        (GOOD * 1e200, {}, "out of the range of float64: rescale"),
        (GOOD * 1e-200, {}, "out of the range of float64: rescale"),
        (GOOD, {"candidates": []}, "candidates are empty, expected at least one"),
        (GOOD, {"candidates": [1, 2]}, "candidates have 1, expected 2 or more"),
        (GOOD, {"candidates": [2, 201]}, "candidates have 201 for 200 points to fit"),
        (GOOD, {"candidates": [60], "fit_rows": 50}, "candidates have 60 for 50 points to fit"),
        (GOOD, {"candidates": 8}, "candidates are 8, expected integers"),
        (GOOD, {"candidates": [2.5]}, r"candidates are \[2.5\], expected integers"),
        (GOOD, {"minimum": 201}, "minimum is 201, expected 1 to 200, the number of rows"),
        (GOOD, {"minimum": 0}, "minimum is 0, expected 1 to 200"),
        (
            GOOD,
            {"weights": np.arange(200), "minimum": 160},
            r"minimum is 160, expected 1 to 149\.624, the number of effective rows",
        ),
        (GOOD, {"weights": np.ones(199)}, r"weights have shape \(199,\), expected \(200,\)"),
        (GOOD, {"weights": NEGATIVE}, "weights have 2 of 200 values that are negative"),
        (GOOD, {"weights": NEGATIVE * np.nan}, "weights have 200 of 200 values that are negative"),
        (GOOD, {"weights": np.zeros(200)}, "weights are all zero"),
        (GOOD, {"score_rows": 1}, "score_rows is 1, expected at least 2"),
        (GOOD, {"fit_rows": 1}, "fit_rows is 1, expected at least 2"),
        (GOOD, {"algorithm": "k-means"}, "algorithm is 'k-means', expected one of kmeans, mini_"),
        (GOOD, {"algorithm": None}, "algorithm is None, expected one of"),
        (GOOD, {"algorithm": lambda k: "?"}, "returned str, expected a clusterer with fit_predict"),
        (GOOD, {"options": {"foo": 1}}, r"options have \['foo'\], expected parameters of KMeans"),
        (GOOD, {"options": {"n_clusters": 1}}, r"options have \['n_clusters'\], expected"),
        (
            GOOD,
            {"algorithm": KMeans, "options": {"tol": 1}},
            r"options are \['tol'\], expected none beside a function",
        ),
    ],
)
def test_bad_input(x, settings, message):
    with pytest.raises(ValueError, match=message):
        choose_clusters(x, **{"minimum": 10} | settings)


class Wrong:
    def __init__(self, labels):
        self.labels = labels

    def fit_predict(self, x):
        return self.labels


@pytest.mark.parametrize("labels", [np.zeros(7, int), np.zeros(200)])
def test_a_clusterer_that_returns_no_labels(labels):
    with pytest.raises(ValueError, match=r"fit_predict returned .* expected integers of shape"):
        choose_clusters(GOOD, algorithm=lambda k: Wrong(labels), candidates=[2])


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (np.zeros(199, int), {}, r"labels have shape \(199,\), expected \(200,\)"),
        (np.zeros((200, 1), int), {}, r"labels have shape \(200, 1\), expected \(200,\)"),
        (np.zeros(200), {}, "labels has dtype float64, expected integers or strings"),
        (np.array([1, "a"] * 100, dtype=object), {}, "labels mix types"),
        (np.zeros(200, int), {"minimum": 201}, "minimum is 201, expected 1 to 200"),
        (np.zeros(200, int), {"weights": NEGATIVE}, "weights have 2 of 200 values"),
    ],
)
def test_bad_labels(labels, settings, message):
    with pytest.raises(ValueError, match=message):
        Clustering.from_labels(GOOD, labels, **settings)
