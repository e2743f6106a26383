"""The paper's experiments, as functions of a seed: one fit each, judged by every estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import TabularData, subset
from ..metrics import (
    Divergence,
    effective_sample_size,
    forward_kl,
    reverse_kl,
    self_normalised_kl,
)
from ..reproduction import Case
from ..targets import CircleOfGaussians, Target, TwoMoons, TwoRings
from .clustering import Clustering, choose_clusters
from .model import PiecewiseFlow, PiecewiseHistory

__all__ = [
    "BUDGET",
    "MODELS",
    "PAPER",
    "PROTOCOLS",
    "SHORT",
    "TARGETS",
    "accounts",
    "compare_clusterings",
    "compare_models",
    "compare_on_table",
    "equal_settings",
    "fit_model",
    "judge",
    "paper_cases",
    "paper_settings",
    "run_experiment",
    "share_lost",
    "training_points",
]

TARGETS: dict[str, Callable[[], Target]] = {
    "moons": TwoMoons,
    "circle": CircleOfGaussians,
    "rings": TwoRings,
}
MODELS = ("maf", "real_nvp", "pieces")
BUDGET = 17_424
"""Parameters of the paper's single flow: six MADEs of 2,904."""

PAPER: dict[str, Any] = {
    "epochs": 10_000,
    "batch_size": None,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "clip_norm": None,
    "patience": 200,
}
"""Training as in arXiv:2305.02930: full batches, up to 10,000 epochs, patience of 2 % of them."""

SHORT: dict[str, Any] = {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3}
"""Training in a fraction of the time: minibatches, a falling learning rate, 60 epochs."""

PROTOCOLS = ("paper", "equal", "equal, joint", "equal, short")
TABLE_SEEDS = 3
"""Repetitions of Table 4, of which the paper has one."""


def paper_settings(model: str, k: int) -> tuple[str, dict[str, Any]]:
    """Architecture of a model of the paper's second version: its name and its settings.

    The pieces have floor(6 / k) + 1 MADEs each, the single flow six, RealNVP 20,065 parameters with
    its base (public code of arXiv:2305.02930).
    """
    if model == "real_nvp":
        return "real_nvp", {"hidden": 17, "resampled": 128}
    layers = 6 if model == "maf" else 6 // k + 1
    return "masked_autoregressive", {"layers": layers, "hidden": 50}


def equal_settings(
    model: str, k: int, *, features: int = 2, budget: int = BUDGET
) -> tuple[str, dict[str, Any]]:
    """Architecture of a model with at most ``budget`` parameters: its name and its settings.

    RealNVP, in two dimensions and for the default budget only, spends on its base what its
    couplings leave, as in the paper. Pieces have two MADEs or more, narrower the more pieces there
    are: one MADE with two features cannot bend the first.
    """
    if model == "real_nvp":
        return "real_nvp", {"hidden": 17, "resampled": 117}
    layers = 6 if model == "maf" else max(2, math.ceil(6 / k))
    # A MADE of width h has h^2 + (3 d + 2) h + 2 d parameters.
    half = (3 * features + 2) / 2
    hidden = math.floor(math.sqrt(half**2 + budget / (k * layers) - 2 * features) - half + 1e-9)
    return "masked_autoregressive", {"layers": layers, "hidden": hidden}


