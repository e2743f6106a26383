"""Reader of the layout in which the paper's data were published, and its conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .catalogue import Catalogue
from .galaxy import COLUMNS, Galaxy, TooFewStars
from .galaxy import clean as apply_cuts

# Rows of a published array; all but the mass are columns of a galaxy.
_ROWS = (*COLUMNS[:-1], "mass", COLUMNS[-1])


class NumpyFolder:
    """Galaxies of a folder of the published layout, each read when it is asked for.

    Layout (Zenodo, DOI 10.5281/zenodo.8389554; arXiv:2312.06017): one ``.npy`` a galaxy, array
    (11, N), rows x, y, z [kpc], vx, vy, vz [km/s], Z, [Fe/H], [O/Fe], mass [Msun], age [Gyr].
    A file name ends in ``_<id>_<M_dm>.npy``. The galaxies come sorted by file name, so that
    their numbers are the same on every machine (the public code takes the unsorted order of
    the file system). The id is taken from the name; where several files have the same, each
    of these takes its whole name instead. M_dm [Msun] becomes an attribute.

    Raises:
        FileNotFoundError: If the folder holds no ``.npy`` file.
        ValueError: If a file name does not fit; on access, if an array has another shape, is
            cut short, or holds Python objects, which are never loaded.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        # macOS puts files of its own, ._name, into archives.
        self.files = sorted(f for f in self.path.glob("*.npy") if not f.name.startswith("."))
        if not self.files:
            raise FileNotFoundError(
                f"the folder {path} holds no .npy file, expected one a galaxy: give the folder "
                "that holds them, all_sims/ in the published data"
            )
        named = [_parse_name(file) for file in self.files]
        taken = Counter(name for name, _ in named)
        self.ids = tuple(
            file.stem if taken[name] > 1 else name
            for file, (name, _) in zip(self.files, named, strict=True)
        )
        self._m_dm = [m_dm for _, m_dm in named]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Galaxy:
        file = self.files[position]
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{file} cannot be read ({error}), expected a complete .npy file of numbers "
                "(pickled objects are never loaded): fetch it anew"
            ) from error
        if array.ndim != 2 or len(array) != len(_ROWS):
            raise ValueError(
                f"{file} holds an array of shape {array.shape}, expected ({len(_ROWS)}, N) with "
                f"the rows {', '.join(_ROWS)}: transpose or mend it"
            )
        rows = dict(zip(_ROWS, array, strict=True))
        about = {"M_dm": self._m_dm[position]}
        return Galaxy(rows, id=self.ids[position], masses=rows["mass"], attributes=about)


def _parse_name(file: Path) -> tuple[str, float]:
    """Take id and M_dm [Msun] from a file name."""
    try:
        _, name, m_dm = file.stem.rsplit("_", 2)
        return name, float(m_dm)
    except ValueError:
        raise ValueError(
            f"the file name {file.name} does not end in _<id>_<M_dm>.npy, expected for example "
            "run_g1.05e11_1.096e11.npy: rename it or move it elsewhere"
        ) from None


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
    source: Path | str,
    target: Path | str,
    *,
    clean: bool = True,
    drop_invalid: bool = False,
    significant_bits: int | None = None,
    progress: bool = True,
) -> Conversion:
    """Convert a folder of the published layout into a catalogue, one galaxy at a time.

    Args:
        source: Folder, see `NumpyFolder`.
        target: HDF5 file to write; an older one is replaced only when all went well.
        clean: Apply the paper's cuts, see the function `clean`; a galaxy with too few stars is
            left out and reported.
        drop_invalid: Drop rows with NaN or infinite values instead of raising.
        significant_bits: As in `Catalogue.write`.
        progress: Show a progress bar.

    Returns:
        The numbers of galaxies and stars before and after, and what was dropped and why.

    Raises:
        FileNotFoundError, ValueError: As `NumpyFolder`, `clean` and `Catalogue.write`.
        OSError: If the file cannot be written.
    """
    folder = NumpyFolder(source)
    report = Conversion(Path(target))

    def kept() -> Iterator[Galaxy]:
        bar = tqdm(range(len(folder)), desc="convert", unit="galaxy", disable=not progress)
        for galaxy in (folder[position] for position in bar):
            report.raw_galaxies += 1
            report.raw_stars += len(galaxy)
            galaxy = galaxy.require_finite(drop_invalid=True) if drop_invalid else galaxy
            try:
                galaxy = apply_cuts(galaxy) if clean else galaxy
            except TooFewStars as reason:
                report.dropped[galaxy.id] = str(reason)
                continue
            report.galaxies += 1
            report.stars += len(galaxy)
            yield galaxy

    provenance = {"source": folder.path.name, "layout": "arXiv:2312.06017", "paper_cuts": clean}
    Catalogue.write(target, kept(), significant_bits=significant_bits, provenance=provenance)
    return report
