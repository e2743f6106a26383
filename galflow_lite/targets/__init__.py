"""Densities known in closed form, with exact samplers: what a flow is measured against."""

from __future__ import annotations

from .base import Target
from .multimodal import CircleOfGaussians, TwoMoons, TwoRings

__all__ = ["CircleOfGaussians", "Target", "TwoMoons", "TwoRings"]
