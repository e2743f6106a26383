"""Densities that samplers are measured against: closed forms, posteriors and an energy model."""

from __future__ import annotations

from .base import Target
from .checking import check_score
from .derived import Affine, FromLogDensity, Noised, Tempered
from .energy_model import EnergyModel
from .gaussians import CorrelatedGaussian, GaussianMixture, RingOfGaussians, TwoGaussians
from .logistic import BayesianLogisticRegression, LaplaceFit, Prediction
from .multimodal import CircleOfGaussians, TwoMoons, TwoRings
from .named import NAMED
from .planar import Donut, Funnel, Rosenbrock, Squiggle

__all__ = [
    "NAMED",
    "Affine",
    "BayesianLogisticRegression",
    "CircleOfGaussians",
    "CorrelatedGaussian",
    "Donut",
    "EnergyModel",
    "FromLogDensity",
    "Funnel",
    "GaussianMixture",
    "LaplaceFit",
    "Noised",
    "Prediction",
    "RingOfGaussians",
    "Rosenbrock",
    "Squiggle",
    "Target",
    "Tempered",
    "TwoGaussians",
    "TwoMoons",
    "TwoRings",
    "check_score",
]
