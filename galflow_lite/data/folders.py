"""Where data live on this computer."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from tqdm import TqdmWarning

from ..files import share

with warnings.catch_warnings():
    # pooch picks its progress bar on import and warns in a notebook without ipywidgets.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch


def data_folder() -> Path:
    """Folder of the data that ship: ``GALFLOW_DATA``, else that of the project or package.

    Raises:
        FileNotFoundError: The folder is not there.
    """
    return share("data")


def cache_folder() -> Path:
    """Folder of downloads: ``GALFLOW_DOWNLOADS``, else the cache folder of the user."""
    chosen = os.environ.get("GALFLOW_DOWNLOADS")
    return Path(chosen) if chosen else Path(pooch.os_cache("galflow-lite"))
