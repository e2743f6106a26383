"""Reading and preparing POWER, GAS, HEPMASS and MINIBOONE, from small made-up raw files."""

from __future__ import annotations

import gzip
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from raw_tables import (
    PACKINGS,
    POWER_FILE,
    POWER_HEADER,
    collisions,
    events,
    gas_text,
    hepmass_text,
    miniboone_text,
    npy,
    power_csv,
    power_rows,
    power_text,
    sensors,
    tarred,
    zipped,
)

from galflow_lite import tabular
from galflow_lite.tabular import TabularData


def joined(data: TabularData) -> np.ndarray:
    return np.concatenate([data.train, data.validation, data.test])


@pytest.fixture
def file(tmp_path):
    def write(content: bytes, name: str = "raw.txt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


# --- POWER ------------------------------------------------------------------------------------


def power_numbers(rows: list[list[str]]) -> np.ndarray:
    """Readings and minute of the day, by another way than the reader's."""
    hours = [[int(part) for part in row[1].split(":")] for row in rows]
    return np.array(
        [[*map(float, row[2:]), h * 60 + m] for row, (h, m, _) in zip(rows, hours, strict=True)]
    )


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("layout", [power_text, power_csv])
def test_power_in_every_packing(file, packing, layout):
    rows = power_rows()
    name, pack = PACKINGS[packing]
    path = file(pack(POWER_FILE, layout(rows)), name.format(POWER_FILE))
    readings = tabular.power_readings(path)
    np.testing.assert_array_equal(readings.values, power_numbers(rows))
    assert readings.incomplete == 0
    # 23:30 on 31 December, and after midnight 1 January, whether 2007 or 07.
    days = np.unique(readings.dates, return_counts=True)
    np.testing.assert_array_equal(days[0], np.array(["2006-12-31", "2007-01-01"], "M8[D]"))
    np.testing.assert_array_equal(days[1], [30, 30])


def test_power_is_prepared_as_published(file):
    rows = power_rows(60)
    data = tabular.power(file(power_text(rows)))
    assert data.shape == (49, 5, 6, 6)
    assert data.columns == (
        "global_active_power",
        "voltage",
        "sub_metering_1",
        "sub_metering_2",
        "sub_metering_3",
        "time",
    )
    # The published recipe, step by step.
    rng = np.random.RandomState(42)
    table = power_numbers(rows)
    rng.shuffle(table)
    table = table[:, [0, 2, 4, 5, 6, 7]]
    voltage, active, metering = rng.rand(60, 1), rng.rand(60, 1), rng.rand(60, 3)
    table += np.hstack([0.001 * active, 0.01 * voltage, metering, np.zeros((60, 1))])
    table = (table - table[:54].mean(axis=0)) / table[:54].std(axis=0)
    np.testing.assert_allclose(joined(data), table, rtol=0, atol=1e-12)
    # Both other parts standardise, the test rows do not.
    known = joined(data)[:54]
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(known.std(axis=0), 1, atol=1e-12)
    assert np.abs(data.test.mean(axis=0)).max() > 0.1


def test_power_in_the_order_of_time(file):
    data = tabular.power(file(power_text(power_rows(60))), splits="chronological")
    time = joined(data)[:, -1]
    assert data.shape == (49, 5, 6, 6)
    # Minutes run on, but for the step back at midnight after 30 rows.
    assert (np.diff(time) > 0).sum() == 58
    assert np.argmin(np.diff(time)) == 29


@pytest.mark.parametrize(
    "missing", [["?"] * 7, ["?"] * 6 + [""], ["1", "1", "", "1", "1", "1", "1"]]
)
@pytest.mark.parametrize("layout", [power_text, power_csv])
def test_incomplete_rows_of_power_are_dropped(file, missing, layout):
    rows = power_rows(40)
    complete = power_numbers([row for i, row in enumerate(rows) if i not in (0, 7, 39)])
    for i in (0, 7, 39):
        rows[i][2:] = missing
    readings = tabular.power_readings(file(layout(rows)))
    np.testing.assert_array_equal(readings.values, complete)
    assert readings.incomplete == 3


def test_power_from_the_array_of_the_archive(file):
    rows = power_rows(60)
    text = tabular.power(file(power_text(rows)))
    for name, content in {
        "data.npy": npy(power_numbers(rows)),
        "data.tar.gz": tarred({"data/power/data.npy": npy(power_numbers(rows))}),
    }.items():
        np.testing.assert_array_equal(joined(tabular.power(file(content, name))), joined(text))


def broken(index: int, field: int, text: str) -> bytes:
    rows = power_rows(40)
    rows[index][field] = text
    return power_text(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with the columns '', expected Date, Time, Global_active_power"),
        (b"a;b;c\n1;2;3\n", "begins with the columns 'a, b, c', expected Date, Time"),
        (gas_text(sensors()), r"begins with the columns 'time \(seconds\), co conc"),
        (POWER_HEADER.encode(), r"has no complete rows \(0 incomplete ones\), expected some"),
        (
            power_text([[*row[:2], *"???????"] for row in power_rows(5)]),
            r"has no complete rows \(5 incomplete ones\), expected some",
        ),
        (power_text(power_rows(10)), "power has 10 complete rows, expected at least 11"),
        (broken(3, 4, "24O.1"), "line 5 of .* has the field '24O.1', expected a number"),
        (broken(3, 4, "1;2"), "line 5 of .* has 10 fields, expected 9"),
        (broken(39, 0, "12/31/2006"), "line 41 of .* has '12/31/2006', expected a date day/month"),
        (broken(39, 0, "2006-12-31"), "line 41 of .* has '2006-12-31', expected a date day/month"),
        (broken(0, 1, "24:00:00"), "line 2 of .* has '24:00:00', expected a time hour:minute"),
        (broken(0, 1, "noon"), "line 2 of .* has 'noon', expected a time hour:minute:second"),
        (power_text([power_rows(1)[0]] * 40), "column time of power is constant"),
        (broken(0, 2, "inf"), "row 1 of .* holds NaN or an infinite value"),
        (npy(np.ones((40, 7))), r"has the shape \(40, 7\) .* expected numbers of shape \(n, 8\)"),
        (npy(np.full((40, 8), "a")), r"type <U1, expected numbers of shape \(n, 8\)"),
        (npy(np.full((40, 8), np.nan)), "row 1 of .* holds NaN or an infinite value"),
        (npy(np.ones((40, 8)))[:900], "cannot be read .*, expected a complete .npy file"),
        (npy(np.full((40, 8), None)), "cannot be read .*, expected a complete .npy file"),
        (pickle.dumps(np.ones((40, 8))), "is a pickle, which is never loaded"),
    ],
)
def test_power_from_a_wrong_file(file, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        tabular.power(file(content))
    assert str(caught.value).count("\n") == 0


def test_splits_of_power_that_are_not_known(file):
    with pytest.raises(ValueError, match="splits is 'random', expected 'maf' or 'chronological'"):
        tabular.power(file(b""), splits="random")


# --- GAS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
def test_gas_keeps_one_of_correlated_sensors(file, packing):
    table = sensors(200)
    name, pack = PACKINGS[packing]
    path = file(pack("ethylene_CO.txt", gas_text(table)), name.format("ethylene_CO.txt"))
    data = tabular.gas(path, fraction=None)
    # Of 1 and 3 the first goes; of 4, 5 and 6 the first and then the next.
    kept = [2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert data.columns == tuple(f"sensor_{i}" for i in kept)
    assert data.shape == (162, 18, 20, 13)
    expected = table[:, [2 + i for i in kept]]
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0, ddof=1)
    np.testing.assert_allclose(joined(data), expected, rtol=0, atol=1e-11)


def test_gas_draws_a_quarter_of_the_rows(file):
    path = file(gas_text(sensors(203)))
    first, again, other = (joined(tabular.gas(path, seed=seed)) for seed in (1, 1, 2))
    assert len(first) == 51
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # Sensor 2 is continuous: no row stands in twice, and the order is not that of the file.
    assert len(np.unique(first[:, 0])) == 51
    whole = joined(tabular.gas(path, fraction=1.0))
    file_order = joined(tabular.gas(path, fraction=None))
    assert not np.array_equal(whole, file_order)
    np.testing.assert_allclose(np.sort(whole, axis=0), np.sort(file_order, axis=0), atol=1e-12)


def gas_line(number: int, text: str) -> bytes:
    lines = gas_text(sensors(40)).decode().splitlines()
    lines[number - 1] = text
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with '', expected the columns Time, CO conc"),
        (
            gas_text(sensors(40)).replace(b"CO conc", b"Methane conc"),
            r"begins with 'Time \(seconds\), Methane conc.*take ethylene_CO.txt",
        ),
        (npy(sensors(40)), "begins with '', expected the columns Time, CO conc"),
        (pickle.dumps(sensors(40)), "is a pickle, which is never loaded .* take the raw file"),
        (gas_text(sensors(40)[:, :-1]), "line 2 of .* has 18 fields, expected 19"),
        (gas_line(7, " ".join("1" * 20)), "line 7 of .* has 20 fields, expected 19"),
        (gas_line(9, " ".join(["1"] * 18 + ["x1"])), "line 9 of .* has the field 'x1'"),
        (gas_line(2, " ".join(["nan"] * 19)), "row 1 of .* holds NaN or an infinite value"),
        (gas_text(sensors(0)), "holds no complete rows"),
        (gas_text(sensors(40)), "gas has 10 complete rows, expected at least 11"),
        (gas_text(np.ones((60, 19))), "the column sensor_1 of gas is constant"),
    ],
)
def test_gas_from_a_wrong_file(file, content, message):
    with pytest.raises(ValueError, match=message):
        tabular.gas(file(content))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_fraction_of_gas_outside_its_range(file, fraction):
    with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
        tabular.gas(file(b""), fraction=fraction)


