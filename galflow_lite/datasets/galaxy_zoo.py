"""From the published images and votes of the Galaxy Zoo to one file of arrays."""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..files import explain_write_errors, written_aside
from .entry import FetchError, brief

__all__ = ["CLASSES", "IMAGES", "MAPPING", "MIRROR", "VOTES", "prepare_galaxy_zoo", "prepare_image"]

CLASSES = (
    "elliptical",
    "clockwise spiral",
    "anticlockwise spiral",
    "edge-on",
    "unknown",
    "merger",
)
"""The six choices of Galaxy Zoo 1 (arXiv:1007.3265), in the order of its table."""

MIRROR = (0, 2, 1, 3, 4, 5)
"""The class that each becomes in a mirror."""

IMAGES = "images_gz2.zip"
MAPPING = "gz2_filename_mapping.csv"
VOTES = "GalaxyZoo1_DR_table2.csv.gz"

_FRACTIONS = ("P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG")
_SEED = 0


def prepare_galaxy_zoo(raw: Path, product: Path, *, progress: bool, size: int, count: int) -> None:
    """Join images and votes by object number, and write a random choice of galaxies.

    The class is that of the largest share of the votes; galaxies with a tie are left out. The
    choice is made with a fixed seed among all galaxies that have an image and votes, and stands in
    the order of their object numbers.

    Args:
        raw: Folder of the downloaded files.
        product: .npz file to write: ``x`` (count, size, size, 3) uint8, ``y`` (count,) uint8, and
            ``objid`` (count,) int64, the object numbers of SDSS data release 7.
        progress: Show a progress bar.
        size: Side of the images.
        count: Number of galaxies.

    Raises:
        FetchError: If a file cannot be read, or fewer galaxies are found.
        OSError: If the file cannot be written.
    """
    classes, assets = _classes(raw / VOTES), _assets(raw / MAPPING)
    try:
        with zipfile.ZipFile(raw / IMAGES) as packed:
            members = _members(packed)
            known = sorted(o for o in classes.keys() & assets.keys() if assets[o] in members)
            if len(known) < count:
                raise FetchError(
                    f"found {len(known):,} galaxies with an image and votes, expected {count:,} or "
                    "more: the files differ from the published ones, delete them and run the "
                    "same command again."
                )
            chosen = np.random.default_rng(_SEED).choice(len(known), size=count, replace=False)
            objects = [known[i] for i in np.sort(chosen)]
            x = np.empty((count, size, size, 3), dtype=np.uint8)
            bar = tqdm(objects, desc="images", disable=not progress, file=sys.stderr)
            for i, number in enumerate(bar):
                x[i] = prepare_image(packed.read(members[assets[number]]), size=size)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise FetchError(
            f"{raw / IMAGES} cannot be converted ({brief(error)}), expected a zip archive of JPEG "
            "images: delete it and run the same command again."
        ) from error
    y = np.array([classes[number] for number in objects], dtype=np.uint8)
    with written_aside(product) as temporary, explain_write_errors(product):
        # An open file, since numpy would add .npz to the temporary name.
        with temporary.open("wb") as file:
            np.savez_compressed(file, x=x, y=y, objid=np.array(objects, dtype=np.int64))


def prepare_image(jpeg: bytes, *, size: int, crop: int = 212) -> np.ndarray:
    """Cut the central square out of a JPEG and average it down to size x size pixels.

    Args:
        jpeg: The file, any square or rectangle; colour or grey.
        size: Side of the result.
        crop: Side of the square; of smaller images, the central half of the shorter side.

    Returns:
        Shape (size, size, 3), uint8: box filter, so that pixels count by the area they cover.

    Raises:
        ValueError: If it is no image.
    """
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            colour = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"a file is no complete image ({type(error).__name__})") from error
    shorter = min(colour.size)
    side = crop if shorter >= crop else max(shorter // 2, 1)
    left, top = ((length - side) / 2 for length in colour.size)
    box = (left, top, left + side, top + side)
    return np.asarray(colour.resize((size, size), Image.Resampling.BOX, box=box))


def _classes(path: Path) -> dict[int, int]:
    """Class of each object number: the largest share of the votes."""
    found = {}
    for number, *shares in _rows(path, OBJID=int, **dict.fromkeys(_FRACTIONS, float)):
        largest = max(shares)
        if shares.count(largest) == 1:
            found[number] = shares.index(largest)
    return found


def _assets(path: Path) -> dict[int, int]:
    """Number of the image of each object number."""
    return dict(_rows(path, objid=int, asset_id=int))


def _rows(path: Path, **columns: Callable[[str], Any]) -> Iterator[tuple[Any, ...]]:
    """These columns of a table with a header, which may be compressed, converted row by row."""
    try:
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            table = csv.reader(file)
            header = next(table, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(f"it has no column {', '.join(missing)}")
            places = [(header.index(name), convert) for name, convert in columns.items()]
            for row in table:
                yield tuple(convert(row[place]) for place, convert in places)
    except (OSError, EOFError, ValueError, IndexError, zlib.error, csv.Error) as error:
        raise FetchError(
            f"{path} cannot be read ({brief(error)}), expected a table with the columns "
            f"{', '.join(columns)}: delete it and run the same command again."
        ) from error


def _members(packed: zipfile.ZipFile) -> dict[int, str]:
    """Where in the archive the image of each number is; nothing is unpacked to the disk."""
    found = {}
    for name in packed.namelist():
        # Archives made on a Mac hold a second file, ._7.jpg, for each image.
        if match := re.fullmatch(r"(\d+)\.jpe?g", PurePosixPath(name).name, re.IGNORECASE):
            found[int(match[1])] = name
    return found
