"""Training: one loop, `fit`, for everything that learns here, and the minibatches it takes."""

from __future__ import annotations

from .loop import fit
from .minibatches import TensorBatches, process_rank, start_processes, threads
from .state import History, TrainingDiverged

__all__ = [
    "History",
    "TensorBatches",
    "TrainingDiverged",
    "fit",
    "process_rank",
    "start_processes",
    "threads",
]
