"""Fixtures that every test file shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import torch

# Small networks are slower on several busy threads than on one.
torch.set_num_threads(1)

REAL_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """Torch makes tensors in double precision in this test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the environment that changes a result holds in this test."""
    names = ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET", "PROGRESS", "RUNS", "FRESH")
    for name in names:
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)


@pytest.fixture(scope="session")
def write_notebook() -> Callable[..., Path]:
    """Writes code cells, and markdown cells where the text starts with '# ', to a path."""

    def write(path: Path, *cells: str) -> Path:
        book = nbformat.v4.new_notebook()
        for text in cells:
            kind = "markdown" if text.startswith("# ") else "code"
            book.cells.append(getattr(nbformat.v4, f"new_{kind}_cell")(text))
        path.parent.mkdir(exist_ok=True)
        nbformat.write(book, path)
        return path

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real simulated galaxies, which are not part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real galaxies are not here: no folder {REAL_DATA.name} beside the project")
    return REAL_DATA
