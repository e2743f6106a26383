"""Distances between samples and divergences between densities, each with its standard error.

Distances between samples also give the value expected by chance.
"""

from __future__ import annotations

from .classifier import c2st
from .energy import energy_distance
from .estimate import Estimate
from .frechet import frechet_distance, gaussian_frechet, train_test_floor
from .image_errors import FluxError, flux_conservation, low_resolution_error, masked_error
from .kernels import gaussian_mmd, linear_mmd
from .kl import Divergence, effective_sample_size, forward_kl, reverse_kl, self_normalised_kl
from .modes import ModeWeights, mode_weights
from .spectrum import Spectrum, power_spectrum, residual_power_spectrum, spectrum_ratio
from .stein import ksd, ksd_floor
from .transport import column_distances, sliced_wasserstein

__all__ = [
    "Divergence",
    "Estimate",
    "FluxError",
    "ModeWeights",
    "Spectrum",
    "c2st",
    "column_distances",
    "effective_sample_size",
    "energy_distance",
    "flux_conservation",
    "forward_kl",
    "frechet_distance",
    "gaussian_frechet",
    "gaussian_mmd",
    "ksd",
    "ksd_floor",
    "linear_mmd",
    "low_resolution_error",
    "masked_error",
    "mode_weights",
    "power_spectrum",
    "residual_power_spectrum",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
    "spectrum_ratio",
    "train_test_floor",
]
