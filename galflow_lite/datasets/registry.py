"""The sets that can be fetched, and the way to those that have been."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .. import tabular as tables
from .covertype import COVERTYPE, prepare_covertype
from .entry import Dataset, cache_folder
from .galaxies import ARCHIVES, Counts, prepare_galaxies
from .galaxy_zoo import IMAGES, MAPPING, VOTES, prepare_galaxy_zoo
from .tables import prepare_table

__all__ = ["DATASETS", "names", "tabular"]

_UCI = "https://archive.ics.uci.edu/static/public"
_POWER = "individual+household+electric+power+consumption.zip"
_GAS = "gas+sensor+array+under+dynamic+gas+mixtures.zip"
_MINIBOONE = "miniboone+particle+identification.zip"

# UCI publishes no checksums: None. The shape of what is read is checked in their place.
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
            suffixes=(".npy", *ARCHIVES),
            product="galaxies.h5",
            prepare=partial(
                prepare_galaxies,
                expected=Counts(
                    raw_galaxies=95, raw_stars=34_878_379, galaxies=90, stars=32_806_364
                ),
            ),
        ),
        Dataset(
            name="power",
            description="POWER: one household's electricity by the minute, 6 columns, prepared as "
            "in arXiv:1705.07057 (UCI, doi:10.24432/C58K54)",
            licence="CC BY 4.0",
            size="about 20 MB",
            source=f"{_UCI}/235/",
            files={_POWER: None},
            product="power.h5",
            prepare=partial(
                prepare_table,
                file=_POWER,
                read=tables.power,
                expected=(1_659_917, 184_435, 204_928, 6),
            ),
        ),
        Dataset(
            name="gas",
            description="GAS: sensors in mixtures of ethylene and carbon monoxide, 8 columns, a "
            "quarter of the rows, prepared after arXiv:1705.07057 (UCI, doi:10.24432/C5WP4C)",
            licence="CC BY 4.0",
            size="about 370 MB",
            source=f"{_UCI}/322/",
            files={_GAS: None},
            product="gas.h5",
            prepare=partial(
                prepare_table,
                file=_GAS,
                read=tables.gas,
                expected=(852_174, 94_685, 105_206, 8),
            ),
        ),
        Dataset(
            name="hepmass",
            description="HEPMASS: simulated collisions, 21 columns, prepared as in "
            "arXiv:1705.07057 (UCI, doi:10.24432/C5PP5W; from the archive of that paper's authors, "
            "for the tenth of the rows that they used)",
            licence="CC BY 4.0 (UCI); of the archive: see the record",
            size="hundreds of MB, see the record",
            source="doi:10.5281/zenodo.1161203",
            suffixes=("data.tar.gz",),
            product="hepmass.h5",
            prepare=partial(
                prepare_table,
                file="data.tar.gz",
                read=tables.hepmass,
                expected=(315_123, 35_013, 174_987, 21),
            ),
        ),
        Dataset(
            name="miniboone",
            description="MINIBOONE: electron neutrinos of an experiment, 43 columns, prepared as "
            "in arXiv:1705.07057 (UCI, doi:10.24432/C5QC87)",
            licence="CC BY 4.0",
            size="tens of MB",
            source=f"{_UCI}/199/",
            files={_MINIBOONE: None},
            product="miniboone.h5",
            prepare=partial(
                prepare_table,
                file=_MINIBOONE,
                read=tables.miniboone,
                expected=(29_556, 3_284, 3_648, 43),
            ),
        ),
        Dataset(
            name="galaxy_zoo",
            description="20,000 galaxies of SDSS in colour, 64x64 pixels, with the classes of "
            "Galaxy Zoo 1 (arXiv:1007.3265; images: doi:10.5281/zenodo.3565489)",
            licence="images CC BY 4.0 (see the record); votes: citation asked, no licence stated",
            size="about 3.4 GB",
            source="doi:10.5281/zenodo.3565489",
            elsewhere={
                # Galaxy Zoo publishes no checksum; this one is what two users of the file report.
                f"https://galaxy-zoo-1.s3.amazonaws.com/{VOTES}": (
                    "md5:766cb56d64f936e00d26699a55f0669b"
                )
            },
            suffixes=(IMAGES, MAPPING),
            product="galaxy_zoo.npz",
            prepare=partial(prepare_galaxy_zoo, size=64, count=20_000),
        ),
        Dataset(
            name="covertype",
            description="COVERTYPE: seven kinds of forest in 581,012 cells, 54 columns, for "
            "Bayesian logistic regression (UCI, doi:10.24432/C50K5N)",
            licence="unlimited reuse with the notice: copyright Jock A. Blackard and Colorado "
            "State University",
            size="about 11 MB",
            source="https://ndownloader.figshare.com/files/",
            files={
                COVERTYPE: (
                    "sha256:614360d0257557dd1792834a85a1cdebfadc3c4f30b011d56afee7ffb5b15771"
                )
            },
            product="covertype.npz",
            prepare=partial(prepare_covertype, rows=581_012),
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names of the sets that `fetch` can bring; `DATASETS` describes them."""
    return tuple(DATASETS)


def tabular(name: str, folder: Path | str | None = None) -> tables.TabularData:
    """Load POWER, GAS, HEPMASS or MINIBOONE as `fetch` has left it; nothing is downloaded.

    Args:
        name: "power", "gas", "hepmass" or "miniboone".
        folder: The folder that `fetch` was given; None takes `cache_folder`.

    Returns:
        The prepared table, float64.

    Raises:
        FileNotFoundError: If the set has not been fetched; the message names the command.
        ValueError: If the name is not that of a table, or the file is damaged.
    """
    known = [key for key, entry in DATASETS.items() if _is_table(entry)]
    if name not in known:
        raise ValueError(
            f"there is no table {name!r}, expected one of {', '.join(known)}: choose among these."
        )
    home = Path(folder) if folder is not None else cache_folder()
    path = home / name / DATASETS[name].product
    if not path.is_file():
        where = f" --folder {folder}" if folder is not None else ""
        raise FileNotFoundError(
            f"{name} is not there, expected it at {path}: run `galflow-lite data fetch {name}"
            f"{where}` first."
        )
    return tables.TabularData.read(path)


def _is_table(entry: Dataset) -> bool:
    return isinstance(entry.prepare, partial) and entry.prepare.func is prepare_table
