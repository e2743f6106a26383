"""Downloads: checked against a checksum, moved into place only when complete."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from ..files import sha256
from ._pooch import doi_to_repository, pooch
from .entry import Dataset, FetchError, brief, cache_folder
from .registry import DATASETS, names

__all__ = ["fetch"]

_HEADERS = {"User-Agent": "galflow_lite (python-requests, pooch)"}
_TIMEOUT = 30.0


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
    The raw files are kept and may be deleted afterwards. A file without a known checksum is taken
    as it comes; the checksum found is shown with the progress, and `prepare` checks the contents.

    Args:
        name: One of `names`, or a `Dataset` of your own.
        folder: Where to put it; None takes `cache_folder`.
        base_url: Another source of the same files: a DOI (``"doi:..."``) or the address of a
            mirror, which works for sets whose files are listed here. Files that a set takes from
            elsewhere still come from there.
        retries: How often a transfer that broke off is tried again; a wrong checksum is not.
        progress: Show progress bars.

    Returns:
        Path of the product, or of the folder of raw files where nothing is prepared.

    Raises:
        FetchError: If the set is unknown, the source cannot be reached, a transfer breaks off, a
            checksum is wrong, an archive is damaged or unsafe, or the contents differ from those
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
            if progress and boy.registry[file] is None:
                print(
                    f"{file}: the source publishes no checksum to compare with, found "
                    f"sha256:{sha256(raw / file)}",
                    file=sys.stderr,
                )
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
    boy = _source(entry, raw, base_url)
    for address, checksum in entry.elsewhere.items():
        file = address.rpartition("/")[2]
        boy.registry[file], boy.urls[file] = checksum, address
    return boy


def _source(entry: Dataset, raw: Path, base_url: str | None) -> pooch.Pooch:
    """List the files of the source of a set."""
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
            f"the record of {entry.name} (doi:{doi}) cannot be read ({brief(error)}), expected "
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
                    f"the transfer of {file} from {address} broke off ({brief(error)}), "
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
