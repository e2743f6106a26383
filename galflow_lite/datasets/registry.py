"""The sets that can be fetched."""

from __future__ import annotations

from functools import partial

from .entry import Dataset
from .galaxies import ARCHIVES, Counts, prepare_galaxies

__all__ = ["DATASETS", "names"]

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
    )
}


def names() -> tuple[str, ...]:
    """Names of the sets that `fetch` can bring; `DATASETS` describes them."""
    return tuple(DATASETS)
