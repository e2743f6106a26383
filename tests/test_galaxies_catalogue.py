"""The HDF5 catalogue: round trips, lazy reading, parts and batches."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from galflow_lite.galaxies import COLUMNS, Catalogue, Galaxy, conditions
from galflow_lite.galaxies.catalogue_writer import round_mantissa
from galflow_lite.galaxies.galaxy import CONDITIONS


def some_galaxies(number: int = 7, stars: int = 40) -> list[Galaxy]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(number):
        n = stars + 10 * i
        table = rng.normal(size=(n, 10)).astype(np.float32)
        masses = rng.uniform(1e4, 1e6, n).astype(np.float32) if i % 2 else 1e5 / 3
        galaxy = Galaxy(table, id=f"g{i}", masses=masses, attributes={"M_dm": 1e11 + i})
        found.append(replace(galaxy, conditions=conditions(galaxy)))
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "galaxies.h5"


@pytest.fixture
def catalogue(path):
    return Catalogue.open(Catalogue.write(path, some_galaxies()))


# --- round trips ------------------------------------------------------------------------------


def test_round_trip(path):
    written = some_galaxies()
    assert Catalogue.write(path, written, provenance={"seed": np.int64(3)}) == path
    catalogue = Catalogue.open(path)
    assert (catalogue.columns, catalogue.condition_names) == (COLUMNS, CONDITIONS)
    assert catalogue.n_stars.tolist() == [len(g) for g in written]
    assert catalogue.provenance == {"seed": 3}
    for galaxy, read in zip(written, catalogue, strict=True):
        for name in ("id", "columns", "conditions", "attributes"):
            assert getattr(read, name) == getattr(galaxy, name)
        assert read.stars.dtype == np.float32
        np.testing.assert_array_equal(read.stars, galaxy.stars)
        np.testing.assert_array_equal(read.masses, galaxy.masses)
        for name in CONDITIONS:
            assert catalogue.conditions[name][catalogue.ids.index(read.id)] == read.conditions[name]
    with h5py.File(path) as file:  # without this package
        assert json.loads(file.attrs["columns"]) == list(COLUMNS)
        assert file["galaxies/g3"].attrs["tau50"] == written[3].conditions["tau50"]
        np.testing.assert_array_equal(file["galaxies/g3/stars"], written[3].stars)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, 20, elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.integers(1, 23),
)
def test_mantissa_rounding_keeps_the_stated_precision(values, bits):
    rounded = round_mantissa(values, bits)
    error = np.abs(rounded.astype(np.float64) - values)
    # Below the normal range the spacing of float32 is fixed.
    assert (error <= np.abs(values.astype(np.float64)) * 2.0 ** -(bits + 1) + 1.2e-38).all()
    np.testing.assert_array_equal(round_mantissa(rounded, bits), rounded)
    assert not (rounded.view(np.uint32) & np.uint32(2 ** (23 - bits) - 1)).any()


def test_same_galaxies_give_the_same_bytes(path, catalogue):
    before = path.read_bytes()
    Catalogue.write(path, some_galaxies())
    assert path.read_bytes() == before


def test_conditions_are_computed_where_none_are_given_and_columns_reordered(path):
    first, second = (replace(g, conditions={}) for g in some_galaxies(2))
    Catalogue.write(path, [first, second.select(COLUMNS[::-1])])
    catalogue = Catalogue.open(path)
    assert catalogue[0].conditions == pytest.approx(conditions(first))
    np.testing.assert_array_equal(catalogue[1]["feh"], second["feh"])


# --- what is refused --------------------------------------------------------------------------


def test_bad_galaxies_leave_the_old_file_and_nothing_else(path):
    first, second = some_galaxies(2)
    before = Catalogue.write(path, [first, second]).read_bytes()
    for bad in ({"id": "g0"}, {"conditions": {"tau50": 1.0}}, {"stars": second.stars * np.nan}):
        with pytest.raises(ValueError, match="an id of its own|of the first galaxy|'g1' has NaN"):
            Catalogue.write(path, [first, replace(second, **bad)])
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_cut_short_is_noticed(path):
    path.write_bytes(Catalogue.write(path, some_galaxies(2)).read_bytes()[:5000])
    with pytest.raises(ValueError, match="galaxies.h5 cannot be read .*fetch or write it again"):
        Catalogue.open(path)


@pytest.mark.parametrize(
    "what",
    [b"masses\0", b'["x"', b'"M_dm"', b'{"seed": 3', "index/conditions", "galaxies/g0/masses"],
)
def test_a_flipped_bit_is_noticed(path, what):
    written = some_galaxies(2, 5)
    content = bytearray(Catalogue.write(path, written, provenance={"seed": 3}).read_bytes())
    with h5py.File(path) as file:
        place = content.find(what) if isinstance(what, bytes) else file[what].id.get_offset()
    # The fourth byte is a letter or a digit of a text, or in the fraction of a number.
    content[place + 3 + 6 * (what == b'{"seed": 3')] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="differs from its checksum"):
        [*Catalogue.open(path)]


STARS, MASSES, CONDITIONED = "galaxies/g1/stars", "galaxies/g1/masses", "index/conditions"
LAYOUT = h5py.VirtualLayout((50, 10), "f4")
LAYOUT[:] = h5py.VirtualSource("other.h5", STARS, (50, 10))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (STARS, {"external": [("other.h5", 0, 2000)]}, "stars leads out of the file"),
        (STARS, h5py.ExternalLink("other.h5", STARS), "stars leads out of the file"),
        (STARS, LAYOUT, "stars leads out of the file"),
        (STARS, np.full((50, 10), np.nan, "f4"), "the table of galaxy 'g1' has NaN"),
        (MASSES, np.full(50, np.inf, "f4"), "the mass .* in the table of galaxy 'g1' has NaN"),
        (CONDITIONED, np.full((7, 4), np.nan), "the conditions has NaN"),
    ],
)
def test_data_of_other_files_and_nan_are_refused(catalogue, name, value, message):
    with h5py.File(catalogue.path, "a") as file:
        # As in files of earlier versions, which have no checksums.
        for group in (file, file["index"], file["galaxies/g1"]):
            group.attrs.pop("checksum", None)
        assert Catalogue.open(catalogue.path).ids == catalogue.ids
        del file[name]
        if isinstance(value, dict):
            file.create_dataset(name, (50, 10), "f4", **value)
        elif value is LAYOUT:
            file.create_virtual_dataset(name, value)
        else:
            file[name] = value
    with pytest.raises(ValueError, match=f"galaxies.h5 cannot be read .*{message}"):
        Catalogue.open(catalogue.path)["g1"]


# --- reading what is asked for ----------------------------------------------------------------


def test_galaxies_by_position_id_slice_and_subset(catalogue):
    written = some_galaxies()
    for key, k in ((-1, 6), (np.int64(2), 2), ("g4", 4)):
        np.testing.assert_array_equal(catalogue[key].stars, written[k].stars)
    part = catalogue[2:5]
    assert part.ids == ("g2", "g3", "g4")
    np.testing.assert_array_equal(part[1].stars, written[3].stars)
    assert part.conditions["Z_av"].tolist() == [g.conditions["Z_av"] for g in written[2:5]]
    some = catalogue.subset(["g5", "g0", 2])[1:]
    assert some.ids == ("g0", "g2")
    np.testing.assert_array_equal(some["g2"].stars, written[2].stars)
    with pytest.raises(IndexError, match="has no galaxy"):  # a loop over a catalogue ends by it
        catalogue[7]


def test_moments_agree_with_numpy(catalogue):
    mean, std, farthest = catalogue.moments(("vx", "feh"))
    expected = np.concatenate([g.select(("vx", "feh")).stars for g in some_galaxies()])
    expected = expected.astype(np.float64)
    np.testing.assert_allclose(mean, expected.mean(axis=0), rtol=1e-8)
    np.testing.assert_allclose(std, expected.std(axis=0), rtol=1e-8)
    rows = np.abs(expected - expected.mean(0)).argmax(0)
    np.testing.assert_allclose(farthest, expected[rows, [0, 1]], rtol=1e-8)


def test_split_is_by_galaxy_complete_and_seeded(catalogue):
    train, held = catalogue.split(held_out=np.int64(2), seed=4)
    assert (len(train), len(held)) == (5, 2)
    assert sorted(train.ids + held.ids) == sorted(catalogue.ids)
    assert catalogue.split(held_out=2, seed=4)[0].ids == train.ids
    assert len({catalogue.split(held_out=2, seed=s)[1].ids for s in range(20)}) > 5
    train, held = catalogue.split(held_out=["g3", "g1"])
    assert held.ids == ("g1", "g3")
    assert train.ids == ("g0", "g2", "g4", "g5", "g6")
    assert catalogue.split(held_out="g3")[1].ids == ("g3",)
    for number in (0, len(catalogue)):
        with pytest.raises(ValueError, match=f"held_out is {number} of .*: leave some on either"):
            catalogue.split(held_out=number)
    np.testing.assert_array_equal(held["g3"].stars, catalogue["g3"].stars)


def total(catalogue: Catalogue) -> list[float]:
    return [float(galaxy.stars.sum()) for galaxy in catalogue]


def test_copies_and_another_working_folder_read_the_same_file(catalogue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near = Catalogue.open(os.path.relpath(catalogue.path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert total(pickle.loads(pickle.dumps(near[3:]))) == total(catalogue)[3:]
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(total, near).result() == total(catalogue)


# --- batches ----------------------------------------------------------------------------------

SIZES = [500, 2000, 10, 5000, 64, 1200, 3000]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Galaxies whose stars carry their own number, and their galaxy's, as columns."""
    found, begin = [], 0
    for i, n in enumerate(SIZES):
        stars = np.stack([np.arange(begin, begin + n), np.full(n, i), np.arange(n)], axis=1)
        about = {"number": float(i), "size": float(n)}
        found.append(Galaxy(stars, about, f"g{i}", columns=("star", "galaxy", "row")))
        begin += n
    path = tmp_path_factory.mktemp("batches") / "numbered.h5"
    return Catalogue.open(Catalogue.write(path, found))


