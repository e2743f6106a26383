"""Published sets: fetched from a server on the loopback address, converted, compared, loaded."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from galflow_lite import cli, data
from galflow_lite.data import TabularData, registry, uci
from galflow_lite.galaxies import Catalogue


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


PACKINGS = {
    "plain": ("{}", lambda name, content: content),
    "gz": ("{}.gz", lambda name, content: gzip.compress(content)),
    "zip": ("a.zip", lambda name, content: zipped({"Index.txt": b"other", name: content})),
    "gz in zip": ("a.zip", lambda name, content: zipped({f"{name}.gz": gzip.compress(content)})),
    "tar": ("a.tar.gz", lambda name, content: tarred({"data/x": b"1", f"data/{name}": content})),
}


@pytest.fixture(params=PACKINGS)
def packed(request, tmp_path):
    def write(name: str, content: bytes) -> Path:
        form, pack = PACKINGS[request.param]
        path = tmp_path / form.format(name)
        path.write_bytes(pack(name, content))
        return path

    return write


def joined(table: TabularData) -> np.ndarray:
    return np.concatenate([table.train, table.validation, table.test])


# --- the four tables --------------------------------------------------------------------------

POWER_FILE = "household_power_consumption.txt"
POWER_HEADER = (
    "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;"
    "Sub_metering_1;Sub_metering_2;Sub_metering_3"
)


def power_rows(n: int = 60) -> list[list[str]]:
    """Rows of POWER, one minute after another from 23:30 on 31 December 2006."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        day, time = str(np.datetime64("2006-12-31T23:30") + np.timedelta64(i, "m")).split("T")
        year, month, date = map(int, day.split("-"))
        readings = [f"{rng.uniform(0.1, 9):.3f}", f"{rng.uniform(0, 1):.3f}"]
        readings += [f"{rng.normal(240, 3):.3f}", f"{rng.uniform(1, 40):.3f}"]
        readings += [f"{rng.integers(0, 40)}.000" for _ in range(3)]
        rows.append([f"{date}/{month}/{year}", f"{time}:00", *readings])
    return rows


def power_text(rows: list[list[str]]) -> bytes:
    """The layout of UCI."""
    return "\r\n".join([POWER_HEADER, *(";".join(row) for row in rows), ""]).encode()


def power_csv(rows: list[list[str]]) -> bytes:
    """The comma-separated layout: an index, and days up to the 12th with a year of two digits."""
    lines = ["index," + POWER_HEADER.replace(";", ",")]
    for i, (date, *row) in enumerate(rows):
        day, month, year = date.split("/")
        lines.append(
            ",".join([str(i), f"{day}/{month}/{year[2:] if int(day) <= 12 else year}", *row])
        )
    return "\n".join([*lines, ""]).encode()


def power_numbers(rows: list[list[str]]) -> np.ndarray:
    """Readings and minute of the day, by another way than the reader's."""
    minutes = [60 * int(row[1][:2]) + int(row[1][3:5]) for row in rows]
    return np.column_stack([np.array([row[2:] for row in rows], float), minutes])


@pytest.mark.parametrize("layout", [power_text, power_csv])
def test_power_is_prepared_as_published(packed, layout):
    rows = power_rows()
    broken = [row[:] for row in rows]
    # Rows that lack a reading are left out, in both ways in which the file says so.
    broken[20:20] = [[*rows[0][:2], *"???????"], [*rows[0][:2], *["1"] * 6, ""]]
    table = uci.power(packed(POWER_FILE, layout(broken)))
    assert table.shape == (49, 5, 6, 6)
    assert table.columns[:2] == ("global_active_power", "voltage")
    assert table.columns[5] == "time"
    # The published recipe, step by step.
    rng = np.random.RandomState(42)
    expected = power_numbers(rows)
    rng.shuffle(expected)
    expected = expected[:, [0, 2, 4, 5, 6, 7]]
    voltage, active, metering = rng.rand(60, 1), rng.rand(60, 1), rng.rand(60, 3)
    expected += np.hstack([0.001 * active, 0.01 * voltage, metering, np.zeros((60, 1))])
    expected = (expected - expected[:54].mean(axis=0)) / expected[:54].std(axis=0)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-12)
    # Both other parts standardise, the test rows do not.
    np.testing.assert_allclose(joined(table)[:54].mean(axis=0), 0, atol=1e-12)
    assert np.abs(table.test.mean(axis=0)).max() > 0.1


