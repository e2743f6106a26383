"""A measured number with its error, and the samples that it is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_tensor, column_names


@dataclass(frozen=True)
class Estimate:
    """A value measured on samples.

    Attributes:
        value: the estimate.
        standard_error: standard deviation of the value over repeated samples.
        null: expected value when both samples share one distribution; `None` when not defined.
    """

    value: float
    standard_error: float
    null: float | None = None

    @property
    def z(self) -> float:
        """(value - null) / standard_error; the null counts as 0 when it is not defined."""
        return (self.value - (self.null or 0.0)) / self.standard_error

    def __str__(self) -> str:
        chance = "" if self.null is None else f" (by chance {self.null:.4g})"
        return f"{self.value:.4g} ± {self.standard_error:.2g}{chance}"


def sample_pair(x: Any, y: Any, *, least: int) -> tuple[Tensor, Tensor]:
    """Two samples as float64 tensors of shapes (n, d) and (m, d) on the device of the first.

    Columns of tables are matched by name.

    Raises:
        ValueError: other shapes, unequal d, fewer than `least` rows, NaN or infinite values.
    """
    names = column_names(x)
    x = sample_rows(x, "x", least=least)
    return x, sample_rows(y, "y", least=least, width=x.shape[1], like=x, columns=names)


def sample_rows(
    sample: Any, name: str, *, least: int = 1, width: int | None = None, **reading: Any
) -> Tensor:
    """A sample as float64 tensor of shape (n, d); a flat one becomes a column.

    Raises:
        ValueError: other shapes, fewer than `least` rows, NaN or infinite values.
    """
    rows = as_tensor(sample, name, dtype=torch.float64, **reading).detach()
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) < least or rows.shape[1] != (width or max(1, rows.shape[1])):
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)}, expected (rows, {width or 'columns'}) with at "
            f"least {least} rows: reshape it, or use a larger sample"
        )
    return rows


def subsample(sample: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
    """At most so many rows, drawn without replacement."""
    if most is None or len(sample) <= most:
        return sample
    return sample[torch.randperm(len(sample), generator=generator)[:most].to(sample.device)]
