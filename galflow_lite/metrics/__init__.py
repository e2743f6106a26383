"""Distances between samples and divergences between densities, each with its standard error.

Distances between samples also give the value expected by chance.
"""

from __future__ import annotations

from .classifier_test import c2st
from .estimate import Estimate
from .frechet import frechet_distance, gaussian_frechet
from .image_errors import flux_conservation, masked_error
from .kernel_stein import ksd, ksd_floor
from .kl import effective_sample_size, forward_kl, reverse_kl, self_normalised_kl
from .mmd_and_energy import energy_distance, gaussian_mmd, linear_mmd
from .modes import mode_weights
from .spectra import spectrum_ratio
from .wasserstein import sliced_wasserstein

__all__ = [
    "Estimate",
    "c2st",
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
    "masked_error",
    "mode_weights",
    "reverse_kl",
    "self_normalised_kl",
    "sliced_wasserstein",
    "spectrum_ratio",
]
