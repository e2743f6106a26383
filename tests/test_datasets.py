"""Fetching published data, from a server on the loopback address."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import requests
from record_server import RECORD, serving

from galflow_lite import datasets
from galflow_lite.datasets import Counts, Dataset, FetchError
from galflow_lite.galaxies import Catalogue

# --- a record of galaxies ---------------------------------------------------------------------


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
# Step 1 keeps 950 and 1900 stars; of the 10 of highest Z some are beyond that radius already.
RAW = {"raw_galaxies": 3, "raw_stars": 3300, "galaxies": 2}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entry(stars: int, **counts: int) -> Dataset:
    """The registered set with the counts of our small record."""
    nihao = datasets.DATASETS["nihao"]
    expected = Counts(**{**RAW, "stars": stars, **counts})
    return replace(nihao, prepare=partial(nihao.prepare.func, expected=expected))


@pytest.fixture
def record(monkeypatch):
    with serving(monkeypatch) as record:
        yield record


@pytest.fixture
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def kept_stars() -> int:
    """Stars that the cuts leave of our record, counted here step by step."""
    total = 0
    for content in GALAXIES.values():
        array = np.load(io.BytesIO(content))
        radius = np.sqrt((array[:3] ** 2).sum(axis=0))
        keep = radius <= np.percentile(radius, 95)
        keep[np.argsort(array[6])[-10:]] = False
        total += keep.sum() if keep.sum() >= 500 else 0
    return int(total)


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


PACKED = {
    "zip": {"all_sims.zip": zipped(GALAXIES), "model.pth": b"weights"},
    "tar.gz": {"data.tar.gz": tarred(GALAXIES)},
    "plain files": {name.split("/")[1]: content for name, content in GALAXIES.items()},
}


# --- the whole path ---------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKED)
def test_fetch_downloads_converts_and_checks(record, tmp_path, packing, capsys):
    record.files = PACKED[packing]
    path = datasets.fetch(entry(kept_stars()), tmp_path, progress=False)
    assert path == tmp_path / "nihao" / "galaxies.h5"
    with Catalogue.open(path) as catalogue:
        assert catalogue.ids == ("g1.05e11", "g8.26e11")
        assert catalogue.n_stars.sum() == kept_stars()
        assert catalogue[1].attributes == {"M_dm": 9.1e11}
    # Weights are not loaded; nothing but the product and the raw files is left.
    raw = [f"nihao/raw/{name}" for name in record.files if name != "model.pth"]
    assert files_below(tmp_path) == sorted(["nihao/galaxies.h5", *raw])
    assert capsys.readouterr() == ("", "")
    # The DOI and the record are asked once, not for each file.
    assert record.asked.count(f"/zenodo.org/api/records/{RECORD}") == 1


def test_second_fetch_asks_for_nothing(record, tmp_path):
    record.files = PACKED["zip"]
    small = entry(kept_stars())
    path = datasets.fetch(small, tmp_path, progress=False)
    record.asked.clear()
    assert datasets.fetch(small, tmp_path, progress=False) == path
    assert record.asked == []


def test_raw_files_that_are_there_are_not_loaded_again(record, tmp_path):
    record.files = PACKED["zip"]
    small = entry(kept_stars())
    datasets.fetch(small, tmp_path, progress=False).unlink()
    assert datasets.fetch(small, tmp_path, progress=False).is_file()
    assert record.transfers() == ["all_sims.zip"]


def test_progress_is_shown_on_stderr(record, tmp_path, capsys):
    record.files = PACKED["zip"]
    datasets.fetch(entry(kept_stars()), tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


# --- transfers that fail ----------------------------------------------------------------------


def test_broken_transfer_leaves_nothing_and_the_next_try_goes_on(record, tmp_path, no_waiting):
    record.files = PACKED["plain files"]
    second = sorted(record.files)[1]
    record.cut[second] = 3
    small = entry(kept_stars())
    message = f"the transfer of {second} from https://zenodo.org/.* broke off .*nothing of it was"
    with pytest.raises(FetchError, match=message):
        datasets.fetch(small, tmp_path, progress=False)
    assert record.transfers() == [sorted(record.files)[0], second, second, second]
    assert no_waiting == [1.0, 2.0]
    # The complete file stays; of the broken one and of the product nothing is there.
    assert files_below(tmp_path) == [f"nihao/raw/{sorted(record.files)[0]}"]
    record.asked.clear()
    assert datasets.fetch(small, tmp_path, progress=False).is_file()
    assert record.transfers() == sorted(record.files)[1:]


def test_transfer_that_breaks_once_is_tried_again_at_once(record, tmp_path, no_waiting):
    record.files = PACKED["zip"]
    record.cut["all_sims.zip"] = 1
    assert datasets.fetch(entry(kept_stars()), tmp_path, progress=False).is_file()
    assert record.transfers() == ["all_sims.zip"] * 2
    assert no_waiting == [1.0]


def test_wrong_checksum_is_not_tried_again_and_leaves_nothing(record, tmp_path, no_waiting):
    record.files = PACKED["zip"]
    record.checksums["all_sims.zip"] = "0" * 32
    small = entry(kept_stars())
    with pytest.raises(FetchError, match=r"all_sims.zip .* has a wrong checksum, expected md5:00"):
        datasets.fetch(small, tmp_path, progress=False)
    assert record.transfers() == ["all_sims.zip"]
    assert no_waiting == []
    assert files_below(tmp_path) == []
    record.checksums.clear()
    assert datasets.fetch(small, tmp_path, progress=False).is_file()


def test_damaged_raw_file_is_replaced(record, tmp_path):
    record.files = PACKED["zip"]
    small = entry(kept_stars())
    datasets.fetch(small, tmp_path, progress=False).unlink()
    (tmp_path / "nihao" / "raw" / "all_sims.zip").write_bytes(b"damaged")
    assert datasets.fetch(small, tmp_path, progress=False).is_file()


@pytest.mark.parametrize(
    "path",
    [
        f"/doi.org/10.5281/zenodo.{RECORD}",
        f"/zenodo.org/records/{RECORD}",
        f"/zenodo.org/api/records/{RECORD}",
    ],
)
def test_record_that_cannot_be_read(record, tmp_path, path):
    record.status[path] = 503
    message = r"the record of nihao \(doi:10.5281/zenodo.8389554\) cannot be read \(.*check the co"
    with pytest.raises(FetchError, match=message):
        datasets.fetch(entry(0), tmp_path, progress=False)
    assert files_below(tmp_path) == []


def test_no_connection_at_all(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", refused)
    with pytest.raises(FetchError, match=r"cannot be read \(ConnectionError: no route to host\)"):
        datasets.fetch("nihao", tmp_path, progress=False)


# --- contents that are not what was expected --------------------------------------------------


@pytest.mark.parametrize("wrong", [{"raw_galaxies": 4}, {"raw_stars": 3301}, {"galaxies": 3}])
def test_other_counts_keep_the_file_aside(record, tmp_path, wrong):
    record.files = PACKED["zip"]
    stars = kept_stars()
    with pytest.raises(FetchError) as caught:
        datasets.fetch(entry(stars, **wrong), tmp_path, progress=False)
    aside = tmp_path / "nihao" / "galaxies_unverified.h5"
    expected = Counts(**{**RAW, "stars": stars, **wrong})
    message = str(caught.value)
    assert f"found 3 galaxies with 3,300 stars, 2 with {stars:,} after the cuts" in message
    assert f"expected {expected}" in message
    assert str(aside) in message
    with Catalogue.open(aside) as catalogue:
        assert catalogue.n_stars.sum() == stars
    assert not (tmp_path / "nihao" / "galaxies.h5").exists()
    # With the right counts the same files pass, and the file aside goes.
    path = datasets.fetch(entry(stars), tmp_path, progress=False)
    assert path.is_file()
    assert not aside.exists()


def test_the_registered_counts_are_those_of_the_paper(record, tmp_path):
    record.files = PACKED["zip"]
    message = "expected 95 galaxies with 34,878,379 stars, 90 with 32,806,364 after the cuts"
    with pytest.raises(FetchError, match=message):
        datasets.fetch("nihao", tmp_path, progress=False)


def test_record_without_data_files(record, tmp_path):
    record.files = {"model.pth": b"weights", "README.md": b"hello"}
    with pytest.raises(FetchError, match="holds model.pth, README.md, expected files ending in"):
        datasets.fetch("nihao", tmp_path, progress=False)
    assert record.transfers() == []


def test_archive_without_arrays(record, tmp_path):
    record.files = {"data.zip": zipped({"README": b"hello"})}
    with pytest.raises(FetchError, match=r"hold no .npy file, expected one a galaxy"):
        datasets.fetch("nihao", tmp_path, progress=False)


def test_other_arrays_and_mac_files_beside_the_galaxies_do_no_harm(record, tmp_path):
    extra = {"losses.npy": npy(np.zeros(5)), "__MACOSX/all_sims/._nihao_g8.26e11_9.1e11.npy": b"x"}
    record.files = {"all.zip": zipped(GALAXIES | extra)}
    assert datasets.fetch(entry(kept_stars()), tmp_path, progress=False).is_file()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil.npy", "/tmp/evil.npy", "a/../../evil.npy", "C:\\e.npy"])
def test_archive_that_reaches_outside_is_refused(record, tmp_path, pack, name):
    suffix = "zip" if pack is zipped else "tar.gz"
    record.files = {f"all_sims.{suffix}": pack({**GALAXIES, name: b"evil"})}
    home = tmp_path / "home"
    message = f"holds the path .*{re.escape(name[-5:])}', which leads out of the folder"
    with pytest.raises(FetchError, match=message):
        datasets.fetch(entry(0), home, progress=False)
    assert files_below(tmp_path) == [f"home/nihao/raw/all_sims.{suffix}"]
    assert not Path("/tmp/evil.npy").exists()


def test_links_in_an_archive_are_not_followed(record, tmp_path):
    buffer = io.BytesIO(tarred(GALAXIES, "w"))
    with tarfile.open(fileobj=buffer, mode="a") as packed:
        link = tarfile.TarInfo("all_sims/link_g1_1e9.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    record.files = {"all_sims.tar": buffer.getvalue()}
    path = datasets.fetch(entry(kept_stars()), tmp_path, progress=False)
    with Catalogue.open(path) as catalogue:
        assert len(catalogue) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped(GALAXIES)[:2000]),
        ("a.tar", b"no archive at all"),
        ("a.tar.gz", tarred(GALAXIES)[:2000]),
        ("a.zip", b"PK no archive"),
    ],
)
def test_damaged_archive(record, tmp_path, name, content):
    record.files = {name: content}
    message = f"the archive {name} cannot be unpacked .*, expected a complete one"
    with pytest.raises(FetchError, match=message):
        datasets.fetch(entry(0), tmp_path, progress=False)
    assert files_below(tmp_path) == [f"nihao/raw/{name}"]


# --- the registry and the folders -------------------------------------------------------------


def test_a_set_of_plain_files_with_known_checksums(record, tmp_path):
    record.files = {"power.csv": b"1,2,3"}
    files = {"power.csv": "sha256:" + hashlib.sha256(b"1,2,3").hexdigest()}
    plain = Dataset("power", "a table", "CC BY 4.0", "5 B", "https://mirror.example/d", files)
    raw = datasets.fetch(plain, tmp_path, progress=False)
    assert raw == tmp_path / "power" / "raw"
    assert (raw / "power.csv").read_bytes() == b"1,2,3"
    (raw / "power.csv").unlink()
    datasets.fetch(plain, tmp_path, base_url="https://mirror.example/other/", progress=False)
    assert record.asked == ["/mirror.example/d/power.csv", "/mirror.example/other/power.csv"]
    wrong = replace(plain, name="wrong", files={"power.csv": "sha256:" + "0" * 64})
    with pytest.raises(FetchError, match="wrong checksum, expected sha256:"):
        datasets.fetch(wrong, tmp_path, progress=False)


def test_a_mirror_needs_checksums(tmp_path):
    with pytest.raises(FetchError, match="known only through a DOI, found the source 'https://m"):
        datasets.fetch("nihao", tmp_path, base_url="https://mirror.example/")


def test_unknown_set(tmp_path):
    with pytest.raises(FetchError, match="there is no set 'nihoa', expected one of nihao"):
        datasets.fetch("nihoa", tmp_path)


def test_every_registered_set_is_described():
    assert datasets.names() == tuple(datasets.DATASETS)
    assert "nihao" in datasets.names()
    for name, registered in datasets.DATASETS.items():
        assert registered.name == name
        assert registered.description
        assert registered.licence
        assert registered.size
        assert registered.source.startswith(("doi:10.", "https://"))
        assert registered.files or registered.source.startswith("doi:")
        assert bool(registered.prepare) == bool(registered.product)


def test_cache_folder(monkeypatch, tmp_path, record):
    monkeypatch.delenv("GALFLOW_DOWNLOADS", raising=False)
    assert "galflow-lite" in datasets.cache_folder().parts
    monkeypatch.setenv("GALFLOW_DOWNLOADS", str(tmp_path / "downloads"))
    assert datasets.cache_folder() == tmp_path / "downloads"
    record.files = PACKED["zip"]
    path = datasets.fetch(entry(kept_stars()), progress=False)
    assert path == tmp_path / "downloads" / "nihao" / "galaxies.h5"
