"""Samplers of unnormalised densities that need one evaluation of a network for a sample.

Denoising Fisher training (arXiv:2411.01453), Fisher and KL training (arXiv:2306.04952).
"""

from __future__ import annotations

from .losses import dft_loss, fisher_loss, kl_loss, score_matching_loss
from .networks import SamplerNetwork, ScoreNetwork
from .noise import LogUniform, geometric
from .sampler import ImplicitSampler, SamplerDiverged, SamplerHistory
from .training import train_sampler

__all__ = [
    "ImplicitSampler",
    "LogUniform",
    "SamplerDiverged",
    "SamplerHistory",
    "SamplerNetwork",
    "ScoreNetwork",
    "dft_loss",
    "fisher_loss",
    "geometric",
    "kl_loss",
    "score_matching_loss",
    "train_sampler",
]
