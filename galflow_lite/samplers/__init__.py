"""Samplers of unnormalised densities that need one evaluation of a network for a sample.

Denoising Fisher training (arXiv:2411.01453), Fisher and KL training (arXiv:2306.04952).
"""

from __future__ import annotations

from .implicit_sampler import ImplicitSampler, SamplerNetwork, ScoreNetwork
from .losses import (
    LogUniform,
    dft_loss,
    fisher_loss,
    geometric,
    kl_loss,
    linear_decay,
    score_matching_loss,
)
from .sampler_training import train_sampler

__all__ = [
    "ImplicitSampler",
    "LogUniform",
    "SamplerNetwork",
    "ScoreNetwork",
    "dft_loss",
    "fisher_loss",
    "geometric",
    "kl_loss",
    "linear_decay",
    "score_matching_loss",
    "train_sampler",
]