# --- HEPMASS ----------------------------------------------------------------------------------

TRAIN, TEST = collisions(300, 1), collisions(100, 2)


def hepmass_files(suffix: str = "") -> dict[str, bytes]:
    # The header of the published training file is one name short.
    files = {
        f"1000_train.csv{suffix}": hepmass_text(TRAIN, named=27),
        f"1000_test.csv{suffix}": hepmass_text(TEST),
    }
    return {n: gzip.compress(c) if suffix else c for n, c in files.items()}


@pytest.mark.parametrize("packing", ["folder", "folder of gz", "zip", "zip of gz", "tar"])
def test_hepmass_is_prepared_as_published(file, tmp_path, packing):
    files = hepmass_files(".gz" if "gz" in packing else "")
    if "folder" in packing:
        for name, content in files.items():
            file(content, f"hepmass/{name}")
        path = tmp_path / "hepmass"
    elif "zip" in packing:
        path = file(zipped({"all_train.csv": b"", **files}), "hepmass.zip")
    else:
        # The test file stands first, another set beside it.
        members = {f"data/hepmass/{name}": files[name] for name in reversed(files)}
        path = file(tarred({"data/gas/ethylene_CO.pickle": b"\x80", **members}), "data.tar.gz")
    data = tabular.hepmass(path)
    kept = [i for i in range(26) if i != 5]
    assert data.columns == tuple(f"f{i}" for i in kept)
    train, test = (t[t[:, 0] == 1][:, [1 + i for i in kept]] for t in (TRAIN, TEST))
    n = len(train)
    assert data.shape == (n - n // 10, n // 10, len(test), 25)
    mean, scale = train.mean(axis=0), train.std(axis=0, ddof=1)
    expected = (np.concatenate([train, test]) - mean) / scale
    np.testing.assert_allclose(joined(data), expected, rtol=0, atol=1e-12)


def test_hepmass_reads_the_first_rows_only(file):
    path = file(zipped(hepmass_files()), "hepmass.zip")
    data = tabular.hepmass(path, rows=(150, 50))
    assert len(data.train) + len(data.validation) == (TRAIN[:150, 0] == 1).sum()
    assert len(data.test) == (TEST[:50, 0] == 1).sum()
    assert sum(tabular.hepmass(path, rows=None).shape[:2]) == (TRAIN[:, 0] == 1).sum()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"1,2,3\n", "1000_train.csv begins with '1,2,3', expected the columns label, f0"),
        (hepmass_text(TRAIN[:, :20]), "line 2 of .* has 20 fields, expected 27 to 29"),
        (hepmass_text(TRAIN).replace(b"\n", b"\nx", 2), "line 2 of .*1000_train.csv has the field"),
        (hepmass_text(TRAIN + 1), "has labels other than 0 and 1"),
        (hepmass_text(TRAIN[:0]), "1000_train.csv holds no complete rows"),
        (hepmass_text(TRAIN[:5]), "expected at least 10 and 1: check that the files are complete"),
    ],
)
def test_hepmass_from_a_wrong_file(file, train, message):
    path = file(zipped({**hepmass_files(), "1000_train.csv": train}), "hepmass.zip")
    with pytest.raises(ValueError, match=message):
        tabular.hepmass(path)


