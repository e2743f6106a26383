"""PiecewiseFlow: one flow for each cluster, one density for all."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import flows as architectures
from ..files import read_state, write_state
from ..flows import Flow, ResampledBase, StackedFlows
from ..inputs import (
    as_array,
    as_choice,
    as_number,
    as_tensor,
    as_whole,
    column_names,
    finest,
    seeded,
)
from ..training import History, TensorBatches, fit, threads
from .clustering import Clustering, choose_clusters, effective_number, sample_weights
from .pieces import PiecewiseHistory, Recipe, split, standardise, train_pieces

FLOWS: dict[str, Callable[..., Flow]] = {
    "masked_autoregressive": architectures.masked_autoregressive_flow,
    "neural_spline": architectures.neural_spline_flow,
    "real_nvp": architectures.real_nvp,
}
_KIND = "a piecewise flow"
_DOUBLE = ("log_weights", "shift", "scale")
_SAVED = ("features", "settings", "seed", "columns", *_DOUBLE)
_BATCH = 50_000


class PiecewiseFlow(nn.Module):
    r"""A density that is a sum of flows, one for each cluster of the data.

    Bevins, Handley & Gessey-Jones (arXiv:2305.02930): a flow with a Gaussian base cannot tear its
    mass apart, so cluster first and train a flow on each piece. With W_k the share of the sample
    weights in cluster k and p_k the flow trained on it,

    .. math:: p(x) = \sum_k W_k \, p_k(x),

    over *all* pieces: every piece has support everywhere.

    Each piece is standardised by its own mean and standard deviation. The paper squeezes the data
    into their bounding box instead, which gives points outside of it no density at all.

    Args:
        flow: Architecture of a piece: ``"masked_autoregressive"`` (the paper's),
            ``"neural_spline"``, ``"real_nvp"``, or a callable that takes the number of features
            and returns a :class:`galflow_lite.flows.Flow`.
        seed: Seed of the initial weights, of the clusters and of the training.
        **settings: Arguments of the architecture. Autoregressive pieces without ``layers`` have
            ceil(6 / k) MADEs, about as many parameters as one flow of six: the rule of the paper's
            UCI runs. Its toy runs have floor(6 / k) + 1.

    Example:
        >>> flow = PiecewiseFlow(layers=2)  # doctest: +SKIP
        >>> flow.fit(x)  # doctest: +SKIP
        >>> flow.log_prob(flow.sample(1000)).shape  # doctest: +SKIP
        torch.Size([1000])
    """

    def __init__(
        self,
        flow: str | Callable[..., Flow] = "masked_autoregressive",
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.flow = flow if callable(flow) else as_choice(flow, "flow", FLOWS)
        self.seed = as_whole(seed, "seed")
        self.settings = settings
        self.columns: list[Any] | None = None
        self.pieces = nn.ModuleList()
        for name in _DOUBLE:
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))
        self._held_out: np.ndarray | None = None

    def _apply(self, fn: Callable, *args: Any) -> PiecewiseFlow:
        device = fn(torch.empty(0)).device
        for name in _DOUBLE:
            setattr(self, name, getattr(self, name).cpu().to(finest(device)))
        return super()._apply(fn, *args)

    @property
    def k(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    @property
    def features(self) -> int:
        """Dimension of the data."""
        if not self.k:
            raise ValueError("found a flow without pieces, expected a fitted one: call fit first")
        return self.shift.shape[1]

    @property
    def weights(self) -> np.ndarray:
        """Share of each piece, shape (k,), summing to one."""
        return self.log_weights.exp().cpu().numpy()

    @property
    def _flow_name(self) -> str:
        return self.flow if isinstance(self.flow, str) else "callable"

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of all pieces together."""
        return sum(p.numel() for p in self.parameters())

    def fit(
        self,
        x: Any,
        *,
        clusters: Clustering | Sequence | int | None = None,
        weights: Any = None,
        epochs: int = 60,
        batch_size: int | None = 256,
        learning_rate: float = 2e-3,
        schedule: str = "cosine",
        weight_decay: float = 0.0,
        clip_norm: float | None = 5.0,
        patience: int | None = None,
        n_jobs: int | None = None,
        checkpoint: str | Path | None = None,
    ) -> PiecewiseHistory:
        """Cluster, and train a flow on each cluster by maximum likelihood.

        The paper's own recipe is ``epochs=10_000, batch_size=None, learning_rate=1e-3,
        schedule="constant", clip_norm=None, patience=200``. The defaults take seconds where it
        takes minutes, and stop short of its density. A fifth of each cluster is held out, and each
        piece keeps the weights that were best there.

        With minibatches all pieces take the same number of steps, ``epochs`` passes over a piece
        of average size, so that together they see as many points as one flow on all data would.
        Small pieces thus take few steps: raise ``epochs`` for them.

        A fit that fails leaves the flow as it was.

        Args:
            x: Points, shape (n, features). The columns of a table are known by name from now on.
            clusters: None to choose their number (:func:`choose_clusters`), their number, a
                :class:`Clustering`, or one label for each point; 1 for a single flow.
            weights: Weights of the points, shape (n,), zero or more; None for equal weights. Points
                of weight zero take no part.
            epochs: Passes over the training points.
            batch_size: Points of a piece for each step; None for all of them.
            learning_rate: Of Adam, before the schedule's factor.
            schedule: ``"cosine"`` or ``"constant"``.
            weight_decay: Of Adam.
            clip_norm: Largest norm of a piece's gradient; None for no limit.
            patience: A piece stops after so many epochs in a row without a new best; None to train
                to the end.
            n_jobs: Processes, -1 for as many as there are cores; each trains its share of the
                pieces as one batched model. None is one process, unless ``joblib.parallel_config``
                says otherwise: its backends take the pieces to a dask or ray cluster.
            checkpoint: File from which a fit that was killed goes on, to the same result; several
                processes have one each, with its number at the end of the name.

        Raises:
            ValueError: A cluster has fewer than 5 points or a constant column, or the checkpoint
                belongs to another fit.
            galflow_lite.training.TrainingDiverged: The loss of a piece is not finite.

        Warns:
            RuntimeWarning: A single point makes up nearly all variance of a column of its piece.
        """
        began = time.perf_counter()
        epochs = as_whole(epochs, "epochs", least=1)
        batch_size = None if batch_size is None else as_whole(batch_size, "batch_size", least=1)
        clip_norm = None if clip_norm is None else as_number(clip_norm, "clip_norm", above=0)
        learning_rate = as_number(learning_rate, "learning_rate", least=0)
        weight_decay = as_number(weight_decay, "weight_decay", least=0)
        n_jobs = None if n_jobs is None else as_whole(n_jobs, "n_jobs", least=-1)
        columns = column_names(x)
        x = as_array(x, "x", ("n", "d"))
        weights = sample_weights(weights, len(x))
        clustering = self._cluster(x, clusters, weights)
        k, labels = clustering.k, clustering.labels
        held_out = split(np.where(weights > 0, labels, -1), k, self.seed)
        device = self.log_weights.device
        pieces = [piece.to(device) for piece in self._build(x.shape[1], k)]
        like = next(pieces[0].parameters())
        data, shift, scale = standardise(x, weights, labels, held_out, like, columns)
        rows = sum(len(piece.train) for piece in data) / k
        per_epoch = 1 if batch_size is None else max(1, round(rows / min(batch_size, rows)))
        schedule = as_choice(schedule, "schedule", ("cosine", "constant"))
        descent = (learning_rate, schedule, weight_decay, clip_norm)
        recipe = Recipe(epochs * per_epoch, batch_size, *descent, per_epoch, patience, self.seed)
        architecture = dict(self.settings, flow=self._flow_name)
        more = dict(checkpoint=checkpoint, architecture=architecture)
        states, history = train_pieces(pieces, data, recipe, n_jobs=n_jobs, **more)
        for piece, state in zip(pieces, states, strict=True):
            piece.load_state_dict(state)
            piece.to(device).eval()
            if isinstance(piece.base, ResampledBase):
                piece.base.refine(generator=torch.Generator(device).manual_seed(self.seed))
        # Nothing of this object changes before all of it has succeeded.
        self.columns, self._held_out = columns, held_out
        self.pieces = nn.ModuleList(pieces)
        share = np.bincount(labels, weights=weights, minlength=k)
        kept = np.log(share / share.sum()), shift, scale
        for name, value in zip(_DOUBLE, kept, strict=True):
            setattr(self, name, torch.from_numpy(value).to(self.log_weights))
        history.seconds = time.perf_counter() - began
        return history

    def fine_tune(
        self,
        x: Any,
        *,
        weights: Any = None,
        steps: int = 500,
        learning_rate: float = 2e-3,
        seed: int | None = None,
    ) -> History:
        """Train all pieces and their shares together for a few steps of maximum likelihood.

        Hard clusters cut smooth densities: each piece then models an edge, leaks over it, and is
        blind to what its neighbours put there. The sum is what counts, and this trains the sum, on
        512 points a step. Points that :meth:`fit` held out stay held out if ``x`` has as many rows
        (after :meth:`load` others are drawn). If no step makes the held-out likelihood better, the
        flow stays as it was, and the history has ``best_step`` 0.

        Args:
            x: Points, shape (n, features): those given to :meth:`fit`.
            weights: Their weights, shape (n,).
            steps: Updates; the learning rate falls to zero over them.
            learning_rate: Of Adam.
            seed: Seed of the order of the points; None for that of the flow.

        Raises:
            ValueError: Pieces with a resampled base.
            galflow_lite.training.TrainingDiverged: The loss is not finite.
        """
        seed = self.seed if seed is None else as_whole(seed, "seed")
        x = self._points(x)
        weights = torch.from_numpy(sample_weights(weights, len(x))).to(x)
        held_out = self._held_out
        if held_out is None or len(held_out) != len(x):
            held_out = split(np.zeros(len(x), dtype=int), 1, seed)
        held_out = torch.from_numpy(held_out).to(x.device)
        stack, logits = StackedFlows(list(self.pieces)), nn.Parameter(self.log_weights.clone())
        shift, scale = self.shift[:, None], self.scale[:, None]
        train, validation = (
            TensorBatches(x[rows], weights[rows] / weights[rows].mean(), batch_size=n, seed=seed)
            for rows, n in ((~held_out, 512), (held_out, 4096))
        )

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            points, share = batch
            scaled = ((points - shift) / scale).to(next(stack.parameters()).dtype)
            terms = stack.log_prob(scaled).to(logits) - scale.log().sum(dim=2)
            log_prob = torch.logsumexp(logits.log_softmax(0)[:, None] + terms, dim=0)
            return -(log_prob * share).mean()

        with threads(1):
            with torch.no_grad():
                total = sum(float(loss(batch)) * len(batch[0]) for batch in validation)
            options = dict(learning_rate=learning_rate, schedule="cosine", clip_norm=5.0)
            options |= dict(validation=validation, validate_every=max(1, steps // 10))
            trained = nn.ModuleList([nn.ParameterList([logits]), stack])
            history = fit(loss, trained, train, steps, **options, progress=False)
        before = total / int(held_out.sum())
        if history.best_loss is None or history.best_loss >= before:
            history.best_step, history.best_loss = 0, before
        else:
            stack.copy_to(list(self.pieces))
            self.log_weights = logits.detach().log_softmax(0)
        return history

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of each point under the sum of all pieces.

        Args:
            x: Points, shape (n, features).

        Returns:
            Tensor, shape (n,), float64 (float32 on Apple's devices), in nats. Far from all data it
            is low and finite. It has a gradient, in x and the parameters, only where x requires
            one; to train the sum there is :meth:`fine_tune`.
        """
        return torch.cat([terms.logsumexp(dim=1) for terms in self._terms(x)])

    def responsibilities(self, x: Any) -> Tensor:
        """Probability that each point came from each piece, shape (n, k); rows sum to one."""
        return torch.cat([terms.softmax(dim=1) for terms in self._terms(x)])

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw points: a piece by its share, then a point from its flow.

        Args:
            n: Number of points.
            seed: Seed of the draw; None continues torch's global generator.

        Returns:
            Tensor, shape (n, features), float64 (float32 on Apple's devices).
        """
        n, features, device = as_whole(n, "n", least=1), self.features, self.shift.device
        seed = None if seed is None else as_whole(seed, "seed")
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        pieces = torch.multinomial(self.log_weights.exp(), n, True, generator=generator)
        points = self.shift.new_empty(n, features)
        for i, flow in enumerate(self.pieces):
            rows = (pieces == i).nonzero().flatten()
            if len(rows):
                drawn = flow.sample(len(rows), batch_size=_BATCH, generator=generator)
                points[rows] = drawn.to(points) * self.scale[i] + self.shift[i]
        return points

    def save(self, path: str | Path) -> None:
        """Write weights, scales and architecture to one safetensors file with a JSON header."""
        state = {name: getattr(self, name) for name in _SAVED}
        state["flow"] = self._flow_name
        state["pieces"] = [piece.state_dict() for piece in self.pieces]
        write_state(path, state, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path, *, flow: Callable[..., Flow] | None = None) -> PiecewiseFlow:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            flow: The callable that built the pieces, where one did.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of another kind, or needs ``flow``.
            RuntimeError: Its weights do not fit the architecture.
        """
        state = read_state(path, kind=_KIND)
        if state["flow"] == "callable" and flow is None:
            raise ValueError(f"{path} holds pieces that a callable built: pass it as flow=")
        model = cls(flow or state["flow"], seed=state["seed"], **state["settings"])
        k, features = state["shift"].shape
        model.pieces = nn.ModuleList(model._build(features, k)).eval()
        for piece, values in zip(model.pieces, state["pieces"], strict=True):
            piece.load_state_dict(values)
        model.columns = state["columns"]
        for name in _DOUBLE:
            setattr(model, name, state[name].double())
        return model

    def _cluster(self, x: np.ndarray, clusters: Any, weights: np.ndarray) -> Clustering:
        """The clusters that are asked for: made, counted, chosen, or given as labels."""
        if isinstance(clusters, Clustering):
            as_array(clusters.labels, "the labels of clusters", (len(x),))
            return clusters
        if clusters is None:
            # The least size of the paper's code, unless there are few points.
            few = effective_number(weights)
            minimum = min(100, max(min(5, few), few // 10))
            return choose_clusters(x, minimum=minimum, weights=weights, seed=self.seed)
        if isinstance(clusters, int | np.integer):
            if (k := as_whole(clusters, "clusters", least=1)) > 1:
                # The number that was asked for: none is dissolved for being small.
                more = {"weights": weights, "seed": self.seed}
                found = choose_clusters(x, candidates=[k], minimum=1, **more)
                if found.k == 1:
                    raise ValueError(
                        f"clusters is {k} and k-means found one cluster and rare far points, "
                        "expected clusters of some size: remove those points, or pass labels"
                    )
                return found
            clusters = np.zeros(len(x), dtype=int)
        return Clustering.from_labels(x, clusters, weights=weights)

    def _build(self, features: int, k: int) -> list[Flow]:
        settings = dict(self.settings)
        if self.flow == "masked_autoregressive":
            settings.setdefault("layers", math.ceil(6 / k))
        make = self.flow if callable(self.flow) else FLOWS[self.flow]
        with seeded(self.seed):
            pieces = [make(features, **settings) for _ in range(k)]
        own = [id(parameter) for piece in pieces for parameter in piece.parameters()]
        kinds = {(getattr(p, "features", 0), getattr(p, "context_features", 0)) for p in pieces}
        if kinds != {(features, 0)} or len(set(own)) < len(own):
            raise ValueError(
                f"flow={self.flow!r} builds no Flow of {features} features for each cluster, "
                "without context, that shares nothing: build flow and base again at each call"
            )
        return pieces

    def _terms(self, x: Any) -> Iterator[Tensor]:
        """log W_k + log p_k(x), shape (n, k), float64 and finite for finite points, in batches."""
        x = self._points(x)
        # A graph over the parameters would hold the memory of all batches.
        with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
            for part in x.split(_BATCH):
                terms = []
                for flow, shift, scale in zip(self.pieces, self.shift, self.scale, strict=True):
                    scaled = (part - shift) / scale
                    log_prob = flow.log_prob(scaled).to(shift)
                    lost = ~log_prob.isfinite()
                    if lost.any():
                        # Single precision cannot hold the square of 1e20: far out it takes double.
                        wide = copy.deepcopy(flow).cpu().double()
                        found = wide.log_prob(scaled[lost].cpu()).to(log_prob)
                        log_prob = log_prob.index_put((lost,), found)
                    terms.append(log_prob - scale.log().sum())
                yield torch.stack(terms, dim=1) + self.log_weights

    def _points(self, x: Any) -> Tensor:
        shape = ("n", self.features)
        return as_tensor(x, "x", shape, like=self.shift, columns=self.columns)
