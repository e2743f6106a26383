"""PiecewiseFlow: one flow for each cluster, one density for all."""

from __future__ import annotations

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
from ..flows import Flow, ResampledBase
from ..training import History
from .clustering import Clustering
from .evaluation import log_prob_of, points_of
from .fine_tuning import Mixture, maximise_likelihood
from .partition import real_rows, sample_weights
from .preparation import check_pieces, cluster, split, standardise
from .training import PiecewiseHistory, Recipe, train_pieces

__all__ = ["FLOWS", "PiecewiseFlow"]

FLOWS: dict[str, Callable[..., Flow]] = {
    "masked_autoregressive": architectures.masked_autoregressive_flow,
    "neural_spline": architectures.neural_spline_flow,
    "real_nvp": architectures.real_nvp,
}
_KIND = "a piecewise flow"


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
        seed: Seed of the initial weights, and of the training unless :meth:`fit` is given one.
        **settings: Arguments of the architecture. Autoregressive pieces without ``layers`` have
            ceil(6 / k) MADEs, the paper's rule for about as many parameters as one flow of six.

    Example:
        >>> flow = PiecewiseFlow(layers=2)  # doctest: +SKIP
        >>> flow.fit(x)  # doctest: +SKIP
        >>> flow.log_prob(flow.sample(1000)).shape  # doctest: +SKIP
        torch.Size([1000])
    """

    def __init__(
        self,
        flow: str | Callable[[int], Flow] = "masked_autoregressive",
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not callable(flow) and not (isinstance(flow, str) and flow in FLOWS):
            raise ValueError(
                f"found flow {flow!r}, expected one of {', '.join(FLOWS)} or a callable"
            )
        if callable(flow) and settings:
            raise ValueError(
                f"found the settings {', '.join(settings)} beside a callable, expected none: set "
                "them inside the callable"
            )
        self.flow, self.settings, self.seed = flow, settings, seed
        self.pieces = nn.ModuleList()
        for name in ("log_weights", "shift", "scale"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))
        self._held_out: np.ndarray | None = None

    @property
    def k(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    @property
    def features(self) -> int:
        """Dimension of the data."""
        self._require_fitted()
        return self.shift.shape[1]

    @property
    def weights(self) -> np.ndarray:
        """Share of each piece, shape (k,), summing to one."""
        return self.log_weights.exp().cpu().numpy()

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of all pieces together."""
        return sum(p.numel() for p in self.parameters())

    def fit(
        self,
        x,
        *,
        clusters: Clustering | Sequence | int | None = None,
        weights=None,
        epochs: int = 60,
        batch_size: int | None = 256,
        learning_rate: float = 2e-3,
        schedule: str = "cosine",
        weight_decay: float = 0.0,
        clip_norm: float | None = 5.0,
        validation_fraction: float = 0.2,
        validate_every: int = 1,
        patience: int | None = None,
        n_jobs: int | None = None,
        seed: int | None = None,
        progress: bool = False,
    ) -> PiecewiseHistory:
        """Cluster, and train a flow on each cluster by maximum likelihood.

        The paper's own recipe is ``epochs=10_000, batch_size=None, learning_rate=1e-3,
        schedule="constant", clip_norm=None, patience=200``. The defaults take seconds where it
        takes minutes, and stop short of its density. Each piece keeps its own best weights.

        With minibatches all pieces take the same number of steps, ``epochs`` passes over a piece
        of average size, so that together they see as many points as one flow on all data would.
        Small pieces thus take few steps: raise ``epochs`` for them.

        Args:
            x: Points, tensor or array of shape (n, features).
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
            validation_fraction: Share of each cluster that is held out to choose the best weights.
            validate_every: Epochs between validations.
            patience: A piece stops after so many validations in a row without a new best; None to
                train to the end.
            n_jobs: Processes, as in joblib; each trains its share of the pieces as one batched
                model. None is one process, unless ``joblib.parallel_config`` says otherwise: its
                backends take the pieces to a dask or ray cluster.
            seed: Seed of the clusters, the split and the training.
            progress: Whether to show a progress bar, with one process.

        Raises:
            ValueError: On bad points, labels or weights, a cluster with fewer than 5 points or a
                constant column.
            galflow_lite.training.TrainingDiverged: If the loss of a piece is not finite.
        """
        began = time.perf_counter()
        seed = self.seed if seed is None else seed
        x = real_rows(x)
        weights = sample_weights(weights, len(x))
        if not 0 < validation_fraction < 1:
            raise ValueError(
                f"found validation_fraction={validation_fraction}, expected between 0 and 1"
            )
        sizes = {"epochs": epochs, "batch_size": batch_size, "validate_every": validate_every}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(f"found {name}={value}, expected at least 1: raise it")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"found clip_norm={clip_norm}, expected a number above 0: raise it")
        clustering = cluster(x, clusters, weights, seed)
        k, labels = clustering.k, clustering.labels
        held_out = split(np.where(weights > 0, labels, -1), k, validation_fraction, seed)
        device = self.log_weights.device
        pieces = self._build(x.shape[1], k)
        data, shift, scale = standardise(x, weights, labels, k, held_out, device)
        rows = sum(len(piece.train) for piece in data) / k
        per_epoch = 1 if batch_size is None else max(1, round(rows / min(batch_size, rows)))
        recipe = Recipe(
            steps=epochs * per_epoch,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            validate_every=validate_every * per_epoch,
            patience=patience,
            seed=seed,
            progress=progress,
        )
        trained = train_pieces([piece.to(device) for piece in pieces], data, recipe, n_jobs=n_jobs)
        for piece, result in zip(pieces, trained, strict=True):
            piece.load_state_dict(result.state)
            piece.to(device).eval()
            if isinstance(piece.base, ResampledBase):
                piece.base.refine(generator=torch.Generator(device).manual_seed(seed))
        # Nothing of this object changes before all of it has succeeded.
        self.pieces = nn.ModuleList(pieces)
        share = np.bincount(labels, weights=weights, minlength=k)
        self.log_weights = torch.from_numpy(np.log(share / share.sum())).to(device)
        self.shift, self.scale = (torch.from_numpy(v).to(device) for v in (shift, scale))
        self._held_out = held_out
        return PiecewiseHistory(
            points=np.array([len(piece.train) for piece in data]),
            parameters=np.array([sum(p.numel() for p in piece.parameters()) for piece in pieces]),
            epochs=np.array([result.epochs for result in trained]),
            best_epoch=np.array([result.best_epoch for result in trained]),
            best_loss=np.array([result.best_loss for result in trained]),
            validation=[result.validation for result in trained],
            seconds=time.perf_counter() - began,
        )

    def fine_tune(
        self,
        x,
        *,
        weights=None,
        steps: int = 500,
        batch_size: int = 512,
        learning_rate: float = 2e-3,
        clip_norm: float | None = 5.0,
        seed: int | None = None,
        progress: bool = False,
    ) -> History:
        """Train all pieces and their shares together for a few steps of maximum likelihood.

        Hard clusters cut smooth densities: each piece then models an edge, leaks over it, and is
        blind to what its neighbours put there. The sum is what counts, and this trains the sum.
        Points that :meth:`fit` held out stay held out if ``x`` has as many rows (after
        :meth:`load` others are drawn). If no step makes the held-out likelihood better, the flow
        stays as it was.

        Args:
            x: Points, shape (n, features): those given to :meth:`fit`.
            weights: Their weights, shape (n,).
            steps: Updates; the learning rate falls to zero over them.
            batch_size: Points for each update.
            learning_rate: Of Adam.
            clip_norm: Largest norm of the gradient; None for no limit.
            seed: Seed of the order of the points.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: On bad points or weights, before :meth:`fit`, with a resampled base.
        """
        self._require_fitted()
        seed = self.seed if seed is None else seed
        x = points_of(x, self.features).cpu().numpy()
        weights = sample_weights(weights, len(x))
        held_out = self._held_out
        if held_out is None or len(held_out) != len(x):
            held_out = split(np.zeros(len(x), dtype=int), 1, 0.2, seed)
        mixture = Mixture(self.pieces, self.log_weights, self.shift, self.scale)
        history = maximise_likelihood(
            mixture,
            x,
            weights,
            held_out,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
            seed=seed,
            progress=progress,
        )
        mixture.stack.copy_to(list(self.pieces))
        self.log_weights = mixture.logits.detach().log_softmax(0)
        return history

    def log_prob(self, x, *, batch_size: int = 50_000) -> Tensor:
        """Log-density of each point under the sum of all pieces.

        Args:
            x: Tensor or array, shape (n, features).
            batch_size: Points to evaluate at once.

        Returns:
            Tensor, shape (n,), float64, in nats. Far from all data it is low and finite. It has a
            gradient in x where x requires one, and never in the parameters: see :meth:`fine_tune`.
        """
        return torch.cat([terms.logsumexp(dim=1) for terms in self._batches(x, batch_size)])

    def responsibilities(self, x, *, batch_size: int = 50_000) -> Tensor:
        """Probability that each point came from each piece, shape (n, k); rows sum to one."""
        return torch.cat([terms.softmax(dim=1) for terms in self._batches(x, batch_size)])

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int | None = None, return_pieces: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw points: a piece by its share, then a point from its flow.

        Args:
            n: Number of points.
            seed: Seed of the draw; None continues torch's global generator.
            return_pieces: Whether to return the piece of each point as well.

        Returns:
            Tensor, shape (n, features), float64; with ``return_pieces`` also int64, shape (n,).
        """
        self._require_fitted()
        if isinstance(n, bool) or int(n) != n or n < 1:
            raise ValueError(f"found n={n!r}, expected a positive integer")
        device = self.shift.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        pieces = torch.multinomial(self.log_weights.exp(), int(n), True, generator=generator)
        points = torch.empty(int(n), self.features, dtype=torch.float64, device=device)
        for i, flow in enumerate(self.pieces):
            rows = (pieces == i).nonzero().flatten()
            if len(rows):
                noise = flow.sample(len(rows), generator=generator).double()
                points[rows] = noise * self.scale[i] + self.shift[i]
        return (points, pieces) if return_pieces else points

    def save(self, path: str | Path) -> None:
        """Write weights, scales and architecture to one safetensors file with a JSON header."""
        self._require_fitted()
        state = {
            "flow": self.flow if isinstance(self.flow, str) else "callable",
            "settings": self.settings,
            "seed": self.seed,
            "log_weights": self.log_weights,
            "shift": self.shift,
            "scale": self.scale,
            "pieces": [piece.state_dict() for piece in self.pieces],
        }
        write_state(path, state, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path, *, flow: Callable[[int], Flow] | None = None) -> PiecewiseFlow:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            flow: The callable that built the pieces, where one did.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, of another kind, needs ``flow``, or its weights do
                not fit its architecture.
        """
        state = read_state(path, kind=_KIND)
        if state["flow"] == "callable" and flow is None:
            raise ValueError(
                f"{path} holds pieces that a callable built, found none: pass it as flow="
            )
        model = cls(flow or state["flow"], seed=state["seed"], **state["settings"])
        k, features = state["shift"].shape
        model.pieces = nn.ModuleList(model._build(features, k)).eval()
        try:
            for piece, values in zip(model.pieces, state["pieces"], strict=True):
                piece.load_state_dict(values)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} holds weights of another architecture than it states "
                f"({str(error).splitlines()[-1].strip()}): train and save the flow anew"
            ) from None
        for name in ("log_weights", "shift", "scale"):
            setattr(model, name, state[name])
        return model

    def _build(self, features: int, k: int) -> list[Flow]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            if not isinstance(self.flow, str):
                return check_pieces([self.flow(features) for _ in range(k)], features)
            settings = dict(self.settings)
            if self.flow == "masked_autoregressive":
                settings.setdefault("layers", math.ceil(6 / k))
            pieces = [FLOWS[self.flow](features, **settings) for _ in range(k)]
            return check_pieces(pieces, features)

    def _batches(self, x, batch_size: int) -> Iterator[Tensor]:
        x = self._tensor(x)
        # A graph over the parameters would hold the memory of all batches.
        with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
            for part in x.split(batch_size):
                yield self._terms(part)

    def _terms(self, x: Tensor) -> Tensor:
        """log W_k + log p_k(x), shape (n, k)."""
        terms = [
            log_prob_of(flow, (x - shift) / scale) - scale.log().sum()
            for flow, shift, scale in zip(self.pieces, self.shift, self.scale, strict=True)
        ]
        return torch.stack(terms, dim=1) + self.log_weights

    def _tensor(self, x) -> Tensor:
        self._require_fitted()
        return points_of(x, self.features).to(self.shift.device)

    def _require_fitted(self) -> None:
        if not self.k:
            raise ValueError("found a flow without pieces, expected a fitted one: call fit first")
