"""Batches of stars from a catalogue larger than memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from galflow_lite.galaxies import Catalogue, Galaxy

SIZES = [500, 2000, 10, 5000, 64, 1200, 3000]


def numbered(sizes=SIZES) -> list[Galaxy]:
    """Galaxies whose stars carry their own number, and their galaxy's, as columns."""
    found, begin = [], 0
    for i, n in enumerate(sizes):
        stars = np.stack([np.arange(begin, begin + n), np.full(n, i), np.arange(n)], axis=1)
        conditions = {"number": float(i), "size": float(n)}
        found.append(Galaxy(stars, conditions, f"g{i}", columns=("star", "galaxy", "row")))
        begin += n
    return found


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "numbered.h5"
    Catalogue.write(path, numbered(), chunk_stars=100)
    with Catalogue.open(path) as catalogue:
        yield catalogue


@pytest.fixture(params=[10**6, 1000], ids=["in memory", "windows"])
def window(request):
    return request.param


def test_shapes_types_and_matching_conditions(catalogue, window):
    batches = catalogue.batches(128, window=window)
    stars, conditions = batches(3)
    assert stars.dtype == conditions.dtype == torch.float32
    assert stars.shape == (128, 3)
    assert conditions.shape == (128, 2)
    torch.testing.assert_close(stars[:, 1], conditions[:, 0])
    torch.testing.assert_close(conditions[:, 1], torch.tensor(SIZES)[stars[:, 1].long()].float())


def test_some_columns_and_conditions(catalogue, window):
    full = catalogue.batches(128, window=window)(5)
    part = catalogue.batches(128, columns=("row", "star"), conditions=("size",), window=window)(5)
    torch.testing.assert_close(part[0], full[0][:, [2, 0]])
    torch.testing.assert_close(part[1], full[1][:, [1]])
    assert catalogue.batches(128, conditions=())(0)[1].shape == (128, 0)


def test_every_star_once_an_epoch(catalogue, window):
    batches = catalogue.batches(128, window=window)
    total = sum(SIZES)
    assert batches.n_stars == total
    assert len(batches) == total // 128
    for epoch in range(3):
        seen = np.concatenate(
            [batches(epoch * len(batches) + i)[0][:, 0].numpy() for i in range(len(batches))]
        )
        assert len(seen) == total - total % 128
        assert len(np.unique(seen)) == len(seen)
        assert seen.max() < total


def test_nothing_is_dropped_when_the_batch_divides_the_stars(catalogue, window):
    assert sum(SIZES) == 14 * 841
    batches = catalogue.batches(841, window=window)
    seen = torch.cat([batches(i)[0][:, 0] for i in range(14)])
    assert sorted(seen.tolist()) == list(range(sum(SIZES)))


def test_any_step_in_a_new_object_gives_the_same_batch(catalogue, window):
    batches = catalogue.batches(100, window=window, seed=5)
    steps = [0, 1, 7, 116, 117, 118, 250, 400]
    expected = {step: batches(step) for step in steps}
    for step in reversed(steps):
        again = catalogue.batches(100, window=window, seed=5)(step)
        torch.testing.assert_close(again[0], expected[step][0], rtol=0, atol=0)
        torch.testing.assert_close(again[1], expected[step][1], rtol=0, atol=0)


def test_epochs_and_seeds_differ(catalogue, window):
    first = catalogue.batches(100, window=window)
    other = catalogue.batches(100, window=window, seed=1)
    assert not torch.equal(first(0)[0], first(len(first))[0])
    assert not torch.equal(first(0)[0], other(0)[0])


def test_ranks_share_the_global_batch(catalogue, window):
    whole = catalogue.batches(120, window=window)
    parts = [catalogue.batches(120, window=window, rank=r, world=3) for r in range(3)]
    for step in (0, 9, 97):
        shares = [part(step)[0] for part in parts]
        assert [len(share) for share in shares] == [40, 40, 40]
        for rank, share in enumerate(shares):
            torch.testing.assert_close(share, whole(step)[0][rank::3], rtol=0, atol=0)


def test_a_part_of_a_catalogue_gives_only_its_own_stars(catalogue, window):
    train, held = catalogue.split(held_out=["g3", "g4"])
    batches = train.batches(100, window=window)
    seen = torch.cat([batches(i)[0] for i in range(len(batches))])
    assert set(seen[:, 1].tolist()) <= {0.0, 1.0, 2.0, 5.0, 6.0}
    assert batches.n_stars == train.n_stars.sum() == sum(SIZES) - held.n_stars.sum()


def test_all_stars_that_fit_are_read_only_once(catalogue):
    batches = catalogue.batches(100)
    for step in range(0, 3 * len(batches), 10):
        batches(step)
    assert batches.windows_read == 1


