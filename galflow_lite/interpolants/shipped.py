"""The models that ship: both tasks, both couplings, trained on Hubble patches."""

from __future__ import annotations

from ..files import read_state, shipped_file
from ..images import ImageSet, hubble_patches
from .couplings import Coupling
from .image_models import ImageModel, inpainting, new_velocity, super_resolution

__all__ = ["SIGMA", "shipped_couplings", "shipped_models"]

SIGMA = 0.25
"""Noise of the super-resolution coupling, about the scatter of the pixels. The paper gives none."""

FILE = "results/interpolants.safetensors"
KIND = "velocities of stochastic interpolants"


def shipped_couplings() -> dict[tuple[str, str], Coupling]:
    """Couplings of the models that ship, by task and kind: "dependent" and its fair rival.

    In-painting has holes as in the paper, super-resolution its factor of 4. All kinds of a task
    know the same and get the same network; the uncoupled in-painter, which starts from noise on all
    pixels, sees the known ones as one more channel.
    """
    made = {}
    tasks = {"inpainting": inpainting(), "super_resolution": super_resolution(sigma=SIGMA)}
    for task, coupling in tasks.items():
        made |= {(task, "dependent"): coupling, (task, "uncoupled"): coupling.uncoupled()}
    return made


def shipped_models(images: ImageSet | None = None) -> dict[tuple[str, str], ImageModel]:
    """The models that ship, by task and coupling; 32 x 32 grey images, values in [-1, 1].

    Args:
        images: such a set, whose shape the models get; None takes the Hubble patches.

    Raises:
        ValueError: the file is damaged or is not the one that data/SHA256SUMS names.
        RuntimeError: its weights are for other images (grey ones without classes).
    """
    images, couplings, models = images or hubble_patches(32, split="test"), shipped_couplings(), {}
    for name, weights in read_state(shipped_file(FILE), kind=KIND).items():
        key = tuple(name.split("/"))
        velocity = new_velocity(images, couplings[key], seed=0)
        velocity.load_state_dict(weights)
        models[key] = ImageModel(couplings[key], velocity.eval())
    return models
