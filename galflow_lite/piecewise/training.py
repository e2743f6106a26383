"""Train flows that do not depend on each other: batched in a process, shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from ..flows import Flow, ResampledBase, StackedFlows
from ..training import fit, make_optimizer

__all__ = [
    "PieceData",
    "PiecewiseHistory",
    "Recipe",
    "TrainedPiece",
    "one_thread",
    "train_pieces",
]


@dataclass(frozen=True)
class Recipe:
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
    progress: bool


@dataclass(frozen=True)
class PieceData:
    """Standardised points of one piece, with weights of mean one.

    ``number`` is the place of the piece among all of them. It seeds the order of the points, so
    that a result does not depend on how the pieces are shared among processes.
    """

    number: int
    train: Tensor
    train_weights: Tensor
    validation: Tensor
    validation_weights: Tensor


@dataclass(frozen=True)
class TrainedPiece:
    """The weights of the best validation, and how they were reached.

    Attributes:
        state: State of the flow.
        best_loss: Validation loss, nat per point in standardised coordinates.
        best_epoch: Passes over the piece's points at the best validation.
        epochs: Passes until it stopped.
        validation: Validation losses until then.
    """

    state: dict[str, Tensor] = field(repr=False)
    best_loss: float
    best_epoch: float
    epochs: float
    validation: list[float] = field(repr=False)


@dataclass(frozen=True)
class PiecewiseHistory:
    """How the pieces of a piecewise flow were trained; arrays of shape (k,).

    Attributes:
        points: Training points of each piece.
        parameters: Parameters of each piece.
        epochs: Passes of each piece over its points until it stopped.
        best_epoch: Passes after which its weights, those that are kept, were reached.
        best_loss: Validation loss there, nat per point in the piece's standardised coordinates.
        validation: Validation losses of each piece.
        seconds: Wall time.
    """

    points: np.ndarray
    parameters: np.ndarray
    epochs: np.ndarray
    best_epoch: np.ndarray
    best_loss: np.ndarray
    validation: list[list[float]]
    seconds: float

    @property
    def cost(self) -> float:
        """Sum over pieces of epochs x points x parameters: C of arXiv:2305.02930, Table 2."""
        return float((self.epochs * self.points * self.parameters).sum())


def train_pieces(
    flows: Sequence[Flow], data: Sequence[PieceData], recipe: Recipe, *, n_jobs: int | None
) -> list[TrainedPiece]:
    """Train each flow on its own points.

    The pieces are dealt out to ``n_jobs`` groups. A group is one joblib task, and its flows are one
    batched model (:class:`galflow_lite.flows.StackedFlows`). Flows with a resampled base cannot be
    batched: each of them is a task.

    Raises:
        galflow_lite.training.TrainingDiverged: If the loss of a piece is not finite.
    """
    groups = min(joblib.effective_n_jobs(n_jobs), len(flows))
    if isinstance(flows[0].base, ResampledBase):
        groups = len(flows)
    members = [range(group, len(flows), groups) for group in range(groups)]
    # Threads of one process share the random state, and could not put it back by themselves.
    with torch.random.fork_rng():
        trained = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_train_group)(
                [flows[i] for i in numbers], [data[i] for i in numbers], recipe
            )
            for numbers in members
        )
    result = dict(
        pair
        for numbers, group in zip(members, trained, strict=True)
        for pair in zip(numbers, group, strict=True)
    )
    return [result[number] for number in range(len(flows))]


def _train_group(flows: list[Flow], data: list[PieceData], recipe: Recipe) -> list[TrainedPiece]:
    model = StackedFlows(flows) if len(flows) > 1 else _SingleFlow(flows[0])
    batches = _GroupBatches(data, recipe)
    best = _BestOfEach(model, data, recipe)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        points, weights = batch
        losses = -(model.log_prob(points) * weights).sum(dim=1)
        return torch.where(best.active, losses, 0.0).sum()

    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(_mixed(recipe.seed, data[0].number))
        fit(
            loss,
            model,
            batches,
            recipe.steps,
            optimizer=lambda parameters: _optimizer(parameters, recipe, len(flows)),
            schedule=recipe.schedule,
            validation=best,
            validate_every=recipe.validate_every,
            patience=recipe.patience,
            progress=recipe.progress,
            description="pieces" if len(flows) > 1 else "flow",
        )
    if not best.history:
        raise KeyboardInterrupt  # fit() has stopped for it; no piece has weights to keep as yet
    best.restore()
    if isinstance(model, StackedFlows):
        model.copy_to(flows)
    return [
        TrainedPiece(
            state={name: value.detach().cpu() for name, value in flow.state_dict().items()},
            best_loss=float(best.losses[i]),
            best_epoch=float(best.steps[i] * batches.sizes[i] / len(piece.train)),
            epochs=float(best.last_steps[i] * batches.sizes[i] / len(piece.train)),
            validation=[float(losses[i]) for losses in best.history[: int(best.looks[i])]],
        )
        for i, (flow, piece) in enumerate(zip(flows, data, strict=True))
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: small networks are many times slower when threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _SingleFlow(nn.Module):
    """One flow with the interface of a stack."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, inputs: Tensor) -> Tensor:
        return self.flow._log_prob(inputs[0], None)[None]


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
        self._share = torch.zeros(len(data), widest)
        for i, size in enumerate(self.sizes):
            self._share[i, :size] = 1 / size
        self._share = self._share.to(self._points)
        self._index = torch.zeros(len(data), widest, dtype=torch.long)
        self._whole = self.sizes == rows
        self._batch: tuple[Tensor, Tensor] | None = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if self._whole and self._batch is not None:
            return self._batch
        for i, (piece, size) in enumerate(zip(self.data, self.sizes, strict=True)):
            epoch, place = divmod(step, len(piece.train) // size)
            if epoch != self._epochs[i]:
                mixed = _mixed(self.seed, piece.number, epoch)
                order = torch.randperm(
                    len(piece.train), generator=torch.Generator().manual_seed(mixed)
                )
                self._orders[i], self._epochs[i] = order + self._starts[i], epoch
            self._index[i, :size] = self._orders[i][place * size : (place + 1) * size]
        index = self._index.to(self._points.device)
        self._batch = self._points[index], self._weights[index] * self._share
        return self._batch


class _BestOfEach:
    """Validation that keeps the best weights of each piece and stops each by its own patience.

    To fit() it is one number, the sum of the best losses so far: it falls as long as any piece gets
    better, so that the patience of fit() ends the training when the last piece has stopped.
    """

    def __init__(self, model: nn.Module, data: list[PieceData], recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.points = nn.utils.rnn.pad_sequence([p.validation for p in data], batch_first=True)
        shares = [p.validation_weights / p.validation_weights.sum() for p in data]
        self.weights = nn.utils.rnn.pad_sequence(shares, batch_first=True)
        k, device = len(data), self.points.device
        self.losses = torch.full((k,), torch.inf, device=device)
        self.active = torch.ones(k, dtype=torch.bool, device=device)
        self.since = torch.zeros(k, dtype=torch.long, device=device)
        self.steps = torch.zeros(k, dtype=torch.long, device=device)
        self.looks = torch.zeros(k, dtype=torch.long, device=device)
        self.history: list[Tensor] = []
        self.best = [value.clone() for value in self._values()]

    @property
    def last_steps(self) -> Tensor:
        """Steps that each piece was trained."""
        return (self.looks * self.recipe.validate_every).clamp(max=self.recipe.steps)

    def __call__(self) -> float:
        losses = -(self.model.log_prob(self.points) * self.weights).sum(dim=1)
        self.history.append(losses)
        self.looks += self.active
        improved = self.active & (losses < self.losses)
        self.losses = torch.where(improved, losses, self.losses)
        self.steps = torch.where(improved, self.last_steps, self.steps)
        self.since = torch.where(improved, 0, self.since + 1)
        for kept, value in zip(self.best, self._values(), strict=True):
            shape = (-1, *[1] * (value.dim() - 1))
            torch.where(improved.reshape(shape), value, kept, out=kept)
        if self.recipe.patience is not None:
            self.active &= self.since < self.recipe.patience
        # In double precision: a better loss of one piece must not be rounded away.
        return float(self.losses.double().sum())

    @torch.no_grad()
    def restore(self) -> None:
        for value, kept in zip(self._values(), self.best, strict=True):
            value.copy_(kept)

    def _values(self) -> list[Tensor]:
        """Parameters with a leading axis over pieces; of a single flow its buffers as well."""
        if isinstance(self.model, StackedFlows):
            return [value.detach() for value in self.model.parameters()]
        return [value.detach()[None] for value in self.model.state_dict().values()]


def _optimizer(parameters: list[Tensor], recipe: Recipe, pieces: int) -> torch.optim.Optimizer:
    """Adam; the norm of the gradient is clipped for each piece, not for all of them together."""
    optimizer = make_optimizer("adam", parameters, recipe.learning_rate, recipe.weight_decay)
    if recipe.clip_norm is None:
        return optimizer

    def clip(*_) -> None:
        gradients = [p.grad.reshape(pieces, -1) for p in parameters if p.grad is not None]
        norm = torch.cat(gradients, dim=1).norm(dim=1, keepdim=True)
        factor = (recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def _mixed(*numbers: int) -> int:
    # torch's CPU generator looks at 32 bits of its seed only, and seeds in a row would overlap.
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
