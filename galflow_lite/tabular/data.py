"""Tables split into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..files import explain_write_errors, written_aside

__all__ = ["TabularData", "last_tenths", "repeated_minimum", "standardise", "subset"]

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class TabularData:
    """A table in three parts.

    Attributes:
        name: Name of the set.
        train: Training rows, shape (n, d), float64.
        validation: Validation rows, shape (n, d), float64.
        test: Test rows, shape (n, d), float64.
        columns: Names of the d columns.

    Raises:
        ValueError: If a part is not a table of finite numbers with one column for each name.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        for part in _PARTS:
            table = np.asarray(getattr(self, part), dtype=np.float64)
            if table.ndim != 2 or table.shape[1] != len(self.columns):
                raise ValueError(
                    f"the {part} part of {self.name} has the shape {table.shape}, expected (n, "
                    f"{len(self.columns)}) for the columns {', '.join(self.columns)}: correct it."
                )
            if not np.isfinite(table).all():
                raise ValueError(
                    f"the {part} part of {self.name} holds NaN or infinite values, expected "
                    "finite numbers: drop those rows."
                )
            object.__setattr__(self, part, table)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows for training, validation and test, and the number of columns."""
        return len(self.train), len(self.validation), len(self.test), self.dim

    def write(self, path: Path | str, *, provenance: Mapping[str, str] | None = None) -> None:
        """Write the three parts to an HDF5 file, which appears only when it is complete.

        Args:
            path: File to write; one that is there is replaced.
            provenance: What the attributes of the file shall say on its origin.

        Raises:
            OSError: If the file cannot be written.
        """
        path = Path(path)
        with (
            written_aside(path) as temporary,
            explain_write_errors(path),
            h5py.File(temporary, "w") as file,
        ):
            file.attrs.update({**(provenance or {}), "name": self.name})
            file.attrs["columns"] = list(self.columns)
            for part in _PARTS:
                file[part] = getattr(self, part)

    @classmethod
    def read(cls, path: Path | str) -> TabularData:
        """Read what `write` has written.

        Raises:
            FileNotFoundError: If the file is not there.
            ValueError: If it is not such a file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}, expected a table: check the path.")
        try:
            with h5py.File(path) as file:
                columns = tuple(str(column) for column in file.attrs["columns"])
                parts = {part: file[part][:] for part in _PARTS}
                return cls(name=str(file.attrs["name"]), columns=columns, **parts)
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a table of this package ({type(error).__name__}), expected an HDF5 "
                f"file with {', '.join(_PARTS)} and columns: fetch or write it anew."
            ) from error


def subset(
    data: TabularData,
    *,
    train: int = 25_000,
    test: int = 10_000,
    validation: int | None = None,
    seed: int,
    replace: bool = True,
) -> TabularData:
    """Draw rows at random from each part: with the defaults, POWER as in arXiv:2305.02930, 4.4.

    That paper draws its rows *with replacement*: some rows then stand in the part several times,
    which is no fault of the data. ``replace=False`` draws each row once at most.

    Args:
        data: Where the rows come from; training rows from its training part, and so on.
        train: Training rows to draw.
        test: Test rows to draw.
        validation: Validation rows to draw; None keeps the whole part.
        seed: Seed of the draw.
        replace: Draw with replacement.

    Returns:
        Table with the same columns; already standardised numbers are not standardised anew.

    Raises:
        ValueError: If a number of rows is not positive, or exceeds the part without replacement.
    """
    rng = np.random.default_rng(seed)
    wanted = {"train": train, "test": test, "validation": validation}
    parts = {}
    for part, n in wanted.items():
        table = getattr(data, part)
        if n is None:
            parts[part] = table
            continue
        if n < 1 or (n > len(table) and not replace) or not len(table):
            bound = f"1 to {len(table):,}" if not replace else "at least 1 of a part with rows"
            raise ValueError(
                f"{n:,} {part} rows of {data.name} were asked for, expected {bound}: give another "
                "number, or draw with replacement."
            )
        parts[part] = table[rng.choice(len(table), size=n, replace=replace)]
    return TabularData(name=data.name, columns=data.columns, **parts)


def last_tenths(n: int, *, name: str) -> tuple[int, int]:
    """Rows for validation and for test: the last tenth of n, then the last tenth of the rest.

    Raises:
        ValueError: If there are so few rows that a part would be empty.
    """
    test = int(0.1 * n)
    validation = int(0.1 * (n - test))
    if not test or not validation:
        raise ValueError(
            f"{name} has {n} complete rows, expected at least 11 so that each part has one: check "
            "that the file is complete."
        )
    return validation, test


def standardise(
    table: np.ndarray, *, rows: slice, ddof: int, columns: Sequence[str], name: str
) -> None:
    """Subtract the mean and divide by the standard deviation of some rows, in place.

    Args:
        table: Numbers, shape (n, d).
        rows: The rows that give mean and standard deviation.
        ddof: 1 divides the sum of squares by n - 1, 0 by n.
        columns: Names of the columns, for the error.
        name: Name of the set, for the error.

    Raises:
        ValueError: If a column is constant over these rows.
    """
    if not len(columns):
        raise ValueError(
            f"no column of {name} is left, expected some: check that the file is the right one."
        )
    low, high = table[rows].min(axis=0), table[rows].max(axis=0)
    if (low == high).any():
        column = columns[int(np.argmax(low == high))]
        raise ValueError(
            f"the column {column} of {name} is constant, expected numbers that vary: it cannot be "
            "standardised, check that the file is complete."
        )
    mean, scale = table[rows].mean(axis=0), table[rows].std(axis=0, ddof=ddof)
    table -= mean
    table /= scale


def repeated_minimum(table: np.ndarray, *, limit: int = 5) -> np.ndarray:
    """Columns whose smallest value occurs more than ``limit`` times, shape (d,), bool.

    The MAF paper (arXiv:1705.07057) drops features with too many repeats; its code counts the
    smallest value of a feature only, not the most frequent one. This does the same.
    """
    return (table == table.min(axis=0)).sum(axis=0) > limit
