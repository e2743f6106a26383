"""Training: one loop, `fit`, for everything that learns here, and the minibatches it takes."""

from __future__ import annotations

from .loop import History, TrainingDiverged, fit
from .minibatches import TensorBatches
from .optimizers import make_optimizer, rate_factor
from .processes import process_rank, start_processes, threads

__all__ = [
    "History",
    "TensorBatches",
    "TrainingDiverged",
    "fit",
    "make_optimizer",
    "process_rank",
    "rate_factor",
    "start_processes",
    "threads",
]
