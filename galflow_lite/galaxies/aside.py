"""Writing a file aside and renaming it, so that a failure leaves the old file intact."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

__all__ = ["Sink", "explain_write_errors", "written_aside"]


@contextmanager
def written_aside(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` on success.

    The folder is made where it is missing. When the block raises, Ctrl-C included, the
    temporary file is removed and a file that was at ``path`` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with explain_write_errors(path):
            os.replace(temporary, path)
    finally:
        # A failure to remove it must not hide the failure before.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into one sentence that names ``path``; errno is kept.

    Raises:
        OSError: If the block raised one; a full disk is named as such.
    """
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "no space is left on the disk" if full else (error.strerror or str(error))
        advice = "free some space" if full else "check the folder and its permissions"
        explained = OSError(
            f"cannot write {path} ({reason}), expected room and permission there; a file that "
            f"was there is unchanged: {advice}, or write to another folder."
        )
        explained.errno = error.errno
        raise explained from error


class Sink:
    """A file that HDF5 writes into through Python, and that never fails HDF5 itself.

    When the disk is full, the HDF5 library cannot close its file any more, complains on stderr
    and may crash as the process ends. Here the first error is kept, later writes are thrown
    away, and `check` raises the error once HDF5 is out of the way.
    """

    def __init__(self, path: Path | str) -> None:
        self._file = FileIO(path, "w+b")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of a write.

        Raises:
            OSError: If there was one.
        """
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
