"""Algorithm 1 of arXiv:2310.03725 for images: a U-Net trained with a coupling, ready to sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..images import ImageSet
from ..inputs import as_tensor, as_whole
from ..networks import UNet
from ..training import History, fit
from .conditions import Condition, Random, entry
from .couplings import Coupling
from .image_couplings import MaskedVelocity
from .losses import velocity_loss
from .sampling import Samples, sample_ode
from .schedules import Schedule

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
        x1 = as_tensor(x1, "x1", like=self.velocity, finite=False)
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
    x1 = images.images[:1]
    with torch.random.fork_rng(devices=[]):
        full = coupling.condition(x1)
        base = coupling.base(x1, full)
        parts = full if isinstance(full, Mapping) else {coupling.needs or "channels": full}
        channels = {name: part.shape[1] for name, part in parts.items() if part is not None}
        classes = len(images.class_names) if len(images.class_names) > 1 else 0
        torch.default_generator.manual_seed(seed)
        network = UNet.lite(images.shape[0], condition_channels=channels, classes=classes)
    network = network.to(x1)
    return network if base is None or base.hole is None else MaskedVelocity(network)


def train_velocity(
    images: ImageSet,
    coupling: Coupling,
    *,
    seed: int,
    steps: int,
    batch_size: int = 64,
    schedule: Schedule | None = None,
) -> ImageModel:
    """Train a velocity by Algorithm 1 of arXiv:2310.03725, with flips and quarter turns.

    Args:
        images: training set; where it has several classes the velocity sees them.
        coupling: such as `inpainting()`, or its fair rival ``inpainting().uncoupled()``.
        seed: of the weights, the batches, masks, noise and times.
        steps: of Adam.
        batch_size: images of a step.
        schedule: of the interpolant; linear by default.
    """
    seed, schedule = as_whole(seed, "seed"), schedule or Schedule.linear()
    velocity = new_velocity(images, coupling, seed=seed)
    device = images.images.device

    def batch(step: int) -> tuple[Tensor, Condition]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(images), (batch_size,), generator=generator).to(device)
        chosen = images[rows]
        if images.mirror is not None:
            chosen = chosen.augmented(seed=seed * 1_000_003 + step)
        several = len(images.class_names) > 1
        return chosen.images, {"label": chosen.labels} if several else None

    options = {"schedule": schedule, "coupling": coupling, "reduction": "mean"}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        history = fit(
            lambda drawn: velocity_loss(velocity, *drawn, **options),
            velocity,
            batch,
            steps,
            **TRAINING,
        )
    return ImageModel(coupling, velocity, schedule, history)
