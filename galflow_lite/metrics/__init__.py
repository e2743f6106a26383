"""Distances between samples and divergences between densities, each with its standard error.

Distances between samples also give the value expected by chance.
"""

from __future__ import annotations

from .divergences import (
    Estimate,
    c2st,
    effective_sample_size,
    forward_kl,
    mode_weights,
    reverse_kl,
    self_normalised_kl,
)
from .kernels import energy_distance, ksd, ksd_floor, linear_mmd
from .power_spectrum import power_spectrum
from .wasserstein import frechet_distance, gaussian_frechet, sliced_wasserstein

__all__ = [
    "Estimate",
    "c2st",
    "effective_sample_size",
    "energy_distance",
    "forward_kl",
    "frechet_distance",
    "gaussian_frechet",
    "ksd",
    "ksd_floor",
    "linear_mmd",
    "mode_weights",
    "power_spectrum",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
]
