"""Shares of the modes of a mixture in a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .estimate import sample_rows


@dataclass(frozen=True)
class ModeWeights:
    """Shares of the modes in a sample, beside the true weights.

    Attributes:
        shares: part of the sample that belongs to each mode, shape (k,), float64.
        standard_errors: binomial error of each share, shape (k,). With w the true weight it is
            sqrt(w (1 - w) / n) where the share is 0 or 1, so that it never vanishes.
        expected: shares that exact samples have on average, shape (k,).
        n: number of samples.
    """

    shares: Tensor
    standard_errors: Tensor
    expected: Tensor
    n: int

    @property
    def largest_deviation(self) -> float:
        """Largest |share - expected| over the modes."""
        return float((self.shares - self.expected).abs().max())

    def __str__(self) -> str:
        parts = "/".join(f"{100 * share:.0f}" for share in self.shares.tolist())
        return f"{parts} % (off by up to {100 * self.largest_deviation:.1f} points)"


def mode_weights(x: Any, target: Any) -> ModeWeights:
    """Share of each mode of a target in a sample.

    A point belongs to the mode that ``target.assign`` gives it. Where modes overlap, exact samples
    spread over them by the same rule, which for modes of unequal shape need not give the true
    weights to the last digit; separated modes do.

    Args:
        x: the sample, shape (n, d).
        target: a target with `assign(x)`, the index of the mode of each point, and
            `mode_weights`, the true weights, shape (k,).

    Raises:
        ValueError: an empty sample, NaN or infinite values.
        NotImplementedError: the target has no modes.
    """
    x = sample_rows(x, "x")
    expected = torch.as_tensor(target.mode_weights).double().cpu()
    index = torch.as_tensor(target.assign(x)).long().cpu()
    shares = torch.bincount(index, minlength=len(expected)).double() / len(x)
    spread = shares * (1 - shares)
    spread = torch.where(spread > 0, spread, expected * (1 - expected))
    return ModeWeights(shares, spread.sqrt() / math.sqrt(len(x)), expected, len(x))
