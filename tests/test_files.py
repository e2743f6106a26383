"""Where files that ship are found, and how a file is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from galflow_lite import files

ROOT = Path(__file__).parents[1]


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


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected
