"""What describes a set, where sets live, and the error of a failed fetch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..files import share
from ._pooch import pooch

__all__ = ["Dataset", "FetchError", "brief", "cache_folder", "data_folder"]


class FetchError(RuntimeError):
    """A set could not be fetched, or is not what was expected."""


@dataclass(frozen=True)
class Dataset:
    """A set that `fetch` can bring. To add one, add an entry to `DATASETS`.

    Attributes:
        name: What `fetch` calls it.
        description: One line on the content.
        licence: Licence of the data, or where it is stated.
        size: Size of the download, for people.
        source: ``"doi:..."``, whose record lists files and checksums, or the address of a folder,
            ending in "/", that holds ``files``.
        files: File name to checksum (``"sha256:..."`` or ``"md5:..."``), None where the source
            publishes none; leave it empty for a DOI.
        elsewhere: Further files that come from places of their own: address to checksum, None as
            above; the last part of an address is the name of the file.
        suffixes: Take only files of ``source`` with these endings; empty takes all.
        product: Name of the file that ``prepare`` makes; "" where there is nothing to prepare.
        prepare: Called as ``prepare(raw, product, progress=...)`` with the folder of the files
            and the path of the product, which must appear only when complete.
    """

    name: str
    description: str
    licence: str
    size: str
    source: str
    files: Mapping[str, str | None] = field(default_factory=dict)
    elsewhere: Mapping[str, str | None] = field(default_factory=dict)
    suffixes: tuple[str, ...] = ()
    product: str = ""
    prepare: Callable[..., None] | None = None


def data_folder() -> Path:
    """Folder of the data that ship: ``GALFLOW_DATA``, else that of the project or package.

    Raises:
        FileNotFoundError: If the folder is not there.
    """
    return share("data")


def cache_folder() -> Path:
    """Folder of downloads: ``GALFLOW_DOWNLOADS``, else the cache folder of the user."""
    chosen = os.environ.get("GALFLOW_DOWNLOADS")
    return Path(chosen) if chosen else Path(pooch.os_cache("galflow-lite"))


def brief(error: BaseException) -> str:
    """First line of an error, short."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