@pytest.mark.parametrize("layout", [power_text, power_csv])
def test_half_a_year_of_power_is_that_of_2007(tmp_path, layout):
    rows = power_rows(120)
    for row in rows[-40:]:
        row[0] = "1/7/2007"
    (tmp_path / POWER_FILE).write_bytes(layout(rows))
    (tmp_path / "kept").write_bytes(layout(rows[30:-40]))
    table = uci.power_half_year(tmp_path / POWER_FILE)
    np.testing.assert_array_equal(joined(table), joined(uci.power(tmp_path / "kept")))
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


def sensors(n: int = 203) -> np.ndarray:
    """Time, two concentrations and 16 sensors, of which 3 follows 1, and 5 follows 4 and 6."""
    rng = np.random.default_rng(0)
    table = np.round(rng.normal(1000, 100, size=(n, 16)), 2)
    near = np.round(rng.normal(0, 5, size=(n, 3)), 2)
    table[:, 2] = table[:, 0] + near[:, 0]
    table[:, 4] = table[:, 3] + near[:, 1]
    table[:, 5] = table[:, 4] + near[:, 2]
    # The opposite of a sensor is no near-copy by the published rule, which takes no absolute value.
    table[:, 9] = -table[:, 8]
    return np.column_stack([np.arange(n) * 0.01, np.zeros(n), np.full(n, 20.0), table])


def gas_text(table: np.ndarray) -> bytes:
    header = "Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels) "
    lines = [header, *("  ".join(f"{value:.2f}" for value in row) for row in table)]
    return "\n".join([*lines, ""]).encode()


