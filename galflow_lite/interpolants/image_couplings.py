"""x0 = ξ∘x1 + (1-ξ)∘ζ (in-painting) and x0 = U(D(x1)) + σζ (super-resolution)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .couplings import Coupling, Uncoupled, require_data, require_sigma
from .laws import GaussianBase
from .masks import Condition, entry, hole_of, tile_mask, with_entry

__all__ = [
    "Inpainting",
    "SuperResolution",
    "downsample",
    "inpainting",
    "super_resolution",
    "upsample",
]


def downsample(x: Tensor, factor: int) -> Tensor:
    """D: means over blocks of factor x factor pixels.

    Args:
        x: images, shape (batch, channels, height, width).
        factor: side of a block in pixels.

    Returns:
        Shape (batch, channels, height / factor, width / factor).

    Raises:
        ValueError: no batch of images, or the factor does not divide them.
    """
    _require_images(x)
    height, width = x.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"found images of {height} x {width} pixels for a factor of {factor}, expected a "
            "multiple of it: crop the images or change the factor"
        )
    return functional.avg_pool2d(x, factor)


def upsample(low: Tensor, factor: int) -> Tensor:
    """U: every pixel repeated factor x factor times (nearest neighbour)."""
    _require_images(low)
    return low.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


class Inpainting(Coupling):
    """Known pixels from the data, noise in the holes; see `inpainting`."""

    def __init__(self, tiles: int, hole_probability: float) -> None:
        if not 0 <= hole_probability <= 1:
            raise ValueError(
                f"found hole_probability={hole_probability}, expected a number in [0, 1]: correct "
                "it"
            )
        self.tiles, self.hole_probability = tiles, hole_probability

    def condition(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """The mask ξ: kept if it is there, else drawn anew for each sample."""
        if isinstance(condition, Tensor) or (condition is not None and "mask" in condition):
            return condition
        _require_images(x1)
        mask = tile_mask(
            len(x1),
            tuple(x1.shape[-2:]),
            tiles=self.tiles,
            hole_probability=self.hole_probability,
            generator=generator,
            dtype=x1.dtype,
            device=x1.device,
        )
        return with_entry(condition, "mask", mask)

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = ξ∘x1 and σ = 1 in the hole; holes of `x1` are not read.

        Raises:
            ValueError: no mask or a wrong one, NaN in known pixels.
        """
        hole = hole_of(entry(condition, "mask"), x1)
        require_data(x1, ~hole)
        return GaussianBase(torch.where(hole, torch.zeros_like(x1), x1), 1.0, hole)

    def uncoupled(self) -> UncoupledInpainting:
        """x0 ~ N(0, I) on all pixels, for a model that sees ξ and ξ∘x1."""
        return UncoupledInpainting(self)


class UncoupledInpainting(Uncoupled):
    """The fair baseline: the condition has the entries "mask", ξ, and "known", ξ∘x1."""

    def condition(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        if condition is not None and not isinstance(condition, Tensor) and "known" in condition:
            return condition
        full = super().condition(x1, condition, generator=generator)
        known = self.coupling.base(x1, full).mean
        extra = {"mask": full} if isinstance(full, Tensor) else full
        return {**extra, "known": known}


class SuperResolution(Coupling):
    """The enlarged low-resolution image plus noise; see `super_resolution`."""

    def __init__(self, factor: int, sigma: float) -> None:
        require_sigma(sigma)
        if factor < 1:
            raise ValueError(f"found factor={factor}, expected a whole number from 1: raise it")
        self.factor, self.sigma = factor, sigma

    def condition(
        self,
        x1: Tensor,
        condition: Condition = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """ξ = U(D(x1)): kept if it is there."""
        if isinstance(condition, Tensor) or (
            condition is not None and "low_resolution" in condition
        ):
            return condition
        image = upsample(downsample(x1, self.factor), self.factor)
        return with_entry(condition, "low_resolution", image)

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = U(D(x1)) from the condition, and σ.

        Raises:
            ValueError: no image in the condition, another shape than `x1`, NaN.
        """
        mean = entry(condition, "low_resolution")
        if mean.shape != x1.shape:
            raise ValueError(
                f"found a low-resolution image of shape {tuple(mean.shape)}, expected "
                f"{tuple(x1.shape)}: enlarge it with upsample"
            )
        require_data(mean)
        return GaussianBase(mean, self.sigma)


def inpainting(*, tiles: int = 8, hole_probability: float = 0.3) -> Inpainting:
    """Section 4.1 of arXiv:2310.03725: x0 = ξ∘x1 + (1-ξ)∘ζ, separate noise for each channel.

    The condition is the mask ξ (1 known, 0 hole), alone or as the entry "mask" of a dict. A mask
    that is given is used; else `tile_mask` draws one for each sample.

    Args:
        tiles: tiles along each side, 8 x 8 = 64 in the paper.
        hole_probability: of each tile, 0.3 in the paper.

    Raises:
        ValueError: the probability is outside [0, 1].
    """
    return Inpainting(tiles, hole_probability)


def super_resolution(*, factor: int = 4, sigma: float = 1.0) -> SuperResolution:
    """Section 4.2 of arXiv:2310.03725: x0 = U(D(x1)) + σζ.

    The condition is U(D(x1)), alone or as the entry "low_resolution" of a dict; D takes means
    over blocks, U is nearest neighbour. To start from a low-resolution image alone, call the
    coupling with `upsample(low, factor)` as x1 and as condition. The paper states none of D, U and
    σ: these are our choice.

    Args:
        factor: of the resolution, a whole number; the paper enlarges 64 to 256 pixels, 4 times.
        sigma: σ in the units of the data. With 0 there is no score and no likelihood.

    Raises:
        ValueError: a negative σ, a factor below 1.
    """
    return SuperResolution(factor, sigma)


def _require_images(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"found data of shape {tuple(x.shape)}, expected images (batch, channels, height, "
            "width): reshape it, or give a mask of your own for in-painting"
        )
