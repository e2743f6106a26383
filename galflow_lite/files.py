"""Where the files that ship with the package are, and how a file is replaced safely."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["sha256", "share", "write_aside"]


def share(name: str) -> Path:
    """Folder ``"data"`` or ``"notebooks"``: in the repository, or inside an installed package.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(__file__).parent
    for folder in (package.parent / name, package / "_share" / name):
        # site-packages may well hold a foreign folder with such a plain name.
        inside = folder.parent == package / "_share"
        if folder.is_dir() and (inside or (package.parent / "pyproject.toml").is_file()):
            return folder
    raise FileNotFoundError(
        f"the folder {name}/ that ships with galflow-lite was not found; install the package anew"
    )


def write_aside(path: Path, content: str | bytes) -> None:
    """Write ``content`` beside ``path`` and rename, so that a failure leaves the old file intact.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


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