def test_hepmass_needs_both_files(file, tmp_path):
    files = hepmass_files()
    path = file(zipped({"1000_train.csv": files["1000_train.csv"]}), "hepmass.zip")
    with pytest.raises(ValueError, match=r"hepmass.zip holds no 1000_test.csv, expected one"):
        tabular.hepmass(path)
    path = file(files["1000_train.csv"], "1000_train.csv")
    with pytest.raises(ValueError, match="is one file, expected a folder or an archive"):
        tabular.hepmass(path)


# --- MINIBOONE --------------------------------------------------------------------------------


def prepared_events() -> np.ndarray:
    table = np.delete(events(120), [3, 50], axis=0)
    return np.delete(table, 7, axis=1)


@pytest.mark.parametrize("packing", PACKINGS)
def test_miniboone_is_prepared_as_published(file, packing):
    name, pack = PACKINGS[packing]
    content = pack("MiniBooNE_PID.txt", miniboone_text(events(120)))
    data = tabular.miniboone(file(content, name.format("MiniBooNE_PID.txt")))
    # The background, the 2 failed rows and feature 7 are gone; the largest value may repeat.
    assert data.shape == (97, 10, 11, 49)
    assert data.columns == tuple(f"x{i}" for i in range(50) if i != 7)
    table = prepared_events()
    expected = (table - table[:107].mean(axis=0)) / table[:107].std(axis=0)
    np.testing.assert_allclose(joined(data), expected, rtol=0, atol=1e-6)


