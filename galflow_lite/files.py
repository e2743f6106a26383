"""Files that ship, files replaced safely, and state on disk without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pooch
import tomlkit
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

_ROOM = "expected a folder that may be written to and has room: choose another one"
_STATE_VERSION = 1
_KEY = "galflow_lite"
# What stands in the place of the checksum of a file while that is computed over the whole file.
_BLANK = b"0" * 64
_SEAL = re.compile(rb'(?<=sha256\\": \\")[0-9a-f]{64}')


def share(name: str) -> Path:
    """Folder ``"data"`` or ``"notebooks"``: in the repository, or inside an installed package.

    The environment variable ``GALFLOW_DATA`` names another folder in the place of data/.

    Raises:
        FileNotFoundError: neither is there, or ``GALFLOW_DATA`` names no folder.
    """
    chosen = os.environ.get("GALFLOW_DATA") if name == "data" else None
    if chosen:
        if not Path(chosen).is_dir():
            raise FileNotFoundError(
                f"GALFLOW_DATA names {chosen}, which is no folder, expected one with the data that "
                "ship: correct or unset the variable"
            )
        return Path(chosen)
    package = Path(__file__).parent
    # site-packages may well hold a foreign folder with such a plain name.
    home = package.parent if (package.parent / "pyproject.toml").is_file() else package / "_share"
    if (home / name).is_dir():
        return home / name
    raise FileNotFoundError(
        f"there is no folder {home / name}, expected the one that ships: install the package again"
    )


def read_toml(name: str) -> dict[str, Any]:
    """A TOML file of data/, parsed once until it is modified: the next reader gets the same dict.

    Raises:
        OSError: it is not there.
    """
    path = share("data") / name
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _parsed(path: Path, modified: int) -> dict[str, Any]:
    return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()


def checksums() -> dict[Path, str]:
    """The binary files that ship and their SHA-256, from ``SHA256SUMS`` in data/.

    Raises:
        ValueError: a line is something else.
    """
    folder = share("data")
    path = folder / "SHA256SUMS"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    found = {}
    for line in filter(str.strip, lines):
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip():
            raise ValueError(f"{path} holds {line!r:.40}, expected a sum and a file: restore it")
        found[folder / name.strip().lstrip("*")] = digest
    return found


def shipped_file(name: str) -> Path:
    """A binary file of data/, if it is the one that ``SHA256SUMS`` names.

    Raises:
        ValueError: it is not.
        OSError: it is not there.
    """
    path = share("data") / name
    if checksums().get(path) != sha256(path):
        raise ValueError(
            f"{path} is not the file that data/SHA256SUMS names: restore both, or install again"
        )
    return path


@contextmanager
def _named(path: Path | str, done: str, advice: str) -> Iterator[None]:
    """What the system refuses in this block becomes one sentence that names the file."""
    try:
        yield
    except OSError as error:
        # One without such a text is a sentence already.
        if error.strerror is None:
            raise
        raise type(error)(f"{path} cannot be {done} ({error.strerror}), {advice}") from error


@contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """A block that reads a file; what goes wrong in it becomes one sentence that names the file.

    Raises:
        OSError: the file is not there, or may not be read.
        ValueError: anything else: a damaged file can fail in any way, in any library.
    """
    with _named(path, "opened", f"expected {expected}: correct the path or its permissions"):
        Path(path).open("rb").close()
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({error}), expected {expected}: use another file, or delete "
            "this one and fetch or write it again"
        ) from error


def require_own_data(file: h5py.File) -> None:
    """Refuse an HDF5 file whose data lie in other files, which may be any files of the reader.

    Raises:
        ValueError: it holds a link by name, external storage or a virtual dataset.
    """

    def foreign(name: str, link: Any) -> str | None:
        item = file[name] if isinstance(link, h5py.HardLink) else None
        data = isinstance(item, h5py.Dataset)
        return name if item is None or data and (item.external or item.is_virtual) else None

    # An answer ends the walk; h5py lets no error pass through it.
    if found := file.visititems_links(foreign):
        raise ValueError(f"{found} leads out of the file, which is never followed")


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove what killed processes left: temporary files that nobody has written to for an hour."""
    for path in folder.glob(pattern):
        # Another process may be faster.
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def written_aside(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` on success.

    The folder is made where it is missing. When the block raises, Ctrl-C included, the
    temporary file is removed and a file that was at ``path`` stays as it was. A file that is
    replaced hands on its permissions; another one can be read by everybody.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with _named(path, "written", _ROOM):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, f".{escape(path.name)}.*.part")
        # A name that nobody can foresee, opened so that no link of that name is followed.
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            # A failure to remove it must not hide the failure before.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_aside(path: Path | str, content: str | bytes) -> None:
    """Write ``content`` as `written_aside` does; text as UTF-8."""
    with written_aside(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def writable(folder: Path) -> Path:
    """`folder`, made where it is missing, for what is computed now and written at the end.

    Raises:
        OSError: no file can be made in it.
    """
    with _named(folder, "written to", "expected a folder for results: choose another"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    return folder


def append_line(path: Path | str, text: str) -> None:
    """Append a line with one write, so that a process that is killed leaves whole lines behind.

    Half a line at the end, which an earlier one may have left all the same, is ended first.
    """
    path = Path(path)
    with _named(path, "written", _ROOM):
        path.parent.mkdir(parents=True, exist_ok=True)
        broken = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        with path.open("ab", buffering=0) as file:
            file.write(f"{chr(10) * bool(broken)}{text}\n".encode())


def bars_hidden() -> bool:
    """Whether all progress bars are hidden, by GALFLOW_PROGRESS=0 or GALFLOW_QUIET=1."""
    return os.environ.get("GALFLOW_PROGRESS") == "0" or os.environ.get("GALFLOW_QUIET") == "1"


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    return pooch.file_hash(str(path), alg="sha256")


def write_state(path: str | Path, state: Mapping[str, Any], *, kind: str) -> None:
    """Write a nested state: dicts, lists, tuples, tensors, numbers, strings, booleans, None.

    Tensors become entries of a safetensors file; everything else is JSON in the header of the same
    file, so that one rename replaces the whole state at once. The file is written aside first: a
    write that fails or is killed leaves an older file intact. The header has a checksum of all.

    Args:
        path: the file; missing folders are made.
        state: what to write.
        kind: what the file holds, for example "training"; checked by `read_state`.

    Raises:
        TypeError: the state holds an object of another type.
        OSError: the disk is full or the folder is not writable.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    about = {"sha256": _BLANK.decode(), "kind": kind, "version": _STATE_VERSION, "tree": tree}
    content = save(tensors, metadata={_KEY: json.dumps(about)})
    digest = hashlib.sha256(content).hexdigest()
    write_aside(path, content.replace(_BLANK, digest.encode(), 1))


def read_state(path: str | Path, *, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote; tensors on the CPU.

    Raises:
        OSError: the file is not there, or may not be read.
        ValueError: the file is truncated or damaged, holds NaN or infinite values, is of another
            kind or of a newer format. A part that it lacks is named when it is looked up.
    """
    with reading(path, f"{kind} of format {_STATE_VERSION}"):
        content = Path(path).read_bytes()
        # Files of earlier versions have none.
        if seal := _SEAL.search(content):
            digest = hashlib.sha256(content.replace(seal[0], _BLANK, 1)).hexdigest()
            if digest.encode() != seal[0]:
                raise ValueError("it differs from its checksum")
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        found = document.get("kind", "no description"), document.get("version", 0)
        if found[0] != kind or found[1] > _STATE_VERSION:
            raise ValueError(f"it holds {found[0]} of format {found[1]}")
        if spoilt := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{spoilt[0]} holds NaN or infinite values")
        return _unflatten(document["tree"], tensors)


class _State(dict):
    """A part of a state as it was read, which says what it lacks."""

    def __missing__(self, name: Any) -> None:
        raise ValueError(
            f"the file lacks {name!r}, expected it beside {', '.join(map(repr, self))}: use one "
            "that this version wrote"
        )


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
    if isinstance(node, np.generic):
        node = node.item()
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
        return _State((key, _unflatten(value, tensors)) for key, value in content)
    items = [_unflatten(value, tensors) for value in content]
    return items if kind == "list" else tuple(items)
