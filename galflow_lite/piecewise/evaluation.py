"""Points to evaluate pieces at, and their densities however far out."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ..flows import Flow

__all__ = ["log_prob_of", "points_of"]


def log_prob_of(flow: Flow, x: Tensor) -> Tensor:
    """Log-density of a piece in its own coordinates, float64, finite for finite points."""
    log_prob = flow.log_prob(x).double()
    lost = ~log_prob.isfinite()
    if lost.any():
        # Single precision cannot hold the square of 1e20: far out it takes double.
        wide = copy.deepcopy(flow).double()
        log_prob = log_prob.index_put((lost,), wide.log_prob(x[lost]))
    return log_prob


def points_of(x, features: int) -> Tensor:
    """x as a float64 tensor of shape (n, features).

    Raises:
        ValueError: On another shape, NaN or infinite values.
    """
    tensor = torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x)
    if tensor.dim() != 2 or tensor.shape[1] != features:
        raise ValueError(
            f"found x of shape {tuple(tensor.shape)}, expected (n, {features}): pass one row for "
            "each point"
        )
    wrong = int((~torch.isfinite(tensor)).any(dim=1).sum())
    if wrong:
        raise ValueError(
            f"found {wrong} of {len(tensor)} points with NaN or infinite values: remove them"
        )
    return tensor.double()
