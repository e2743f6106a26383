"""Training: one loop, `fit`, and the minibatches it takes."""

from __future__ import annotations

from .batches import TensorBatches
from .loop import History, TrainingDiverged, fit
from .optimization import rate_factor
from .parallel import process_rank

__all__ = ["History", "TensorBatches", "TrainingDiverged", "fit", "process_rank", "rate_factor"]
