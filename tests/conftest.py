"""Fixtures that every test file shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real simulated galaxies, which are not part of the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real galaxies are not here: no folder {REAL_DATA.name} beside the project")
    return REAL_DATA
