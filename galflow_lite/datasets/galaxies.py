"""From the published record of galaxies to a catalogue."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ..galaxies import convert
from .entry import FetchError, brief

__all__ = ["ARCHIVES", "Counts", "prepare_galaxies"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Counts:
    """Galaxies and stars of a set, before and after the paper's cuts."""

    raw_galaxies: int
    raw_stars: int
    galaxies: int
    stars: int

    def __str__(self) -> str:
        return (
            f"{self.raw_galaxies} galaxies with {self.raw_stars:,} stars, "
            f"{self.galaxies} with {self.stars:,} after the cuts"
        )


def prepare_galaxies(raw: Path, product: Path, *, progress: bool, expected: Counts) -> None:
    """Unpack the published galaxies, convert them with the paper's cuts, and check the counts."""
    aside = product.with_name(f"{product.stem}_unverified{product.suffix}")
    with tempfile.TemporaryDirectory(dir=product.parent, prefix=".unpacked-") as unpacked:
        for archive in sorted(f for f in raw.iterdir() if f.name.endswith(ARCHIVES)):
            _unpack(archive, Path(unpacked), suffix=".npy")
        arrays = [*raw.rglob("*.npy"), *Path(unpacked).rglob("*.npy")]
        if not arrays:
            raise FetchError(
                f"the files in {raw} hold no .npy file, expected one a galaxy: the record has "
                "changed, convert by hand with galaxies.convert."
            )
        # The record may hold arrays of another kind beside the folder of galaxies.
        folder, _ = Counter(array.parent for array in arrays).most_common(1)[0]
        report = convert(folder, aside, progress=progress)
    found = Counts(report.raw_galaxies, report.raw_stars, report.galaxies, report.stars)
    if found != expected:
        raise FetchError(
            f"found {found}; expected {expected}: the data or the cuts differ from those of the "
            f"paper, the converted file is kept aside as {aside} for a look."
        )
    os.replace(aside, product)


def _unpack(archive: Path, target: Path, *, suffix: str) -> None:
    """Unpack the plain files with this suffix; refuse an archive that reaches outside."""
    try:
        for name, source in _members(archive):
            paths = (PurePosixPath(name), PureWindowsPath(name))
            if any(p.is_absolute() or p.drive or ".." in p.parts for p in paths):
                raise FetchError(
                    f"the archive {archive.name} holds the path {name!r}, which leads out of the "
                    "folder, expected plain relative paths: do not use this archive."
                )
            if not name.endswith(suffix) or PurePosixPath(name).name.startswith("."):
                continue
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with source() as stream, file.open("xb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, FileExistsError) as error:
        raise FetchError(
            f"the archive {archive.name} cannot be unpacked ({brief(error)}), expected a "
            "complete one: delete it and run the same command again."
        ) from error


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Plain files of a zip or tar archive: name, and a function that opens it."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    yield info.filename, partial(packed.open, info)
    else:
        with tarfile.open(archive) as packed:
            for member in packed:
                if member.isfile():
                    yield member.name, partial(packed.extractfile, member)
