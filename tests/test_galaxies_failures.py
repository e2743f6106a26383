"""What goes wrong with a catalogue: bad galaxies, failing disks, damaged files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from io import FileIO

import h5py
import numpy as np
import pytest
from small_galaxies import some_galaxies

from galflow_lite.galaxies import (
    COLUMNS,
    CONDITIONS,
    Catalogue,
    CatalogueError,
    Galaxy,
    writing,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "galaxies.h5"


def leftovers(path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file != path)


# --- bad galaxies -----------------------------------------------------------------------------


def changed(position: int, **changes) -> list[Galaxy]:
    galaxies = some_galaxies(3)
    for name, value in changes.items():
        setattr(galaxies[position], name, value)
    return galaxies


def with_value(value: float) -> list[Galaxy]:
    galaxies = [Galaxy(g.stars.astype(np.float64), g.conditions, g.id) for g in some_galaxies(3)]
    galaxies[1].stars[3, 7] = value
    return galaxies


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: changed(2, id="g0"), "'g0' belongs to galaxies number 0 and 2, expected every"),
        (lambda: changed(1, id=""), "number 1 has the id '', expected a name"),
        (lambda: changed(1, id="a/b"), "has the id 'a/b', expected a name"),
        (
            lambda: [*some_galaxies(1), some_galaxies(2)[1].select(COLUMNS[:8])],
            "'g1' has the columns x, .*missing ofe, age, extra none, expected those of the first",
        ),
        (
            lambda: [some_galaxies(1)[0].select(COLUMNS[:9]), some_galaxies(2)[1]],
            "missing none, extra age",
        ),
        (
            lambda: changed(1, conditions={"tau50": 1.0, "spin": 0.1}),
            "has the conditions tau50, spin: missing M_stars, tau10, Z_av, extra spin",
        ),
        (
            lambda: changed(1, conditions=dict.fromkeys(CONDITIONS, np.nan)),
            r"NaN or infinite values for the condition\(s\) M_stars, tau50, tau10, Z_av",
        ),
        (lambda: changed(1, stars=np.zeros((0, 10)), masses=None), "'g1' has no stars, expected"),
        (lambda: with_value(np.nan), r"'g1' has 1 of 50 rows with NaN or infinite.*\(feh in 1\)"),
        (lambda: with_value(1e39), "'g1' has stars beyond 3.4e38"),
        (lambda: changed(1, attributes={"a": object()}), "among attributes or provenance"),
        (lambda: [], "no galaxy was given for .*galaxies.h5, expected at least one"),
    ],
)
def test_bad_galaxies_leave_the_old_file_and_nothing_else(path, make, message):
    Catalogue.write(path, some_galaxies(2))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Catalogue.write(path, make())
    assert path.read_bytes() == before
    assert leftovers(path) == []


def test_invalid_rows_are_dropped_when_asked(path):
    Catalogue.write(path, with_value(np.nan), drop_invalid=True)
    with Catalogue.open(path) as catalogue:
        assert catalogue.n_stars.tolist() == [40, 49, 60]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"significant_bits": 0}, "significant_bits=0, expected 1 to 23"),
        ({"significant_bits": 24}, "significant_bits=24, expected 1 to 23"),
        ({"chunk_stars": 0}, "chunk_stars=0"),
        ({"compression": 10}, "compression=10"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(path, options, message):
    with pytest.raises(ValueError, match=message):
        Catalogue.write(path, some_galaxies(), **options)
    assert not path.exists()
    assert leftovers(path) == []


def test_error_of_the_source_is_passed_on_and_nothing_is_left(path):
    Catalogue.write(path, some_galaxies(2))
    before = path.read_bytes()

    def broken():
        yield from some_galaxies(2)
        raise FileNotFoundError("the third galaxy is gone")

    with pytest.raises(FileNotFoundError, match="the third galaxy is gone"):
        Catalogue.write(path, broken())

    def stopped():
        yield from some_galaxies(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Catalogue.write(path, stopped())
    assert path.read_bytes() == before
    assert leftovers(path) == []


# --- failing disks ----------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1000, 30_000, 70_000])
def test_full_disk_leaves_the_old_file_and_says_so(path, monkeypatch, room):
    Catalogue.write(path, some_galaxies(2, 500))
    before = path.read_bytes()

    class FullDisk(FileIO):
        def write(self, data):
            left = room - os.fstat(self.fileno()).st_size
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:left])

    monkeypatch.setattr(writing, "FileIO", FullDisk)
    with pytest.raises(OSError, match=r"cannot write .*galaxies.h5 \(no space is left") as caught:
        Catalogue.write(path, some_galaxies(3, 800))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert leftovers(path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_write_that_the_system_refuses_midway(path):
    # A real failure within the HDF5 library, by a limit on the size of files.
    Catalogue.write(path, some_galaxies(2))
    before = path.read_bytes()
    code = """
