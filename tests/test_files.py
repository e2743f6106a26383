"""Where files that ship are found, and how a file is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from galflow_lite import files

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("content", ["é\n", "é\n".encode()])
def test_write_aside_makes_folders_and_replaces(tmp_path, content):
    path = tmp_path / "a" / "b.txt"
    for mode in (0o644, 0o600):
        files.write_aside(path, content)
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o600)
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
