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
from .image_errors import flux_conservation, masked_error, spectrum_ratio
from .kernels import energy_distance, ksd, ksd_floor, linear_mmd
from .wasserstein import frechet_distance, gaussian_frechet, sliced_wasserstein

__all__ = [
    "Estimate",
    "c2st",
    "effective_sample_size",
    "energy_distance",
    "flux_conservation",
    "forward_kl",
    "frechet_distance",
    "gaussian_frechet",
    "ksd",
    "ksd_floor",
    "linear_mmd",
    "masked_error",
    "mode_weights",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
    "spectrum_ratio",
]
