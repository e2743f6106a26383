"""All that a class needs in one folder, for a room without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from . import __version__
from .exercises.student_version import write_student_version
from .files import share, writable, write_aside
from .inputs import as_choice
from .notebooks import find_notebooks

_READ_ME = """Install without a network (Python {python}, 3 GB of disk, 2 GB of memory):

    python -m venv galflow
    galflow/bin/pip install --no-index --find-links wheels galflow-lite
    galflow/bin/galflow-lite check --offline
    galflow/bin/jupyter lab lessons

On Windows the commands stand in galflow\\Scripts in place of galflow/bin.

lessons/  without solutions     solved/  with solutions and outputs     wheels/  {what}
"""


# Tags of wheels that run there, as pip names them.
PLATFORMS = {"windows": "win_amd64", "macos": "macosx_14_0_arm64"}


def write_classroom(out: Path, *, platforms: Iterable[str] = (), python: str = "3.12") -> None:
    """Gather wheels, lessons, their solutions, and a page that says how to install.

    Wheels for this computer are those that pip would install here. For another system uv finds out
    which are needed, since pip looks at this one; on Linux run the command where the class runs.

    Args:
        out: the folder, made where it is missing.
        platforms: of `PLATFORMS`; none for this computer.
        python: the class's Python, where platforms are named.

    Raises:
        ValueError: an unknown platform; no uv; wheels that cannot be had; or the package lies in no
            repository, from which its wheel is made.
        OSError: the folder cannot be written to.
    """
    root, platforms = share("notebooks").parent, list(platforms)
    if not (root / "pyproject.toml").is_file():
        raise ValueError(f"found no pyproject.toml in {root}, expected a clone of the repository")
    for name in platforms:
        as_choice(name, "the platform", tuple(PLATFORMS))
    wheels = writable(writable(out) / "wheels")
    # nflows comes as source; its wheel and ours are the same for all.
    _run(sys.executable, "-m", "pip", "wheel", "-w", wheels, "--no-deps", "nflows==0.14", root)
    download = [sys.executable, "-m", "pip", "download", "-d", wheels, "--find-links", wheels]
    download.append("--only-binary=:all:")
    ours, bounds = f"galflow-lite=={__version__}", root / "constraints.txt"
    for name in platforms:
        needed = wheels / f"{name}.txt"
        write_aside(needed, ours)
        _run("uv", "pip", "compile", needed, "-o", needed, "--python-platform", name,
             "--python-version", python, "-c", bounds, "--find-links", wheels)  # fmt: skip
        where = ["--platform", PLATFORMS[name], "--python-version", python]
        _run(*download, "--no-deps", "-r", needed, *where)
    if not platforms:
        _run(*download, "-c", bounds, ours)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for lesson in find_notebooks():
        if lesson.parent.name != "audits":
            write_student_version(lesson, writable(out / "lessons") / lesson.name)
            write_aside(writable(out / "solved") / lesson.name, lesson.read_text(encoding="utf-8"))
    what = f"for {' and '.join(platforms) or 'computers like the one that made them'}"
    write_aside(out / "READ_ME.txt", _READ_ME.format(python=python, what=what))


def _run(*words: object) -> None:
    try:
        subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(f"found no {words[0]}, expected it here: pip install uv") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-300:]
        raise ValueError(f"{words[-1]}: wheels that are needed cannot be had ({said})") from error
