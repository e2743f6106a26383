"""Where data live, and the published sets that can be fetched.

Every download is checked against a checksum and moved into place only when it is complete; a
transfer that breaks off leaves no partial file, and running the same command again goes on with
the files that are still missing.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import requests
from tqdm import TqdmWarning

with warnings.catch_warnings():
    # pooch picks its progress bar on import and warns in a notebook without ipywidgets.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch
    from pooch.downloaders import doi_to_repository

from .files import share
from .galaxies import convert

__all__ = [
    "DATASETS",
    "Counts",
    "Dataset",
    "FetchError",
    "cache_folder",
    "data_folder",
    "fetch",
    "names",
]

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_HEADERS = {"User-Agent": "galflow_lite (python-requests, pooch)"}
_TIMEOUT = 30.0


class FetchError(RuntimeError):
    """A set could not be fetched, or is not what was expected."""


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
        files: File name to checksum (``"sha256:..."`` or ``"md5:..."``); leave it empty for a DOI.
        suffixes: Take only files with these endings; empty takes all.
        product: Name of the file that ``prepare`` makes; "" where there is nothing to prepare.
        prepare: Called as ``prepare(raw, product, progress=...)`` with the folder of the files
            and the path of the product, which must appear only when complete.
    """

    name: str
    description: str
    licence: str
    size: str
    source: str
    files: Mapping[str, str] = field(default_factory=dict)
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


def names() -> tuple[str, ...]:
    """Names of the sets that `fetch` can bring; `DATASETS` describes them."""
    return tuple(DATASETS)


def fetch(
    name: str | Dataset,
    folder: Path | str | None = None,
    *,
    base_url: str | None = None,
    retries: int = 2,
    progress: bool = True,
) -> Path:
    """Download a set, check it, and convert it where needed.

    The files go to ``folder/<name>/raw``, the product to ``folder/<name>``. What is there already
    and has the right checksum is not loaded again; when the product is there, nothing is done.
    The raw files are kept and may be deleted afterwards.

    Args:
        name: One of `names`, or a `Dataset` of your own.
        folder: Where to put it; None takes `cache_folder`.
        base_url: Another source of the same files: a DOI (``"doi:..."``) or the address of a
            mirror, which works for sets whose checksums are known here.
        retries: How often a transfer that broke off is tried again; a wrong checksum is not.
        progress: Show progress bars.

    Returns:
        Path of the product, or of the folder of raw files where nothing is prepared.

    Raises:
        FetchError: If the set is unknown, the source cannot be reached, a transfer breaks off, a
            checksum is wrong, an archive is damaged or unsafe, or the counts differ from those
            that were published.
        OSError: If the files cannot be written.
    """
    entry = name if isinstance(name, Dataset) else DATASETS.get(name)
    if entry is None:
        raise FetchError(
            f"there is no set {name!r}, expected one of {', '.join(names())}: choose among these."
        )
    home = (Path(folder) if folder is not None else cache_folder()) / entry.name
    raw, product = home / "raw", home / entry.product
    if entry.prepare is not None and product.is_file():
        return product
    raw.mkdir(parents=True, exist_ok=True)
    with _quiet_pooch():
        boy = _registry(entry, raw, base_url)
        downloader = pooch.HTTPDownloader(
            progressbar=progress, chunk_size=1 << 18, headers=_HEADERS, timeout=_TIMEOUT
        )
        for file in sorted(boy.registry):
            _download(boy, file, downloader, retries)
    if entry.prepare is None:
        return raw
    entry.prepare(raw, product, progress=progress)
    return product


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch from reporting every file on stderr: errors and bars say what matters."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _registry(entry: Dataset, raw: Path, base_url: str | None) -> pooch.Pooch:
    """List the files of a set with their checksums and addresses."""
    source = base_url or entry.source
    if not source.startswith("doi:"):
        if not entry.files:
            raise FetchError(
                f"the checksums of {entry.name} are known only through a DOI, found the source "
                f"{source!r}, expected doi:...: leave base_url out."
            )
        base = source if source.endswith("/") else source + "/"
        return pooch.create(path=raw, base_url=base, registry=dict(entry.files))
    doi = source.removeprefix("doi:").strip("/")
    boy = pooch.create(path=raw, base_url=f"doi:{doi}/")
    try:
        # Asked once, and not for each file as Pooch.fetch would: record servers limit how often
        # they may be asked.
        repository = doi_to_repository(doi, **_request_options())
        repository.populate_registry(boy)
        wanted = [f for f in boy.registry if not entry.suffixes or f.endswith(entry.suffixes)]
        boy.urls = {file: repository.download_url(file) for file in wanted}
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise FetchError(
            f"the record of {entry.name} (doi:{doi}) cannot be read ({_brief(error)}), expected "
            "its list of files: check the connection and run the same command again."
        ) from error
    if not wanted:
        raise FetchError(
            f"the record doi:{doi} holds {', '.join(boy.registry) or 'no files'}, expected files "
            f"ending in {', '.join(entry.suffixes)}: the record has changed, download by hand."
        )
    boy.registry = {file: boy.registry[file] for file in wanted}
    return boy


def _request_options() -> dict[str, object]:
    """Options of the requests for a record; before 1.9, pooch has its own and takes none."""
    takes_options = "kwargs" in inspect.signature(doi_to_repository).parameters
    return {"headers": _HEADERS, "timeout": _TIMEOUT} if takes_options else {}


def _download(boy: pooch.Pooch, file: str, downloader: pooch.HTTPDownloader, retries: int) -> None:
    """Bring one file, unless it is there and right; try again when the transfer breaks off."""
    address = boy.get_url(file)
    for attempt in range(retries + 1):
        try:
            boy.fetch(file, downloader=downloader)
            return
        except requests.RequestException as error:
            if attempt == retries:
                raise FetchError(
                    f"the transfer of {file} from {address} broke off ({_brief(error)}), "
                    "expected a complete file: nothing of it was kept, run the same command "
                    "again to go on."
                ) from error
            time.sleep(2.0**attempt)
        except ValueError as error:
            raise FetchError(
                f"{file} from {address} has a wrong checksum, expected {boy.registry[file]}: "
                "nothing of it was kept, run the same command again; if it stays wrong, the file "
                "at the source has changed."
            ) from error


def _brief(error: BaseException) -> str:
    """First line of an error, short."""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _prepare_galaxies(raw: Path, product: Path, *, progress: bool, expected: Counts) -> None:
    """Unpack the published galaxies, convert them with the paper's cuts, and check the counts."""
    aside = product.with_name(f"{product.stem}_unverified{product.suffix}")
    with tempfile.TemporaryDirectory(dir=product.parent, prefix=".unpacked-") as unpacked:
        for archive in sorted(f for f in raw.iterdir() if f.name.endswith(_ARCHIVES)):
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
            f"the archive {archive.name} cannot be unpacked ({_brief(error)}), expected a "
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


DATASETS: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            name="nihao",
            description="the paper's galaxies: star particles of 95 NIHAO simulations "
            "(arXiv:2312.06017), converted to a catalogue of 90 with the paper's cuts",
            licence="see the record",
            size="about 3 GB",
            source="doi:10.5281/zenodo.8389554",
            suffixes=(".npy", *_ARCHIVES),
            product="galaxies.h5",
            prepare=partial(
                _prepare_galaxies,
                expected=Counts(
                    raw_galaxies=95, raw_stars=34_878_379, galaxies=90, stars=32_806_364
                ),
            ),
        ),
    )
}
