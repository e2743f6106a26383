"""Published sets: fetched from a server on the loopback address, converted, compared, loaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import requests
from PIL import Image
from requests.adapters import HTTPAdapter

from galflow_lite import cli, data
from galflow_lite.data import TabularData, uci
from galflow_lite.galaxies import Catalogue, clean
from galflow_lite.galaxies.catalogue_writer import published_galaxies


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def text(table: np.ndarray, header: str, delimiter: str = "  ") -> bytes:
    buffer = io.BytesIO()
    np.savetxt(buffer, table, header=header, comments="", delimiter=delimiter)
    return buffer.getvalue()


def joined(table: TabularData) -> np.ndarray:
    return np.concatenate([table.train, table.validation, table.test])


# --- the four tables --------------------------------------------------------------------------


def power_lines(n: int, delimiter: str) -> list[str]:
    """POWER, one minute after another from 23:30 on 31 December 2006."""
    lines = []
    for i, row in enumerate(np.random.default_rng(0).uniform(0, 40, (n, 7))):
        when = datetime(2006, 12, 31, 23, 30) + timedelta(minutes=i)
        # The comma-separated layout has an index, and early days have a year of two digits.
        year = when.year % 100 if delimiter == "," and when.day <= 12 else when.year
        index = [str(i)] if delimiter == "," else []
        date = f"{when.day}/{when.month}/{year:02}"
        readings = [f"{value:.3f}" for value in row]
        lines.append(delimiter.join([*index, date, f"{when:%H:%M:%S}", *readings]))
    return lines


def power_file(path: Path, lines: list[str], delimiter: str = ";") -> Path:
    header = delimiter.join(f"column {i}" for i in range(9))
    path.write_text("\r\n".join([header, *lines, ""]))
    return path


@pytest.mark.parametrize("delimiter", [";", ","])
def test_power_is_prepared_as_published(tmp_path, delimiter):
    lines = power_lines(60, delimiter)
    readings = [line.split(delimiter)[-7:] for line in lines]
    # Rows that lack a reading are left out, in both ways in which the file says so.
    start = lines[0].split(delimiter)[:-7]
    lines[20:20] = [delimiter.join([*start, *values]) for values in ("???????", [*"111111", ""])]
    table = uci.power(power_file(tmp_path / "power.txt", lines, delimiter))
    assert table.shape == (49, 5, 6, 6)
    assert table.columns[:2] + table.columns[5:] == ("global_active_power", "voltage", "time")
    # The published recipe, step by step.
    rng = np.random.RandomState(42)
    minutes = (23 * 60 + 30 + np.arange(60)) % 1440
    expected = np.column_stack([np.array(readings, float), minutes])
    rng.shuffle(expected)
    expected = expected[:, [0, 2, 4, 5, 6, 7]]
    voltage, active, metering = rng.rand(60, 1), rng.rand(60, 1), rng.rand(60, 3)
    expected += np.hstack([0.001 * active, 0.01 * voltage, metering, np.zeros((60, 1))])
    expected = (expected - expected[:54].mean(axis=0)) / expected[:54].std(axis=0)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("delimiter", [";", ","])
def test_half_a_year_of_power_is_that_of_2007(tmp_path, delimiter):
    lines = power_lines(120, delimiter)
    july = [line.replace("/1/07", "/7/07").replace("/1/2007", "/7/2007") for line in lines[80:]]
    whole = power_file(tmp_path / "whole", [*lines[:80], *july], delimiter)
    kept = power_file(tmp_path / "kept", lines[30:80], delimiter)
    table = uci.power(whole, dates=uci.HALF_YEAR)
    np.testing.assert_array_equal(joined(table), joined(uci.power(kept)))
    assert table.name == "power_half_year"


@pytest.mark.realdata
def test_the_half_year_behind_the_stored_reference(real_data, tmp_path):
    source = real_data / "power_household_2007H1.zip"
    if not source.is_file():
        pytest.skip(f"half a year of POWER is not here: no file {source.name}")
    table = TabularData.read(data.fetch("power_half_year", tmp_path, source=source))
    known = np.concatenate([table.train, table.validation])
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(known.std(axis=0), 1, atol=1e-10)
    # A random tenth has the moments of the rest, within 5 standard errors.
    assert np.abs(table.test.mean(axis=0)).max() < 5 / np.sqrt(len(table.test))


def test_gas_keeps_a_quarter_and_one_of_correlated_sensors(tmp_path):
    # Time, two concentrations and 16 sensors, of which 3 follows 1, and 5 follows 4 and 6.
    rng = np.random.default_rng(0)
    raw = rng.normal(1000, 100, size=(203, 19))
    for follower, column in ((5, 3), (7, 6), (8, 7)):
        raw[:, follower] = raw[:, column] + rng.normal(0, 5, 203)
    # The opposite of a sensor is no near-copy by the published rule, which takes no absolute value.
    raw[:, 12] = -raw[:, 11]
    path = tmp_path / "ethylene_CO.txt"
    path.write_bytes(text(raw, "Time (seconds), CO conc (ppm), sensors"))
    table = uci.gas(path)
    # Of 1 and 3 the first goes; of 4, 5 and 6 the first and then the next.
    kept = [2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert table.columns == tuple(f"sensor_{i}" for i in kept)
    assert table.shape == (42, 4, 5, 13)
    rows = raw[:, [2 + i for i in kept]][np.random.default_rng(0).permutation(203)[:51]]
    expected = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-11)


def repeating(n: int, d: int, *, smallest: int, largest: int) -> np.ndarray:
    """Normal numbers, of which one column repeats its smallest value and one its largest."""
    rng = np.random.default_rng(n)
    table = rng.normal(size=(n, d))
    table[:, smallest] = np.where(rng.uniform(size=n) < 0.5, 0.0, 1 + table[:, smallest] ** 2)
    table[:, largest] = np.where(rng.uniform(size=n) < 0.5, 9.0, table[:, largest])
    return table


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_hepmass_is_prepared_as_published(tmp_path, pack):
    members, events = {"data/gas/ethylene_CO.pickle": b"\x80"}, []
    # The class and 27 features; the header of the published training file is one name short.
    for name, n, names in (("test", 100, 28), ("train", 300, 27)):
        table = repeating(n, 28, smallest=6, largest=10)
        table[:, 0] = np.arange(n) % 2
        content = text(table, ",".join(map(str, range(names))), delimiter=",")
        members[f"data/hepmass/1000_{name}.csv.gz"] = gzip.compress(content)
        events.append(table[1::2, 1:27])
    path = tmp_path / "data"
    path.write_bytes(pack(members))
    table = uci.hepmass(path)
    kept = [i for i in range(26) if i != 5]
    assert table.columns == tuple(f"f{i}" for i in kept)
    assert table.shape == (135, 15, 50, 25)
    test, train = (part[:, kept] for part in events)
    expected = (np.concatenate([train, test]) - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_miniboone_is_prepared_as_published(tmp_path, pack):
    signal = repeating(120, 50, smallest=7, largest=8)
    signal[:5, 9], signal[5:11, 10] = -50.0, -50.0  # 5 repeats are allowed, 6 are not
    signal[[20, 50]] = -999.0  # failed events
    rows = np.concatenate([signal, np.full((30, 50), 5.0)])
    path = tmp_path / ("MiniBooNE_PID.txt" if pack is bytes else "MiniBooNE_PID.txt.gz")
    path.write_bytes(pack(text(rows, " 120 30")))
    table = uci.miniboone(path)
    # The background, the 2 failed rows, features 7 and 10 are gone; the largest value may repeat.
    assert table.shape == (97, 10, 11, 48)
    assert table.columns == tuple(f"x{i}" for i in range(50) if i not in (7, 10))
    expected = np.delete(np.delete(signal, [20, 50], axis=0), [7, 10], axis=1)
    expected = (expected - expected[:107].mean(axis=0)) / expected[:107].std(axis=0)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-11)


def small() -> TabularData:
    parts = np.split(np.random.default_rng(0).normal(size=(58, 3)), [40, 48])
    return TabularData("small", *parts, columns=("a", "b", "c"))


def test_a_table_is_written_and_read(tmp_path):
    table, path = small(), tmp_path / "new" / "small.h5"
    path.parent.mkdir()
    assert uci.convert(lambda raw: table, Path(__file__), path) == table.shape
    again = TabularData.read(path)
    assert (again.name, again.columns, again.shape) == ("small", ("a", "b", "c"), (40, 8, 10, 3))
    np.testing.assert_array_equal(joined(again), joined(table))
    link = h5py.ExternalLink("other.h5", "test")
    for value, found in ((np.full((10, 3), np.nan), "test has NaN"), (link, "test leads out")):
        with h5py.File(path, "a") as file:
            del file["test"]
            file["test"] = value
        with pytest.raises(ValueError, match=f"small.h5 cannot be read .*{found}"):
            TabularData.read(path)


def test_subset_draws_with_replacement():
    table = small()
    part, again, other = (data.subset(table, train=200, test=100, seed=s) for s in (3, 3, 4))
    assert part.shape == (200, 8, 100, 3)
    np.testing.assert_array_equal(part.validation, table.validation)
    for drawn, whole in ((part.train, table.train), (part.test, table.test)):
        where = (drawn[:, None] == whole).all(axis=2)
        assert where.any(axis=1).all()
        # 200 draws of 40 rows leave out one row with a probability of 0.6 %, hardly ever five.
        assert len(whole) - 5 < len(np.unique(where.argmax(axis=1))) <= len(whole)
    np.testing.assert_array_equal(joined(part), joined(again))
    assert not np.array_equal(joined(part), joined(other))


# --- galaxies ---------------------------------------------------------------------------------


ROWS = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "mass", "age")
# Not in the order of their ids.
STARS = {"uhd_g8.26e11_9.1e11": 2000, "classic_g1.05e11_1.096e+11": 1000, "g4.99e09_5.2e09": 300}


def published_array(n: int) -> np.ndarray:
    scale = np.array([4, 4, 1, 100, 100, 50, 0.005, 0.3, 0.1, 0, 2])[:, None]
    shift = np.array([0, 0, 0, 0, 0, 0, 0.02, -0.4, 0.2, 1e5, 6])[:, None]
    return np.random.default_rng(n).normal(size=(11, n)) * scale + shift


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GALAXIES = {f"all_sims/nihao_{k}.npy": saved(published_array(n)) for k, n in STARS.items()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "all_sims").mkdir()
    for name, content in {**GALAXIES, "all_sims/._a_g1e9_1e9.npy": b"finder"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path / "all_sims"


def test_published_galaxies_come_sorted_with_names_masses_and_attributes(folder):
    galaxies = list(published_galaxies(folder))
    assert [g.id for g in galaxies] == ["g1.05e11", "g4.99e09", "g8.26e11"]
    assert [g.attributes["M_dm"] for g in galaxies] == [1.096e11, 5.2e9, 9.1e11]
    for name, row in zip(ROWS, published_array(1000), strict=True):
        found = galaxies[0].masses if name == "mass" else galaxies[0][name]
        np.testing.assert_array_equal(found, row)
    # Two runs of one galaxy keep their whole names.
    np.save(folder / "nihao_uhd_g1.05e11_1.1e11.npy", published_array(5))
    twice = ["nihao_classic_g1.05e11_1.096e+11", "nihao_uhd_g1.05e11_1.1e11"]
    found = [g.id for g in published_galaxies(folder)]
    assert found == [twice[0], "g4.99e09", twice[1], "g8.26e11"]
    # An array of objects is a pickle, which is never loaded.
    np.save(folder / "a_g0_1e9.npy", np.full((11, 3), None), allow_pickle=True)
    with pytest.raises(ValueError, match="a_g0_1e9.npy cannot be read.*pickled"):
        next(published_galaxies(folder))


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_galaxies_are_unpacked_and_converted_with_the_cuts(folder, tmp_path, form, capsys):
    # Another array, and a Mac's second files, do no harm.
    extra = {f"__MACOSX/all_sims/._{name[9:]}": b"x" for name in GALAXIES}
    raw, product = tmp_path / f"all_sims.{form}", tmp_path / "galaxies.h5"
    members = {**GALAXIES, **extra, "losses.npy": saved(published_array(5))}
    raw.write_bytes((zipped if form == "zip" else tarred)(members))
    found = data.nihao(raw, product)
    # A tenth of the stars at most goes, and the galaxy of 300.
    assert found[:3] == (3, 3300, 2)
    assert 2700 < found[3] <= 2850
    assert "dropped: galaxy 'g4.99e09' keeps 2" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {raw.name, "galaxies.h5", "all_sims"}
    # Arrays in a folder are taken as they are.
    assert data.nihao(folder, product) == found
    catalogue = Catalogue.open(product)
    assert catalogue.ids == ("g1.05e11", "g8.26e11")
    assert catalogue.n_stars.sum() == found[3]
    read, expected = catalogue["g8.26e11"], clean(list(published_galaxies(folder))[2])
    assert (read.conditions, read.attributes) == (expected.conditions, {"M_dm": 9.1e11})
    np.testing.assert_allclose(read.stars, expected.stars, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read.masses, expected.masses)


def test_nothing_of_an_archive_leaves_its_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for form, pack in (("zip", zipped), ("tar.gz", tarred)):
        path = home / f"all_sims.{form}"
        path.write_bytes(pack({**GALAXIES, "../evil.npy": b"evil"}))
    data.nihao(home / "all_sims.zip", home / "galaxies.h5")
    with pytest.raises(tarfile.FilterError):
        data.nihao(path, home / "galaxies.h5")
    assert not [*tmp_path.rglob("evil*")]


FIRST = 587722981741363294  # larger than a float64 holds exactly


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=95)
    return buffer.getvalue()


def jpeg(shade: int) -> bytes:
    """A dark picture of 424 x 424 with a coloured square of 212 pixels in its centre."""
    pixels = np.zeros((424, 424, 3), dtype=np.uint8)
    pixels[106:318, 106:318] = (shade, shade // 2, 2 * shade)
    return picture(pixels, "JPEG")


def written(rows: list[list]) -> bytes:
    return "\r\n".join(",".join(map(str, row)) for row in rows).encode()


def test_galaxy_zoo_joins_images_and_votes(tmp_path):
    # Galaxy k has class k mod 6; 3 a tie, 4 no row, 5 an image that is not there.
    images = {f"images/{100 + k}.jpg": jpeg(40 + 7 * k) for k in range(12)}
    images["__MACOSX/images/._100.jpg"] = b"no image"
    (tmp_path / data.IMAGES).write_bytes(zipped(images))
    votes = [["OBJID", "RA", "P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG", "P_CS"]]
    for k in range(13):
        shares = [0.5 if i in (k % 6, 2 if k == 3 else k % 6) else 0.1 for i in range(6)]
        votes.append([FIRST + k, "00:00:01.23", *shares, 0.9])
    (tmp_path / data.VOTES).write_bytes(gzip.compress(written(votes)))
    assets = [[FIRST + k, "original", 9999 if k in (5, 12) else 100 + k] for k in range(13)]
    mapping = written([["objid", "sample", "asset_id"], *assets[:4], *assets[5:]])
    (tmp_path / data.MAPPING).write_bytes(mapping)

    def chosen(count: int) -> dict[str, np.ndarray]:
        product = tmp_path / "zoo.npz"
        assert data.galaxy_zoo(tmp_path, product, count=count) == (count, 64, 64, 3)
        with np.load(product, allow_pickle=False) as arrays:
            return dict(arrays)

    found, kept = chosen(9), np.array([0, 1, 2, 6, 7, 8, 9, 10, 11])
    np.testing.assert_array_equal(found["objid"] - FIRST, kept)
    np.testing.assert_array_equal(found["y"], kept % 6)
    assert found["x"].dtype == np.uint8
    for image, shade in zip(found["x"], 40 + 7 * kept, strict=True):
        assert np.abs(image[16:48, 16:48].astype(int) - (shade, shade // 2, 2 * shade)).max() <= 4
    # Fewer: a random choice that is the same every time.
    first, second = (chosen(4)["objid"].tolist() for _ in range(2))
    assert first == second == sorted(set(first))
    assert set(first) < set(found["objid"].tolist())


def test_the_collection_of_galaxy_zoo_is_sorted_by_object_number(tmp_path):
    raw, product = tmp_path / "5226e5e", tmp_path / "zoo.npz"
    table = written([["OBJID", "CLASS"], [FIRST + 2, 3], [FIRST, 5], [FIRST + 1, 0]])
    images = {f"P/smallGZ1/Imagenes/{FIRST + k}.jpeg": jpeg(60 + 30 * k) for k in range(3)}
    raw.write_bytes(zipped({"P/smallGZ1/smallCSV_class.csv": table, "P/a.jpg": b"", **images}))
    assert data.galaxy_zoo_collection(raw, product) == (3, 64, 64, 3)
    with np.load(product) as arrays:
        assert arrays["y"].tolist() == [5, 0, 3]
        assert (arrays["objid"] - FIRST).tolist() == [0, 1, 2]
        assert np.abs(arrays["x"][:, 32, 32, 0].astype(int) - [60, 90, 120]).max() <= 4


def test_the_central_square_is_averaged_by_area():
    # A gradient, so that a shift or another filter would show; PNG, so that nothing is lost.
    ramp = np.arange(424, dtype=np.uint8)[:, None] // 2 + np.zeros((1, 424), dtype=np.uint8)
    pixels = np.stack([ramp, ramp.T, np.full_like(ramp, 9)], axis=2)
    prepared = data.central_square(picture(pixels), size=53)
    expected = pixels[106:318, 106:318].reshape(53, 4, 53, 4, 3).mean(axis=(1, 3))
    assert np.abs(prepared - expected).max() <= 0.5
    # Of a smaller image the central half; grey becomes three equal channels.
    grey = picture(np.pad(np.full((60, 60), 200, np.uint8), 30))
    assert (data.central_square(grey, size=4) == 200).all()


# --- fetching ---------------------------------------------------------------------------------

CONTENT = gzip.compress(b"1,2\r\n3,4\r\n5,6", mtime=0)


def unpacked(raw: Path, product: Path) -> tuple[int, ...]:
    """What a data set's `convert` does: write the product, return what is compared."""
    product.write_bytes(gzip.decompress(raw.read_bytes()))
    return np.loadtxt(product, delimiter=",").shape


