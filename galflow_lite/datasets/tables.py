"""From a downloaded table to its prepared parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..files import sha256
from ..tabular import TabularData
from .entry import FetchError

__all__ = ["prepare_table"]


def prepare_table(
    raw: Path,
    product: Path,
    *,
    progress: bool,
    file: str,
    read: Callable[[Path], TabularData],
    expected: tuple[int, int, int, int],
) -> None:
    """Convert the file of a set with its reader, and check the shape of what comes out.

    Args:
        raw: Folder of the downloaded file.
        product: HDF5 file to write.
        progress: Say on stderr that the file is being read.
        file: Name of the downloaded file.
        read: Reader of the set, from `galflow_lite.tabular`.
        expected: Published rows for training, validation and test, and columns.

    Raises:
        FetchError: If the file cannot be read or its shape is not the published one.
    """
    source = raw / file
    if progress:
        print(f"reading {file} ...", file=sys.stderr)
    try:
        data = read(source)
    except ValueError as error:
        raise FetchError(
            f"{source} cannot be converted ({str(error).rstrip('.')}): delete it and run the same "
            "command again; if it stays so, the file at the source has changed."
        ) from error
    aside = product.with_name(f"{product.stem}_unverified{product.suffix}")
    data.write(aside, provenance={"source": file, "source_sha256": sha256(source)})
    if data.shape != expected:
        raise FetchError(
            f"found {_shape(data.shape)}; expected {_shape(expected)}: the data or their "
            f"preparation differ from the published ones, the converted file is kept aside as "
            f"{aside} for a look."
        )
    os.replace(aside, product)


def _shape(shape: tuple[int, int, int, int]) -> str:
    train, validation, test, columns = shape
    return (
        f"{train:,} training, {validation:,} validation and {test:,} test rows of {columns} columns"
    )