def test_shapes_types_and_matching_conditions(numbered):
    stars, about = numbered.batches(128)(3)
    assert stars.dtype == about.dtype == torch.float32
    assert (stars.shape, about.shape) == ((128, 3), (128, 2))
    torch.testing.assert_close(stars[:, 1], about[:, 0])
    torch.testing.assert_close(about[:, 1], torch.tensor(SIZES)[stars[:, 1].long()].float())
    part = numbered.batches(128, columns=("row", "star"), conditions=("size",))(3)
    torch.testing.assert_close(part[0], stars[:, [2, 0]])
    torch.testing.assert_close(part[1], about[:, [1]])
    assert numbered.batches(128, conditions=())(0)[1].shape == (128, 0)


@pytest.mark.parametrize("size", [128, 900])  # 900 divides the number of stars
def test_every_star_once_an_epoch(numbered, size):
    train, _ = numbered.split(held_out=["g4", "g2"])
    batches, stars = train.batches(size), np.concatenate([g["star"] for g in train])
    assert batches.n_stars == len(stars) == sum(SIZES) - 74
    for epoch in range(2):
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        seen = np.concatenate([batches(step)[0][:, 0].numpy() for step in steps])
        assert len(np.unique(seen)) == len(seen) == len(stars) - len(stars) % size
        assert set(seen) <= set(stars)
        assert (np.abs(np.diff(seen)) == 1).mean() < 0.01