def test_miniboone_from_the_array_of_the_archive(file):
    table = prepared_events()[:, :43]
    expected = (table - table[:107].mean(axis=0)) / table[:107].std(axis=0)
    for name, content in {
        "data.npy": npy(table),
        "data.tar.gz": tarred({"data/power/data.npy": b"1", "data/miniboone/data.npy": npy(table)}),
    }.items():
        data = tabular.miniboone(file(content, name))
        assert data.shape == (97, 10, 11, 43)
        np.testing.assert_allclose(joined(data), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("repeats", [5, 6])
def test_more_than_five_repeats_of_the_smallest_value(file, repeats):
    table = np.delete(events(120), [3, 50], axis=0)
    table[:, 20] = np.arange(len(table))
    table[:repeats, 20] = -1
    columns = tabular.miniboone(file(miniboone_text(table))).columns
    assert ("x20" in columns) == (repeats == 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with '', expected the numbers of signal and background events"),
        (gas_text(sensors(20)), "begins with 'Time .*this is not MiniBooNE_PID.txt"),
        (b" 120 30\n" + b"1 " * 49, "line 2 of .* has 49 fields, expected 50"),
        (miniboone_text(events(120))[:60_000], "line .* fields, expected 50|field"),
        (b" 200 30\n" + b"1.0 " * 50, "has 1 rows, expected at least the 200 signal events"),
        (miniboone_text(np.full((40, 50), -999.0)), "miniboone has 0 complete rows"),
        (miniboone_text(np.ones((40, 50))), "no column of miniboone is left"),
        (npy(np.ones((40, 50))), r"has the shape \(40, 50\) .*expected numbers of shape \(n, 43\)"),
    ],
)
def test_miniboone_from_a_wrong_file(file, content, message):
    with pytest.raises(ValueError, match=message):
        tabular.miniboone(file(content))


