"""Clusters and pieces that several test files share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galflow_lite import flows
from galflow_lite.piecewise import PiecewiseFlow


def identity(features: int) -> flows.Flow:
    """A flow that maps points to themselves, and stays so without a learning rate."""
    return flows.real_nvp(features, layers=1, hidden=2)


def gaussians(n=(60, 240, 700), dim: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters of unequal size and spread, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(n)), n)
    x = rng.normal(size=(len(labels), dim)) * (0.5 + labels[:, None])
    x[:, 0] += 2.0 * labels
    order = rng.permutation(len(x))
    return x[order], labels[order]


def log_prob(flow: PiecewiseFlow, x) -> Tensor:
    with torch.no_grad():
        return flow.log_prob(x)
