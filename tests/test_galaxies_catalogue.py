"""The HDF5 catalogue: round trips, lazy reading, parts, several readers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_galaxies import some_galaxies

from galflow_lite.galaxies import (
    COLUMNS,
    CONDITIONS,
    Catalogue,
    Galaxy,
    conditions,
    writing,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "galaxies.h5"


# --- round trips ------------------------------------------------------------------------------


def test_round_trip(path):
    written = some_galaxies()
    assert Catalogue.write(path, written, provenance={"seed": np.int64(3)}) == path
    with Catalogue.open(path) as catalogue:
        assert len(catalogue) == 7
        assert catalogue.ids == tuple(f"g{i}" for i in range(7))
        assert catalogue.columns == COLUMNS
        assert catalogue.condition_names == CONDITIONS
        assert catalogue.n_stars.tolist() == [len(g) for g in written]
        assert catalogue.provenance == {"seed": 3}
        assert catalogue.units["vx"] == "km/s"
        assert catalogue.units["M_stars"] == "Msun"
        for given_galaxy, read in zip(written, catalogue, strict=True):
            assert (read.id, read.columns) == (given_galaxy.id, given_galaxy.columns)
            assert read.conditions == given_galaxy.conditions
            assert read.attributes == given_galaxy.attributes
            assert read.stars.dtype == np.float32
            np.testing.assert_array_equal(read.stars, given_galaxy.stars)
            np.testing.assert_array_equal(read.masses, given_galaxy.masses)
        for name in CONDITIONS:
            np.testing.assert_array_equal(
                catalogue.conditions[name], [g.conditions[name] for g in written]
            )


names_of_columns = st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
up_to_2_to_99 = st.floats(-(2.0**99), 2.0**99, width=32)
any_id = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(
    lambda text: text != "."
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_round_trip_of_anything(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "any.h5"
    columns = tuple(data.draw(names_of_columns))
    ids = data.draw(st.lists(any_id, min_size=1, max_size=3, unique=True))
    written = []
    for name in ids:
        shape = (data.draw(st.integers(1, 30)), len(columns))
        stars = data.draw(hnp.arrays(np.float32, shape, elements=finite32))
        spin = data.draw(st.floats(allow_nan=False, allow_infinity=False))
        written.append(Galaxy(stars, conditions={"spin": spin}, id=name, columns=columns))
    Catalogue.write(path, written, chunk_stars=data.draw(st.integers(1, 40)))
    with Catalogue.open(path) as catalogue:
        assert catalogue.ids == tuple(ids)
        for galaxy in written:
            read = catalogue[galaxy.id]
            assert read.columns == columns
            assert read.conditions == galaxy.conditions
            assert read.masses is None
            np.testing.assert_array_equal(read.stars, galaxy.stars)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, 20, elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.integers(1, 23),
)
def test_mantissa_rounding_keeps_the_stated_precision(values, bits):
    rounded = writing.round_mantissa(values, bits)
    error = np.abs(rounded.astype(np.float64) - values)
    # Below the normal range the spacing of float32 is fixed.
    assert (error <= np.abs(values.astype(np.float64)) * 2.0 ** -(bits + 1) + 1.2e-38).all()
    np.testing.assert_array_equal(writing.round_mantissa(rounded, bits), rounded)
    assert not (rounded.view(np.uint32) & np.uint32(2 ** (23 - bits) - 1)).any()


def test_fewer_bits_make_a_smaller_file_and_leave_conditions_exact(path):
    galaxies = some_galaxies(5, 3000)
    sizes = []
    for bits in (None, 14, 8):
        Catalogue.write(path, galaxies, significant_bits=bits)
        sizes.append(path.stat().st_size)
        with Catalogue.open(path) as catalogue:
            read = catalogue[3]
            assert read.conditions == galaxies[3].conditions
            if bits:
                np.testing.assert_allclose(read.stars, galaxies[3].stars, rtol=2.0 ** -(bits + 1))
            assert catalogue[2].masses == galaxies[2].masses
    assert sizes[0] > 1.2 * sizes[1] > 1.2 * 1.2 * sizes[2]


def test_ninety_galaxies_of_2500_stars_stay_below_six_megabytes(path):
    rng = np.random.default_rng(0)
    scale = np.array([4, 4, 1, 100, 100, 50, 0.01, 0.3, 0.1, 3])
    galaxies = (
        Galaxy(rng.normal(size=(2500, 10)) * scale, id=str(i), masses=1e5) for i in range(90)
    )
    Catalogue.write(path, galaxies, significant_bits=12)
    assert path.stat().st_size < 6_000_000


def test_same_galaxies_give_the_same_bytes_and_fingerprint(path, tmp_path):
    other = tmp_path / "other.h5"
    Catalogue.write(path, some_galaxies())
    Catalogue.write(other, some_galaxies())
    assert path.read_bytes() == other.read_bytes()
    with Catalogue.open(path) as catalogue:
        fingerprint = catalogue.fingerprint()
    Catalogue.write(other, some_galaxies(), compression=9, chunk_stars=11)
    with Catalogue.open(other) as catalogue:
        assert catalogue.fingerprint() == fingerprint
    changed = some_galaxies()
    changed[6].stars[-1, -1] += 1
    Catalogue.write(other, changed)
    with Catalogue.open(other) as catalogue:
        assert catalogue.fingerprint() != fingerprint


def test_conditions_are_computed_where_none_are_given_and_columns_reordered(path):
    first, second = some_galaxies(2)
    second = second.select(COLUMNS[::-1])
    first.conditions = second.conditions = {}
    Catalogue.write(path, [first, second])
    with Catalogue.open(path) as catalogue:
        assert catalogue[0].conditions == pytest.approx(conditions(first))
        np.testing.assert_array_equal(catalogue[1]["feh"], second["feh"])


def test_units_of_other_columns(path):
    galaxy = Galaxy(np.ones((3, 2)), {"spin": 1.0}, "a", columns=("R", "mgfe"))
    Catalogue.write(path, [galaxy], units={"R": "kpc"})
    with Catalogue.open(path) as catalogue:
        assert catalogue.units == {"R": "kpc", "mgfe": "", "spin": "", "mass": "Msun"}


def test_file_can_be_read_with_h5py_alone(path):
    written = some_galaxies()
    Catalogue.write(path, written)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["columns"]) == list(COLUMNS)
        assert list(file["galaxies"]) == [g.id for g in written]
        assert file["galaxies/g3"].attrs["tau50"] == written[3].conditions["tau50"]
        np.testing.assert_array_equal(file["galaxies/g3/stars"], written[3].stars)


# --- reading what is asked for ----------------------------------------------------------------


@pytest.fixture
def catalogue(path):
    Catalogue.write(path, some_galaxies(), chunk_stars=16)
    with Catalogue.open(path) as catalogue:
        yield catalogue


def test_galaxies_by_position_id_and_slice(catalogue):
    written = some_galaxies()
    assert catalogue[-1].id == "g6"
    assert catalogue[np.int64(2)].id == "g2"
    np.testing.assert_array_equal(catalogue["g4"].stars, written[4].stars)
    part = catalogue[2:5]
    assert part.ids == ("g2", "g3", "g4")
    np.testing.assert_array_equal(part[1].stars, written[3].stars)
    np.testing.assert_array_equal(
        part.conditions["Z_av"], [g.conditions["Z_av"] for g in written[2:5]]
    )
    assert part[1].attributes == written[3].attributes
    assert "7 galaxies" in repr(catalogue)


def test_some_columns_are_read_alone(catalogue):
    written = some_galaxies()[5]
    read = catalogue.galaxy("g5", columns=("age", "x"))
    assert read.columns == ("age", "x")
    np.testing.assert_array_equal(read.stars, written.stars[:, [9, 0]])


def test_conditions_and_counts_need_no_stars(path, monkeypatch):
    Catalogue.write(path, some_galaxies())
    opened = []
    original = h5py.Dataset.__getitem__

    def watched(self, *key, **options):
        opened.append(self.name)
        return original(self, *key, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    with Catalogue.open(path) as catalogue:
        train, _ = catalogue.split(held_out=2, seed=1)
        assert train.n_stars.sum() > 0
        assert len(train.conditions["tau50"]) == 5
        assert opened
        assert not [name for name in opened if name.startswith("/galaxies")]
        catalogue["g1"]
        assert {name for name in opened if name.startswith("/galaxies")} == {
            "/galaxies/g1/stars",
            "/galaxies/g1/masses",
        }


def test_writing_and_moments_never_hold_all_galaxies(path):
    rng = np.random.default_rng(0)
    one = 20_000 * 10 * 8  # bytes of one galaxy in float64

    def stream():
        for i in range(30):
            yield Galaxy(rng.normal(size=(20_000, 10)), id=str(i), masses=1.0)

    tracemalloc.start()
    Catalogue.write(path, stream(), compression=1)
    with Catalogue.open(path) as catalogue:
        catalogue.moments()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * one  # 30 galaxies would be 30


def test_stack_and_moments_agree_with_numpy(catalogue):
    written = some_galaxies()
    stars, table = catalogue.stack(columns=("vx", "feh"), conditions=("tau10", "M_stars"))
    expected = np.concatenate([g.select(("vx", "feh")).stars for g in written])
    np.testing.assert_array_equal(stars, expected)
    rows = [[g.conditions["tau10"], g.conditions["M_stars"]] for g in written for _ in g.stars]
    np.testing.assert_array_equal(table, rows)
    assert catalogue.stack(conditions=())[1].shape == (len(expected), 0)
    mean, std = catalogue.moments(("vx", "feh"))
    np.testing.assert_allclose(mean, expected.astype(np.float64).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(std, expected.astype(np.float64).std(axis=0), rtol=1e-10)


def test_moments_are_stable_far_from_zero(path):
    rng = np.random.default_rng(0)
    stars = (1e6 + rng.normal(size=(5000, 1))).astype(np.float32)
    Catalogue.write(path, [Galaxy(stars, {"a": 1.0}, "g", ("x",))], chunk_stars=100)
    with Catalogue.open(path) as catalogue:
        mean, std = catalogue.moments()
    np.testing.assert_allclose(mean[0], stars.mean(dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(std[0], stars.std(dtype=np.float64), rtol=1e-8)


# --- parts ------------------------------------------------------------------------------------


def test_split_is_by_galaxy_complete_and_seeded(catalogue):
    train, held = catalogue.split(held_out=2, seed=4)
    assert len(train) == 5
    assert len(held) == 2
    assert sorted(train.ids + held.ids) == sorted(catalogue.ids)
    again, _ = catalogue.split(held_out=2, seed=4)
    assert again.ids == train.ids
    assert len({catalogue.split(held_out=2, seed=s)[1].ids for s in range(20)}) > 5
    train, held = catalogue.split(held_out=["g3", "g1"])
    assert held.ids == ("g1", "g3")
    assert "g3" not in train.ids
    assert catalogue.split(held_out="g3")[1].ids == ("g3",)
    assert len(catalogue.split(held_out=np.int64(2))[1]) == 2
    np.testing.assert_array_equal(held["g3"].stars, catalogue["g3"].stars)


def test_subset_in_the_given_order_and_parts_of_parts(catalogue):
    part = catalogue.subset(["g5", "g0", 2])
    assert part.ids == ("g5", "g0", "g2")
    assert part[1:].ids == ("g0", "g2")
    np.testing.assert_array_equal(part[1:]["g2"].stars, catalogue["g2"].stars)
    mean, _ = part.moments()
    stacked = np.concatenate([catalogue[i].stars for i in ("g5", "g0", "g2")])
    np.testing.assert_allclose(mean, stacked.mean(axis=0, dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda c: c[7], IndexError, "number 7 was asked for, expected -7 to 6"),
        (lambda c: c[-8], IndexError, "number -8 was asked for"),
        (lambda c: c["g9"], LookupError, r"no galaxy 'g9', expected one of its 7 ids \(g0, g1"),
        (lambda c: c[2:4]["g0"], LookupError, "no galaxy 'g0', expected one of its 2 ids"),
        (lambda c: c.subset(["g0", "g9"]), LookupError, "no galaxy 'g9'"),
        (lambda c: c.subset(["g0", "g0"]), ValueError, "galaxies g0 were named more than once"),
        (lambda c: c.split(held_out=7), ValueError, "7 of 7 galaxies were to be held out, exp"),
        (lambda c: c.split(held_out=0), ValueError, "0 of 7 galaxies were to be held out, exp"),
        (lambda c: c.split(held_out=["g9"]), LookupError, "no galaxy 'g9'"),
        (
            lambda c: c.galaxy(0, columns=("R", "x", "mgfe")),
            ValueError,
            r"has no column\(s\) R, mgfe, it has x, y",
        ),
        (lambda c: c.moments(("R",)), ValueError, r"has no column\(s\) R, it has x, y"),
        (
            lambda c: c.stack(conditions=("spin",)),
            ValueError,
            r"has no condition\(s\) spin, it has M_stars, tau50, tau10, Z_av",
        ),
        (lambda c: c[:0].moments(), ValueError, "has no galaxies, expected at least one"),
    ],
)
def test_asking_for_what_is_not_there(catalogue, act, error, message):
    with pytest.raises(error, match=message):
        act(catalogue)


# --- several readers --------------------------------------------------------------------------


def test_several_catalogues_threads_and_processes_read_the_same_file(catalogue):
    expected = [g.stars.sum() for g in catalogue]
    with Catalogue.open(catalogue.path) as second:
        assert [g.stars.sum() for g in second] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: catalogue[i % 7].stars.sum(), range(56))) == expected * 8
    sent = pickle.loads(pickle.dumps(catalogue[3:]))
    assert [g.stars.sum() for g in sent] == expected[3:]
    sent.close()
    code = (
        "import sys; from galflow_lite.galaxies import Catalogue\n"
        "print(*[float(g.stars.sum()) for g in Catalogue.open(sys.argv[1])])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(catalogue.path)], check=True, capture_output=True
    )
    assert [np.float32(v) for v in out.stdout.split()] == expected


def test_closed_catalogue_says_so(path):
    Catalogue.write(path, some_galaxies())
    catalogue = Catalogue.open(path)
    part = catalogue[:2]
    catalogue.close()
    with pytest.raises(ValueError, match="is closed, expected an open one"):
        part[0]
    assert len(part) == 2  # what is known without stars stays