def judge(
    flow: PiecewiseFlow, target: Target, *, points: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Distances of a flow from its target, by every estimator, in nats.

    Args:
        flow: A fitted flow.
        target: The density that it was trained on, with known normalisation.
        points: Samples of either one; 10,000 in the paper.
        seed: Of the samples.

    Returns:
        ``forward`` and ``reverse`` (known normalisation), ``paper_estimator`` (reverse) and
        ``paper_forward`` (both self-normalised, as in the paper's code), each with ``_error``, its
        standard error within this run;
        ``forward_robust``, ``reverse_robust``, ``reverse_median``; ``ess``, the effective share of
        flow samples under importance weights; ``farthest``, the largest \\|x\\| among them; and
        ``overflowed``, flow samples left out because float32 could not hold them.
    """
    data_seed, flow_seed = np.random.SeedSequence((seed, 7)).generate_state(2).tolist()
    with torch.no_grad():
        x = target.sample(points, seed=data_seed)
        y = flow.sample(points, seed=flow_seed)
        whole = torch.isfinite(y).all(dim=1)
        y = y[whole]
        log_q, log_p = flow.log_prob(y), target.log_prob(y)
        estimates: dict[str, Divergence] = {
            "forward": forward_kl(target.log_prob(x), flow.log_prob(x)),
            "reverse": reverse_kl(log_q, log_p),
            "paper_estimator": self_normalised_kl(log_q, target.log_density(y)),
            "paper_forward": self_normalised_kl(target.log_density(x), flow.log_prob(x)),
        }
    found: dict[str, Any] = {}
    for name, estimate in estimates.items():
        found[name], found[f"{name}_error"] = estimate.value, estimate.standard_error
    return {
        **found,
        "forward_robust": estimates["forward"].robust,
        "reverse_robust": estimates["reverse"].robust,
        "reverse_median": estimates["reverse"].median,
        "ess": effective_sample_size(log_p - log_q),
        "farthest": float(y.norm(dim=1).max()),
        "overflowed": int((~whole).sum()),
    }


def training_points(target: str, *, seed: int, points: int = 10_000) -> Tensor:
    """The points that a model of this seed is trained on, shape (points, 2), float64."""
    # Away from the seeds of the weights and of the samples that judge the flow.
    mixed = int(np.random.SeedSequence((seed, 3)).generate_state(1)[0])
    return _known(TARGETS, target, "target")().sample(points, seed=mixed)


def fit_model(
    *, target: str, model: str, protocol: str, seed: int, points: int = 10_000
) -> tuple[PiecewiseFlow, PiecewiseHistory]:
    """Fit one model to one target.

    Args:
        target: ``"moons"``, ``"circle"`` or ``"rings"``.
        model: ``"maf"``, ``"real_nvp"`` (with resampled base) or ``"pieces"``, their number chosen
            by the silhouette.
        protocol: ``"paper"``: sizes and training of the paper, RealNVP on 1,024 points only.
            ``"equal"``: the same training, with equal numbers of parameters and points.
            ``"equal, joint"``: then 1,000 joint steps of all pieces
            (:meth:`PiecewiseFlow.fine_tune`). ``"equal, short"``: equal terms in 60 epochs of
            minibatches.
        seed: Of the data, the clusters, the initial weights and the training.
        points: Points to train on.

    Raises:
        ValueError: On an unknown target, model or protocol, or joint steps of one flow.
    """
    x = training_points(target, seed=seed, points=points)
    _known(dict.fromkeys(MODELS), model, "model")
    _known(dict.fromkeys(PROTOCOLS), protocol, "protocol")
    if protocol == "equal, joint" and model != "pieces":
        raise ValueError(f"found joint steps of {model!r}, expected 'pieces': choose 'equal'")
    if model == "real_nvp" and protocol == "paper":
        x = x[:1024]
    clusters: Clustering | int = choose_clusters(x, seed=seed) if model == "pieces" else 1
    k = clusters.k if isinstance(clusters, Clustering) else 1
    name, settings = (paper_settings if protocol == "paper" else equal_settings)(model, k)
    training = dict(SHORT if protocol == "equal, short" else PAPER)
    if model == "real_nvp":
        training["weight_decay"] = 1e-3
    flow = PiecewiseFlow(name, seed=seed, **settings)
    history = flow.fit(x, clusters=clusters, **training)
    if protocol == "equal, joint":
        tuned = flow.fine_tune(x, steps=1000)
        history = replace(history, seconds=history.seconds + tuned.seconds)
    return flow, history


def compare_models(
    *, target: str, model: str, protocol: str, seed: int, points: int = 10_000
) -> dict[str, Any]:
    """Fit one model to one target, and judge it: Tables 1 and 2 of arXiv:2305.02930.

    Arguments and errors are those of :func:`fit_model`; as many points judge the flow.

    Returns:
        What :func:`judge` does; ``k``, ``parameters``, ``points``, ``epochs`` (of all pieces
        together), ``cost`` (epochs x points x parameters) and ``seconds`` of the fit.
    """
    flow, history = fit_model(
        target=target, model=model, protocol=protocol, seed=seed, points=points
    )
    return {**judge(flow, TARGETS[target](), points=points, seed=seed), **accounts(flow, history)}


def compare_clusterings(
    *, algorithm: str, protocol: str, seed: int, label_error: bool = False
) -> dict[str, Any]:
    """Fit pieces to the two rings after one clustering algorithm: Table 3 of arXiv:2305.02930.

    Args:
        algorithm: As in :func:`choose_clusters`, with the parameters of the public code; but
            spectral, agglomerative and Birch fit a part of the points (its ``fit_rows``), to save
            memory.
        protocol: As in :func:`compare_models`.
        seed: Of everything.
        label_error: Whether to repeat the error of the public code: labels of the last number of
            clusters that was tried, with the number that had the best silhouette; points with a
            label that is not below this number are lost.

    Returns:
        What :func:`compare_models` does, and ``silhouette`` and ``lost``, the share of lost points.
    """
    _known(dict.fromkeys(PROTOCOLS), protocol, "protocol")
    x = training_points("rings", seed=seed)
    chosen = _clusters_of_rings(algorithm, seed)
    clusters, lost = chosen, 0.0
    if label_error:
        last = _last_clusters(algorithm, seed)
        kept = last.labels < chosen.k
        x, lost = x[torch.from_numpy(kept)], float(1 - kept.mean())
        clusters = Clustering.from_labels(x, last.labels[kept], minimum=100)
    sizes = paper_settings if protocol == "paper" else equal_settings
    name, settings = sizes("pieces", clusters.k)
    flow = PiecewiseFlow(name, seed=seed, **settings)
    history = flow.fit(x, clusters=clusters, **(SHORT if protocol == "equal, short" else PAPER))
    return {
        **judge(flow, TwoRings(), seed=seed),
        **accounts(flow, history),
        "silhouette": chosen.silhouette,
        "lost": lost,
    }


def share_lost(*, algorithm: str, best: Iterable[int], seed: int) -> dict[int, float]:
    """Share of points of the rings that the label error loses, for numbers of clusters that the
    silhouette might pick: see ``label_error`` of :func:`compare_clusterings`. Nothing is trained.

    Args:
        algorithm: As in :func:`compare_clusterings`.
        best: Numbers of clusters, below 20.
        seed: Of points and clusters.

    Returns:
        Share of the points, 0 to 1, by number of clusters.

    Raises:
        ValueError: On an unknown algorithm.
    """
    labels = _last_clusters(algorithm, seed).labels
    return {int(k): float((labels >= k).mean()) for k in best}


# Parameters of the public code, where the defaults of choose_clusters are others.
_OPTIONS: dict[str, dict[str, Any]] = {
    "mean_shift": {"bandwidth": 0.5, "bin_seeding": True},
    "spectral": {"gamma": 1.0},
    "birch": {"threshold": 0.5},
}


@lru_cache
def _clusters_of_rings(algorithm: str, seed: int) -> Clustering:
    """Kept, for the clean table and that with the label error ask for the same clusters in turn."""
    x = training_points("rings", seed=seed)
    return choose_clusters(x, algorithm=algorithm, options=_OPTIONS.get(algorithm), seed=seed)


def _last_clusters(algorithm: str, seed: int) -> Clustering:
    """Clusters of the rings with the last number that the public code tries, 20."""
    return choose_clusters(
        training_points("rings", seed=seed),
        algorithm=algorithm,
        options=_OPTIONS.get(algorithm),
        candidates=[20],
        minimum=1,
        seed=seed,
    )


def compare_on_table(
    *,
    path: str | Path,
    model: str,
    seed: int,
    training: str = "paper",
    train: int = 25_000,
    test: int = 10_000,
) -> dict[str, Any]:
    """Fit one model to a table of real data: Table 4 of arXiv:2305.02930.

    Args:
        path: A file that :meth:`galflow_lite.data.TabularData.write` wrote, such as
            ``galflow-lite data fetch power`` leaves.
        model: ``"maf"`` or ``"pieces"``.
        seed: Of everything.
        training: ``"paper"``, or ``"short"``: 60 epochs of minibatches.
        train, test: Rows, drawn with replacement as in the paper.

    Returns:
        ``log_likelihood`` of the test rows, its mean in nats, and ``log_likelihood_error``, its
        standard error; ``k``, ``parameters``, ``epochs``, ``cost`` and ``seconds``.
    """
    _known({"maf": 0, "pieces": 0}, model, "model")
    recipe = _known({"paper": PAPER, "short": SHORT}, training, "training")
    table = subset(TabularData.read(path), train=train, test=test, seed=seed)
    clusters: Clustering | int = choose_clusters(table.train, seed=seed) if model == "pieces" else 1
    k = clusters.k if isinstance(clusters, Clustering) else 1
    flow = PiecewiseFlow(seed=seed, layers=math.ceil(6 / k), hidden=50)
    history = flow.fit(table.train, clusters=clusters, **recipe)
    with torch.no_grad():
        log_q = flow.log_prob(table.test)
    return {
        "log_likelihood": float(log_q.mean()),
        "log_likelihood_error": float(log_q.std() / len(log_q) ** 0.5),
        **accounts(flow, history),
    }


_EXPERIMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "models": compare_models,
    "clusterings": compare_clusterings,
    "table": compare_on_table,
}


def run_experiment(experiment: str, **settings: Any) -> dict[str, Any]:
    """Run ``"models"``, ``"clusterings"`` or ``"table"``: the functions ``compare_...`` above."""
    return _known(_EXPERIMENTS, experiment, "experiment")(**settings)


_RUN = {"maf": ("paper",), "real_nvp": ("paper", "equal"), "pieces": PROTOCOLS[:3]}


def paper_cases(seeds: int = 10, *, tables: Mapping[str, Path] | None = None) -> list[Case]:
    """Everything that the paper's tables need, and the comparison at equal sizes.

    The single MAF of the paper has the size that the others are held to, so it is run once, and
    k-means on the rings is the same in Tables 1 and 3.

    Args:
        seeds: Repetitions; 10 in the paper.
        tables: Name and file of each set of Table 4 to run (see :func:`compare_on_table`).
    """
    found = []
    for seed in range(seeds):
        for target in TARGETS:
            for model in MODELS:
                for protocol in _RUN[model]:
                    settings = {"target": target, "model": model, "protocol": protocol}
                    name = f"{target}-{model}-{protocol.replace(', ', '_')}"
                    found.append(("models", name, settings, seed))
    for seed in range(seeds):
        for algorithm in ("mini_batch_kmeans", "mean_shift", "spectral", "agglomerative", "birch"):
            for error in (False,) if algorithm == "mean_shift" else (False, True):
                settings = {"algorithm": algorithm, "protocol": "paper", "label_error": error}
                name = f"rings-{algorithm}{'-label_error' * error}"
                found.append(("clusterings", name, settings, seed))
    for name, path in (tables or {}).items():
        for seed in range(min(seeds, TABLE_SEEDS)):
            for model in ("maf", "pieces"):
                settings = {"path": str(path), "model": model}
                found.append(("table", f"{name}-{model}", settings, seed))
    return [
        Case(f"{name}-{seed}", {"experiment": experiment, **settings, "seed": seed})
        for experiment, name, settings, seed in found
    ]


def accounts(flow: PiecewiseFlow, history: PiecewiseHistory) -> dict[str, Any]:
    """What a fit took: ``k``, ``parameters``, ``points``, ``epochs``, ``cost`` and ``seconds``."""
    return {
        "k": flow.k,
        "parameters": flow.n_parameters,
        "points": int(history.points.sum()),
        "epochs": float(history.epochs.sum()),
        "cost": history.cost,
        "seconds": history.seconds,
    }


def _known(choices: dict, name: str, what: str):
    if name not in choices:
        raise ValueError(f"found the {what} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]
