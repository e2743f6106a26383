"""Whether this computer has what the notebooks need: the findings of ``galflow-lite check``."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .files import sha256, share

__all__ = ["Finding", "findings"]

_DISK_GB = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<5}{self.what:<22}{self.found}"


def findings(*, folder: Path | None = None) -> Iterator[Finding]:
    """Look at Python, packages, device, kernel, disk, notebooks and data, one after another.

    Args:
        folder: where results would be written; left out, the current folder.
    """
    yield from _packages()
    yield from _devices()
    yield _kernel()
    free = shutil.disk_usage(folder or Path.cwd()).free / 1e9
    enough = free >= _DISK_GB
    advice = "" if enough else f", expected {_DISK_GB:g} GB: free some space"
    yield Finding(enough, "disk", f"{free:.1f} GB free here{advice}")
    yield from _files()


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata.metadata("galflow-lite")
        needed = [Requirement(text) for text in metadata.requires("galflow-lite") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(False, "galflow-lite", "not installed: run pip install -e .")
        return
    python = platform.python_version()
    allowed = about["Requires-Python"] or ""
    ok = SpecifierSet(allowed).contains(python)
    yield Finding(ok, "python", python if ok else f"{python}, expected {allowed}")
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            text = f"missing, expected {requirement.specifier}: run pip install -e ."
            yield Finding(False, requirement.name, text)
            continue
        ok = requirement.specifier.contains(version, prereleases=True)
        text = version if ok else f"{version}, expected {requirement.specifier}"
        yield Finding(ok, requirement.name, text)


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from .reproduction.settings import hardware

        here = hardware()
        # A build that imports may still fail at the first operation, on an old processor say.
        total = float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum())
    except Exception as error:
        yield Finding(False, "torch", f"{type(error).__name__}: {error}".splitlines()[0])
        return
    cpu = f"{here['cpu']}, {here['cores']} cores, {here['vector']}"
    yield Finding(total == 8.0, "cpu", cpu)
    if here["gpu"] is None:
        yield Finding(True, "cuda", "no device: GPU cells show the stored reference")
        return
    try:
        total = float(torch.ones(2, 2, device="cuda").sum())
    except Exception as error:
        yield Finding(False, "cuda", f"{here['gpu']}: {error}".splitlines()[0])
        return
    free, _ = torch.cuda.mem_get_info()
    yield Finding(total == 4.0, "cuda", f"{here['gpu']}, {free / 2**30:.1f} GiB free")


def _kernel() -> Finding:
    """Whether the kernel that Jupyter starts under the name python3 is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding(False, "jupyter kernel", "no kernel python3: run pip install ipykernel")
    # Jupyter itself replaces a bare name by the Python that it runs on.
    same = Path(command).name == command or Path(command).absolute() == Path(sys.executable)
    if same:
        return Finding(True, "jupyter kernel", f"python3, this Python {platform.python_version()}")
    text = f"python3 is {command}: run {sys.executable} -m ipykernel install --sys-prefix"
    return Finding(False, "jupyter kernel", text)


def _files() -> Iterator[Finding]:
    try:
        folder = share("data")
        notebooks = sorted(path.name[:2] for path in share("notebooks").glob("[0-9][0-9]_*.ipynb"))
    except FileNotFoundError as error:
        yield Finding(False, "files", str(error))
        return
    found = ", ".join(notebooks) or "none: install the package anew"
    yield Finding(bool(notebooks), "notebooks", found)
    for path, expected in checksums(folder).items():
        if not path.is_file():
            yield Finding(False, path.name, "missing: install the package anew")
            continue
        digest = sha256(path)
        ok = digest == expected
        text = f"sha256 {digest[:12]}"
        yield Finding(
            ok, path.name, text if ok else f"{text}, expected {expected[:12]}: restore it"
        )


def checksums(folder: Path) -> dict[Path, str]:
    """Files and their SHA-256 from ``SHA256SUMS`` in a folder, as ``sha256sum`` writes it."""
    path = folder / "SHA256SUMS"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parts = (line.split(maxsplit=1) for line in lines if line.strip())
    return {folder / name.lstrip("*"): digest for digest, name in parts}