def test_gas_keeps_a_quarter_and_one_of_correlated_sensors(packed):
    raw = sensors()
    table = uci.gas(packed("ethylene_CO.txt", gas_text(raw)))
    # Of 1 and 3 the first goes; of 4, 5 and 6 the first and then the next.
    kept = [2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert table.columns == tuple(f"sensor_{i}" for i in kept)
    assert table.shape == (42, 4, 5, 13)
    found = joined(table)
    rows = raw[:, [2 + i for i in kept]]
    quarter = np.random.default_rng(0).permutation(len(raw))[:51]
    expected = (rows[quarter] - rows[quarter].mean(0)) / rows[quarter].std(0, ddof=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def collisions(n: int, seed: int) -> np.ndarray:
    """Class and 27 features; f5 repeats its smallest value, f9 its largest."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 28))
    table[:, 0] = rng.integers(0, 2, size=n)
    table[:, 6] = np.where(rng.uniform(size=n) < 0.5, 0.0, 1.0 + table[:, 6] ** 2)
    table[:, 10] = np.where(rng.uniform(size=n) < 0.5, 9.0, table[:, 10])
    return table


def hepmass_text(table: np.ndarray, names: int = 27) -> bytes:
    """A file of HEPMASS; the header of the published training file is one name short."""
    lines = [",".join(["# label", *(f"f{i}" for i in range(names - 1))])]
    lines += [",".join(f"{value:.18e}" for value in row) for row in table]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_hepmass_is_prepared_as_published(tmp_path, pack, suffix):
    train, test = collisions(300, 1), collisions(100, 2)
    files = {"1000_test.csv": hepmass_text(test, 28), "1000_train.csv": hepmass_text(train)}
    compress = gzip.compress if suffix else bytes
    members = {f"data/hepmass/{name}{suffix}": compress(text) for name, text in files.items()}
    path = tmp_path / "data"
    path.write_bytes(pack({"data/gas/ethylene_CO.pickle": b"\x80", **members}))
    table = uci.hepmass(path)
    kept = [i for i in range(26) if i != 5]
    assert table.columns == tuple(f"f{i}" for i in kept)
    train, test = (t[t[:, 0] == 1][:, [1 + i for i in kept]] for t in (train, test))
    n = len(train)
    assert table.shape == (n - n // 10, n // 10, len(test), 25)
    expected = (np.concatenate([train, test]) - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-12)


def events(signal: int = 120) -> np.ndarray:
    """50 features: 2 rows failed (-999), feature 7 repeats its smallest value, 8 its largest."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(signal, 50))
    table[:, 7] = np.where(rng.uniform(size=signal) < 0.5, 0.0, 1.0 + table[:, 7] ** 2)
    table[:, 8] = np.where(rng.uniform(size=signal) < 0.5, 9.0, table[:, 8])
    table[:5, 9], table[5:11, 10] = -50.0, -50.0  # 5 repeats are allowed, 6 are not
    table[[20, 50]] = -999.0
    return table


def miniboone_text(signal: np.ndarray) -> bytes:
    rows = np.concatenate([signal, np.full((30, 50), 5.0)])
    lines = [f" {len(signal)} 30", *("  ".join(f"{v:.8e}" for v in row) for row in rows)]
    return "\n".join([*lines, ""]).encode()


def test_miniboone_is_prepared_as_published(packed):
    table = uci.miniboone(packed("MiniBooNE_PID.txt", miniboone_text(events())))
    # The background, the 2 failed rows, features 7 and 10 are gone; the largest value may repeat.
    assert table.shape == (97, 10, 11, 48)
    assert table.columns == tuple(f"x{i}" for i in range(50) if i not in (7, 10))
    expected = np.delete(np.delete(events(), [20, 50], axis=0), [7, 10], axis=1)
    expected = (expected - expected[:107].mean(axis=0)) / expected[:107].std(axis=0)
    np.testing.assert_allclose(joined(table), expected, rtol=0, atol=1e-6)


def small(train: int = 30) -> TabularData:
    rng = np.random.default_rng(0)
    parts = (rng.normal(size=(n, 3)) for n in (train, 8, 10))
    return TabularData("small", *parts, columns=("a", "b", "c"))


def test_a_table_is_written_read_and_matched_by_name(tmp_path):
    table, path = small(), tmp_path / "new" / "small.h5"
    table.write(path, source="somewhere")
    again = TabularData.read(path)
    assert (again.name, again.columns, again.shape) == ("small", ("a", "b", "c"), (30, 8, 10, 3))
    np.testing.assert_array_equal(joined(again), joined(table))
    assert [p.name for p in path.parent.iterdir()] == ["small.h5"]
    named = {name: table.train[:, i] for i, name in reversed(list(enumerate("abc")))}
    np.testing.assert_array_equal(replace(table, train=named).train, table.train)
    with pytest.raises(ValueError, match="train has NaN, infinite or masked values"):
        replace(table, train=np.full((4, 3), np.nan))


def test_subset_draws_with_replacement():
    table = small(train=40)
    part = data.subset(table, train=200, test=100, seed=3)
    assert part.shape == (200, 8, 100, 3)
    np.testing.assert_array_equal(part.validation, table.validation)
    for drawn, whole in ((part.train, table.train), (part.test, table.test)):
        where = (drawn[:, None] == whole).all(axis=2)
        assert where.any(axis=1).all()
        # 200 draws of 40 rows leave out one row with a probability of 0.6 %, hardly ever five.
        assert len(whole) - 5 < len(np.unique(where.argmax(axis=1))) <= len(whole)
    again, other = (data.subset(table, train=200, test=100, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(joined(part), joined(again))
    assert not np.array_equal(joined(part), joined(other))
    assert data.subset(table, seed=0).shape == (25_000, 8, 10_000, 3)


# --- galaxies ---------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def published(n: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    scale = np.array([4, 4, 1, 100, 100, 50, 0.005, 0.3, 0.1, 0, 2])[:, None]
    shift = np.array([0, 0, 0, 0, 0, 0, 0.02, -0.4, 0.2, 1e5, 6])[:, None]
    return npy(rng.normal(size=(11, n)) * scale + shift)


GALAXIES = {
    "all_sims/nihao_g1.05e11_1.1e11.npy": published(1000, 1),
    "all_sims/nihao_g4.99e09_5.2e09.npy": published(300, 2),
    "all_sims/nihao_g8.26e11_9.1e11.npy": published(2000, 3),
}


@pytest.mark.parametrize("form", ["zip", "tar.gz", "folder"])
def test_galaxies_are_unpacked_and_converted_with_the_cuts(tmp_path, form):
    # Other arrays, and a Mac's second files, do no harm.
    extra = {f"__MACOSX/all_sims/._{name[9:]}": b"x" for name in GALAXIES}
    members = {**GALAXIES, **extra, "losses.npy": npy(np.zeros(5)), "README": b"hello"}
    raw = tmp_path / "raw"
    raw.mkdir()
    if form == "folder":
        for name, content in GALAXIES.items():
            (raw / Path(name).name).write_bytes(content)
    else:
        raw = raw / f"all_sims.{form}"
        raw.write_bytes((zipped if form == "zip" else tarred)(members))
    found = registry.nihao(raw, tmp_path / "galaxies.h5")
    # A tenth of the stars at most goes, and the galaxy of 300.
    assert found[:3] == (3, 3300, 2)
    assert 2700 < found[3] <= 2850
    with Catalogue.open(tmp_path / "galaxies.h5") as catalogue:
        assert catalogue.n_stars.sum() == found[3]
        assert catalogue.ids == ("g1.05e11", "g8.26e11")
        assert catalogue[1].attributes == {"M_dm": 9.1e11}
    assert {p.name for p in tmp_path.iterdir()} == {"raw", "galaxies.h5"}


@pytest.mark.parametrize("name", ["../evil.npy", "/tmp/evil.npy", "a/../../evil.npy", "link"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_nothing_of_an_archive_leaves_its_folder(tmp_path, form, name):
    home = tmp_path / "home" / "raw"
    home.mkdir(parents=True)
    path = home / f"all_sims.{form}"
    if form == "zip":
        path.write_bytes(zipped({**GALAXIES, name: b"evil"}))
        registry.nihao(path, home.parent / "galaxies.h5")
    else:
        with tarfile.open(path, "w") as packed:
            member = tarfile.TarInfo(name)
            if name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            packed.addfile(member)
        with pytest.raises((tarfile.FilterError, ValueError)):
            registry.nihao(path, home.parent / "galaxies.h5")
    assert not [p for p in tmp_path.rglob("evil*")]
    assert not Path("/tmp/evil.npy").exists()


FIRST = 587722981741363294  # larger than a float64 holds exactly


def jpeg(shade: int) -> bytes:
    """A dark picture of 424 x 424 with a coloured square of 212 pixels in its centre."""
    picture = np.zeros((424, 424, 3), dtype=np.uint8)
    picture[106:318, 106:318] = (shade, shade // 2, 2 * shade)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def written(rows: list[list]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """Galaxy k has class k mod 6; 3 a tie, 4 no row, 5 an image that is not there."""
    folder = tmp_path_factory.mktemp("zoo")
    images = {f"images/{100 + k}.jpg": jpeg(40 + 7 * k) for k in range(12)}
    images |= {f"__MACOSX/images/._{100 + k}.jpg": b"no image" for k in range(12)}
    (folder / registry.IMAGES).write_bytes(zipped(images))
    votes = [["OBJID", "RA", "P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG", "P_CS"]]
    for k in range(13):
        shares = [0.5 if i in (k % 6, 2 if k == 3 else k % 6) else 0.1 for i in range(6)]
        votes.append([FIRST + k, "00:00:01.23", *shares, 0.9])
    (folder / registry.VOTES).write_bytes(gzip.compress(written(votes)))
    assets = [[FIRST + k, "original", 9999 if k in (5, 12) else 100 + k] for k in range(13)]
    mapping = written([["objid", "sample", "asset_id"], *assets[:4], *assets[5:]])
    (folder / registry.MAPPING).write_bytes(mapping)
    return folder


def test_galaxy_zoo_joins_images_and_votes(zoo, tmp_path):
    product = tmp_path / "zoo.npz"
    assert registry.galaxy_zoo(zoo, product, count=9) == (9, 64, 64, 3)
    with np.load(product, allow_pickle=False) as arrays:
        x, y, objid = (arrays[name] for name in ("x", "y", "objid"))
    kept = [k for k in range(12) if k not in (3, 4, 5)]
    assert (objid - FIRST).tolist() == kept
    assert y.tolist() == [k % 6 for k in kept]
    assert (x.dtype, y.dtype, objid.dtype) == (np.uint8, np.uint8, np.int64)
    for image, k in zip(x, kept, strict=True):
        shade = 40 + 7 * k
        assert np.abs(image[16:48, 16:48].astype(int) - (shade, shade // 2, 2 * shade)).max() <= 4
    # Fewer: a random choice that is the same every time.
    chosen = []
    for _ in range(2):
        registry.galaxy_zoo(zoo, product, count=4)
        with np.load(product) as arrays:
            chosen.append((arrays["objid"] - FIRST).tolist())
    assert chosen[0] == chosen[1] == sorted(set(chosen[0]))
    assert set(chosen[0]) < set(kept)


def test_the_collection_of_galaxy_zoo_is_sorted_by_object_number(tmp_path):
    raw, product = tmp_path / "5226e5e", tmp_path / "zoo.npz"
    table = written([["OBJID", "CLASS"], [FIRST + 2, 3], [FIRST, 5], [FIRST + 1, 0]])
    images = {f"P/smallGZ1/Imagenes/{FIRST + k}.jpeg": jpeg(60 + 30 * k) for k in range(3)}
    raw.write_bytes(zipped({"P/smallGZ1/smallCSV_class.csv": table, "P/a.jpg": b"", **images}))
    assert registry.galaxy_zoo_collection(raw, product) == (3, 64, 64, 3)
    with np.load(product) as arrays:
        assert arrays["y"].tolist() == [5, 0, 3]
        assert (arrays["objid"] - FIRST).tolist() == [0, 1, 2]
        assert np.abs(arrays["x"][:, 32, 32, 0].astype(int) - [60, 90, 120]).max() <= 4


def test_the_central_square_is_averaged_by_area():
    # A gradient, so that a shift or another filter would show; PNG, so that nothing is lost.
    ramp = np.arange(424, dtype=np.uint8)[:, None] // 2 + np.zeros((1, 424), dtype=np.uint8)
    picture = np.stack([ramp, ramp.T, np.full_like(ramp, 9)], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    prepared = registry.central_square(buffer.getvalue(), size=53)
    expected = picture[106:318, 106:318].reshape(53, 4, 53, 4, 3).mean(axis=(1, 3))
    assert np.abs(prepared - expected).max() <= 0.5
    # Of a smaller image the central half; grey becomes three equal channels.
    buffer = io.BytesIO()
    Image.fromarray(np.pad(np.full((60, 60), 200, np.uint8), 30)).save(buffer, "PNG")
    assert (registry.central_square(buffer.getvalue(), size=4) == 200).all()


# --- fetching ---------------------------------------------------------------------------------

COVER_TYPES = np.random.default_rng(0).integers(-200, 7000, (21, 55))
COVER_TYPES[:, -1] = np.arange(21) % 7 + 1
COVERTYPE = gzip.compress(written(COVER_TYPES.tolist()), mtime=0)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The registered cover types, from a folder that a server on the loopback address serves."""
    served, asked = tmp_path / "served", []
    served.mkdir()
    (served / "5976039").write_bytes(COVERTYPE)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/5976039"
    checksum = "sha256:" + hashlib.sha256(COVERTYPE).hexdigest()
    entry = data.DATASETS["covertype"]
    entry = replace(entry, files={address: checksum}, expected=(21, 54, 7))
    monkeypatch.setitem(data.DATASETS, "covertype", entry)
    monkeypatch.setenv("GALFLOW_DOWNLOADS", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield served, asked
    server.shutdown()
    server.server_close()


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_fetch_downloads_converts_and_loads(server, tmp_path):
    path = data.fetch("covertype", progress=False)
    assert data.cache_folder() == tmp_path / "cache"
    assert files_below(tmp_path / "cache/covertype") == {"covertype.npz", "raw/5976039"}
    with np.load(path, allow_pickle=False) as table:
        np.testing.assert_array_equal(table["x"], COVER_TYPES[:, :-1])
        np.testing.assert_array_equal(table["y"], COVER_TYPES[:, -1])
    # Once it is there, nothing is asked for; nor for a raw file that is there and right.
    assert server[1] == ["/5976039"]
    assert data.fetch("covertype", progress=False) == path
    path.unlink()
    data.fetch("covertype", progress=False)
    assert server[1] == ["/5976039"]


def test_a_wrong_checksum_leaves_nothing_and_is_mended_by_another_try(server, tmp_path):
    (server[0] / "5976039").write_bytes(COVERTYPE[:-1])
    with pytest.raises(ConnectionError, match="covertype cannot be downloaded .*hash"):
        data.fetch("covertype", progress=False)
    assert files_below(tmp_path / "cache") == set()
    (server[0] / "5976039").write_bytes(COVERTYPE)
    assert data.fetch("covertype", progress=False).is_file()


@pytest.mark.parametrize("content", [COVERTYPE[:200], b"<html>moved</html>", gzip.compress(b"1,x")])
def test_a_file_that_is_another_one_leaves_no_product(server, tmp_path, content):
    raw = tmp_path / "raw.gz"
    raw.write_bytes(content)
    with pytest.raises(ValueError, match="raw.gz cannot be converted .* published files of cover"):
        data.fetch("covertype", source=raw)
    raw.write_bytes(gzip.compress(written(COVER_TYPES[:20].tolist())))
    with pytest.raises(ValueError, match=r"holds \(20, 54, 7\), expected \(21, 54, 7\)"):
        data.fetch("covertype", source=raw)
    assert files_below(tmp_path / "cache") == set()


def test_a_record_gives_its_files_and_their_checksums(server, tmp_path, monkeypatch):
    address = next(iter(data.DATASETS["covertype"].files))

    def listed(boy):
        boy.registry = {
            "5976039": "md5:" + hashlib.md5(COVERTYPE).hexdigest(),
            "model.pth": "md5:0",
        }
        boy.urls = dict.fromkeys(boy.registry, address)

    monkeypatch.setattr(registry.pooch.Pooch, "load_registry_from_doi", listed)
    entry = replace(data.DATASETS["covertype"], files={}, doi="doi:10.1/x", suffixes=("39",))
    monkeypatch.setitem(data.DATASETS, "covertype", entry)
    data.fetch("covertype", progress=False)
    assert files_below(tmp_path / "cache/covertype/raw") == {"5976039"}


def test_the_commands_list_and_fetch(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "raw.zip"
    raw.write_bytes(zipped({POWER_FILE: power_text(power_rows())}))
    small = replace(data.DATASETS["power"], expected=(49, 5, 6, 6))
    monkeypatch.setitem(data.DATASETS, "power", small)
    words = ["data", "fetch", "power", "--folder", str(tmp_path), "--source", str(raw)]
    for command in (words, ["data", "list"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"power is at {tmp_path / 'power' / 'power.h5'}\n" in shown
    with h5py.File(tmp_path / "power" / "power.h5") as file:
        digest = hashlib.sha256(raw.read_bytes()).hexdigest()
        assert file.attrs["source"] == f"raw.zip, SHA-256 {digest}"
    for name, entry in data.DATASETS.items():
        assert f"{name}: {entry.description}" in shown
        assert f"galflow-lite data fetch {name}\n" in shown
        assert entry.doi or entry.files
