"""The models that ship: both tasks, both couplings, trained on Hubble patches."""

from __future__ import annotations

from pathlib import Path

import torch

from ..environment_check import checksums
from ..files import sha256, share, written_aside
from ..images import ImageSet, hubble_patches
from ..plotting import image_rows
from .comparison import COUPLINGS, TASKS
from .models import Model, problem, read_models, write_models

__all__ = ["ship", "shipped_models"]

FILE = "results/interpolants.safetensors"
PICTURES = "interpolants_{task}.png"


def shipped_models(images: ImageSet | None = None) -> dict[tuple[str, str], Model]:
    """The models that ship, by task and coupling; 32 x 32 grey images, values in [-1, 1].

    Args:
        images: such a set, whose shape the models get; None takes the Hubble patches.

    Raises:
        FileNotFoundError: their file is not there.
        ValueError: the file is damaged or is not the one that data/SHA256SUMS names, or the images
            have another shape.
    """
    path = share("data") / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}, which belongs to the package: restore it, or install anew"
        )
    expected = checksums(share("data")).get(path)
    if sha256(path) != expected:
        raise ValueError(
            f"{path} is not the file that data/SHA256SUMS names (SHA-256 {expected}): restore both"
        )
    return read_models(path, images or hubble_patches(32, split="test"))


def ship(weights: str | Path, data: str | Path) -> None:
    """Put models of a run at paper scale together in one file, and draw what they answer.

    Args:
        weights: folder with one file for each task and coupling, as
            `galflow_lite.interpolants.comparison.paper_cases` has them written.
        data: folder that has ``results``: the models, and ten test patches for each task, 20 Euler
            steps, first seed.

    Raises:
        FileNotFoundError: a file of weights is not there.
        OSError: a file cannot be written; the one before it is intact.
    """
    data, test = Path(data), hubble_patches(32, split="test")
    found: dict[tuple[str, str], Model] = {}
    for task in TASKS:
        for kind in COUPLINGS:
            found |= read_models(Path(weights) / f"{task}-{kind}.safetensors", test)
    write_models(data / FILE, found.values())
    shown = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(1))[:10]]
    for task in TASKS:
        given = problem(task, shown, seed=0)
        rows = {"given": _given(given, shown.images)}
        for kind in COUPLINGS:
            rows[kind] = found[task, kind].generate(shown.images, given, steps=20).samples
        figure = image_rows({**rows, "truth": shown.images})
        with written_aside(data / "results" / PICTURES.format(task=task)) as aside:
            figure.savefig(aside, format="png", dpi=150)


def _given(given: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """What is known, with holes in light grey."""
    if "mask" not in given:
        return given["low_resolution"]
    return torch.where(given["mask"] == 1, images, torch.tensor(0.3))
