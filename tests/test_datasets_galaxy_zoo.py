"""Fetching Galaxy Zoo: made-up JPEGs and votes from a loopback server become one file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_server import RECORD, serving

from galflow_lite import cli, datasets
from galflow_lite.datasets import Dataset, FetchError
from galflow_lite.datasets.galaxy_zoo import IMAGES, MAPPING, VOTES, prepare_image

HEADER = "OBJID,RA,DEC,NVOTE,P_EL,P_CW,P_ACW,P_EDGE,P_DK,P_MG,P_CS,SPIRAL,ELLIPTICAL,UNCERTAIN"
FIRST = 587722981741363294  # larger than a float64 holds exactly
N = 30


def jpeg(shade: int, size: tuple[int, int] = (424, 424)) -> bytes:
    """A dark picture with a coloured square of 212 pixels in its centre."""
    width, height = size
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    rows, columns = slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4))
    picture[rows, columns] = (shade, shade // 2, 2 * shade % 256)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def shade(k: int) -> int:
    return 40 + 7 * k


def archive(**extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for k in range(N):
            packed.writestr(f"images/{100 + k}.jpg", jpeg(shade(k)))
            packed.writestr(f"__MACOSX/images/._{100 + k}.jpg", b"no image")
        for name, content in extra.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def votes(header: str = HEADER) -> bytes:
    """Galaxy k has the class k mod 6; galaxy 7 a tie; galaxy 100 has no image."""
    lines = [header]
    for k in (*range(N), 100):
        shares = ["0.1"] * 6
        shares[k % 6] = "0.5"
        if k == 7:
            shares[2] = "0.5"
        fields = [str(FIRST + k), "00:00:01.23", "-10:22:25.7", "59", *shares, "0.2", "0", "0", "1"]
        lines.append(",".join(fields))
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def mapping() -> bytes:
    """Galaxy 9 has no row, galaxy 11 an image that is not in the archive."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["objid", "sample", "asset_id"])
    for k in (*range(N), 100):
        if k != 9:
            table.writerow([FIRST + k, "original", 9999 if k in (11, 100) else 100 + k])
    return text.getvalue().encode()


def small(**prepare: int) -> Dataset:
    """The registered set with the addresses of the server and few galaxies."""
    entry = datasets.DATASETS["galaxy_zoo"]
    checksum = "md5:" + hashlib.md5(votes()).hexdigest()
    keywords = entry.prepare.keywords | {"size": 16, "count": 27} | prepare
    return replace(
        entry,
        source=f"doi:10.5281/zenodo.{RECORD}",
        elsewhere={f"https://mirror.example/{VOTES}": checksum},
        prepare=partial(entry.prepare.func, **keywords),
    )


@pytest.fixture(scope="module")
def packed() -> bytes:
    return archive()


@pytest.fixture
def record(monkeypatch, packed):
    with serving(monkeypatch) as record:
        record.files = {IMAGES: packed, MAPPING: mapping(), VOTES: votes(), "gz2_hart16.csv": b"x"}
        yield record


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- fetching ---------------------------------------------------------------------------------


