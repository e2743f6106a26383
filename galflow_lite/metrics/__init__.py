"""Distances between samples and divergences between densities, each with its standard error.

Distances between samples also give the value expected by chance.
"""

from __future__ import annotations

from .classifier import c2st
from .estimate import Estimate
from .kernels import gaussian_mmd, linear_mmd
from .kl import Divergence, effective_sample_size, forward_kl, reverse_kl, self_normalised_kl
from .transport import column_distances, sliced_wasserstein

__all__ = [
    "Divergence",
    "Estimate",
    "c2st",
    "column_distances",
    "effective_sample_size",
    "forward_kl",
    "gaussian_mmd",
    "linear_mmd",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
]