def register(monkeypatch, name: str, **changes) -> None:
    monkeypatch.setitem(data.DATASETS, name, replace(data.DATASETS[name], **changes))


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A registered set, in a file that a server on the loopback address serves."""
    file = tmp_path / "served" / "5976039"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=file.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/5976039"
        checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
        entry = data.Dataset("numbers", "pairs.csv", unpacked, (3, 2), {address: checksum})
        monkeypatch.setitem(data.DATASETS, "pairs", entry)
        monkeypatch.setenv("GALFLOW_DOWNLOADS", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield file
        server.shutdown()


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_fetch_downloads_converts_and_loads(served, tmp_path):
    path = data.fetch("pairs")
    assert files_below(tmp_path / "cache/pairs") == {"pairs.csv", "raw/5976039"}
    assert path.read_bytes() == gzip.decompress(CONTENT)
    # Once it is there, nothing is asked for; nor for a raw file that is there and right.
    served.unlink()
    assert data.fetch("pairs") == path
    path.unlink()
    assert data.fetch("pairs") == path


SHORTER = gzip.compress(b"1,2\r\n3,4", mtime=0)


@pytest.mark.parametrize(
    "content", [CONTENT[:-1], b"<html>moved</html>", SHORTER], ids=["cut", "page", "other"]
)
def test_a_file_that_is_another_one_leaves_nothing_behind(served, tmp_path, content):
    served.write_bytes(content)
    with pytest.raises(ConnectionError, match="pairs cannot be downloaded .*hash"):
        data.fetch("pairs")
    with pytest.raises(ValueError, match="5976039 cannot be converted .* published files of pairs"):
        data.fetch("pairs", source=served)
    assert files_below(tmp_path / "cache") == set()
    # The next try mends it.
    served.write_bytes(CONTENT)
    assert data.fetch("pairs").is_file()


def test_a_record_gives_its_files_and_their_checksums(served, tmp_path, monkeypatch):
    address = next(iter(data.DATASETS["pairs"].files))

    def listed(boy):
        checksum = "md5:" + hashlib.md5(CONTENT).hexdigest()
        boy.registry = {"5976039": checksum, "model.pth": "md5:0"}
        boy.urls = dict.fromkeys(boy.registry, address)

    monkeypatch.setattr(data.pooch.Pooch, "load_registry_from_doi", listed)
    register(monkeypatch, "pairs", files={}, doi="doi:10.1/x", suffixes=("39",))
    data.fetch("pairs")
    assert files_below(tmp_path / "cache/pairs/raw") == {"5976039"}
    # A name with folders, on any system, is refused.
    for name in ("../../39", "..\\39"):
        monkeypatch.setattr(
            data.pooch.Pooch, "load_registry_from_doi", lambda b, n=name: b.registry.update({n: ""})
        )
        with pytest.raises(ConnectionError, match="39', which is no plain file name"):
            data.fetch("pairs", tmp_path / "new")


@pytest.mark.parametrize("known", [True, False])
def test_a_file_without_a_checksum_is_not_taken_from_http(served, monkeypatch, known):
    (address, checksum), *_ = data.DATASETS["pairs"].files.items()
    send = HTTPAdapter.send

    def redirected(adapter, request, **options):
        if not request.url.startswith("https:"):
            return send(adapter, request, **options)
        response = requests.Response()
        response.request = request
        response.url, response.status_code, response.raw = request.url, 302, io.BytesIO()
        response.headers["Location"] = address
        return response

    monkeypatch.setattr(HTTPAdapter, "send", redirected)
    files = {"https://elsewhere.org/5976039": checksum if known else ""}
    register(monkeypatch, "pairs", files=files)
    refused = pytest.raises(ConnectionError, match="leads to http:.*, which is not encrypted")
    with nullcontext() if known else refused:
        assert data.fetch("pairs").is_file()


def test_what_a_killed_fetch_left_is_removed(served, tmp_path):
    home = tmp_path / "cache/pairs"
    for path in (home / "raw/tmp12345678", home / ".unpacked-1"):
        path.mkdir(parents=True)
        os.utime(path, (0, 0))
    data.fetch("pairs")
    assert {path.name for path in home.rglob("*")} == {"pairs.csv", "raw", "5976039"}


def test_the_commands_list_and_fetch(tmp_path, monkeypatch, capsys):
    raw = power_file(tmp_path / "raw.txt", power_lines(60, ";"))
    register(monkeypatch, "power", expected=(49, 5, 6, 6))
    fetch = f"data fetch power --folder {tmp_path} --source {raw}"
    for command in (fetch, "data list"):
        with pytest.raises(SystemExit, match="0"):
            cli.main(command.split())
    shown = capsys.readouterr().out
    product = tmp_path / "power" / "power.h5"
    assert f"power is at {product}\n" in shown
    assert "galaxies_lite: ships with the package" in shown
    assert all(f"{name}: {entry.description}" in shown for name, entry in data.DATASETS.items())
    with h5py.File(product) as file:
        digest = hashlib.sha256(raw.read_bytes()).hexdigest()
        assert file.attrs["source"] == f"raw.txt, SHA-256 {digest}"
