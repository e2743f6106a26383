"""Minibatches: every row once an epoch, the same batch for the same step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from galflow_lite.training import TensorBatches, fit


def test_each_row_once_an_epoch():
    index = torch.arange(60)
    batches = TensorBatches(index, 2 * index, batch_size=12)
    assert len(batches) == 5
    orders = []
    for epoch in range(3):
        parts = [batches(epoch * len(batches) + k) for k in range(len(batches))]
        assert all(torch.equal(b, 2 * a) for a, b in parts)
        orders.append(torch.cat([a for a, _ in parts]))
        assert torch.equal(orders[-1].sort().values, index)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_dropped_rows_differ_from_epoch_to_epoch():
    batches = TensorBatches(torch.arange(10), batch_size=4)
    assert len(batches) == 2
    seen = torch.cat([batches(k)[0] for k in range(40)])
    assert len(seen.unique()) == 10
    assert seen.bincount().min() > 8


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    def make(seed):
        return TensorBatches(torch.arange(100), batch_size=10, seed=seed)

    forward = [make(3)(k)[0] for k in range(30)]
    backward = make(3)
    for k in reversed(range(30)):
        assert torch.equal(backward(k)[0], forward[k])
    # A seed is not the other's next epoch.
    assert not torch.equal(make(4)(0)[0], forward[10])
    assert not torch.equal(make(4)(0)[0], forward[0])


@pytest.mark.parametrize("size", [None, 7, 50])
def test_full_batch(size):
    x = torch.randn(7, 2)
    batches = TensorBatches(x, batch_size=size)
    assert len(batches) == 1
    assert all(torch.equal(batches(k)[0], x) for k in range(3))


def test_iteration_is_one_pass_in_order_with_no_row_dropped():
    x = np.arange(10.0)
    parts = [batch for (batch,) in TensorBatches(x, batch_size=4)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), torch.from_numpy(x))


def test_iterables_are_cycled():
    weight = torch.zeros(1, requires_grad=True)
    history = fit(lambda b: weight.sum() * 0 + b, [weight], [1.0, 2.0, 3.0], 7, progress=False)
    assert history.loss == [1, 2, 3, 1, 2, 3, 1]


def test_iterator_that_ends_is_an_error_with_its_length():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="batches ended after 3 steps and cannot be walked again"):
        fit(lambda b: weight.sum() * b, [weight], iter([1.0, 2.0, 3.0]), 7, progress=False)
