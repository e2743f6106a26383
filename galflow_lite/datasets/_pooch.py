"""pooch, imported without the warning of its progress bar."""

from __future__ import annotations

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # pooch picks its progress bar on import and warns in a notebook without ipywidgets.
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch
    from pooch.downloaders import doi_to_repository

__all__ = ["doi_to_repository", "pooch"]