def test_windows_are_read_once_an_epoch_when_the_steps_go_on(catalogue):
    batches = catalogue.batches(64, window=1000)
    for step in range(len(batches)):
        batches(step)
    # 11,774 stars in windows of at most 1000, none much emptier than a chunk below that.
    assert 12 <= batches.windows_read <= 14


def test_stars_within_a_window_are_mixed_and_galaxies_count_by_their_stars(catalogue):
    batches = catalogue.batches(1000, window=3000)
    stars = torch.cat([batches(i)[0] for i in range(len(batches))])
    share = torch.bincount(stars[:, 1].long(), minlength=7) / len(stars)
    np.testing.assert_allclose(share, np.array(SIZES) / sum(SIZES), atol=0.03)
    for step in range(len(batches)):
        assert len(batches(step)[0][:, 1].unique()) >= 3
    # Neighbours in the file must not be neighbours in the batch.
    steps = (stars[1:, 0] - stars[:-1, 0]).abs()
    assert (steps == 1).float().mean() < 0.01


def test_order_in_memory_is_uniform(catalogue):
    # Mean place of the stars of one galaxy in 60 epochs: uniform within its standard error.
    small = catalogue.subset(["g0", "g2"])
    batches = small.batches(510)
    places = []
    for epoch in range(60):
        is_small = batches(epoch)[0][:, 1] == 2
        assert is_small.sum() == 10
        places.extend(torch.nonzero(is_small).flatten().tolist())
    error = 510 / np.sqrt(12 * len(places))
    assert abs(np.mean(places) - 254.5) < 4 * error


def test_cap_takes_the_same_uniform_subset_of_each_galaxy_in_all_epochs(catalogue, window):
    batches = catalogue.batches(50, stars_per_galaxy=400, window=window)
    assert batches.n_stars == sum(min(n, 400) for n in SIZES)
    epochs = []
    for epoch in range(2):
        first = epoch * len(batches)
        epochs.append(torch.cat([batches(first + i)[0] for i in range(len(batches))]))
    seen = torch.cat(epochs).unique(dim=0)
    counts = torch.bincount(seen[:, 1].long(), minlength=7)
    assert (counts <= torch.tensor(SIZES).clamp(max=400)).all()
    # Rows are spread over the whole galaxy: mean of 400 uniform ones of 5000.
    rows = seen[seen[:, 1] == 3][:, 2]
    assert abs(rows.mean() - 2499.5) < 4 * 5000 / np.sqrt(12 * len(rows))
    assert len(rows) > 350
    # And over each chunk of 100.
    assert abs((rows % 100).mean() - 49.5) < 4 * 100 / np.sqrt(12 * len(rows))


def test_memory_is_bounded_by_the_window_and_not_by_the_catalogue(tmp_path):
    path = tmp_path / "large.h5"
    rng = np.random.default_rng(0)
    galaxies = (Galaxy(rng.normal(size=(20_000, 10)), id=str(i), masses=1.0) for i in range(40))
    Catalogue.write(path, galaxies, chunk_stars=2000, compression=1)

    def peak(window: int) -> int:
        with Catalogue.open(path) as catalogue:
            tracemalloc.start()
            batches = catalogue.batches(1000, window=window)
            for step in range(0, 800, 3):
                batches(step)
            reached = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return reached

    row = 10 * 4 + 4  # float32 columns and the number of the galaxy
    # Two windows, the order of one (8 bytes a row), and one chunk on its way.
    assert peak(40_000) < 2 * 40_000 * row + 40_000 * 8 + 1_500_000 < 0.2 * 800_000 * row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 for 11774 stars and a window of 2000000"),
        ({"batch_size": 12000}, "batch_size=12000 for 11774 stars .* expected 1 to 11774"),
        ({"batch_size": 500, "window": 400}, "batch_size=500 .* window of 400, expected 1 to 400"),
        ({"batch_size": 10, "window": 99}, "window=99, expected at least 100, the stars in one"),
        ({"batch_size": 10, "rank": 2, "world": 2}, "rank=2, world=2, batch_size=10, expected 0"),
        ({"batch_size": 10, "world": 3}, "a batch that the processes can share evenly"),
        ({"batch_size": 10, "stars_per_galaxy": 0}, "stars_per_galaxy=0, expected at least 1"),
        ({"batch_size": 10, "columns": ("R",)}, r"has no column\(s\) R, it has star, galaxy"),
        ({"batch_size": 10, "conditions": ("age",)}, r"no condition\(s\) age, it has number"),
        ({"batch_size": 10, "seed": -1}, "seed=-1, expected 0 or more"),
    ],
)
def test_bad_settings(catalogue, options, message):
    with pytest.raises(ValueError, match=message):
        catalogue.batches(**options)


def test_bad_steps_and_empty_catalogues(catalogue):
    with pytest.raises(ValueError, match="step=-1, expected 0 or more"):
        catalogue.batches(10)(-1)
    with pytest.raises(ValueError, match="batch_size=10 for 0 stars"):
        catalogue[:0].batches(10)
