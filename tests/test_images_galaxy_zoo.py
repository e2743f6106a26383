"""Galaxy Zoo: from made-up JPEGs and votes on a loopback server to images with classes."""

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
import torch
from PIL import Image
from record_server import RECORD, serving

from galflow_lite import cli, datasets
from galflow_lite.datasets import Dataset, FetchError
from galflow_lite.datasets.galaxy_zoo import CLASSES, IMAGES, MAPPING, VOTES, prepare_image
from galflow_lite.images import galaxy_zoo

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


# --- loading ----------------------------------------------------------------------------------


def written(folder: Path, x: np.ndarray, y: np.ndarray) -> Path:
    path = folder / "galaxies.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 16, 16, 3), dtype=np.uint8)
    x[:, 0, 0] = np.arange(40)[:, None]
    return x, (np.arange(40) % 6).astype(np.uint8)


def test_loading_in_colour_grey_and_smaller(tmp_path, arrays):
    x, y = arrays
    path = written(tmp_path, x, y)
    parts = {split: galaxy_zoo(path, size=16, split=split) for split in ("train", "test")}
    assert [len(part) for part in parts.values()] == [34, 6]
    numbers = torch.cat([part.flux[:, 0, 0, 0] * 255 for part in parts.values()])
    order = numbers.round().long()
    # Shuffled, and together each galaxy once.
    assert sorted(order.tolist()) == list(range(40))
    assert order.tolist() != list(range(40))
    full = torch.from_numpy(x)[order].permute(0, 3, 1, 2).float() / 255
    clipped = full.clamp(max=0.6)
    found = torch.cat([part.flux for part in parts.values()])
    torch.testing.assert_close(found, clipped, rtol=1e-4, atol=1e-6)
    labels = torch.cat([part.labels for part in parts.values()])
    assert labels.tolist() == y[order].tolist()
    small = galaxy_zoo(path, size=4, channels=1)
    assert small.images.shape == (34, 1, 4, 4)
    means = full[:34].mean(1).reshape(34, 4, 4, 4, 4).mean((2, 4)).clamp(max=0.6)
    torch.testing.assert_close(small.flux[:, 0], means, rtol=1e-4, atol=1e-6)
    # Grey files have one channel.
    grey = galaxy_zoo(written(tmp_path, x[..., 0], y), size=16)
    assert grey.images.shape == (34, 1, 16, 16)


def test_the_split_is_seeded(tmp_path, arrays):
    path = written(tmp_path, *arrays)
    labels = [galaxy_zoo(path, size=16, seed=seed).labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    few = galaxy_zoo(path, size=16, n=5)
    assert torch.equal(few.labels, labels[0][:5])


def test_a_flip_exchanges_the_spirals(tmp_path, arrays):
    galaxies = galaxy_zoo(written(tmp_path, *arrays), size=16)
    views = galaxies.augmented(copies=30, seed=0)
    old = galaxies.labels.repeat(30)
    assert galaxies.class_names == CLASSES
    for k, mirrored in ((0, 0), (1, 2), (2, 1), (3, 3), (4, 4), (5, 5)):
        assert set(views.labels[old == k].tolist()) == {k, mirrored}


def test_loading_by_name(record, tmp_path, monkeypatch):
    monkeypatch.setenv("GALFLOW_DOWNLOADS", str(tmp_path))
    message = "Galaxy Zoo is not there, expected it at .*: run `galflow-lite data fetch galaxy_zoo`"
    with pytest.raises(FileNotFoundError, match=message):
        galaxy_zoo()
    datasets.fetch(small(), progress=False)
    train, test = galaxy_zoo(size=16), galaxy_zoo(size=16, split="test")
    assert (len(train), len(test)) == (23, 4)
    assert train.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 5}, "a size of 5 pixels is asked of images of 16 x 16, expected a divisor of 16"),
        ({"size": 32}, "a size of 32 pixels"),
        ({"size": 0}, "a size of 0 pixels"),
        ({"size": 16, "channels": 2}, "2 channels are asked of images with 3, expected 1 or 3"),
        ({"size": 16, "split": "all"}, "no part 'all'"),
        ({"size": 16, "test_fraction": 0.0}, "40 images are to be split with a test fraction of 0"),
        ({"size": 16, "n": 35}, "35 images are asked for, expected 1 to 34 in the train part"),
        ({"size": 16, "n": 0}, "0 images are asked for"),
    ],
)
def test_options_that_do_not_fit(tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        galaxy_zoo(written(tmp_path, *arrays), **options)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, 8, 8), dtype=np.float32), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 6), dtype=np.uint8), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 8, 4), dtype=np.uint8), np.zeros(4, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.zeros(3, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.full(4, 6, dtype=np.uint8)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.full(4, -1)),
        (np.zeros((4, 8, 8), dtype=np.uint8), np.zeros(4)),
        (np.zeros((0, 8, 8), dtype=np.uint8), np.zeros(0, dtype=np.uint8)),
    ],
)
def test_arrays_of_another_layout(tmp_path, x, y):
    with pytest.raises(ValueError, match=r"has x with .* expected uint8 .* classes from 0 to 5"):
        galaxy_zoo(written(tmp_path, x, y), size=8)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "galaxies.npz"
    with pytest.raises(FileNotFoundError, match="expected it at .*galaxies.npz: check the path"):
        galaxy_zoo(path)
    # An array of objects is a pickle, which is never loaded.
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([{}, []], dtype=object), y=np.zeros(2, dtype=np.uint8))
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    other = io.BytesIO()
    np.savez(other, a=np.zeros(3))
    contents = (b"no archive", pickled.getvalue(), single.getvalue(), other.getvalue(), b"PK\3\4x")
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read \(\w+\), expected an .npz file"):
            galaxy_zoo(path)


# --- real galaxies ----------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_galaxies(real_data):
    path = real_data / "galaxyzoo_sdss_64_grey.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    train, test = (galaxy_zoo(path, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5664, 1000)
    counts = train.labels.bincount(minlength=6) + test.labels.bincount(minlength=6)
    assert counts.tolist() == [4645, 414, 436, 998, 56, 115]
    # The shuffle leaves both parts alike: classes to 4 standard errors.
    share = counts / 6664
    error = (share * (1 - share) / 1000).sqrt()
    assert ((test.labels.bincount(minlength=6) / 1000 - share).abs() < 4 * error).all()
    assert (train.images.min(), train.images.max()) == (-1, 1)
    # Dark as they are, the stretch brings the median galaxy pixel well above black.
    assert train.flux.median() < 0.05
    assert -0.8 < train.images.median() < -0.3


@pytest.mark.realdata
def test_real_galaxies_in_colour_and_grey_agree(real_data):
    path = real_data / "galaxyzoo_sdss_32_rgb.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    colour = galaxy_zoo(path, size=32, split="test")
    assert colour.images.shape == (1000, 3, 32, 32)
    grey = galaxy_zoo(path, size=16, channels=1, split="test")
    torch.testing.assert_close(grey.labels, colour.labels)
    same = galaxy_zoo(real_data / "galaxyzoo_sdss_64_grey.npz", size=16, split="test")
    assert torch.equal(same.labels, grey.labels)
    # The same galaxies, rounded to whole counts at another size on the way.
    assert (same.flux - grey.flux).abs().mean() < 1 / 255
