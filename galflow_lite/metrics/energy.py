"""Energy distance between two samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .estimate import Estimate, sample_pair
from .pairs import within_less_across

__all__ = ["energy_distance"]


def energy_distance(x: Any, y: Any) -> Estimate:
    r"""Unbiased energy distance :math:`2 E|x - y| - E|x - x'| - E|y - y'|`.

    Zero only when both distributions agree (Székely and Rizzo 2013), in the units of the columns;
    no kernel and no bandwidth to choose. It sees the weights of separated modes, which a kernel
    Stein discrepancy hardly does. As a U-statistic it can be negative. The standard error holds
    both orders of the Hoeffding decomposition: it covers when the distributions differ and when
    they agree, and in the latter case scatters to the safe side. Computed in float64; memory grows
    linearly with the number of rows, time with its square.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).

    Raises:
        ValueError: shapes differ, fewer than 4 rows, NaN or infinite values.
    """
    x, y = sample_pair(x, y, least=4)
    # The distance enters as a kernel with the other sign.
    value, error = within_less_across(x, y, Tensor.sqrt_, diagonal=0.0)
    return Estimate(-value, error, 0.0)