import resource, sys
import numpy as np
from galflow_lite.galaxies import Catalogue, Galaxy
rng = np.random.default_rng(0)
galaxies = [Galaxy(rng.normal(size=(20000, 10)), id=str(i)) for i in range(3)]
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
try:
    Catalogue.write(sys.argv[1], galaxies)
except OSError as error:
    print("refused:", error)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith(f"refused: cannot write {path} (")
    assert out.stderr == ""
    assert path.read_bytes() == before
    assert leftovers(path) == []


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*galaxies.h5 \("):
        Catalogue.write(tmp_path / "file" / "galaxies.h5", some_galaxies())


def test_missing_folders_are_made(tmp_path):
    Catalogue.write(tmp_path / "a" / "b" / "c.h5", some_galaxies())
    assert (tmp_path / "a" / "b" / "c.h5").is_file()


# --- bad files --------------------------------------------------------------------------------


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match="there is no file .*galaxies.h5, expected a cat"):
        Catalogue.open(path)


@pytest.mark.parametrize("content", [b"", b"not at all HDF5" * 100])
def test_file_that_is_not_hdf5(path, content):
    path.write_bytes(content)
    with pytest.raises(CatalogueError, match="is not an HDF5 file, expected a catalogue in HDF5"):
        Catalogue.open(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_file(path, share):
    Catalogue.write(path, some_galaxies(7, 500))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CatalogueError, match="is cut short or damaged, expected a catalogue"):
        Catalogue.open(path)


def test_flipped_bits_are_noticed(path):
    Catalogue.write(path, some_galaxies(2, 5000))
    with h5py.File(path) as file:
        where = file["galaxies/g1/stars"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 0xFF
    path.write_bytes(content)
    with Catalogue.open(path) as catalogue:
        assert len(catalogue["g0"]) == 5000
        with pytest.raises(CatalogueError, match=r"damaged \(stars of galaxy 'g1' cannot be read"):
            catalogue["g1"]


def edit(path, change) -> None:
    Catalogue.write(path, some_galaxies(3))
    with h5py.File(path, "r+") as file:
        change(file)


def test_newer_format_version(path):
    edit(path, lambda file: file.attrs.modify("format_version", 2))
    with pytest.raises(CatalogueError, match="format version 2, expected at most 1: update galf"):
        Catalogue.open(path)


def test_hdf5_file_of_another_kind(path):
    with h5py.File(path, "w") as file:
        file["stars"] = np.zeros(3)
    with pytest.raises(CatalogueError, match="is an HDF5 file but no catalogue of galaxies"):
        Catalogue.open(path)


def test_missing_index(path):
    edit(path, lambda file: file.__delitem__("index/conditions"))
    with pytest.raises(CatalogueError, match=r"damaged \(its index cannot be read\)"):
        Catalogue.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("galaxies/g1"), "stars of galaxy 'g1' cannot be read"),
        (
            lambda file: (
                file.__delitem__("galaxies/g1/stars"),
                file.create_dataset("galaxies/g1/stars", data=np.zeros((50, 9), np.float32)),
            ),
            r"stars of galaxy 'g1' have the shape \(50, 9\)",
        ),
    ],
)
def test_galaxy_that_the_index_promises_but_the_file_lacks(path, change, message):
    edit(path, change)
    with Catalogue.open(path) as catalogue:
        with pytest.raises(CatalogueError, match=message):
            catalogue.read_stars(1, 0, 50)
        assert len(catalogue["g2"]) == 60
