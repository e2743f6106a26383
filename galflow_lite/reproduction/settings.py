"""Seed, scale, device and versions: what a result depends on beside the code."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..inputs import as_choice, as_whole

SCALES = ("lite", "paper")
# The packages whose version can move a trained number.
_NUMERICAL = ("torch", "nflows", "numpy", "scipy", "scikit-learn", "h5py", "torchdiffeq")


@dataclass(frozen=True)
class Settings:
    """Settings of one run of a notebook.

    Attributes:
        notebook: two digits, such as ``"01"``; a lesson and its audit share them.
        scale: ``"lite"`` (minutes on a laptop) or ``"paper"`` (settings of the paper, on a GPU).
        device: where networks are trained.
        seed: seed of everything random in the notebook.
        quiet: whether progress bars stay away, as in a notebook that is stored with its outputs.
        judged: whether numbers are held against their bands, which were made on the default data.
    """

    notebook: str = ""
    scale: str = "lite"
    device: torch.device = torch.device("cpu")
    seed: int = 0
    quiet: bool = False
    judged: bool = True

    @property
    def cuda(self) -> bool:
        """Whether a CUDA device is there."""
        return self.device.type == "cuda"

    def __str__(self) -> str:
        here = hardware()
        device = here["gpu"] or f"{here['cpu']} ({here['vector']}, {here['cores']} cores, 1 used)"
        lines = [f"scale    {self.scale}", f"device   {device}", f"seed     {self.seed}"]
        packages = [f"{name} {number}" for name, number in versions().items()]
        half = (len(packages) + 1) // 2
        first, second = (", ".join(part) for part in (packages[:half], packages[half:]))
        return "\n".join([*lines, f"versions {first},", f"         {second}"])


_current = Settings()


def current() -> Settings:
    """The settings of the notebook that runs in this process."""
    return _current


def settings(
    notebook: str, *, scale: str | None = None, seed: int = 0, judged: bool = True
) -> Settings:
    """Prepare this process for a notebook and start its list of results.

    Seeds torch and numpy, keeps torch to one CPU thread (small networks are slower on several, and
    sums in another order give other digits), and applies the figure style of the package.

    Args:
        notebook: two digits, such as ``"01"``, in the lesson and in its audit.
        scale: ``"lite"`` or ``"paper"``; left out, the environment variable ``GALFLOW_SCALE``, or
            else ``"lite"``.
        seed: seed of the run; the environment variable ``GALFLOW_SEED`` goes before it, so that
            ``galflow-lite bands`` can repeat a notebook as it stands.
        judged: False where the notebook runs on other data than those its bands were made on:
            numbers are then kept and not held against them.

    Returns:
        The settings; no progress bars are asked for where ``GALFLOW_QUIET`` is 1.

    Raises:
        ValueError: unknown scale, or a seed that is not a whole number.
    """
    # Here, because workers of `repeat` import this module and draw nothing.
    from ..plotting import use_style

    global _current
    scale = as_choice(scale or os.environ.get("GALFLOW_SCALE") or "lite", "the scale", SCALES)
    seed = as_whole(int(os.environ.get("GALFLOW_SEED") or as_whole(seed, "the seed")), "the seed")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    # Libraries underneath (scikit-learn among them) draw from numpy's global state.
    np.random.seed(seed % 2**32)  # noqa: NPY002
    use_style()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet = os.environ.get("GALFLOW_QUIET") == "1"
    _current = Settings(str(notebook), scale, device, seed, quiet, judged)
    return _current


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a trained number depends on."""
    found = {"python": platform.python_version(), "galflow-lite": __version__}
    return found | {name: metadata.version(name) for name in _NUMERICAL}


def hardware() -> dict[str, str | int | None]:
    """Processor, its vector instructions, number of cores, and the GPU if there is one.

    The vector instructions are named because torch picks other kernels for other instruction sets:
    the same seed then ends at a trained loss that differs by more than a per cent.
    """
    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", about.read_text() if about.is_file() else "")
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def about() -> dict[str, str]:
    """What the columns ``device``, ``versions`` and ``date`` say of a run that is made now."""
    here, known = hardware(), versions()
    return {
        "device": here["gpu"] or here["cpu"],
        "versions": f"python {known['python']} torch {known['torch']}",
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
