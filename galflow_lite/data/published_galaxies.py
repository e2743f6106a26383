"""From published files to a catalogue of galaxies (NIHAO), or to images (Galaxy Zoo)."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..galaxies import convert as convert_catalogue

IMAGES = "images_gz2.zip"
MAPPING = "gz2_filename_mapping.csv"
VOTES = "GalaxyZoo1_DR_table2.csv.gz"
_SHARES = ("P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG")
_SIZE = 64


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
        report = convert_catalogue(folders[0][0], product, progress=False)
    return report.raw_galaxies, report.raw_stars, report.galaxies, report.stars


def galaxy_zoo(raw: Path, product: Path, *, count: int) -> tuple[int, ...]:
    """Join images and votes by object number, and write a random choice of galaxies.

    The class is that of the largest share of the votes; galaxies with a tie are left out. The
    choice is made with a fixed seed among all galaxies that have an image and votes, and stands in
    the order of their object numbers.
    """
    with gzip.open(raw / VOTES, "rt") as file:
        votes = {
            int(row["OBJID"]): [float(row[p]) for p in _SHARES] for row in csv.DictReader(file)
        }
    classes = {n: v.index(max(v)) for n, v in votes.items() if v.count(max(v)) == 1}
    with (raw / MAPPING).open() as file:
        assets = {int(row["objid"]): row["asset_id"] for row in csv.DictReader(file)}
    with zipfile.ZipFile(raw / IMAGES) as packed:
        members = dict(_jpegs(packed))
        known = sorted(n for n in classes.keys() & assets.keys() if assets[n] in members)
        rows = np.random.default_rng(0).choice(len(known), size=count, replace=False)
        chosen = [known[row] for row in np.sort(rows)]
        images = (packed.read(members[assets[number]]) for number in chosen)
        return _write(product, images, [classes[number] for number in chosen], chosen)


def galaxy_zoo_collection(raw: Path, product: Path) -> tuple[int, ...]:
    """All galaxies of an archive with one table OBJID, CLASS and images named by object number."""
    with zipfile.ZipFile(raw) as packed:
        members = dict(_jpegs(packed))
        table = [n for n in packed.namelist() if n.endswith("smallCSV_class.csv")][0]
        text = packed.read(table).decode().splitlines()
        classes = {row["OBJID"]: int(row["CLASS"]) for row in csv.DictReader(text)}
        chosen = sorted(classes.keys() & members.keys(), key=int)
        images = (packed.read(members[number]) for number in chosen)
        return _write(product, images, [classes[n] for n in chosen], [int(n) for n in chosen])


def _jpegs(packed: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Number and place of each image; an archive made on a Mac has a second file ._7.jpg each."""
    for name in packed.namelist():
        path = PurePosixPath(name)
        if path.suffix in (".jpg", ".jpeg") and path.stem.isdigit():
            yield path.stem, name


def _write(
    product: Path, images: Iterable[bytes], classes: list[int], numbers: list[int]
) -> tuple[int, ...]:
    """Write ``x`` (n, size, size, 3) uint8, ``y`` (n,) uint8 and ``objid`` (n,) int64."""
    x = np.stack([central_square(image, size=_SIZE) for image in images])
    # An open file, since numpy would add .npz to the temporary name.
    with product.open("wb") as file:
        np.savez_compressed(
            file, x=x, y=np.array(classes, np.uint8), objid=np.array(numbers, np.int64)
        )
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