# --- archives that are not what they should be --------------------------------------------------

READERS = [tabular.power, tabular.gas, tabular.hepmass, tabular.miniboone]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.zip", zipped({"Index": b"", "power.csv": b""}), "set.zip holds no .*, expected one"),
        ("set.zip", b"<html>not found</html>", "set.zip cannot be unpacked .*download it again"),
        ("set.tar.gz", b"<html>not found</html>", "set.tar.gz cannot be unpacked"),
        ("set.tar.gz", tarred({"a": b"1"}), "set.tar.gz holds no .*, expected one"),
    ],
    # An archive holds the second in which it was packed, and tests need the same names in all
    # processes.
    ids=["zip without a table", "no zip", "no tar", "tar without a table"],
)
def test_archive_with_other_contents(file, read, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(file(content, name))


@pytest.mark.parametrize("read", READERS)
def test_file_that_is_not_there(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.zip, expected "):
        read(tmp_path / "nothing.zip")


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", f"{POWER_FILE}.gz"])
def test_archive_that_was_cut_short(file, name):
    packing = {"set.zip": "zip", "set.tar.gz": "tar"}.get(name, "gz")
    content = PACKINGS[packing][1](POWER_FILE, power_text(power_rows(4000)))
    path = file(content[: len(content) // 2], name)
    with pytest.raises(ValueError, match=f"{re.escape(name)} cannot be unpacked"):
        tabular.power(path)


def test_member_with_a_flipped_byte(file):
    content = bytearray(zipped({POWER_FILE: power_text(power_rows(4000))}))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(ValueError, match=r"cannot be unpacked|line \d+ of|begins with"):
        tabular.power(file(bytes(content), "set.zip"))


# --- the table itself ---------------------------------------------------------------------------


def small(train: int = 30, validation: int = 8, test: int = 10) -> TabularData:
    rng = np.random.default_rng(0)
    parts = (rng.normal(size=(n, 3)) for n in (train, validation, test))
    return TabularData("small", *parts, columns=("a", "b", "c"))


def test_table_is_written_and_read(tmp_path):
    data, path = small(), tmp_path / "new" / "small.h5"
    data.write(path, provenance={"source": "somewhere"})
    again = TabularData.read(path)
    assert (again.name, again.columns, again.shape) == ("small", ("a", "b", "c"), (30, 8, 10, 3))
    np.testing.assert_array_equal(joined(again), joined(data))
    assert again.train.dtype == np.float64
    assert [p.name for p in path.parent.iterdir()] == ["small.h5"]


def test_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "small.h5"
    small().write(path)
    before = path.read_bytes()
    other = small(train=50)
    # Not a table: h5py refuses it after the file was begun.
    object.__setattr__(other, "test", np.array([object()]))
    with pytest.raises(TypeError):
        other.write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["small.h5"]


def test_table_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing.h5, expected a table"):
        TabularData.read(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("no table")
    with pytest.raises(ValueError, match=r"text.h5 is not a table of this package \(OSError\)"):
        TabularData.read(tmp_path / "text.h5")
    small().write(tmp_path / "cut.h5")
    content = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.h5 is not a table of this package"):
        TabularData.read(tmp_path / "cut.h5")


def test_table_of_bad_parts():
    good = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"validation part of x has the shape \(4, 3\), expected"):
        TabularData("x", good, np.zeros((4, 3)), good, columns=("a", "b"))
    with pytest.raises(ValueError, match=r"train part of x has the shape \(4,\), expected"):
        TabularData("x", np.zeros(4), good, good, columns=("a", "b"))
    with pytest.raises(ValueError, match="the test part of x holds NaN or infinite values"):
        TabularData("x", good, good, np.full((4, 2), np.nan), columns=("a", "b"))


def rows_of(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Index in ``whole`` of each row of ``part``; fails for a row that is not there."""
    where = (part[:, None] == whole).all(axis=2)
    assert where.any(axis=1).all()
    return where.argmax(axis=1)


def test_subset_draws_with_replacement():
    data = small(train=40)
    part = tabular.subset(data, train=200, test=100, seed=3)
    assert part.shape == (200, 8, 100, 3)
    assert (part.name, part.columns) == (data.name, data.columns)
    np.testing.assert_array_equal(part.validation, data.validation)
    # 200 draws of 40 rows leave out one row with a probability of 0.6 %, hardly ever five.
    assert 35 < len(np.unique(rows_of(part.train, data.train))) <= 40
    rows_of(part.test, data.test)
    again = tabular.subset(data, train=200, test=100, seed=3)
    np.testing.assert_array_equal(joined(part), joined(again))
    other = tabular.subset(data, train=200, test=100, seed=4)
    assert not np.array_equal(joined(part), joined(other))


def test_subset_without_replacement():
    data = small()
    part = tabular.subset(data, train=30, test=4, validation=5, seed=0, replace=False)
    assert part.shape == (30, 5, 4, 3)
    assert sorted(rows_of(part.train, data.train)) == list(range(30))
    assert len(np.unique(rows_of(part.test, data.test))) == 4


def test_subset_has_the_size_of_the_paper_by_default():
    assert tabular.subset(small(), seed=0).shape == (25_000, 8, 10_000, 3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train": 0}, "0 train rows of small were asked for, expected at least 1"),
        ({"test": -1}, "-1 test rows of small were asked for"),
        (
            {"train": 31, "replace": False},
            "31 train rows of small were asked for, expected 1 to 30",
        ),
        ({"validation": 9, "test": 1, "train": 1, "replace": False}, "9 validation rows"),
    ],
)
def test_subset_of_a_bad_size(wanted, message):
    with pytest.raises(ValueError, match=message):
        tabular.subset(small(), **{"seed": 0, **wanted})


# --- half a year of the real POWER --------------------------------------------------------------


@pytest.fixture(scope="module")
def half_year(real_data) -> Path:
    path = real_data / "power_household_2007H1.zip"
    if not path.is_file():
        pytest.skip(f"half a year of POWER is not here: no file {path.name}")
    return path


@pytest.mark.realdata
def test_real_power_is_read(half_year):
    readings = tabular.power_readings(half_year)
    assert len(readings.values) == 256_869
    assert readings.incomplete == 3_771
    # 260,640 minutes are 181 days; one day lacks every reading.
    assert len(readings.values) + readings.incomplete == 181 * 1440
    months, counts = np.unique(readings.dates.astype("datetime64[M]"), return_counts=True)
    assert [str(month) for month in months] == [f"2007-{m:02d}" for m in range(1, 7)]
    assert (counts > 39_000).all()
    assert (np.diff(readings.dates.astype(int)) >= 0).all()
    assert len(np.unique(readings.dates)) == 180
    active, reactive, voltage, current, *metering, minute = readings.values.T
    assert 0 < active.min() < active.max() < 15
    assert 0 <= reactive.min() < reactive.max() < 2
    assert 220 < voltage.min() < voltage.max() < 260
    # kW, V and A belong together: apparent power agrees with voltage times current.
    apparent = np.hypot(active, reactive)
    assert abs(np.mean(voltage * current / 1000 / apparent) - 1) < 0.03
    # Watt-hours in a minute of three circuits are part of the whole.
    assert np.mean(sum(metering) <= active * 1000 / 60 + 1) > 0.999
    assert set(np.unique(minute)) == set(range(1440))


@pytest.mark.realdata
def test_real_power_is_prepared(half_year):
    data = tabular.power(half_year)
    assert data.shape == (208_065, 23_118, 25_686, 6)
    known = np.concatenate([data.train, data.validation])
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(known.std(axis=0), 1, atol=1e-10)
    # A random tenth has the moments of the rest, within 5 standard errors.
    assert np.abs(data.test.mean(axis=0)).max() < 5 / np.sqrt(len(data.test))
    paper = tabular.subset(data, seed=0)
    assert paper.shape == (25_000, 23_118, 10_000, 6)
