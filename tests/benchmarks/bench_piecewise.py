"""Seconds to train the pieces of a PiecewiseFlow: one by one, batched, and on two cores.

Not part of the default tests, which pytest does not find by this file's name. Run it on a machine
with two cores that has nothing else to do, by

    pytest -n 0 tests/benchmarks/bench_piecewise.py -s

The pieces are the paper's MADEs on its circle of Gaussians (k = 8) and two rings (k = 16), 10,000
points, batches of 256 or (the paper's recipe) all points of a piece at each step, one torch thread
in each process. All four ways take the same steps on the same batches and must end at the same
losses. Worker processes are started, and have imported everything, before the clock runs.

A batched model gains less from a second core than separate pieces do: a step of it costs about 1 ms
whatever the number of pieces, and that part is not shared. It starts from less, though.
"""

from __future__ import annotations

import copy
import time

import joblib
import numpy as np
import pytest
import torch

from galflow_lite.flows import masked_autoregressive_flow
from galflow_lite.piecewise import choose_clusters
from galflow_lite.piecewise.pieces import Recipe, split, standardise, train_pieces
from galflow_lite.targets import CircleOfGaussians, TwoRings

STEPS = 1000
TARGETS = {"circle, k = 8": (CircleOfGaussians(8), 8), "rings, k = 16": (TwoRings(), 16)}


def one_by_one(flows, data, recipe, n_jobs):
    tasks = (joblib.delayed(_alone)(*piece, recipe) for piece in zip(flows, data, strict=True))
    return joblib.Parallel(n_jobs=n_jobs)(tasks)


def _alone(flow, piece, recipe) -> float:
    return float(train_pieces([flow], [piece], recipe, n_jobs=1)[1].best_loss[0])


def batched(flows, data, recipe, n_jobs):
    return train_pieces(flows, data, recipe, n_jobs=n_jobs)[1].best_loss.tolist()


def _problem(target, k: int):
    x = target.sample(10_000, seed=0).numpy()
    labels = choose_clusters(x, candidates=[k], minimum=1).labels
    torch.manual_seed(0)
    flows = [masked_autoregressive_flow(2, layers=1) for _ in range(k)]
    like = next(flows[0].parameters())
    return flows, standardise(x, np.ones(len(x)), labels, split(labels, k, 0), like)[0]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch_size", [256, None])
def test_two_cores(name, batch_size):
    torch.set_num_threads(1)
    flows, data = _problem(*TARGETS[name])
    recipe = Recipe(STEPS, batch_size, 1e-3, "cosine", 0.0, 5.0, 50, None, 0)
    seconds, losses = {}, []
    for way in (one_by_one, batched):
        for n_jobs in (1, 2):
            way(copy.deepcopy(flows), data, recipe._replace(steps=20), n_jobs)
            start = time.perf_counter()
            losses.append(way(copy.deepcopy(flows), data, recipe, n_jobs))
            seconds[way.__name__, n_jobs] = time.perf_counter() - start
    print(f"\n{name}, {STEPS} steps of {batch_size or 'all'} points of every piece")
    for (way, n_jobs), value in seconds.items():
        times = seconds["one_by_one", 1] / value
        print(f"  {way:12} {n_jobs} process(es) {value:8.1f} s   {times:6.2f} times as fast")
    # Rounding differs with the shape of a product, and thousands of steps make it grow.
    assert np.ptp(losses, axis=0).max() < 0.02
    assert seconds["batched", 1] < seconds["one_by_one", 1]