def test_fetch_joins_images_and_votes(record, tmp_path, capsys):
    path = datasets.fetch(small(), tmp_path, progress=False)
    assert path == tmp_path / "galaxy_zoo" / "galaxy_zoo.npz"
    raw = [f"galaxy_zoo/raw/{name}" for name in (VOTES, MAPPING, IMAGES)]
    assert files_below(tmp_path) == sorted(["galaxy_zoo/galaxy_zoo.npz", *raw])
    assert capsys.readouterr() == ("", "")
    with np.load(path, allow_pickle=False) as arrays:
        x, y, objid = (arrays[name] for name in ("x", "y", "objid"))
    # A tie, a galaxy without a row, and one without an image are left out.
    kept = [k for k in range(N) if k not in (7, 9, 11)]
    assert (objid - FIRST).tolist() == kept
    assert y.tolist() == [k % 6 for k in kept]
    assert x.shape == (27, 16, 16, 3)
    assert (x.dtype, y.dtype, objid.dtype) == (np.uint8, np.uint8, np.int64)
    for image, k in zip(x, kept, strict=True):
        expected = (shade(k), shade(k) // 2, 2 * shade(k) % 256)
        assert np.abs(image[4:12, 4:12].astype(int) - expected).max() <= 4
    # Once it is there, nothing is asked for.
    record.asked.clear()
    assert datasets.fetch(small(), tmp_path, progress=False) == path
    assert record.asked == []


def test_a_random_choice_that_is_the_same_every_time(record, tmp_path):
    chosen = []
    for folder in ("a", "b"):
        path = datasets.fetch(small(count=10), tmp_path / folder, progress=False)
        with np.load(path, allow_pickle=False) as arrays:
            chosen.append((arrays["objid"] - FIRST).tolist())
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert len(set(chosen[0])) == 10
    assert chosen[0] != [k for k in range(N) if k not in (7, 9, 11)][:10]


def test_where_the_files_come_from():
    entry = datasets.DATASETS["galaxy_zoo"]
    assert entry.source == "doi:10.5281/zenodo.3565489"
    assert list(entry.elsewhere) == [f"https://galaxy-zoo-1.s3.amazonaws.com/{VOTES}"]
    assert all(checksum.startswith("md5:") for checksum in entry.elsewhere.values())
    assert entry.prepare.keywords == {"size": 64, "count": 20_000}


def test_a_wrong_checksum_of_the_votes(record, tmp_path):
    record.files[VOTES] = votes() + b"x"
    with pytest.raises(FetchError, match=f"{VOTES} from https://mirror.example.* wrong checksum"):
        datasets.fetch(small(), tmp_path, progress=False)
    assert not any(VOTES in name for name in files_below(tmp_path))


def test_fewer_galaxies_than_published(record, tmp_path):
    with pytest.raises(FetchError, match="found 27 galaxies with an image and votes, expected 28"):
        datasets.fetch(small(count=28), tmp_path, progress=False)
    assert not (tmp_path / "galaxy_zoo" / "galaxy_zoo.npz").exists()


def test_votes_without_a_column(record, tmp_path):
    content = votes(HEADER.replace("P_MG", "P_X"))
    record.files[VOTES] = content
    address = f"https://mirror.example/{VOTES}"
    entry = replace(small(), elsewhere={address: "md5:" + hashlib.md5(content).hexdigest()})
    with pytest.raises(FetchError, match=r"it has no column P_MG\), expected a table with the col"):
        datasets.fetch(entry, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMAGES, b"PK no archive", f"{IMAGES} cannot be converted .*zip archive of JPEG images"),
        (MAPPING, b"objid,sample\n1,original\n", f"{MAPPING} cannot be read .*no column asset_id"),
        (
            MAPPING,
            b"objid,asset_id\n1.5,2\n",
            f"{MAPPING} cannot be read .*invalid literal .*'1.5'",
        ),
        (MAPPING, b"objid,asset_id\n1\n", f"{MAPPING} cannot be read .*IndexError"),
        (MAPPING, b"", f"{MAPPING} cannot be read .*no column objid, asset_id"),
        (MAPPING, b"\xff\xfe\x00", f"{MAPPING} cannot be read"),
    ],
)
def test_files_that_cannot_be_read(record, tmp_path, file, content, message):
    record.files[file] = content
    with pytest.raises(FetchError, match=message) as caught:
        datasets.fetch(small(), tmp_path, progress=False)
    assert "delete it and run the same command" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "galaxy_zoo" / "galaxy_zoo.npz").exists()


def test_an_image_that_is_none(record, tmp_path, packed):
    with zipfile.ZipFile(io.BytesIO(packed)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    members["images/103.jpg"] = members["images/103.jpg"][:500]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as broken:
        for name, content in members.items():
            broken.writestr(name, content)
    record.files[IMAGES] = buffer.getvalue()
    with pytest.raises(FetchError, match=r"cannot be converted .*a file is no complete image"):
        datasets.fetch(small(), tmp_path, progress=False)
    assert not any(name.endswith(".npz") for name in files_below(tmp_path))


def test_a_full_disk_leaves_nothing_behind(record, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space is left on the disk"):
        datasets.fetch(small(), tmp_path, progress=False)
    assert not any("npz" in name for name in files_below(tmp_path))


def test_the_command_lists_the_set(capsys):
    with pytest.raises(SystemExit):
        cli.main(["data", "list"])
    shown = capsys.readouterr().out
    assert "galaxy_zoo: 20,000 galaxies of SDSS" in shown
    assert "galflow-lite data fetch galaxy_zoo\n" in shown


# --- one image --------------------------------------------------------------------------------


def test_the_central_square_is_averaged_by_area():
    # A gradient, so that a shift or another filter would show; PNG, so that nothing is lost.
    ramp = np.arange(424, dtype=np.uint8)[:, None] // 2 + np.zeros((1, 424), dtype=np.uint8)
    picture = np.stack([ramp, ramp.T, np.full_like(ramp, 9)], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    prepared = prepare_image(buffer.getvalue(), size=53)
    expected = picture[106:318, 106:318].reshape(53, 4, 53, 4, 3).mean(axis=(1, 3))
    assert np.abs(prepared - expected).max() <= 0.5
    # 212 is no multiple of 64: pixels count by the area that they cover.
    mean = picture[106:318, 106:318].mean(axis=(0, 1))
    np.testing.assert_allclose(prepare_image(buffer.getvalue(), size=64).mean((0, 1)), mean, atol=1)


@pytest.mark.parametrize(("size", "side"), [((120, 120), 60), ((424, 300), 212), ((300, 424), 212)])
def test_images_of_another_size(size, side):
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    picture[top : top + side, left : left + side] = 200
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    assert (prepare_image(buffer.getvalue(), size=4) == 200).all()


def test_a_grey_jpeg_becomes_three_equal_channels():
    buffer = io.BytesIO()
    Image.new("L", (424, 424), 77).save(buffer, "JPEG")
    assert (prepare_image(buffer.getvalue(), size=8) == 77).all()
