"""Distances between samples and divergences between densities, each with its standard error.

Distances between samples also give the value expected by chance.
"""

from __future__ import annotations

from .classifier import c2st
from .energy import energy_distance
from .estimate import Estimate
from .kernels import gaussian_mmd, linear_mmd
from .kl import Divergence, effective_sample_size, forward_kl, reverse_kl, self_normalised_kl
from .modes import ModeWeights, mode_weights
from .stein import ksd, ksd_floor
from .transport import column_distances, sliced_wasserstein

__all__ = [
    "Divergence",
    "Estimate",
    "ModeWeights",
    "c2st",
    "column_distances",
    "effective_sample_size",
    "energy_distance",
    "forward_kl",
    "gaussian_mmd",
    "ksd",
    "ksd_floor",
    "linear_mmd",
    "mode_weights",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
]
