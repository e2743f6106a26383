"""A measured number with its error, and the check of what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Estimate", "require_finite_rows", "sample_pair", "subsample"]


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

    Raises:
        ValueError: other shapes, unequal d, fewer than `least` rows, NaN or infinite values.
    """
    pair = []
    for name, sample in (("x", x), ("y", y)):
        tensor = torch.as_tensor(sample).detach().double()
        tensor = tensor[:, None] if tensor.ndim == 1 else tensor
        if tensor.ndim != 2 or not tensor.shape[-1]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected (rows, columns): reshape it"
            )
        if len(tensor) < least:
            raise ValueError(
                f"{name} has {len(tensor)} rows, expected at least {least}: use a larger sample"
            )
        require_finite_rows(name, tensor)
        pair.append(tensor)
    x, y = pair
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} columns and y has {y.shape[1]}, expected the same columns in both"
        )
    return x, y.to(x.device)


def require_finite_rows(name: str, values: Tensor) -> None:
    """Nothing, for values of shape (n, d) that are all finite.

    Raises:
        ValueError: NaN or infinite values.
    """
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {len(values)} rows with NaN or infinite values, expected none: "
            "remove these rows, or repair what they come from"
        )


def subsample(sample: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
    """At most so many rows, drawn without replacement."""
    if most is None or len(sample) <= most:
        return sample
    return sample[torch.randperm(len(sample), generator=generator)[:most].to(sample.device)]
