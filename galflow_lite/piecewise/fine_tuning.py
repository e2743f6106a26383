"""Joint maximum likelihood of all pieces and their shares."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..flows import Flow, StackedFlows
from ..training import History, TensorBatches, fit
from .training import one_thread

__all__ = ["Mixture", "maximise_likelihood"]


class Mixture(nn.Module):
    """The sum of all pieces as one module: copies of the flows in a stack, their shares free.

    Args:
        pieces: k flows of one architecture.
        log_weights: Logarithms of their shares, shape (k,).
        shift, scale: Standardisation of each piece, shape (k, features).
    """

    def __init__(
        self, pieces: Sequence[Flow], log_weights: Tensor, shift: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.stack = StackedFlows([copy.deepcopy(piece) for piece in pieces])
        self.logits = nn.Parameter(log_weights.clone())
        self.register_buffer("shift", shift[:, None])
        self.register_buffer("scale", scale[:, None])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each row of x, shape (n,)."""
        like = next(self.stack.parameters())
        scaled = ((x - self.shift) / self.scale).to(like.dtype)
        terms = self.stack.log_prob(scaled).double() - self.scale.log().sum(dim=2)
        return torch.logsumexp(self.logits.log_softmax(0)[:, None] + terms, dim=0)


def maximise_likelihood(
    mixture: Mixture,
    x: np.ndarray,
    weights: np.ndarray,
    held_out: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    clip_norm: float | None,
    seed: int,
    progress: bool,
) -> History:
    """Train a mixture on the rows that are not held out, and keep the best it has been.

    The start counts as well: if no step makes the likelihood of the held-out rows better, the
    mixture stays as it was, and the history has ``best_step`` 0.
    """
    start = [parameter.detach().clone() for parameter in mixture.parameters()]
    device = start[0].device
    train, validation = (
        TensorBatches(
            torch.from_numpy(x[rows]),
            torch.from_numpy(weights[rows] / weights[rows].mean()),
            batch_size=size,
            seed=seed,
            device=device,
        )
        for rows, size in ((~held_out, batch_size), (held_out, 4096))
    )

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        points, share = batch
        return -(mixture.log_prob(points) * share).mean()

    with one_thread():
        with torch.no_grad():
            before = sum(float(loss(b)) * len(b[0]) for b in validation) / held_out.sum()
        history = fit(
            loss,
            mixture,
            train,
            steps,
            learning_rate=learning_rate,
            schedule="cosine",
            clip_norm=clip_norm,
            validation=validation,
            validate_every=max(1, steps // 10),
            progress=progress,
            description="all pieces",
        )
    if history.best_loss is None or history.best_loss >= before:
        history.best_step, history.best_loss = 0, float(before)
        with torch.no_grad():
            for parameter, value in zip(mixture.parameters(), start, strict=True):
                parameter.copy_(value)
    return history
