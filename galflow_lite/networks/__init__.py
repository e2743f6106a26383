"""Networks that several papers share: a perceptron for points, a U-Net for images."""

from __future__ import annotations

from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "UNet"]
