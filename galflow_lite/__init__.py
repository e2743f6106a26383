"""Four papers on generative models for physics, reproduced in notebooks."""

__version__ = "0.1.0"
