"""Whether this computer has what the notebooks need: the findings of ``galflow-lite check``."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import sha256, share

_DISK_GB = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<5}{self.what:<27} {self.found}"


def findings() -> Iterator[Finding]:
    """Look at Python, packages, device, kernel, disk, notebooks and data, one after another."""
    yield from _packages()
    yield from _devices()
    yield _kernel()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "" if free >= _DISK_GB else f", expected {_DISK_GB:g} GB: free some space"
    yield Finding(not advice, "disk", f"{free:.1f} GB free here{advice}")
    yield from _files()


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata("galflow-lite")
    except metadata.PackageNotFoundError:
        yield Finding(False, "galflow-lite", "not installed: run pip install -e .")
        return
    python = Requirement(f"python{about['Requires-Python']}")
    yield _version(python, platform.python_version())
    for requirement in map(Requirement, metadata.requires("galflow-lite") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            yield _version(requirement, metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            text = f"missing, expected {requirement.specifier}: run pip install -e ."
            yield Finding(False, requirement.name, text)


def _version(wanted: Any, found: str) -> Finding:
    ok = wanted.specifier.contains(found, prereleases=True)
    return Finding(ok, wanted.name, found if ok else f"{found}, expected {wanted.specifier}")


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from .reproduction import hardware

        here = hardware()
        # A build that imports may still fail at the first operation, on an old processor say.
        torch.ones(2, 2).matmul(torch.ones(2, 2))
        yield Finding(True, "cpu", f"{here['cpu']}, {here['cores']} cores, {here['vector']}")
        if here["gpu"] is None:
            yield Finding(True, "cuda", "no device: GPU cells show the stored reference")
            return
        torch.ones(2, 2, device="cuda").matmul(torch.ones(2, 2, device="cuda"))
        free, _ = torch.cuda.mem_get_info()
        yield Finding(True, "cuda", f"{here['gpu']}, {free / 2**30:.1f} GiB free")
    except Exception as error:
        yield Finding(False, "torch", f"{type(error).__name__}: {error}".splitlines()[0])


def _kernel() -> Finding:
    """Whether the kernel that Jupyter starts under the name python3 is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding(False, "jupyter kernel", "no kernel python3: run pip install ipykernel")
    # Jupyter itself replaces a bare name by the Python that it runs on.
    if Path(command).name == command or Path(command).absolute() == Path(sys.executable):
        return Finding(True, "jupyter kernel", f"python3, this Python {platform.python_version()}")
    text = f"python3 is {command}: run {sys.executable} -m ipykernel install --sys-prefix"
    return Finding(False, "jupyter kernel", text)


def _files() -> Iterator[Finding]:
    found = sorted(path.name[:2] for path in share("notebooks").rglob("[0-9][0-9]_*.ipynb"))
    text = ", ".join(dict.fromkeys(found)) or "none: install the package anew"
    yield Finding(bool(found), "notebooks", text)
    for path, expected in checksums(share("data")).items():
        digest = sha256(path) if path.is_file() else "missing"
        advice = "" if digest == expected else f", expected {expected[:12]}: restore it"
        yield Finding(not advice, path.name, f"sha256 {digest[:12]}{advice}")


def checksums(folder: Path) -> dict[Path, str]:
    """Files and their SHA-256 from ``SHA256SUMS`` in a folder, as ``sha256sum`` writes it."""
    path = folder / "SHA256SUMS"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parts = (line.split(maxsplit=1) for line in lines if line.strip())
    return {folder / name.lstrip("*"): digest for digest, name in parts}
