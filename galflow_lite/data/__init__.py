"""Where data live, and the published sets that ``galflow-lite data fetch`` brings.

Every download is compared with a checksum where one is known, and every product is moved into
place only when it is complete and has the published shape. No pickle is loaded.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import tomlkit
from PIL import Image
from tqdm import TqdmWarning

from ..files import bars_hidden, remove_leftovers, share, written_aside
from ..galaxies import convert as convert_catalogue
from ..inputs import as_choice
from . import uci
from .uci import TabularData, subset

__all__ = ["DATASETS", "TabularData", "cache_folder", "data_folder", "fetch", "subset"]


IMAGES = "images_gz2.zip"
MAPPING = "gz2_filename_mapping.csv"
VOTES = "GalaxyZoo1_DR_table2.csv.gz"
_SHARES = ["P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG"]


def nihao(raw: Path, product: Path) -> tuple[int, int, int, int]:
    """Unpack the published galaxies and convert them with the paper's cuts.

    Returns:
        Galaxies and stars before the cuts, then after them.
    """
    with tempfile.TemporaryDirectory(dir=product.parent, prefix=".unpacked-") as unpacked:
        for archive in [raw] if raw.is_file() else sorted(raw.iterdir()):
            if archive.suffix != ".npy":
                # Nothing leaves the folder: of a zip such members are passed over, and the filter
                # refuses a tar with such paths or links.
                safe = {} if archive.suffix == ".zip" else {"filter": "data"}
                shutil.unpack_archive(archive, unpacked, **safe)
        # Beside the galaxies there may be arrays of another kind, and ._name files of a Mac.
        found = (a for home in (raw, Path(unpacked)) for a in home.rglob("[!.]*.npy"))
        folders = Counter(array.parent for array in found).most_common(1)
        if not folders:
            raise ValueError("no .npy file in it, expected one a galaxy")
        return tuple(convert_catalogue(folders[0][0], product).values())


def galaxy_zoo(raw: Path, product: Path, *, count: int) -> tuple[int, ...]:
    """Join images and votes by object number, and write a random choice of galaxies.

    The class is that of the largest share of the votes; galaxies with a tie are left out. The
    choice is made with a fixed seed among all galaxies that have an image and votes, and stands in
    the order of their object numbers.
    """
    votes = pd.read_csv(raw / VOTES, index_col="OBJID")[_SHARES]
    votes = votes[votes.eq(votes.max(axis=1), axis=0).sum(axis=1) == 1]
    known = pd.read_csv(raw / MAPPING, index_col="objid").join(votes, how="inner").sort_index()
    with zipfile.ZipFile(raw / IMAGES) as packed:
        members = _jpegs(packed)
        known = known[known.asset_id.isin(members) & ~known.index.duplicated(keep="last")]
        rows = np.random.default_rng(0).choice(len(known), size=count, replace=False)
        chosen = known.iloc[np.sort(rows)]
        images = (packed.read(members[asset]) for asset in chosen.asset_id)
        return _write(product, images, chosen[_SHARES].to_numpy().argmax(axis=1), chosen.index)


def galaxy_zoo_collection(raw: Path, product: Path) -> tuple[int, ...]:
    """All galaxies of an archive with one table OBJID, CLASS and images named by object number."""
    with zipfile.ZipFile(raw) as packed:
        members = _jpegs(packed)
        table = [n for n in packed.namelist() if n.endswith("smallCSV_class.csv")][0]
        known = pd.read_csv(packed.open(table), index_col="OBJID").CLASS.sort_index()
        chosen = known[known.index.isin(members)]
        images = (packed.read(members[number]) for number in chosen.index)
        return _write(product, images, chosen, chosen.index)


def _jpegs(packed: zipfile.ZipFile) -> dict[int, str]:
    """Number to place of each image; an archive made on a Mac has a second file ._7.jpg each."""
    places = [name for name in packed.namelist() if name.endswith((".jpg", ".jpeg"))]
    stems = [PurePosixPath(place).stem for place in places]
    return {int(s): place for s, place in zip(stems, places, strict=True) if s.isdigit()}


def _write(product: Path, images: Iterable[bytes], classes: Any, numbers: Any) -> tuple[int, ...]:
    """Write ``x`` (n, 64, 64, 3) uint8, ``y`` (n,) uint8 and ``objid`` (n,) int64."""
    x = np.stack([central_square(image, size=64) for image in images])
    # An open file, since numpy would add .npz to the temporary name.
    with product.open("wb") as file:
        about = dict(y=np.array(classes, np.uint8), objid=np.array(numbers, np.int64))
        np.savez_compressed(file, x=x, **about)
    return x.shape


def central_square(jpeg: bytes, *, size: int) -> np.ndarray:
    """Cut the central square out of a JPEG and average it down to size x size pixels.

    The square has 212 pixels; of smaller images, it is the central half of the shorter side.

    Args:
        jpeg: The file, any square or rectangle; colour or grey.
        size: Side of the result.

    Returns:
        Shape (size, size, 3), uint8: box filter, so that pixels count by the area they cover.
    """
    with Image.open(io.BytesIO(jpeg)) as image:
        colour = image.convert("RGB")
    shorter = min(colour.size)
    side = 212 if shorter >= 212 else max(shorter // 2, 1)
    left, top = ((length - side) / 2 for length in colour.size)
    box = (left, top, left + side, top + side)
    return np.asarray(colour.resize((size, size), Image.Resampling.BOX, box=box))


with warnings.catch_warnings():
    # pooch picks its progress bar on import and warns in a notebook without ipywidgets.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch


@dataclass(frozen=True)
class Dataset:
    """A published set. To add one, add it to ``datasets.toml`` and to `CONVERTERS`.

    Attributes:
        description, product, expected, files, doi, suffixes: As ``datasets.toml`` says.
        convert: Called with the downloaded file, or the folder of several, and the file to write;
            returns what is compared with ``expected``.
    """

    description: str
    product: str
    convert: Callable[[Path, Path], tuple[int, ...]]
    expected: Sequence[int]
    files: Mapping[str, str] = field(default_factory=dict)
    doi: str = ""
    suffixes: Sequence[str] = ()


CONVERTERS: dict[str, Callable[[Path, Path], tuple[int, ...]]] = {
    "nihao": nihao,
    "power": partial(uci.convert, uci.power),
    "power_half_year": partial(uci.convert, partial(uci.power, dates=uci.HALF_YEAR)),
    "gas": partial(uci.convert, uci.gas),
    "hepmass": partial(uci.convert, uci.hepmass),
    "miniboone": partial(uci.convert, uci.miniboone),
    "galaxy_zoo": partial(galaxy_zoo, count=20_000),
    "galaxy_zoo_6664": galaxy_zoo_collection,
}
_LISTED = tomlkit.parse(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8"))
DATASETS: dict[str, Dataset] = {
    name: Dataset(convert=CONVERTERS[name], **entry) for name, entry in _LISTED.unwrap().items()
}


def data_folder() -> Path:
    """Folder of the data that ship: ``GALFLOW_DATA``, else that of the project or package.

    Raises:
        FileNotFoundError: The folder is not there.
    """
    return share("data")


def cache_folder() -> Path:
    """Folder of downloads: ``GALFLOW_DOWNLOADS``, else the cache folder of the user."""
    return Path(os.environ.get("GALFLOW_DOWNLOADS") or pooch.os_cache("galflow-lite"))


def fetch(name: str, folder: Path | str | None = None, *, source: Path | str | None = None) -> Path:
    """Download a set, convert it and compare it with what was published.

    The files go to ``folder/<name>/raw``, the product to ``folder/<name>``. Where the product is
    there already, nothing is done; files that are there and have the right checksum are not loaded
    again. The raw files may be deleted afterwards.

    Args:
        name: One of `DATASETS`.
        folder: Where to put it; None takes `cache_folder`.
        source: The raw file, or the folder of the raw files where there are several, if you have
            them: nothing is downloaded then.

    Returns:
        Path of the product.

    Raises:
        ConnectionError: A download fails or has a wrong checksum.
        ValueError: The name is unknown, or the contents are not those that were published.
    """
    entry = DATASETS[as_choice(name, "the set", DATASETS)]
    home = (Path(folder) if folder is not None else cache_folder()) / name
    product = home / entry.product
    for leftovers in (".unpacked-*", "raw/tmp????????"):
        remove_leftovers(home, leftovers)
    if product.is_file():
        return product
    raw = Path(source) if source is not None else _download(name, entry, home / "raw")
    with written_aside(product) as aside:
        try:
            found = entry.convert(raw, aside)
            if found != tuple(entry.expected):
                raise ValueError(f"it holds {found}, not {(*entry.expected,)}")
        # Another or a damaged file can fail in any way, in any of five libraries.
        except Exception as error:
            raise ValueError(
                f"{raw} cannot be converted ({error}), expected the published files of {name}: "
                "delete what is damaged and run the same command again"
            ) from error
    return product


def _download(name: str, entry: Dataset, raw: Path) -> Path:
    """The file, or the folder of several."""
    shown = not bars_hidden()
    boy = pooch.create(path=raw, base_url=f"{entry.doi}/", retry_if_failed=2)
    try:
        if entry.doi:
            boy.load_registry_from_doi()
            suffixes = tuple(entry.suffixes)
            # The rest of the record is not needed.
            boy.registry = {f: c for f, c in boy.registry.items() if f.endswith(suffixes)}
            # Of a name with folders, on any system, the last part alone is its name.
            if outside := [f for f in boy.registry if PureWindowsPath(f).name != f]:
                raise ValueError(f"its record has {outside[0]!r}, which is no plain file name")
        for address, checksum in entry.files.items():
            file = address.rpartition("/")[2]
            boy.registry[file], boy.urls[file] = checksum or None, address
        for file in sorted(boy.registry):
            # Where no checksum vouches for the file, the connection has to.
            secure = pooch.HTTPDownloader(shown, hooks={"response": _stay_encrypted})
            downloader = None if boy.registry[file] else secure
            boy.fetch(file, downloader=downloader, progressbar=shown)
        return raw / file if len(boy.registry) == 1 else raw
    except (OSError, ValueError, LookupError) as error:
        raise ConnectionError(
            f"{name} cannot be downloaded ({error}), expected its source to answer: check the "
            "connection and run the same command again, or bring the files with --source"
        ) from error


def _stay_encrypted(response: Any, **_: Any) -> None:
    """Refuse a redirection from https to http: anybody on the way could answer."""
    there = response.headers.get("location", "")
    if response.url.startswith("https:") and there.lower().startswith("http:"):
        raise ConnectionError(f"{response.url} leads to {there}, which is not encrypted")
