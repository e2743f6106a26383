"""Fetching POWER, GAS, HEPMASS and MINIBOONE from a server on the loopback address."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_tables import (
    POWER_FILE,
    collisions,
    events,
    gas_text,
    hepmass_text,
    miniboone_text,
    power_rows,
    power_text,
    sensors,
    tarred,
    zipped,
)
from record_server import RECORD, serving

from galflow_lite import cli, datasets, tabular
from galflow_lite.datasets import Dataset, FetchError

TABLES = ("power", "gas", "hepmass", "miniboone")
RAW = {
    "power": zipped({POWER_FILE: power_text(power_rows(60))}),
    "gas": zipped({"ethylene_methane.txt": b"", "ethylene_CO.txt": gas_text(sensors(200))}),
    "hepmass": tarred(
        {
            "data/hepmass/1000_test.csv": hepmass_text(collisions(100, 2)),
            "data/hepmass/1000_train.csv": hepmass_text(collisions(300, 1), named=27),
        }
    ),
    "miniboone": zipped({"MiniBooNE_PID.txt": miniboone_text(events(120))}),
}
SIGNAL = [int((collisions(n, seed)[:, 0] == 1).sum()) for n, seed in ((300, 1), (100, 2))]
SHAPES = {
    "power": (49, 5, 6, 6),
    "gas": (41, 4, 5, 13),
    "hepmass": (SIGNAL[0] - SIGNAL[0] // 10, SIGNAL[0] // 10, SIGNAL[1], 25),
    "miniboone": (97, 10, 11, 49),
}


def raw_name(name: str) -> str:
    return next(iter(datasets.DATASETS[name].files), "data.tar.gz")


def small(name: str, **shape) -> Dataset:
    """The registered set with the shape of our small file, HEPMASS from the server's record."""
    entry = datasets.DATASETS[name]
    prepare = partial(entry.prepare.func, **{**entry.prepare.keywords, "expected": SHAPES[name]})
    if name == "hepmass":
        entry = replace(entry, source=f"doi:10.5281/zenodo.{RECORD}")
    return replace(entry, prepare=prepare)


@pytest.fixture
def record(monkeypatch):
    with serving(monkeypatch) as record:
        record.files = {raw_name(name): content for name, content in RAW.items()}
        yield record


@pytest.fixture
def registered(monkeypatch):
    """The registry with the small shapes, for what goes by name."""
    for name in TABLES:
        monkeypatch.setitem(datasets.DATASETS, name, small(name))


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", TABLES)
def test_fetch_and_load(record, registered, tmp_path, capsys, name):
    path = datasets.fetch(name, tmp_path, progress=False)
    assert path == tmp_path / name / f"{name}.h5"
    assert files_below(tmp_path) == sorted([f"{name}/{name}.h5", f"{name}/raw/{raw_name(name)}"])
    assert capsys.readouterr() == ("", "")
    data = datasets.tabular(name, tmp_path)
    assert (data.name, data.shape) == (name, SHAPES[name])
    direct = getattr(tabular, name)(tmp_path / name / "raw" / raw_name(name))
    assert data.columns == direct.columns
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(data, part), getattr(direct, part))
    with h5py.File(path) as file:
        assert file.attrs["source"] == raw_name(name)
        assert file.attrs["source_sha256"] == hashlib.sha256(RAW[name]).hexdigest()
    # Once it is there, nothing is asked for.
    record.asked.clear()
    assert datasets.fetch(name, tmp_path, progress=False) == path
    assert record.asked == []


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("power", "235/individual+household+electric+power+consumption.zip"),
        ("gas", "322/gas+sensor+array+under+dynamic+gas+mixtures.zip"),
        ("miniboone", "199/miniboone+particle+identification.zip"),
    ],
)
def test_addresses_of_uci(record, tmp_path, name, address):
    datasets.fetch(small(name), tmp_path, progress=False)
    assert record.asked == [f"/archive.ics.uci.edu/static/public/{address}"]


def test_the_checksum_found_is_shown_where_none_is_published(record, tmp_path, capsys):
    datasets.fetch(small("power"), tmp_path)
    shown = capsys.readouterr()
    assert shown.out == ""
    found = hashlib.sha256(RAW["power"]).hexdigest()
    message = f"the source publishes no checksum to compare with, found sha256:{found}"
    assert message in shown.err
    assert f"reading {raw_name('power')} ..." in shown.err
    # A record with checksums has been compared, and needs no such line.
    datasets.fetch(small("hepmass"), tmp_path)
    assert "publishes no checksum" not in capsys.readouterr().err


