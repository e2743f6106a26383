"""Writing a file aside and renaming it, so that a failure leaves the old file intact."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["explain_write_errors", "written_aside"]


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
