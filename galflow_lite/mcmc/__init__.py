"""Markov chains and particles: the baselines of one-step samplers, with their cost counted."""

from __future__ import annotations

from .chains import Chains, split_r_hat
from .hamiltonian import hmc
from .langevin import langevin
from .svgd import svgd

__all__ = ["Chains", "hmc", "langevin", "split_r_hat", "svgd"]
