"""State on disk without pickle: one safetensors file, with a JSON document in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files import write_aside

__all__ = ["read_state", "write_state"]

VERSION = 1
_KEY = "galflow_lite"


def write_state(path: str | Path, state: Mapping[str, Any], *, kind: str) -> None:
    """Write a nested state: dicts, lists, tuples, tensors, numbers, strings, booleans, None.

    Tensors become entries of a safetensors file; everything else is JSON in the header of the same
    file, so that one rename replaces the whole state at once. The file is written aside first: a
    write that fails or is killed leaves an older file intact.

    Args:
        path: the file; missing folders are made.
        state: what to write.
        kind: what the file holds, for example "training"; checked by `read_state`.

    Raises:
        TypeError: the state holds an object of another type.
        OSError: the disk is full or the folder is not writable.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    document = json.dumps({"kind": kind, "version": VERSION, "tree": tree})
    write_aside(path, save(tensors, metadata={_KEY: document}))


def read_state(path: str | Path, *, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote; tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, of another kind or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}): delete it or use another one"
        ) from error
    document = json.loads(metadata.get(_KEY, "{}"))
    if document.get("kind") != kind:
        found = document.get("kind") or "no description by galflow_lite"
        raise ValueError(f"{path} holds {found}, expected {kind}: use another file")
    if document["version"] > VERSION:
        raise ValueError(
            f"{path} has format version {document['version']}, this galflow_lite reads up to "
            f"{VERSION}: install a newer galflow_lite"
        )
    return _unflatten(document["tree"], tensors)


# JSON has neither integer keys nor tuples, and an optimiser's state has both: each container is
# written as a pair [its type, its items].
def _flatten(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        copy = torch.empty(node.shape, dtype=node.dtype)
        tensors[name] = copy.copy_(node.detach())
        return ["tensor", name]
    if isinstance(node, Mapping):
        return ["dict", [[k, _flatten(v, f"{name}/{k}", tensors)] for k, v in node.items()]]
    if isinstance(node, list | tuple):
        items = [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(node)]
        return ["list" if isinstance(node, list) else "tuple", items]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(
        f"the state at {name!r} is a {type(node).__name__}, expected tensors, numbers, strings, "
        "lists or dicts: convert it"
    )


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(value, tensors) for key, value in content}
    items = [_unflatten(value, tensors) for value in content]
    return items if kind == "list" else tuple(items)
