"""Points as pieces are trained on them: clustered, split, standardised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..flows import Flow
from .clustering import Clustering, choose_clusters
from .training import PieceData

__all__ = ["check_pieces", "cluster", "split", "standardise"]


def cluster(x: np.ndarray, clusters, weights: np.ndarray, seed: int) -> Clustering:
    """The clusters that are asked for: made, counted, chosen, or given as labels.

    Raises:
        ValueError: On a Clustering of other points, or as :func:`choose_clusters` does.
    """
    if isinstance(clusters, Clustering):
        if len(clusters.labels) != len(x):
            raise ValueError(
                f"found {len(clusters.labels)} labels for {len(x)} points, expected as many: "
                "cluster these points"
            )
        return clusters
    if clusters is None:
        # The least size of the paper's code, unless there are few points.
        minimum = min(100, max(5, len(x) // 10))
        return choose_clusters(x, minimum=minimum, weights=weights, seed=seed)
    if isinstance(clusters, int | np.integer) and not isinstance(clusters, bool):
        if clusters == 1:
            return Clustering.from_labels(x, np.zeros(len(x), dtype=int), weights=weights)
        # The number that was asked for: none of them is dissolved for being small.
        return choose_clusters(x, candidates=[int(clusters)], minimum=1, weights=weights, seed=seed)
    return Clustering.from_labels(x, clusters, weights=weights)


def check_pieces(pieces: list, features: int) -> list[Flow]:
    """The pieces, if each is a flow of its own for points with so many features.

    Raises:
        ValueError: On something else than a Flow, another number of features, a context, or pieces
            that share parameters.
    """
    for piece in pieces:
        if not isinstance(piece, Flow) or piece.features != features or piece.context_features:
            raise ValueError(
                f"found a piece that is no galflow_lite.flows.Flow with {features} features and "
                "without context, expected one: let the callable build it from the number it is "
                "given"
            )
    parameters = [id(parameter) for piece in pieces for parameter in piece.parameters()]
    if len(set(parameters)) != len(parameters):
        raise ValueError(
            "found pieces that share parameters, expected a flow and a base of its own for each: "
            "pass a callable that builds both anew"
        )
    return pieces


def split(labels: np.ndarray, k: int, fraction: float, seed: int) -> np.ndarray:
    """Rows to hold out, shape (n,): the same share of each cluster, one point to all but two.

    Rows with a label that is none of 0 to k - 1 are not held out.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for cluster in range(k):
        members = order[labels[order] == cluster]
        most = max(1, len(members) - 2)
        held_out[members[: min(most, max(1, round(fraction * len(members))))]] = True
    return held_out


def standardise(
    x: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    k: int,
    held_out: np.ndarray,
    device: torch.device,
) -> tuple[list[PieceData], np.ndarray, np.ndarray]:
    """Training and held-out points of each piece in its own units, and their shift and scale.

    Raises:
        ValueError: On a cluster with fewer than 5 points of some weight or a constant column.
    """
    data, shift, scale = [], np.empty((k, x.shape[1])), np.empty((k, x.shape[1]))
    for i in range(k):
        member = (labels == i) & (weights > 0)
        if member.sum() < 5:
            raise ValueError(
                f"found {member.sum()} points with weight in cluster {i}, expected at least 5: "
                "dissolve small clusters with minimum= in choose_clusters or Clustering.from_labels"
            )
        train = member & ~held_out
        shift[i] = np.average(x[train], axis=0, weights=weights[train])
        scale[i] = np.sqrt(np.average((x[train] - shift[i]) ** 2, axis=0, weights=weights[train]))
        # Rounding leaves a little where a column is constant.
        flat = scale[i] <= 1e-12 * np.maximum(np.abs(shift[i]), 1e-290)
        if flat.any():
            columns = ", ".join(map(str, np.flatnonzero(flat)))
            raise ValueError(
                f"column {columns} of x is constant in cluster {i}, expected values that vary: "
                "there is no density along a constant; remove the column or use fewer clusters"
            )

        def part(rows: np.ndarray, i: int = i) -> tuple[Tensor, Tensor]:
            points = torch.from_numpy((x[rows] - shift[i]) / scale[i]).float()
            share = torch.from_numpy(weights[rows] / weights[rows].mean()).float()
            return points.to(device), share.to(device)

        data.append(PieceData(i, *part(train), *part(member & held_out)))
    return data, shift, scale
