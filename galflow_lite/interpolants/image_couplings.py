"""x0 = ξ∘x1 + (1-ξ)∘ζ (in-painting, with masks ξ) and x0 = U(D(x1)) + σζ (super-resolution)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..inputs import as_number, as_tensor, as_whole
from .conditions import (
    Condition,
    Field,
    Random,
    as_condition,
    entry,
    shaped_as,
    with_entry,
)
from .couplings import Coupling, GaussianBase, Uncoupled

IMAGES = ("batch", "channels", "height", "width")


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


def downsample(x: Tensor, factor: int) -> Tensor:
    """D: means over blocks of factor x factor pixels.

    Args:
        x: images, shape (batch, channels, height, width).
        factor: side of a block in pixels.

    Returns:
        Shape (batch, channels, height / factor, width / factor).

    Raises:
        ValueError: the factor does not divide the images.
    """
    x, factor = as_tensor(x, "x", IMAGES, finite=False), as_whole(factor, "factor", least=1)
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"images of {height} x {width} pixels have no blocks of {factor} x {factor}: crop the "
            "images, or change the factor"
        )
    return functional.avg_pool2d(x, factor)


def upsample(low: Tensor, factor: int) -> Tensor:
    """U: every pixel repeated factor x factor times (nearest neighbour)."""
    low = as_tensor(low, "low", IMAGES, finite=False)
    return low.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


@dataclass(eq=False)
class Inpainting(Coupling):
    """Known pixels from the data, noise in the holes; see `inpainting`."""

    tiles: int
    hole_probability: float
    needs = "mask"

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        """The mask ξ: kept if it is there, else drawn anew for each sample."""
        x1 = as_tensor(x1, "x1", finite=False)

        def draw() -> Tensor:
            as_tensor(x1, "x1", IMAGES, finite=False)
            size = tuple(x1.shape[-2:])
            like = {"dtype": x1.dtype, "device": x1.device}
            holes = {"tiles": self.tiles, "hole_probability": self.hole_probability}
            return tile_mask(len(x1), size, generator=generator, **holes, **like)

        return with_entry(as_condition(condition, x1), "mask", draw)

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = ξ∘x1 and σ = 1 in the hole; holes of `x1` are not read.

        Raises:
            ValueError: no mask or a wrong one, NaN in known pixels.
        """
        hole = hole_of(entry(condition, "mask"), x1)
        return GaussianBase(as_tensor(x1.masked_fill(hole, 0), "the known pixels"), 1.0, hole)

    def uncoupled(self) -> Coupling:
        """x0 ~ N(0, I) on all pixels, for a model that sees ξ and ξ∘x1."""
        return UncoupledInpainting(self)


class UncoupledInpainting(Uncoupled):
    """The fair baseline: the condition has the entries "mask", ξ, and "known", ξ∘x1."""

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        full = super().condition(x1, condition, generator=generator)
        full = {"mask": full} if isinstance(full, Tensor) else full
        return with_entry(full, "known", lambda: self.coupling.base(x1, full).mean)


@dataclass(eq=False)
class SuperResolution(Coupling):
    """The enlarged low-resolution image plus noise; see `super_resolution`."""

    factor: int
    sigma: float
    needs = "low_resolution"

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        """ξ = U(D(x1)): kept if it is there."""
        x1 = as_tensor(x1, "x1", finite=False)
        return with_entry(
            as_condition(condition, x1),
            "low_resolution",
            lambda: upsample(downsample(x1, self.factor), self.factor),
        )

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = U(D(x1)) from the condition, and σ.

        Raises:
            ValueError: no image in the condition, another shape than `x1`, NaN.
        """
        name = "low_resolution, enlarged by `upsample`,"
        mean = as_tensor(entry(condition, "low_resolution"), name, x1.shape, like=x1)
        return GaussianBase(mean, self.sigma)


def inpainting(*, tiles: int = 8, hole_probability: float = 0.3) -> Coupling:
    """Section 4.1 of arXiv:2310.03725: x0 = ξ∘x1 + (1-ξ)∘ζ, separate noise for each channel.

    The condition is the mask ξ (1 known, 0 hole), alone or as the entry "mask" of a mapping. In
    training `tile_mask` draws one for each sample where none is given.

    Args:
        tiles: tiles along each side, 8 x 8 = 64 in the paper.
        hole_probability: of each tile, 0.3 in the paper.
    """
    hole_probability = as_number(hole_probability, "hole_probability", least=0, most=1)
    return Inpainting(as_whole(tiles, "tiles", least=1), hole_probability)


def super_resolution(*, factor: int = 4, sigma: float = 1.0) -> Coupling:
    """Section 4.2 of arXiv:2310.03725: x0 = U(D(x1)) + σζ.

    The condition is U(D(x1)), alone or as the entry "low_resolution" of a mapping; D takes means
    over blocks, U is nearest neighbour. To start from a low-resolution image alone, call the
    coupling with `upsample(low, factor)` as x1 and as condition. The paper states none of D, U and
    σ: these are our choice.

    Args:
        factor: of the resolution, a whole number; the paper enlarges 64 to 256 pixels, 4 times.
        sigma: σ in the units of the data. With 0 there is no score and no likelihood.
    """
    return SuperResolution(as_whole(factor, "factor", least=1), as_number(sigma, "sigma", least=0))
