"""HEPMASS and MINIBOONE: the signal events of two experiments of particle physics.

UCI, "HEPMASS", doi:10.24432/C5PP5W, and "MiniBooNE particle identification",
doi:10.24432/C5QC87, both CC BY 4.0.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from .data import TabularData, last_tenths, repeated_minimum, standardise
from .reading import is_archive, is_numpy, numbers, numpy_table, opened

__all__ = ["hepmass", "miniboone"]

_HEPMASS_FEATURES = 26
_MINIBOONE_FEATURES = 50


def hepmass(path: Path | str, *, rows: tuple[int, int] | None = (700_000, 350_000)) -> TabularData:
    """Read HEPMASS and prepare it as the MAF paper does (arXiv:1705.07057, and its code).

    Of the files for the mass 1000, the events of class 1 are kept. The 27th feature is dropped, as
    the published sizes imply. Mean and standard deviation (with n - 1) of the training file
    standardise; features whose smallest value occurs more than 5 times in it are dropped, 5 of 26;
    the last tenth of the training file, in file order, is for validation.

    Where this departs from good practice: the repeats are those of the smallest value only, and the
    validation rows take part in the standardisation.

    Args:
        path: Folder or archive with ``1000_train.csv`` and ``1000_test.csv``, or both with .gz: the
            UCI archive, or that of doi:10.5281/zenodo.1161203.
        rows: Read at most so many first rows of the training and of the test file. The published
            sizes are those of the first tenth of the UCI files; None reads all.

    Returns:
        The table; of the published rows 315,123, 35,013 and 174,987.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If a file is another or damaged.
    """
    path = Path(path)
    if path.is_file() and not is_archive(path):
        raise ValueError(
            f"{path} is one file, expected a folder or an archive with 1000_train.csv and "
            "1000_test.csv: give that."
        )
    tables = []
    for part, limit in zip(("1000_train.csv", "1000_test.csv"), rows or (None, None), strict=True):
        with opened(path, part) as (source, stream):
            tables.append(_class_one(stream, source, limit))
    n, test = len(tables[0]), len(tables[1])
    validation = int(0.1 * n)
    if not validation or not test:
        raise ValueError(
            f"hepmass has {n} and {test} events of class 1 for training and test, expected at "
            "least 10 and 1: check that the files are complete."
        )
    kept = np.flatnonzero(~repeated_minimum(tables[0]))
    table = np.concatenate([t[:, kept] for t in tables])
    columns = tuple(f"f{i}" for i in kept)
    standardise(table, rows=slice(0, n), ddof=1, columns=columns, name="hepmass")
    return TabularData(
        name="hepmass",
        train=table[: n - validation],
        validation=table[n - validation : n],
        test=table[n : n + test],
        columns=columns,
    )


def _class_one(stream: IO[bytes], source: str, limit: int | None) -> np.ndarray:
    """Features of the events of class 1, shape (n, 26)."""
    header = stream.readline()
    if b"label" not in header.split(b",")[0]:
        text = header.decode(errors="replace").strip()[:60]
        raise ValueError(
            f"{source} begins with {text!r}, expected the columns label, f0, f1, ...: this is not "
            "a file of HEPMASS."
        )
    # The files differ in how many columns follow the 26 that are used.
    widths = range(1 + _HEPMASS_FEATURES, 4 + _HEPMASS_FEATURES)
    table = numbers(
        islice(stream, limit),
        source=source,
        widths=widths,
        use=slice(0, 1 + _HEPMASS_FEATURES),
        first=2,
        delimiter=b",",
    )
    if not np.isin(table[:, 0], (0, 1)).all():
        raise ValueError(
            f"{source} has labels other than 0 and 1, expected the class first: this is not a "
            "file of HEPMASS."
        )
    return table[table[:, 0] == 1, 1:]


def miniboone(path: Path | str) -> TabularData:
    """Read MINIBOONE and prepare it as the MAF paper does (arXiv:1705.07057, and its code).

    The signal events are kept, which stand first; of these, rows whose first feature lies below
    -100 are dropped (they mark failed events), then features whose smallest value occurs more than
    5 times: 43 of 50 are left. The last tenth is for test, the last tenth of the rest for
    validation; mean and standard deviation of both other parts standardise all.

    Where this departs from good practice: the rows are split in file order without a shuffle, and
    the repeats are those of the smallest value only.

    Args:
        path: The UCI file ``MiniBooNE_PID.txt`` or an archive with it; or ``miniboone/data.npy`` of
            the archive doi:10.5281/zenodo.1161203, 43 columns and the rows and features dropped
            already, plain or in that archive.

    Returns:
        The table; of the full file 29,556, 3,284 and 3,648 rows.

    Raises:
        FileNotFoundError: If nothing is at the path.
        ValueError: If the file is another or damaged.
    """
    with opened(path, "MiniBooNE_PID.txt", "miniboone/data.npy") as (source, stream):
        if is_numpy(stream):
            table = numpy_table(stream, source=source, width=43)
            kept = np.arange(43)
        else:
            table = _signal(stream, source)
            table = table[table[:, 0] >= -100]
            kept = np.flatnonzero(~repeated_minimum(table)) if len(table) else np.arange(0)
    n = len(table)
    validation, test = last_tenths(n, name="miniboone")
    table = table[:, kept]
    columns = tuple(f"x{i}" for i in kept)
    standardise(table, rows=slice(0, n - test), ddof=0, columns=columns, name="miniboone")
    return TabularData(
        name="miniboone",
        train=table[: n - test - validation],
        validation=table[n - test - validation : n - test],
        test=table[n - test :],
        columns=columns,
    )


def _signal(stream: IO[bytes], source: str) -> np.ndarray:
    """Features of the signal events, shape (n, 50)."""
    header = stream.readline().split()
    if len(header) != 2 or not all(count.isdigit() for count in header):
        text = b" ".join(header).decode(errors="replace")[:60]
        raise ValueError(
            f"{source} begins with {text!r}, expected the numbers of signal and background events: "
            "this is not MiniBooNE_PID.txt."
        )
    expected = int(header[0])
    table = numbers(
        islice(stream, expected),
        source=source,
        widths=range(_MINIBOONE_FEATURES, _MINIBOONE_FEATURES + 1),
        use=slice(None),
        first=2,
    )
    if len(table) != expected:
        raise ValueError(
            f"{source} has {len(table):,} rows, expected at least the {expected:,} signal events "
            "that its first line states: the file is cut short, download it again."
        )
    return table
