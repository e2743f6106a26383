"""Parts of the U-Net: time features, residual block, attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "ResidualBlock", "TimeFeatures"]


class TimeFeatures(nn.Module):
    """The time, and sines and cosines of it whose frequencies are learned.

    Args:
        features: Number of sines and cosines together, even.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        """Map t (batch,) to (batch, features + 1)."""
        angles = 2 * math.pi * t[:, None] * self.frequencies
        return torch.cat((t[:, None], angles.sin(), angles.cos()), dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions, the first scaled and shifted by the embedding, and a way around them.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        embedding: Width of the embedding of time and class.
        groups: Groups of the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, *, embedding: int, groups: int) -> None:
        super().__init__()
        self.scale_and_shift = nn.Linear(embedding, 2 * outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first_norm = nn.GroupNorm(groups, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second_norm = nn.GroupNorm(groups, outputs)
        self.around = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Map h (batch, inputs, height, width) and embedding (batch, embedding) to outputs."""
        scale, shift = self.scale_and_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        g = F.silu(torch.addcmul(shift, self.first_norm(self.first(h)), scale + 1))
        return F.silu(self.second_norm(self.second(g))) + self.around(h)


class Attention(nn.Module):
    """Every position attends to every other, added to the input.

    Args:
        channels: Channels in and out.
        heads: Number of heads.
        head_width: Width of each head.
        groups: Groups of the normalisation.
    """

    def __init__(self, channels: int, *, heads: int, head_width: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.project = nn.Conv2d(channels, 3 * heads * head_width, 1, bias=False)
        self.merge = nn.Conv2d(heads * head_width, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map h (batch, channels, height, width) to the same shape."""
        projected = self.project(self.norm(h)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = projected.unbind(1)
        # Written out, since torch's fused attention has no second and no forward derivative, which
        # likelihoods need; at the lowest resolution it would save nothing.
        weights = (query.transpose(-1, -2) @ key / query.shape[2] ** 0.5).softmax(dim=-1)
        attended = value @ weights.transpose(-1, -2)
        return h + self.merge(attended.flatten(1, 2).unflatten(2, h.shape[2:]))
