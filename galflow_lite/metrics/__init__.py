"""Distances between samples, each with its standard error and the value expected by chance."""

from __future__ import annotations

from .classifier import c2st
from .estimate import Estimate
from .kernels import gaussian_mmd, linear_mmd
from .transport import column_distances, sliced_wasserstein

__all__ = [
    "Estimate",
    "c2st",
    "column_distances",
    "gaussian_mmd",
    "linear_mmd",
    "sliced_wasserstein",
]
