"""Reader of the layout in which the paper's data were published, and its conversion."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..inputs import as_array
from .catalogue import Catalogue
from .galaxy import COLUMNS, Galaxy, TooFewStars
from .galaxy import clean as apply_cuts

_NAME = re.compile(r"_(?P<id>[^_]+)_(?P<m_dm>[-+.\de]+)\.npy$")
# Rows of a published array; all but the mass are columns of a galaxy.
_ROWS = (*COLUMNS[:-1], "mass", COLUMNS[-1])


def published_galaxies(folder: Path | str) -> Iterator[Galaxy]:
    """Galaxies of a folder of the published layout, one after the other.

    Layout (Zenodo, DOI 10.5281/zenodo.8389554; arXiv:2312.06017): one ``.npy`` a galaxy, array
    (11, N), rows x, y, z [kpc], vx, vy, vz [km/s], Z, [Fe/H], [O/Fe], mass [Msun], age [Gyr].
    A file name ends in ``_<id>_<M_dm>.npy``. The galaxies come sorted by file name, so that
    their numbers are the same on every machine (the public code takes the unsorted order of
    the file system). The id is taken from the name; where several files have the same, each
    of these takes its whole name instead. M_dm [Msun] becomes an attribute.

    Raises:
        FileNotFoundError: If the folder holds no ``.npy`` file.
        ValueError: If a file name does not fit, an array has another shape or is cut short, or
            holds Python objects, which are never loaded.
    """
    # macOS puts files of its own, ._name, into archives.
    files = sorted(f for f in Path(folder).glob("*.npy") if not f.name.startswith("."))
    if not files:
        raise FileNotFoundError(
            f"the folder {folder} holds no .npy file, expected one a galaxy: give the folder "
            "that holds them, all_sims/ in the published data"
        )
    named = [_NAME.search(file.name) for file in files]
    if None in named:
        raise ValueError(
            f"the file name {files[named.index(None)].name} does not end in _<id>_<M_dm>.npy, "
            "expected for example run_g1.05e11_1.096e11.npy: rename it or move it elsewhere"
        )
    taken = Counter(match["id"] for match in named)
    for file, match in zip(files, named, strict=True):
        id = match["id"] if taken[match["id"]] == 1 else file.stem
        array = _array(file)
        rows, about = dict(zip(_ROWS, array, strict=True)), {"M_dm": float(match["m_dm"])}
        yield Galaxy(rows, id=id, masses=rows["mass"], attributes=about)


def _array(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}), expected a complete .npy file of numbers "
            "(pickled objects are never loaded): fetch it anew"
        ) from error
    shape = (len(_ROWS), "stars")
    return as_array(
        array, f"{file} with the rows {', '.join(_ROWS)}", shape, dtype=array.dtype, finite=False
    )


@dataclass
class Conversion:
    """What `convert` did.

    Attributes:
        path: The catalogue that was written.
        raw_galaxies, raw_stars: What the source held.
        galaxies, stars: What was written.
        dropped: Galaxies that were left out: id to reason.
    """

    path: Path
    raw_galaxies: int = 0
    raw_stars: int = 0
    galaxies: int = 0
    stars: int = 0
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"read {self.raw_galaxies} galaxies with {self.raw_stars:,} stars",
            f"wrote {self.galaxies} galaxies with {self.stars:,} stars to {self.path}",
            *(f"dropped {reason}" for reason in self.dropped.values()),
        ]
        return "\n".join(lines)


def convert(
    source: Path | str, target: Path | str, *, clean: bool = True, progress: bool = True
) -> Conversion:
    """Convert a folder of the published layout into a catalogue, one galaxy at a time.

    Args:
        source: Folder, see `published_galaxies`.
        target: HDF5 file to write; an older one is replaced only when all went well.
        clean: Apply the paper's cuts, see the function `clean`; a galaxy with too few stars is
            left out and reported.
        progress: Show a progress bar.

    Returns:
        The numbers of galaxies and stars before and after, and what was dropped and why.

    Raises:
        FileNotFoundError, ValueError: As `published_galaxies`, `clean` and `Catalogue.write`.
        OSError: If the file cannot be written.
    """
    report = Conversion(Path(target))

    def kept() -> Iterator[Galaxy]:
        galaxies = published_galaxies(source)
        for galaxy in tqdm(galaxies, desc="convert", unit=" galaxies", disable=not progress):
            report.raw_galaxies += 1
            report.raw_stars += len(galaxy)
            try:
                galaxy = apply_cuts(galaxy) if clean else galaxy
            except TooFewStars as reason:
                report.dropped[galaxy.id] = str(reason)
                continue
            report.galaxies += 1
            report.stars += len(galaxy)
            yield galaxy

    provenance = {"source": Path(source).name, "layout": "arXiv:2312.06017", "paper_cuts": clean}
    Catalogue.write(target, kept(), provenance=provenance)
    return report
