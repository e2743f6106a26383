"""Where the files that ship with the package are, and how a file is replaced safely."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["explain_write_errors", "sha256", "share", "write_aside", "written_aside"]


def share(name: str) -> Path:
    """Folder ``"data"`` or ``"notebooks"``: in the repository, or inside an installed package.

    The environment variable ``GALFLOW_DATA`` names another folder in the place of data/.

    Raises:
        FileNotFoundError: neither is there, or ``GALFLOW_DATA`` names no folder.
    """
    chosen = os.environ.get("GALFLOW_DATA") if name == "data" else None
    if chosen:
        if not Path(chosen).is_dir():
            raise FileNotFoundError(
                f"GALFLOW_DATA names {chosen}, which is no folder, expected one with the data that "
                "ship: correct or unset the variable"
            )
        return Path(chosen)
    package = Path(__file__).parent
    for folder in (package.parent / name, package / "_share" / name):
        # site-packages may well hold a foreign folder with such a plain name.
        inside = folder.parent == package / "_share"
        if folder.is_dir() and (inside or (package.parent / "pyproject.toml").is_file()):
            return folder
    raise FileNotFoundError(
        f"the folder {name}/ that ships with galflow-lite was not found; install the package anew"
    )


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
        OSError: the block raised one; a full disk is named as such.
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


def write_aside(path: Path | str, content: str | bytes) -> None:
    """Write ``content`` as `written_aside` does; text as UTF-8.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    with written_aside(path) as temporary, explain_write_errors(path):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
