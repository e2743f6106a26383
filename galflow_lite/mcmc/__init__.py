"""Markov chains and particles: the baselines of one-step samplers, with their cost counted."""

from __future__ import annotations

from .chains import Chains, hmc, langevin, split_r_hat
from .svgd import svgd

__all__ = ["Chains", "hmc", "langevin", "split_r_hat", "svgd"]
