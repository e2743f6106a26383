"""What a velocity is told beside x and t: nothing, one tensor, or a mapping of named parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_tensor

Random = torch.Generator | None
Condition = Tensor | Mapping[str, Any] | None
Field = Callable[[Tensor, Tensor, Condition], Tensor]


def as_condition(condition: Any, x: Tensor) -> Condition:
    """Arrays as tensors on the device of `x`, those of real numbers in its type."""
    if isinstance(condition, Mapping):
        return {name: as_condition(part, x) for name, part in condition.items()}
    if isinstance(condition, np.ndarray) and condition.dtype.kind in "biu":
        condition = torch.from_numpy(condition.astype(np.int64))
    elif isinstance(condition, np.ndarray):
        return as_tensor(condition, "the condition", like=x)
    if not isinstance(condition, Tensor):
        return condition
    return condition.to(x if condition.is_floating_point() else x.device)


def entry(condition: Condition, name: str) -> Tensor:
    """The named part of a condition: the tensor itself, or the entry of a mapping.

    Raises:
        ValueError: it is not there. To invent it would answer another question than the one asked.
    """
    if isinstance(condition, Mapping):
        if name in condition:
            return condition[name]
    elif condition is not None:
        return condition
    found = ", ".join(condition) if condition else "nothing"
    raise ValueError(
        f"the condition holds {found}, expected a tensor or a mapping with {name!r}: add it"
    )


def with_entry(condition: Condition, name: str, make: Callable[[], Tensor]) -> Condition:
    """The condition with one more part, unless it is there; a part alone is a plain tensor.

    Raises:
        ValueError: a part is there under a name that looks like a misspelt one.
    """
    if condition is None:
        return make()
    if not isinstance(condition, Mapping) or name in condition:
        return condition
    for similar in get_close_matches(name, condition, 1, 0.6):
        raise ValueError(f"the condition holds {similar!r}, expected {name!r}: rename it")
    return {**condition, name: make()}


def shaped_as(x: Tensor, found: Tensor, name: str) -> Tensor:
    """`found`, what a velocity or a coupling returned, if it has the shape of `x`.

    Raises:
        ValueError: it has not; torch would broadcast it.
    """
    if not isinstance(found, Tensor) or found.shape != x.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the {name} returns {shape}, expected a tensor of the shape {tuple(x.shape)} of what "
            "it was given: correct it"
        )
    return found