def test_any_step_in_a_new_object_gives_the_same_batch(numbered):
    batches = numbered.batches(100, seed=5)
    steps = [0, 1, 7, 116, 117, 118, 250, 400]
    expected = {step: batches(step)[0] for step in steps}
    again = pickle.loads(pickle.dumps(numbered)).batches(100, seed=np.int64(5))
    for step in reversed(steps):
        assert torch.equal(again(step)[0], expected[step])
    assert not torch.equal(expected[0], batches(len(batches))[0])
    assert not torch.equal(expected[0], numbered.batches(100, seed=1)(0)[0])


def test_cap_takes_the_same_uniform_subset_of_each_galaxy_in_all_epochs(numbered):
    batches = numbered.batches(50, stars_per_galaxy=400)
    assert batches.n_stars == sum(min(n, 400) for n in SIZES)
    seen = torch.cat([batches(step)[0] for step in range(2 * len(batches))]).unique(dim=0)
    counts = torch.bincount(seen[:, 1].long(), minlength=7)
    assert (counts <= torch.tensor(SIZES).clamp(max=400)).all()
    # Rows are spread over the whole galaxy, mean of 400 uniform ones of 5000.
    rows = seen[seen[:, 1] == 3][:, 2]
    assert len(rows) > 350
    assert abs(rows.mean() - 2499.5) < 4 * 5000 / np.sqrt(12 * len(rows))


def test_neither_writing_nor_a_stream_holds_all_stars(tmp_path):
    rng = np.random.default_rng(0)
    galaxies = (Galaxy(rng.normal(size=(20_000, 10)), id=str(i), masses=1.0) for i in range(20))
    tracemalloc.start()
    catalogue = Catalogue.open(Catalogue.write(tmp_path / "large.h5", galaxies, significant_bits=4))
    catalogue.moments()
    batches = catalogue.batches(1000)
    for step in range(0, 400, 3):
        batches(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two orders and the galaxy of each star, a third order in the making, and one galaxy.
    assert peak < 400_000 * (3 * 8 + 4) + 2 * 20_000 * 40 < 400_000 * 40
