"""Masks ξ (1 known, 0 hole), and a velocity that is zero where ξ = 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..inputs import as_number, as_tensor, as_whole
from .conditions import Condition, Field, entry, shaped_as


def tile_mask(
    batch: int,
    size: int | tuple[int, int],
    *,
    tiles: int = 8,
    hole_probability: float = 0.3,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random masks of square tiles, ξ = 1 known and 0 hole (section 4.1 of arXiv:2310.03725).

    Args:
        batch: number of masks.
        size: height and width of the image in pixels.
        tiles: tiles along each side; the paper has 64 tiles, 8 x 8.
        hole_probability: each tile is a hole with this probability, independently.
        generator: source of the draw.
        dtype: of the result.
        device: of the result; by default that of the generator.

    Returns:
        Shape (batch, 1, height, width), the same mask for all channels.

    Raises:
        ValueError: the tiles do not divide the image.
    """
    batch, tiles = as_whole(batch, "batch"), as_whole(tiles, "tiles", least=1)
    hole_probability = as_number(hole_probability, "hole_probability", least=0, most=1)
    sides = size if isinstance(size, tuple | list | torch.Size) else (size, size)
    height, width = (as_whole(side, "size", least=1) for side in sides)
    if height % tiles or width % tiles:
        raise ValueError(
            f"an image of {height} x {width} pixels has no {tiles} x {tiles} equal tiles: crop it, "
            "or change tiles"
        )
    home = generator.device if generator is not None else device
    draw = torch.rand(batch, 1, tiles, tiles, generator=generator, device=home, dtype=torch.float32)
    known = (draw >= hole_probability).to(dtype=dtype, device=device)
    known = known.repeat_interleave(height // tiles, dim=2)
    return known.repeat_interleave(width // tiles, dim=3)


def hole_of(mask: Any, x: Tensor) -> Tensor:
    """Where the mask is 0, as booleans of the shape of `x`.

    Args:
        mask: ξ, boolean or of zeros and ones, of the shape of `x` up to axes of length 1.
        x: shape (batch, *dim).

    Raises:
        ValueError: another shape, or other values, which nobody could tell from known pixels.
    """
    mask = as_tensor(mask, "mask", like=x)
    fits = mask.ndim == x.ndim and all(
        have in (1, want) for have, want in zip(mask.shape, x.shape, strict=True)
    )
    if not fits or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} and values from {float(mask.min()):g} to "
            f"{float(mask.max()):g}, expected 1 for known pixels and 0 for holes and the shape "
            f"{tuple(x.shape)}, or 1 along some axes, such as one channel: correct it"
        )
    return (mask == 0).expand(x.shape)


class MaskedVelocity(nn.Module):
    """b_t(x, ξ) = (1 - ξ) ∘ network(x, t, condition): known pixels never move.

    This builds in the exact property ξ∘b = 0 of in-painting (section 4.1 of arXiv:2310.03725). The
    samplers know this class and return known pixels bit by bit as they were. The mask is the
    condition itself, or its entry "mask" if it is a mapping.

    Args:
        network: callable (x, t, condition) -> tensor of the shape of x.
    """

    def __init__(self, network: Field) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Velocity of the shape of `x`, shape (batch, *dim), at times `t`, shape (batch,)."""
        velocity = shaped_as(x, self.network(x, t, condition), "network")
        # Not a product: an overflow of the network must not reach the known pixels as NaN.
        hole = entry(condition, "mask") == 0
        return torch.where(hole, velocity, torch.zeros_like(velocity))

    def hole(self, condition: Condition, x: Tensor) -> Tensor:
        """Where pixels move, booleans of the shape of `x`; see `hole_of`."""
        return hole_of(entry(condition, "mask"), x)
