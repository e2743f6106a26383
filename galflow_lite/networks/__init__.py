"""Networks that several papers share: a perceptron for points, a U-Net and features for images."""

from __future__ import annotations

from .feature_network import FeatureNetwork
from .mlp_and_unet import MLP, UNet

__all__ = ["MLP", "FeatureNetwork", "UNet"]
