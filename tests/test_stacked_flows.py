"""Many flows as one batched model, against the same flows one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from galflow_lite import flows

BUILDERS = {
    "autoregressive": lambda d: flows.masked_autoregressive_flow(d, layers=3, hidden=16),
    "autoregressive, mixture base": lambda d: flows.masked_autoregressive_flow(
        d, layers=2, hidden=16, base=flows.GaussianMixtureBase(torch.randn(5, d))
    ),
    "real_nvp": lambda d: flows.real_nvp(d, layers=4, hidden=16),
    "spline, product": lambda d: flows.neural_spline_flow(d, layers=2, hidden=16),
    "spline, residual": lambda d: flows.neural_spline_flow(
        d, layers=2, hidden=16, conditioner="residual"
    ),
}


@pytest.fixture(params=BUILDERS)
def three(request) -> list[flows.Flow]:
    return make(request.param, 3)


def make(name: str, k: int, features: int = 3) -> list[flows.Flow]:
    """Flows in double precision whose weights, permutations and bases differ."""
    torch.manual_seed(1)
    found = [BUILDERS[name](features).double() for _ in range(k)]
    with torch.no_grad():
        for parameter in (p for flow in found for p in flow.parameters()):
            parameter += 0.2 * torch.randn_like(parameter)
    return found


def one_by_one(found: list[flows.Flow], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-densities, shape (k, n), and gradients of their weighted sum by parameter name."""
    parts = x if x.dim() == 3 else x.expand(len(found), -1, -1)
    log_prob = torch.stack([flow.log_prob(part) for flow, part in zip(found, parts, strict=True)])
    (log_prob * _slope(log_prob)).sum().backward()
    names = [name for name, _ in found[0].named_parameters()]
    return log_prob, {
        name: torch.stack([flow.get_parameter(name).grad for flow in found]) for name in names
    }


def _slope(values: Tensor) -> Tensor:
    """So that rows and pieces count differently."""
    return torch.linspace(0.5, 2, values.numel(), dtype=values.dtype).reshape(values.shape)


@pytest.mark.parametrize("shape", [(50, 3), (3, 50, 3)])
def test_values_and_gradients_are_those_of_the_flows(three, shape):
    x = 2 * torch.randn(shape, dtype=torch.float64)
    stack = flows.StackedFlows(three)
    assert len(stack) == 3
    log_prob = stack.log_prob(x)
    (log_prob * _slope(log_prob)).sum().backward()
    expected, gradients = one_by_one(three, x)
    assert log_prob.shape == (3, 50)
    torch.testing.assert_close(log_prob, expected, rtol=1e-10, atol=1e-10)
    found = {name.replace("/", "."): p.grad for name, p in stack.named_parameters()}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-9)


def test_the_gradient_of_a_flow_knows_nothing_of_the_others(three):
    x = torch.randn(3, 20, 3, dtype=torch.float64)
    stack = flows.StackedFlows(three)
    stack.log_prob(x)[1].sum().backward()
    for parameter in stack.parameters():
        assert not parameter.grad[0].any()
        assert not parameter.grad[2].any()
    assert all(parameter.grad[1].any() for parameter in stack.parameters())


def test_copy_to_writes_every_flow_back(three):
    stack = flows.StackedFlows(three)
    before = copy.deepcopy(three)
    x = torch.randn(20, 3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    # The stack holds copies.
    for flow, other in zip(three, before, strict=True):
        torch.testing.assert_close(flow.log_prob(x), other.log_prob(x), rtol=0, atol=0)
    stack.copy_to(three)
    expected = torch.stack([flow.log_prob(x) for flow in three])
    torch.testing.assert_close(stack.log_prob(x), expected, rtol=1e-10, atol=1e-10)
    assert all(p.requires_grad and p.is_leaf for flow in three for p in flow.parameters())


def test_one_flow_and_single_precision():
    (flow,) = make("autoregressive", 1)
    flow.float()
    x = torch.randn(10, 3)
    torch.testing.assert_close(flows.StackedFlows([flow]).log_prob(x)[0], flow.log_prob(x))


def test_frozen_parameters_stay_frozen():
    found = make("real_nvp", 2)
    for flow in found:
        flow.get_parameter("_transform._transforms.1.shift").requires_grad_(False)
    stack = flows.StackedFlows(found)
    assert sum(not p.requires_grad for p in stack.parameters()) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: [], "found 0 flows of 0 architectures, expected one"),
        (
            lambda: [flows.real_nvp(2, hidden=8), flows.real_nvp(2, hidden=9)],
            "found 2 flows of 2 architectures, expected one",
        ),
        (
            lambda: [flows.real_nvp(2, resampled=8), flows.real_nvp(2, resampled=8)],
            "found a resampled base, expected a standard normal one",
        ),
        (
            lambda: [flows.real_nvp(2, 1), flows.real_nvp(2, 1)],
            "found flows with a context, expected flows without",
        ),
    ],
)
def test_flows_that_cannot_be_stacked(build, message):
    with pytest.raises(ValueError, match=message):
        flows.StackedFlows(build())


@pytest.mark.parametrize("shape", [(5,), (5, 2), (2, 5, 3), (3, 5, 2), (1, 3, 5, 3)])
def test_inputs_of_another_shape(shape):
    stack = flows.StackedFlows(make("autoregressive", 3))
    with pytest.raises(ValueError, match=r"expected \(n, 3\) or \(3, n, 3\)"):
        stack.log_prob(torch.zeros(shape, dtype=torch.float64))
