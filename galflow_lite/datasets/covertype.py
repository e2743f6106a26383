"""Forest cover types: from the published text to one file of arrays, and back."""

from __future__ import annotations

import gzip
import sys
import zlib
from pathlib import Path

import numpy as np

from ..files import explain_write_errors, written_aside
from .entry import FetchError, brief, cache_folder

__all__ = ["COVERTYPE", "covertype", "prepare_covertype"]

COVERTYPE = "5976039"
"""Name of the file at its source, which scikit-learn downloads as well: gzip of plain numbers."""

_COLUMNS = 54


def prepare_covertype(raw: Path, product: Path, *, progress: bool, rows: int) -> None:
    """Read the text and write ``x`` (rows, 54) int16 and ``y`` (rows,) uint8, classes 1 to 7.

    Raises:
        FetchError: If the text is not that of the set.
        OSError: If the product cannot be written.
    """
    source = raw / COVERTYPE
    if progress:
        print(f"reading {source.name} ...", file=sys.stderr)
    try:
        with gzip.open(source, "rt", encoding="ascii") as text:
            table = np.loadtxt(text, delimiter=",", dtype=np.int16, ndmin=2)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise FetchError(
            f"{source} cannot be read ({brief(error)}), expected a gzip of rows of whole numbers: "
            "delete it and run the same command again."
        ) from error
    classes = np.unique(table[:, -1]).tolist()
    if table.shape != (rows, _COLUMNS + 1) or classes != list(range(1, 8)):
        raise FetchError(
            f"{source} holds {table.shape[0]:,} rows of {table.shape[1]} columns and the classes "
            f"{classes}, expected {rows:,} of {_COLUMNS + 1} and 1 to 7: the file at the source "
            "has changed."
        )
    with written_aside(product) as temporary, explain_write_errors(product):
        with temporary.open("wb") as file:
            np.savez_compressed(file, x=table[:, :-1], y=table[:, -1].astype(np.uint8))


def covertype(folder: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Load the cover types as `fetch` has left them; nothing is downloaded.

    The usual task of Bayesian logistic regression is class 2, about half of the rows, against the
    rest, with the first ten columns brought to unit scale.

    Args:
        folder: The folder that `fetch` was given; None takes `cache_folder`.

    Returns:
        Ten measured columns and 44 indicators, shape (581012, 54), float64; classes 1 to 7, shape
        (581012,).

    Raises:
        FileNotFoundError: If the set has not been fetched; the message names the command.
    """
    path = (Path(folder) if folder is not None else cache_folder()) / "covertype/covertype.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"covertype is not there, expected it at {path}: run `galflow-lite data fetch "
            "covertype` first."
        )
    with np.load(path, allow_pickle=False) as file:
        return file["x"].astype(np.float64), file["y"].astype(np.int64)
