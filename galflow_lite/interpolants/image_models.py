"""Couplings of images, and Algorithm 1 of arXiv:2310.03725 for them: a U-Net, ready to sample.

x0 = ξ∘x1 + (1-ξ)∘ζ (in-painting, with masks ξ) and x0 = U(D(x1)) + σζ (super-resolution).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..images import ImageSet
from ..inputs import as_hole, as_number, as_tensor, as_values, as_whole, child_seed, seeded, sent
from ..networks import UNet
from ..training import History, fit
from .couplings import Condition, Coupling, GaussianBase, Random, Uncoupled, entry, extend
from .sampling import Samples, sample_ode
from .velocities import MaskedVelocity, Schedule, velocity_loss


def tile_mask(
    batch: int,
    size: int | tuple[int, int],
    *,
    tiles: int = 8,
    hole_probability: float = 0.3,
    generator: Random = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random masks of square tiles, ξ = 1 known and 0 hole (section 4.1 of arXiv:2310.03725).

    Args:
        batch: number of masks.
        size: height and width of the image in pixels.
        tiles: tiles along each side; the paper has 64 tiles, 8 x 8.
        hole_probability: each tile is a hole with this probability, independently.
        generator: source of the draw.
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
    _require_divisor(tiles, height, width)
    home = generator.device if generator is not None else device
    draw = torch.rand(batch, 1, tiles, tiles, generator=generator, device=home, dtype=torch.float32)
    known = (draw >= hole_probability).to(dtype=torch.float32, device=device)
    known = known.repeat_interleave(height // tiles, dim=2)
    return known.repeat_interleave(width // tiles, dim=3)


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
    x = as_tensor(x, "x", ("batch", "channels", "height", "width"), finite=False)
    factor = as_whole(factor, "factor", least=1)
    _require_divisor(factor, *x.shape[-2:])
    return functional.avg_pool2d(x, factor)


def _require_divisor(number: int, height: int, width: int) -> None:
    if height % number or width % number:
        raise ValueError(
            f"{number} does not divide the sides of an image of {height} x {width} pixels: crop "
            "it, or use another number of tiles or another factor"
        )


@dataclass(eq=False)
class Inpainting(Coupling):
    """Known pixels from the data, noise in the holes; see `inpainting`."""

    tiles: int
    hole_probability: float
    needs = "mask"

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        """The mask ξ: kept if it is there, else drawn again for each sample."""

        def draw() -> Tensor:
            options = {"tiles": self.tiles, "hole_probability": self.hole_probability}
            options |= {"generator": generator, "device": x1.device}
            return tile_mask(len(x1), x1.shape[-2:], **options).to(x1)

        return extend(super().condition(x1, condition), "mask", draw)

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = ξ∘x1 and σ = 1 in the hole; holes of `x1` are not read.

        Raises:
            ValueError: no mask or a wrong one, NaN in known pixels.
        """
        hole = as_hole(entry(condition, "mask"), x1)
        return GaussianBase(as_tensor(x1.masked_fill(hole, 0), "the known pixels"), 1.0, hole)

    def uncoupled(self) -> Coupling:
        """x0 ~ N(0, I) on all pixels, for a model that sees ξ and ξ∘x1."""
        return UncoupledInpainting(self)


class UncoupledInpainting(Uncoupled):
    """The fair baseline: the condition has the entries "mask", ξ, and "known", ξ∘x1."""

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        full = super().condition(x1, condition, generator=generator)
        full = {"mask": full} if isinstance(full, Tensor) else full
        return extend(full, "known", lambda: self.coupling.base(x1, full).mean)


