"""What `galflow-lite check` looks at: Python, packages, device, kernel, disk, notebooks, data."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# Imports stand where they are needed: what is missing is to be told and not to be stumbled over.


class Finding(NamedTuple):
    """One thing that was looked at."""

    ok: bool
    what: str
    found: str


def findings(offline: bool = False) -> Iterator[Finding]:
    """Look at one thing after another; ``offline`` also runs a notebook without a network."""
    yield from _packages()
    yield from _devices()
    yield _kernel()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "" if free >= 1 else ", expected 1 GB: free some space"
    yield Finding(not advice, "disk", f"{free:.1f} GB free here{advice}")
    yield from _files()
    if offline:
        yield _without_network()


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata("galflow-lite")
    except metadata.PackageNotFoundError:
        yield Finding(False, "galflow-lite", "not installed: run pip install -e .")
        return
    wanted = [f"python{about['Requires-Python']}", *(metadata.requires("galflow-lite") or ())]
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        ok = found != "missing" and requirement.specifier.contains(found, prereleases=True)
        advice = "" if ok else f", expected {requirement.specifier}: run pip install -e ."
        yield Finding(ok, requirement.name, found + advice)


def _version(package: str) -> str:
    try:
        return platform.python_version() if package == "python" else metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from .reproduction.settings import hardware

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


_OFFLINE = """import socket

def refuse(*words, **more):
    raise OSError("the network was asked for")

socket.getaddrinfo = refuse
from galflow_lite import flows, galaxies, plotting, reproduction, samplers
from galflow_lite.files import share
from galflow_lite.interpolants.shipped import shipped_models
reproduction.settings("00")
galaxies.Catalogue.open(share("data") / "galaxies_lite.h5")[0]
shipped_models(), flows.neural_spline_flow(2, layers=1).sample(5), reproduction.claims()"""


def _without_network() -> Finding:
    """Whether a notebook runs, from the kernel to the report, where no address is found."""
    import nbformat

    from .notebooks import NotebookFailed, execute

    with tempfile.TemporaryDirectory() as folder:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_OFFLINE)])
        nbformat.write(book, Path(folder) / "offline.ipynb")
        try:
            run = execute(Path(folder) / "offline.ipynb", Path(folder) / "out", progress=False)
        except NotebookFailed as error:
            return Finding(False, "without a network", str(error))
    return Finding(True, "without a network", f"a notebook runs, in {run.seconds:.0f} s")


def _files() -> Iterator[Finding]:
    from .files import checksums, sha256, share

    found = sorted(path.name[:2] for path in share("notebooks").rglob("[0-9][0-9]_*.ipynb"))
    text = ", ".join(dict.fromkeys(found)) or "none: install the package again"
    yield Finding(bool(found), "notebooks", text)
    for path in map(share("data").joinpath, ("SHA256SUMS", "bands.toml", "paper_numbers.toml")):
        if not (path.is_file() and path.stat().st_size):
            yield Finding(False, path.name, f"missing or empty in {path.parent}: restore it")
    for path, expected in checksums().items():
        digest = sha256(path) if path.is_file() else "missing"
        advice = "" if digest == expected else f", expected {expected[:12]}: restore it"
        yield Finding(not advice, path.name, f"sha256 {digest[:12]}{advice}")
