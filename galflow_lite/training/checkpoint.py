"""What a checkpoint holds beside the weights: its fingerprint and the state of all chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .processes import gather, process_rank
from .weights import Weights


def fingerprint(weights: Weights, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that makes a training what it is, as plain values under readable names."""
    shapes = {n: list(t.shape) for n, t in zip(weights.names, weights.tensors(), strict=True)}
    return {"model": shapes, **{name: _described(value) for name, value in settings.items()}}


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    # Batches describe themselves; of a function or another object the name has to do.
    return getattr(value, "settings", None) or getattr(value, "__name__", type(value).__name__)


def require_same(path: Any, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        ValueError: a part of the fingerprint differs; it is named.
    """
    for name in [*wanted, *found]:
        there, here = found.get(name), wanted.get(name)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            parts = [part for part in {**here, **there} if here.get(part) != there.get(part)]
            there, here, name = there.get(parts[0]), here.get(parts[0]), f"{name}: {parts[0]}"
        raise ValueError(
            f"the checkpoint {path} belongs to another training, with {name} = {there} where this "
            f"one has {here}: use the same settings, or another file"
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Random states of torch (CPU and, on a CUDA device, CUDA) and numpy, one row a process."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    # Integers of 32 bits and the cached normal deviate are all exact in float64.
    packed = np.concatenate([keys.astype(np.float64), [position, has_gauss, gauss]])
    state = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(packed)}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return {name: gather(value, device) for name, value in state.items()}


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo `random_state`: every process takes its own row.

    Raises:
        ValueError: another number of processes wrote it.
    """
    rank, world = process_rank()
    if len(state["torch"]) != world:
        raise ValueError(
            f"the checkpoint was written by {len(state['torch'])} processes, this run has {world}: "
            "resume with the same number"
        )
    torch.set_rng_state(state["torch"][rank].clone())
    packed = state["numpy"][rank].numpy()
    keys, (position, has_gauss, gauss) = packed[:-3].astype(np.uint32), packed[-3:]
    np.random.set_state(  # noqa: NPY002
        ("MT19937", keys, int(position), int(has_gauss), float(gauss))
    )
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"][rank].clone(), device)
