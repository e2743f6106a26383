"""Where files that ship are found, and how a file is replaced."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from galflow_lite import datasets, files
from galflow_lite.reproduction import paper

ROOT = Path(__file__).parents[1]


def test_one_data_folder_for_all(monkeypatch, tmp_path):
    monkeypatch.delenv("GALFLOW_DATA", raising=False)
    assert datasets.data_folder() == files.share("data") == ROOT / "data"
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    assert datasets.data_folder() == files.share("data") == tmp_path
    assert files.share("notebooks") == ROOT / "notebooks"
    # What reads a file that ships looks there too.
    assert (ROOT / "data" / "paper_numbers.toml").is_file()
    with pytest.raises(FileNotFoundError, match="paper_numbers.toml"):
        paper.rows()


@pytest.mark.parametrize("find", [datasets.data_folder, lambda: files.share("data")])
def test_data_folder_that_is_none(monkeypatch, tmp_path, find):
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="GALFLOW_DATA names .*nowhere, which is no folder"):
        find()


def test_folder_that_does_not_ship():
    with pytest.raises(FileNotFoundError, match="the folder figures/ that ships .* install the"):
        files.share("figures")


@pytest.mark.parametrize("content", ["é\n", "é\n".encode()])
def test_write_aside_makes_folders_and_replaces(tmp_path, content):
    path = tmp_path / "a" / "b.txt"
    for _ in range(2):
        files.write_aside(path, content)
    assert path.read_bytes() == "é\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with files.written_aside(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_there_only_after_the_block(tmp_path):
    with files.written_aside(tmp_path / "file") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"cannot write .*file \(no space is left on the disk\).*: free some space"),
        (errno.EACCES, r"cannot write .*file \(Permission denied\).*: check the folder and its"),
    ],
)
def test_write_errors_are_one_sentence_and_keep_their_number(
    tmp_path, monkeypatch, number, message
):
    (tmp_path / "file").write_text("old")

    def refuse(self, content):
        raise OSError(number, "Permission denied" if number == errno.EACCES else "full")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match=message) as caught:
        files.write_aside(tmp_path / "file", "new")
    assert caught.value.errno == number
    assert (tmp_path / "file").read_text() == "old"


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected
