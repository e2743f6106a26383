"""Markov chains and particles: the baselines of one-step samplers, with their cost counted."""

from __future__ import annotations

from .chains import Chains
from .hamiltonian import hmc, leapfrog
from .langevin import langevin
from .stein import stein_direction, svgd

__all__ = ["Chains", "hmc", "langevin", "leapfrog", "stein_direction", "svgd"]