def test_a_mirror_takes_the_place_of_uci(record, tmp_path):
    datasets.fetch(small("power"), tmp_path, base_url="https://mirror.example/", progress=False)
    assert record.asked == [f"/mirror.example/{raw_name('power')}"]


@pytest.mark.parametrize("name", TABLES)
def test_another_shape_keeps_the_file_aside(record, tmp_path, name):
    # The registered shapes are those of the full sets.
    train, validation, test, columns = SHAPES[name]
    entry = replace(datasets.DATASETS[name], source=small(name).source)
    with pytest.raises(FetchError) as caught:
        datasets.fetch(entry, tmp_path, progress=False)
    aside = tmp_path / name / f"{name}_unverified.h5"
    message = str(caught.value)
    assert (
        f"found {train} training, {validation} validation and {test} test rows of {columns} columns"
    ) in message
    full = {
        "power": "1,659,917 training, 184,435 validation and 204,928 test rows of 6",
        "gas": "852,174 training, 94,685 validation and 105,206 test rows of 8",
        "hepmass": "315,123 training, 35,013 validation and 174,987 test rows of 21",
        "miniboone": "29,556 training, 3,284 validation and 3,648 test rows of 43",
    }
    assert f"expected {full[name]} columns" in message
    assert str(aside) in message
    assert tabular.TabularData.read(aside).shape == SHAPES[name]
    assert not (tmp_path / name / f"{name}.h5").exists()
    # With the right shape the same file passes without another transfer of it, the one aside goes.
    record.asked.clear()
    datasets.fetch(small(name), tmp_path, progress=False)
    assert not aside.exists()
    assert not any(raw_name(name) in path for path in record.asked)


@pytest.mark.parametrize("content", [RAW["power"][:1000], b"<html>moved</html>", RAW["gas"]])
def test_a_file_that_cannot_be_read(record, tmp_path, content):
    record.files[raw_name("power")] = content
    raw = tmp_path / "power" / "raw" / raw_name("power")
    message = f"{re.escape(str(raw))} cannot be converted .*: delete it and run the same command"
    with pytest.raises(FetchError, match=message) as caught:
        datasets.fetch(small("power"), tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == [f"power/raw/{raw.name}"]
    # What the message advises helps.
    raw.unlink()
    record.files[raw_name("power")] = RAW["power"]
    assert datasets.fetch(small("power"), tmp_path, progress=False).is_file()


def test_a_broken_transfer_without_checksum_leaves_nothing(record, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    record.cut[raw_name("power")] = 3
    with pytest.raises(FetchError, match="broke off .*nothing of it was kept"):
        datasets.fetch(small("power"), tmp_path, progress=False)
    assert files_below(tmp_path) == []
    assert datasets.fetch(small("power"), tmp_path, progress=False).is_file()


def test_a_table_that_was_not_fetched(tmp_path, monkeypatch):
    message = (
        f"gas is not there, expected it at {tmp_path}.*gas.h5: run `galflow-lite data fetch gas "
        f"--folder {tmp_path}` first"
    )
    with pytest.raises(FileNotFoundError, match=message):
        datasets.tabular("gas", tmp_path)
    monkeypatch.setenv("GALFLOW_DOWNLOADS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `galflow-lite data fetch gas` first"):
        datasets.tabular("gas")


@pytest.mark.parametrize("name", ["nihao", "POWER", "bsds300"])
def test_what_is_no_table(tmp_path, name):
    message = f"there is no table '{name}', expected one of power, gas, hepmass, miniboone"
    with pytest.raises(ValueError, match=message):
        datasets.tabular(name, tmp_path)


def test_the_command_fetches_and_lists(record, registered, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "fetch", "power", "--folder", str(tmp_path)])
    assert not ended.value.code
    shown = capsys.readouterr()
    assert shown.out == f"power is at {tmp_path / 'power' / 'power.h5'}\n"
    assert "found sha256:" in shown.err
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "list"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    for name in TABLES:
        assert f"galflow-lite data fetch {name}\n" in shown
        assert re.search(rf"^{name}: .*licence: CC BY 4.0", shown, re.MULTILINE)