@dataclass(eq=False)
class SuperResolution(Coupling):
    """The enlarged low-resolution image plus noise; see `super_resolution`."""

    factor: int
    sigma: float
    needs = "low_resolution"

    def condition(self, x1: Tensor, condition: Condition = None, *, generator: Random = None):
        """ξ = U(D(x1)): kept if it is there."""

        def enlarged() -> Tensor:
            low = downsample(x1, self.factor).repeat_interleave(self.factor, dim=-2)
            return low.repeat_interleave(self.factor, dim=-1)

        return extend(super().condition(x1, condition), "low_resolution", enlarged)

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """m = U(D(x1)) from the condition, and σ.

        Raises:
            ValueError: no image in the condition, another shape than `x1`, NaN.
        """
        mean = entry(condition, "low_resolution")
        mean = as_tensor(mean, "the enlarged low_resolution", x1.shape, like=x1)
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
    over blocks, U repeats pixels (nearest neighbour). To start from a low-resolution image alone,
    call the coupling with the enlarged image as x1 and as condition. The paper states none of D, U
    and σ: these are our choice.

    Args:
        factor: of the resolution, a whole number; the paper enlarges 64 to 256 pixels, 4 times.
        sigma: σ in the units of the data. With 0 there is no score and no likelihood.
    """
    return SuperResolution(as_whole(factor, "factor", least=1), as_number(sigma, "sigma", least=0))


# Adam at a constant rate with averaged weights: our choice, for a small network.
TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "clip_norm": 1.0, "ema_decay": 0.995}


@dataclass(frozen=True)
class ImageModel:
    """A velocity of images, and the coupling that it was trained with.

    Attributes:
        coupling: gives conditions and bases.
        velocity: callable (x, t, condition) -> velocity.
        schedule: of the interpolant.
        history: of the training.
    """

    coupling: Coupling
    velocity: nn.Module
    schedule: Schedule = field(default_factory=Schedule.linear)
    history: History = field(default_factory=History)

    def start(
        self, x1: Tensor, condition: Condition, *, generator: Random = None
    ) -> tuple[Tensor, Condition]:
        """A base, and what the velocity sees: the condition with what the coupling adds to it.

        Raises:
            ValueError: the mask or the low-resolution image of the coupling is not in `condition`.
        """
        if self.coupling.needs:
            entry(condition, self.coupling.needs)
        x1 = as_values(x1, "x1", like=self.velocity, finite=False)
        full = self.coupling.condition(x1, condition, generator=generator)
        return self.coupling(x1, full, generator=generator), full

    def generate(
        self, x1: Tensor, condition: Condition, *, seed: int = 0, **options: Any
    ) -> Samples:
        """In-painted or sharpened images.

        Args:
            x1: images, shape (n, channels, height, width), of which the coupling reads what is
                known; cast to the type of the network.
            condition: what is given: {"mask": 1 known, 0 hole}, shape (n, 1, height, width), or
                {"low_resolution": enlarged image}, of the shape of `x1`; with "label", shape (n,),
                where there are several classes.
            seed: of the base.
            options: of `sample_ode`.
        """
        device = next(self.velocity.parameters()).device
        generator = torch.Generator(device).manual_seed(as_whole(seed, "seed"))
        x0, full = self.start(x1, condition, generator=generator)
        return sample_ode(self.velocity, x0, full, **options)


def new_velocity(images: ImageSet, coupling: Coupling, *, seed: int) -> nn.Module:
    """An untrained `UNet.lite` that sees all that the coupling gives as further channels.

    Where the coupling fixes known pixels it is a `MaskedVelocity`.
    """
    x1 = images.images[:1].cpu()
    with seeded(seed):
        full = coupling.condition(x1)
        base = coupling.base(x1, full)
        parts = full if isinstance(full, Mapping) else {coupling.needs or "channels": full}
        channels = {name: part.shape[1] for name, part in parts.items() if part is not None}
        classes = len(images.class_names) if len(images.class_names) > 1 else 0
        torch.default_generator.manual_seed(seed)
        network = UNet.lite(images.shape[0], condition_channels=channels, classes=classes)
    network = network.to(images.images)
    return network if base is None or base.hole is None else MaskedVelocity(network)


def train_velocity(
    images: ImageSet,
    coupling: Coupling,
    *,
    seed: int,
    steps: int,
    batch_size: int = 64,
) -> ImageModel:
    """Train a velocity by Algorithm 1 of arXiv:2310.03725, with flips and quarter turns.

    Args:
        images: training set; where it has several classes the velocity sees them.
        coupling: such as `inpainting()`, or its fair rival ``inpainting().uncoupled()``.
        seed: of the weights, the batches, masks, noise and times.
        steps: of Adam.
        batch_size: images of a step.
    """
    seed, schedule = as_whole(seed, "seed"), Schedule.linear()
    velocity = new_velocity(images, coupling, seed=seed)
    device = images.images.device

    def batch(step: int) -> tuple[Tensor, Condition]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        chosen = images[sent(rows, device)]
        if images.mirror is not None:
            turns = seed * 1_000_003 + step
            if len(images) % 2 == 0:
                # Both draws are r % n of the same r: the turn would follow the row.
                turns = child_seed(turns, "turns")
            chosen = chosen.augmented(seed=turns)
        several = len(images.class_names) > 1
        return chosen.images, {"label": chosen.labels} if several else None

    def loss(drawn: tuple[Tensor, Condition]) -> Tensor:
        options = {"schedule": schedule, "coupling": coupling, "reduction": "mean"}
        return velocity_loss(velocity, *drawn, **options)

    with seeded(seed, device):
        history = fit(loss, velocity, batch, steps, **TRAINING)
    return ImageModel(coupling, velocity, schedule, history)
