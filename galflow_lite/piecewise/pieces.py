"""Training of pieces: independent flows, batched in a process and shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from ..flows import Flow, ResampledBase, StackedFlows
from ..inputs import mixed_seed, seeded, sent, warn_of_far_points
from ..training import TensorBatches, fit, threads


class Recipe(NamedTuple):
    """How pieces are trained; see :meth:`galflow_lite.piecewise.PiecewiseFlow.fit`."""

    steps: int
    batch_size: int | None
    learning_rate: float
    schedule: str
    weight_decay: float
    clip_norm: float | None
    validate_every: int
    patience: int | None
    seed: int


class PieceData(NamedTuple):
    """Standardised points of one piece, with weights of mean one.

    ``number`` is the place of the piece among all of them. It seeds the order of the points, so
    that a result does not depend on how the pieces are shared among processes.
    """

    number: int
    train: Tensor
    train_weights: Tensor
    validation: Tensor
    validation_weights: Tensor


@dataclass
class PiecewiseHistory:
    """How the pieces of a piecewise flow were trained; arrays of shape (k,).

    Attributes:
        points: Training points of each piece.
        n_parameters: Parameters of each piece.
        epochs: Passes of each piece over its points until it stopped.
        validation: Validation losses of each piece, one a look, in nat per point in the piece's
            standardised coordinates; the weights at the smallest are kept.
        seconds: Wall time.
    """

    points: np.ndarray
    n_parameters: np.ndarray
    epochs: np.ndarray
    validation: list[list[float]] = field(repr=False)
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        """Sum over pieces of epochs x points x parameters: C of arXiv:2305.02930, Table 2."""
        return float((self.epochs * self.points * self.n_parameters).sum())


def split(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Rows to hold out, shape (n,): a fifth of each cluster, one point to all but two.

    Rows with a label that is none of 0 to k - 1 are not held out.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for cluster in range(k):
        members = order[labels[order] == cluster]
        most = max(1, len(members) - 2)
        held_out[members[: min(most, max(1, round(0.2 * len(members))))]] = True
    return held_out


def standardise(
    x: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    held_out: np.ndarray,
    like: Tensor,
    columns: Sequence | None = None,
) -> tuple[list[PieceData], np.ndarray, np.ndarray]:
    """Training and held-out points of each piece in its own units, and their shift and scale.

    The points have the type and device of ``like``; shift and scale have shape (k, features).

    Warns:
        RuntimeWarning: A single point makes up nearly all variance of a column of its piece.
    """
    k = int(labels.max()) + 1
    data, shift, scale = [], np.empty((k, x.shape[1])), np.empty((k, x.shape[1]))
    for i in range(k):
        member = (labels == i) & (weights > 0)
        train = member & ~held_out
        if member.sum() > 4:
            shift[i] = np.average(x[train], axis=0, weights=weights[train])
            variance = np.average((x[train] - shift[i]) ** 2, axis=0, weights=weights[train])
            scale[i] = np.sqrt(variance)
        # Rounding leaves a little where a column is constant.
        if member.sum() < 5 or (scale[i] <= 1e-12 * np.maximum(np.abs(shift[i]), 1e-290)).any():
            raise ValueError(
                f"cluster {i} has {member.sum()} points with weight, expected at least 5, and no "
                "constant column: remove the column, or use fewer clusters"
            )
        deviation = weights[member, None] * (x[member] - shift[i]) ** 2
        farthest = x[member][deviation.argmax(0), range(x.shape[1])]
        shares = deviation.max(0) / deviation.sum(0)
        names = range(x.shape[1]) if columns is None else columns
        warn_of_far_points(names, farthest, shares, len(deviation))
        parts = []
        for rows in (train, member & held_out):
            parts += [(x[rows] - shift[i]) / scale[i], weights[rows] / weights[rows].mean()]
        data.append(PieceData(i, *(torch.from_numpy(part).to(like) for part in parts)))
    return data, shift, scale


def train_pieces(
    flows: Sequence[Flow],
    data: Sequence[PieceData],
    recipe: Recipe,
    *,
    n_jobs: int | None,
    checkpoint: str | Path | None = None,
    architecture: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Tensor]], PiecewiseHistory]:
    """Train each flow on its own points: its state at the best validation, and the history.

    The pieces are dealt out to ``n_jobs`` groups. A group is one joblib task, and its flows are one
    batched model (:class:`galflow_lite.flows.StackedFlows`). Flows with a resampled base cannot be
    batched: each of them is a task. Each group has a checkpoint of its own, which is refused where
    data, recipe or ``architecture`` are others.

    Raises:
        galflow_lite.training.TrainingDiverged: The loss of a piece is not finite.
    """
    k = len(flows)
    groups = min(joblib.effective_n_jobs(n_jobs), k)
    if isinstance(flows[0].base, ResampledBase):
        groups = k
    settings = dict(recipe=recipe._asdict(), architecture=architecture)
    paths = [checkpoint] * groups
    if checkpoint is not None and groups > 1:
        paths = [f"{checkpoint}.{group}" for group in range(groups)]
    # Threads of one process share the random state, and could not put it back by themselves.
    with seeded(recipe.seed, data[0].train.device):
        trained = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_train_group)(
                flows[group::groups],
                data[group::groups],
                recipe,
                checkpoint=path,
                settings=settings,
            )
            for group, path in enumerate(paths)
        )
    # Piece i is in group i % groups, at place i // groups.
    pieces = [trained[i % groups][i // groups] for i in range(k)]
    states, validation, epochs = map(list, zip(*pieces, strict=True))
    return states, PiecewiseHistory(
        np.array([len(piece.train) for piece in data]),
        np.array([sum(p.numel() for p in flow.parameters()) for flow in flows]),
        np.array(epochs),
        validation,
    )


def _train_group(
    flows: list[Flow], data: list[PieceData], recipe: Recipe, **saving: Any
) -> list[tuple]:
    """State, validation losses and epochs of each piece."""
    model = StackedFlows(flows) if len(flows) > 1 else flows[0]
    batches = _GroupBatches(data, recipe)
    best = _BestOfEach(model, data, recipe)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        points, weights = batch
        losses = -(_log_prob(model, points) * weights).sum(dim=1)
        return torch.where(best.active, losses, 0.0).sum()

    with threads(1), seeded(mixed_seed(recipe.seed, data[0].number), data[0].train.device):
        options = dict(validation=best, validate_every=recipe.validate_every, progress=False)
        options |= dict(patience=recipe.patience, schedule=recipe.schedule)
        options |= dict(optimizer=lambda parameters: _optimizer(parameters, recipe, len(flows)))
        fit(loss, model, batches, recipe.steps, extra_state=dict(best=best), **options, **saving)
    if not best.history:
        raise KeyboardInterrupt  # fit() has stopped for it; no piece has weights to keep as yet
    best.restore()
    if isinstance(model, StackedFlows):
        model.copy_to(flows)
    trained = []
    for i, (flow, piece) in enumerate(zip(flows, data, strict=True)):
        state = {name: value.detach().cpu() for name, value in flow.state_dict().items()}
        losses = [float(seen[i]) for seen in best.history[: int(best.looks[i])]]
        # Passes over the points of the piece.
        steps = min(len(losses) * recipe.validate_every, recipe.steps)
        trained.append((state, losses, steps * batches.sizes[i] / len(piece.train)))
    return trained


def _log_prob(model: StackedFlows | Flow, points: Tensor) -> Tensor:
    """Log-densities, shape (k, n), at points of shape (k, n, d); k is 1 for a single flow."""
    if isinstance(model, StackedFlows):
        return model.log_prob(points)
    return model(points[0])[None]


class _GroupBatches:
    """Batches of all pieces of a group: points (k, batch, d) and weights (k, batch).

    Each piece goes through its own points in its own random order. Where a piece has fewer points
    than a batch, rows of weight zero fill it up.
    """

    def __init__(self, data: list[PieceData], recipe: Recipe) -> None:
        self.data, self.seed = data, recipe.seed
        rows = [len(piece.train) for piece in data]
        self.sizes = [min(recipe.batch_size or n, n) for n in rows]
        self._epochs = [-1] * len(data)
        self._orders = [torch.empty(0, dtype=torch.long)] * len(data)
        self._points = torch.cat([piece.train for piece in data])
        self._weights = torch.cat([piece.train_weights for piece in data])
        self._starts = np.cumsum([0, *rows]).tolist()
        widest = max(self.sizes)
        self._share = self._points.new_zeros(len(data), widest)
        for i, size in enumerate(self.sizes):
            self._share[i, :size] = 1 / size
        self._index = torch.zeros(len(data), widest, dtype=torch.long)
        self._whole = self.sizes == rows
        self._batch: tuple[Tensor, Tensor] | None = None

    @property
    def settings(self) -> str:
        """All points and weights, for a checkpoint."""
        values = [part.flatten() for piece in self.data for part in piece[1:]]
        return TensorBatches(torch.cat(values), batch_size=None).settings

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if self._whole and self._batch is not None:
            return self._batch
        # One batch for all steps has one order, after a pause too: that of the first step.
        step = 0 if self._whole else step
        for i, (piece, size) in enumerate(zip(self.data, self.sizes, strict=True)):
            epoch, place = divmod(step, len(piece.train) // size)
            if epoch != self._epochs[i]:
                mixed = torch.Generator().manual_seed(mixed_seed(self.seed, piece.number, epoch))
                order = torch.randperm(len(piece.train), generator=mixed)
                self._orders[i], self._epochs[i] = order + self._starts[i], epoch
            self._index[i, :size] = self._orders[i][place * size : (place + 1) * size]
        index = sent(self._index, self._points.device)
        self._batch = self._points[index], self._weights[index] * self._share
        return self._batch


class _BestOfEach:
    """Validation that keeps the best weights of each piece and stops each by its own patience.

    To fit() it is one number, the sum of the best losses so far: it falls as long as any piece gets
    better, so that the patience of fit() ends the training when the last piece has stopped.
    """

    _counted = ("losses", "active", "since", "looks")

    def __init__(self, model: nn.Module, data: list[PieceData], recipe: Recipe) -> None:
        self.model, self.patience = model, recipe.patience
        self.points = nn.utils.rnn.pad_sequence([p.validation for p in data], batch_first=True)
        shares = [p.validation_weights / p.validation_weights.sum() for p in data]
        self.weights = nn.utils.rnn.pad_sequence(shares, batch_first=True)
        k, device = len(data), self.points.device
        self.losses = self.points.new_full((k,), torch.inf)
        self.active = torch.ones(k, dtype=torch.bool, device=device)
        self.since, self.looks = torch.zeros(2, k, dtype=torch.long, device=device)
        self.history: list[Tensor] = []
        self.best = [value.clone() for value in self._values()]

    def __call__(self) -> float:
        losses = -(_log_prob(self.model, self.points) * self.weights).sum(dim=1)
        self.history.append(losses)
        self.looks += self.active
        improved = self.active & (losses < self.losses)
        self.losses = torch.where(improved, losses, self.losses)
        self.since = torch.where(improved, 0, self.since + 1)
        for kept, value in zip(self.best, self._values(), strict=True):
            shape = (-1, *[1] * (value.dim() - 1))
            torch.where(improved.reshape(shape), value, kept, out=kept)
        if self.patience is not None:
            self.active &= self.since < self.patience
        # In double precision: a better loss of one piece must not be rounded away.
        return float(self.losses.cpu().double().sum())

    def state_dict(self) -> dict[str, Any]:
        # As numbers: a state has no tensors that are infinite.
        kept = {name: getattr(self, name).tolist() for name in self._counted}
        return dict(kept, history=[losses.tolist() for losses in self.history], best=self.best)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._counted:
            setattr(self, name, getattr(self, name).new_tensor(state[name]))
        self.history = [self.losses.new_tensor(losses) for losses in state["history"]]
        self.best = [kept.to(old) for kept, old in zip(state["best"], self.best, strict=True)]

    @torch.no_grad()
    def restore(self) -> None:
        for value, kept in zip(self._values(), self.best, strict=True):
            value.copy_(kept)

    def _values(self) -> list[Tensor]:
        """Parameters with a leading axis over pieces; of a single flow its buffers as well."""
        values = list(self.model.state_dict().values())
        return values if isinstance(self.model, StackedFlows) else [v[None] for v in values]


def _optimizer(parameters: list[Tensor], recipe: Recipe, pieces: int) -> torch.optim.Optimizer:
    """Adam; the norm of the gradient is clipped for each piece, not for all of them together."""
    # Fused: the loop over parameters costs more than the arithmetic.
    optimizer = torch.optim.Adam(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )

    def clip(*_) -> None:
        gradients = [p.grad.reshape(pieces, -1) for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.cat(gradients, dim=1), dim=1, keepdim=True)
        factor = (recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)

    if recipe.clip_norm is not None:
        optimizer.register_step_pre_hook(clip)
    return optimizer
