"""The published layout: reading a folder of arrays and converting it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from galflow_lite.galaxies import Catalogue, clean, convert, read_numpy_folder

ROWS = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "mass", "age")


def published_array(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.array([4, 4, 1, 100, 100, 50, 0.005, 0.3, 0.1, 0, 2])[:, None]
    shift = np.array([0, 0, 0, 0, 0, 0, 0.02, -0.4, 0.2, 1e5, 6])[:, None]
    return rng.normal(size=(11, n)) * scale + shift


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "all_sims"
    folder.mkdir()
    # Written in an order that is not the sorted one.
    for name, n in (
        ("nihao_uhd_g8.26e11_9.1e11.npy", 900),
        ("nihao_classic_g1.05e11_1.096e+11.npy", 700),
        ("nihao_classic_g4.99e09_5.2e09.npy", 400),
    ):
        np.save(folder / name, published_array(n, n))
    return folder


def test_galaxies_come_sorted_with_names_masses_and_attributes(folder):
    galaxies = read_numpy_folder(folder)
    assert len(galaxies) == 3
    assert galaxies.ids == ("g1.05e11", "g4.99e09", "g8.26e11")
    assert [g.attributes["M_dm"] for g in galaxies] == [1.096e11, 5.2e9, 9.1e11]
    assert [len(g) for g in galaxies] == [700, 400, 900]
    raw = published_array(700, 700)
    for name in ROWS:
        found = galaxies[0].masses if name == "mass" else galaxies[0][name]
        np.testing.assert_array_equal(found, raw[ROWS.index(name)])
    assert [g.id for g in galaxies[1:]] == ["g4.99e09", "g8.26e11"]


def test_nothing_is_read_before_it_is_asked_for(folder, monkeypatch):
    opened = []
    original = np.load

    def watched(file, **options):
        assert options["mmap_mode"] == "r"
        assert options["allow_pickle"] is False
        opened.append(file.name)
        return original(file, **options)

    monkeypatch.setattr(np, "load", watched)
    galaxies = read_numpy_folder(folder)
    assert opened == []
    assert len(galaxies[1]) == 400
    assert opened == ["nihao_classic_g4.99e09_5.2e09.npy"]


def test_files_of_the_same_id_take_their_whole_names(folder):
    np.save(folder / "nihao_uhd_g1.05e11_1.1e11.npy", published_array(5, 0))
    assert read_numpy_folder(folder).ids == (
        "nihao_classic_g1.05e11_1.096e+11",
        "g4.99e09",
        "nihao_uhd_g1.05e11_1.1e11",
        "g8.26e11",
    )


def test_hidden_files_and_other_files_are_passed_over(folder):
    (folder / "._nihao_uhd_g8.26e11_9.1e11.npy").write_bytes(b"finder")
    (folder / "README.txt").write_text("hello")
    assert len(read_numpy_folder(folder)) == 3


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere, expected one with"):
        read_numpy_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no .npy file, expected one a galaxy"):
        read_numpy_folder(tmp_path)


@pytest.mark.parametrize("name", ["galaxy.npy", "a_g1.05e11_heavy.npy", "1e11.npy", "_1e11.npy"])
def test_bad_names(folder, name):
    np.save(folder / name, published_array(5, 0))
    message = re.escape(f"the file name {name} does not end in _<id>_<M_dm>.npy, expected")
    with pytest.raises(ValueError, match=message):
        read_numpy_folder(folder)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 11)), r"shape \(20, 11\) and type float64, expected .*: transpose it"),
        (np.zeros((10, 20)), r"shape \(10, 20\).* expected numbers of shape \(11, N\)"),
        (np.zeros(11), r"shape \(11,\)"),
        (np.full((11, 3), "a"), r"type <U1, expected numbers of shape \(11, N\)"),
        (np.full((11, 3), None), r"cannot be read \(.*pickled objects are never loaded"),
    ],
)
def test_bad_arrays(folder, array, message):
    np.save(folder / "a_g0_1e9.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read_numpy_folder(folder)[0]


def test_truncated_and_foreign_files(folder):
    file = folder / "nihao_uhd_g8.26e11_9.1e11.npy"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read .*expected a complete .npy file of num"):
        read_numpy_folder(folder)[2]
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        read_numpy_folder(folder)[2]


def test_conversion_cuts_reports_and_keeps_attributes(folder, tmp_path):
    target = tmp_path / "galaxies.h5"
    report = convert(folder, target, progress=False)
    assert (report.raw_galaxies, report.raw_stars) == (3, 2000)
    assert report.galaxies == 2
    assert list(report.dropped) == ["g4.99e09"]
    assert "keeps 37" in report.dropped["g4.99e09"]
    with Catalogue.open(target) as catalogue:
        assert catalogue.ids == ("g1.05e11", "g8.26e11")
        assert catalogue.n_stars.sum() == report.stars
        expected = clean(read_numpy_folder(folder)[2])
        read = catalogue["g8.26e11"]
        assert read.conditions == expected.conditions
        assert read.attributes == {"M_dm": 9.1e11}
        np.testing.assert_allclose(read.stars, expected.stars, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(read.masses, expected.masses)
        assert catalogue.provenance["source"] == "all_sims"
    lines = str(report).splitlines()
    assert lines[0] == "read 3 galaxies with 2,000 stars"
    assert lines[1] == f"wrote 2 galaxies with {report.stars:,} stars to {target}"
    assert lines[2].startswith("dropped galaxy 'g4.99e09' keeps 37")


def test_conversion_without_cuts_keeps_every_star(folder, tmp_path):
    report = convert(folder, tmp_path / "raw.h5", clean=False, progress=False)
    assert (report.galaxies, report.stars, report.dropped) == (3, 2000, {})
    with Catalogue.open(tmp_path / "raw.h5") as catalogue:
        read = catalogue["g4.99e09"]
        np.testing.assert_array_equal(read["x"], published_array(400, 400)[0].astype(np.float32))


@pytest.mark.parametrize("cuts", [True, False])
def test_invalid_rows_stop_the_conversion_unless_they_may_go(folder, tmp_path, cuts):
    array = published_array(700, 700)
    array[4, 5] = np.nan
    np.save(folder / "nihao_classic_g1.05e11_1.096e+11.npy", array)
    target = tmp_path / "galaxies.h5"
    target.write_text("old")
    with pytest.raises(ValueError, match=r"'g1.05e11' has 1 of 700 rows with NaN .*\(vy in 1\)"):
        convert(folder, target, clean=cuts, progress=False)
    assert target.read_text() == "old"
    report = convert(folder, target, clean=cuts, drop_invalid=True, progress=False)
    assert report.raw_stars == 2000
    assert report.galaxies == (2 if cuts else 3)


def test_conversion_that_drops_everything_says_so(tmp_path):
    np.save(tmp_path / "a_g0_1e9.npy", published_array(100, 0))
    with pytest.raises(ValueError, match="no galaxy was given for .*, expected at least one"):
        convert(tmp_path, tmp_path / "galaxies.h5", progress=False)


def test_progress_bar_goes_to_stderr_only_when_wanted(folder, tmp_path, capsys):
    convert(folder, tmp_path / "galaxies.h5", progress=False)
    assert capsys.readouterr() == ("", "")
    convert(folder, tmp_path / "galaxies.h5", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
