"""Masks ξ (1 known, 0 hole), and a velocity that is zero where ξ = 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Condition", "MaskedVelocity", "entry", "hole_of", "tile_mask", "with_entry"]

Condition = Tensor | Mapping[str, Any] | None


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
        ValueError: the tiles do not divide the image, or the probability is outside [0, 1].
    """
    height, width = (size, size) if isinstance(size, int) else size
    if tiles < 1 or height % tiles or width % tiles or not height or not width:
        raise ValueError(
            f"found an image of {height} x {width} pixels for {tiles} x {tiles} tiles, expected a "
            "multiple of the tiles: crop the image or change tiles"
        )
    if not 0 <= hole_probability <= 1:
        raise ValueError(
            f"found hole_probability={hole_probability}, expected a number in [0, 1]: correct it"
        )
    home = generator.device if generator is not None else device
    draw = torch.rand(batch, 1, tiles, tiles, generator=generator, device=home)
    known = (draw >= hole_probability).to(dtype=dtype, device=device)
    known = known.repeat_interleave(height // tiles, dim=2)
    return known.repeat_interleave(width // tiles, dim=3)


def hole_of(mask: Any, x: Tensor) -> Tensor:
    """Where the mask is 0, as booleans of the shape of `x`.

    Args:
        mask: ξ, boolean or of zeros and ones, of the shape of `x` up to axes of length 1.
        x: shape (batch, *dim).

    Raises:
        ValueError: no tensor, another shape, or other values.
    """
    if not isinstance(mask, Tensor) or mask.is_complex():
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"found a mask of type {kind}, expected a tensor of booleans or of zeros and ones "
            "(1 known, 0 hole): convert it"
        )
    fits = mask.ndim == x.ndim and all(
        have in (1, want) for have, want in zip(mask.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"found a mask of shape {tuple(mask.shape)}, expected {tuple(x.shape)} or 1 along some "
            "axes, such as one channel: reshape it"
        )
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "found a mask with values other than 0 and 1, expected 1 for known pixels and 0 for "
            "holes: threshold it"
        )
    return (mask == 0).to(x.device).expand(x.shape)


class MaskedVelocity(nn.Module):
    """b_t(x, ξ) = (1 - ξ) ∘ network(x, t, condition): known pixels never move.

    This builds in the exact property ξ∘b = 0 of in-painting (section 4.1 of arXiv:2310.03725). The
    samplers know this class and return known pixels bit by bit as they were.

    Args:
        network: callable (x, t, condition) -> tensor of the shape of x.
        mask: where the mask is in the condition: condition -> ξ. By default the condition itself,
            or its entry "mask" if it is a dict.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Condition], Tensor],
        *,
        mask: Callable[[Condition], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._mask = mask or (lambda condition: entry(condition, "mask"))

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Velocity of the shape of `x`, shape (batch, *dim), at times `t`, shape (batch,)."""
        velocity = self.network(x, t, condition)
        if velocity.shape != x.shape:
            raise ValueError(
                f"found a velocity of shape {tuple(velocity.shape)}, expected that of x, "
                f"{tuple(x.shape)}: return the image channels only"
            )
        # Not a product: an overflow of the network must not reach the known pixels as NaN.
        return torch.where(self.hole(condition, x), velocity, torch.zeros_like(velocity))

    def hole(self, condition: Condition, x: Tensor) -> Tensor:
        """Where pixels move, booleans of the shape of `x`.

        Raises:
            ValueError: no mask in the condition, or one of another shape or type.
        """
        return hole_of(self._mask(condition), x)


def entry(condition: Condition, name: str) -> Tensor:
    """The named part of a condition: the tensor itself, or the entry of a dict.

    Raises:
        ValueError: it is not there.
    """
    if isinstance(condition, Tensor):
        return condition
    if isinstance(condition, Mapping) and name in condition:
        return condition[name]
    found = sorted(condition) if isinstance(condition, Mapping) else condition
    raise ValueError(
        f"found a condition of {found} without {name!r}, expected a tensor or a dict with it: add "
        "it to the condition"
    )


def with_entry(condition: Condition, name: str, value: Tensor) -> Condition:
    """The condition with one more part; a part alone is a plain tensor."""
    return value if condition is None else {**condition, name: value}
