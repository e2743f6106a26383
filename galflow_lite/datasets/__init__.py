"""Where data live, and the published sets that can be fetched.

Every download is checked against a checksum where one is known and moved into place only when it
is complete; a transfer that breaks off leaves no partial file, and running the same command again
goes on with the files that are still missing.
"""

from __future__ import annotations

from .covertype import covertype
from .download import fetch
from .entry import Dataset, FetchError, cache_folder, data_folder
from .galaxies import Counts
from .registry import DATASETS, names, tabular

__all__ = [
    "DATASETS",
    "Counts",
    "Dataset",
    "FetchError",
    "cache_folder",
    "covertype",
    "data_folder",
    "fetch",
    "names",
    "tabular",
]
