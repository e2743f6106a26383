"""Where files that ship are found, and how a file is replaced."""

from __future__ import annotations

import os

import pytest

from galflow_lite import files


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


def test_what_killed_writers_left_goes_with_the_next_write(tmp_path):
    # A kill leaves the file as it is; one that has just been written to may have a living writer.
    for name, age in (("old", 4000), ("young", 60)):
        path = tmp_path / f".file.{name}.part"
        path.touch()
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    files.write_aside(tmp_path / "file", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", ".file.young.part"}


def test_what_the_system_refuses_is_a_sentence_with_the_name(tmp_path):
    path = tmp_path / "file"
    files.write_state(path, {}, kind="a test")
    for write in (files.write_aside, files.append_line):
        with pytest.raises(OSError, match="^.*file.below cannot be written .*: choose another"):
            write(path / "below", "text")
    with pytest.raises(IsADirectoryError, match="^.* cannot be opened .Is a directory.*: correct"):
        files.read_state(tmp_path, kind="a test")
    path.chmod(0)
    user = os.geteuid()
    try:
        # An administrator may read everything, nobody may not.
        os.seteuid(user or 65534)
        with pytest.raises(PermissionError, match="^.*file cannot be opened .Permission denied"):
            files.read_state(path, kind="a test")
    finally:
        os.seteuid(user)
