"""Where data live, and the published sets that ``galflow-lite data fetch`` brings.

Every download is compared with a checksum where one is known, and every product is moved into
place only when it is complete and has the published shape. No pickle is loaded.
"""

from __future__ import annotations

from .registry import DATASETS, cache_folder, data_folder, fetch
from .uci import TabularData, subset

__all__ = ["DATASETS", "TabularData", "cache_folder", "data_folder", "fetch", "subset"]
