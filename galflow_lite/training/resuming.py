"""What a resumed training needs beside weights: the random states, and a check that it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .parallel import gather, process_rank
from .weights import Weights

__all__ = ["random_state", "require_same", "restore_random_state"]


def require_same(path: Any, state: dict, settings: dict, weights: Weights, steps: int) -> None:
    here = {n: tuple(t.shape) for n, t in zip(weights.names, weights.tensors(), strict=True)}
    there = {name: tuple(tensor.shape) for name, tensor in state["weights"].items()}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise ValueError(
                f"the checkpoint {path} is of another architecture, with {name!r} of shape "
                f"{there.get(name, 'none')} where this module has {here.get(name, 'none')}: use "
                "the same module or another file"
            )
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            raise ValueError(
                f"the checkpoint {path} was written with {name} = {state['settings'].get(name)}, "
                f"but this call has {value}: use the same settings or another file"
            )
    if state["step"] > steps:
        raise ValueError(
            f"the checkpoint {path} is at step {state['step']}, beyond steps = {steps}: "
            "ask for more steps or use another file"
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
    """Undo `random_state`: every process takes its own row."""
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
