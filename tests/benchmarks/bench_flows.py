"""Stars per second: this package, plain nflows and zuko, the same flow, one core, one run.

Not part of the default tests, which pytest does not find by this file's name. Run it by

    pytest -n 0 --benchmark-enable --benchmark-group-by=group tests/benchmarks/bench_flows.py -s

The flow is GalacticFlow's at lite size: 4 layers of a linear map and two rational-quadratic
couplings on 10 features with 10 bins, conditioner the product of an MLP of the kept half and an MLP
of the 4 conditions. A batch holds 1024 stars of 85 galaxies, as in training. nflows runs the very
same function; zuko has no product conditioner and takes one MLP of both with as many parameters.
All three train with the same fused Adam.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import zuko
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NflowsFlow
from nflows.transforms import (
    CompositeTransform,
    LULinear,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
)
from torch import nn

from galflow_lite import flows
from galflow_lite.networks import MLP

LAYERS, HIDDEN, BATCH, DRAWN, GALAXIES = 4, 32, 1024, 8192, 85
NAMES = ("galflow_lite", "galflow_lite, compiled splines", "nflows", "zuko")
ROUNDS = 15
results: dict[tuple[str, str], float] = {}


class Product(nn.Module):
    """The paper's conditioner in nflows' layout, applied to each row."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        build = partial(
            MLP,
            out_features=outputs,
            hidden=(HIDDEN,) * 3,
            activation=partial(nn.LeakyReLU, 0.2),
            final_activation=True,
        )
        self.of_inputs, self.of_context = build(inputs), build(4)

    def forward(self, inputs, context):
        return self.of_inputs(inputs) * self.of_context(context)


def nflows_flow() -> NflowsFlow:
    half = torch.tensor([1] * 5 + [-1] * 5)
    transforms = []
    for _ in range(LAYERS):
        transforms += [RandomPermutation(10), LULinear(10)]
        transforms += [
            PiecewiseRationalQuadraticCouplingTransform(
                mask, Product, num_bins=10, tails="linear", tail_bound=3.0
            )
            for mask in (half, -half)
        ]
    return NflowsFlow(CompositeTransform(transforms), StandardNormal([10]))


class Case:
    """One library: its flow, and the same three calls."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        self.x, self.rows = torch.randn(BATCH, 10), torch.randn(GALAXIES, 4)
        self.index = torch.randint(GALAXIES, (BATCH,))
        self.context = self.rows[self.index]
        if name == "nflows":
            self.flow = nflows_flow()
        elif name == "zuko":
            self.flow = zuko.flows.NSF(
                10, 4, bins=10, transforms=2 * LAYERS, hidden_features=(HIDDEN,) * 5, passes=2
            )
        else:
            self.flow = flows.neural_spline_flow(10, 4, layers=LAYERS, hidden=HIDDEN)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), fused=True)

    def log_prob(self):
        if self.name == "zuko":
            return self.flow(self.context).log_prob(self.x)
        if self.name == "nflows":
            return self.flow.log_prob(self.x, self.context)
        return self.flow.log_prob(self.x, self.rows, self.index)

    def train(self) -> None:
        self.optimizer.zero_grad()
        (-self.log_prob().mean()).backward()
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> None:
        self.log_prob()

    @torch.no_grad()
    def sample(self) -> None:
        if self.name == "zuko":
            self.flow(self.rows[0]).sample((DRAWN,))
        else:
            self.flow.sample(DRAWN, self.rows[:1])


@pytest.fixture(params=NAMES)
def case(request):
    torch.set_num_threads(1)
    flows.compile_splines("compiled" in request.param)
    yield Case(request.param)
    flows.compile_splines(False)


@pytest.mark.parametrize("task", ["train", "evaluate", "sample"])
def test_speed(benchmark, case, task):
    benchmark.group = task
    benchmark.pedantic(getattr(case, task), rounds=ROUNDS, warmup_rounds=3)
    stars = DRAWN if task == "sample" else BATCH
    # The fastest round: on a shared machine the others measure the neighbours.
    results[task, case.name] = stars / benchmark.stats.stats.min


def test_ratios(capsys):
    if len(results) < 3 * len(NAMES):
        pytest.skip("the ratios need all measurements of this file in one run")
    with capsys.disabled():
        print(
            f"\n{'stars per second, one core':34}"
            + "".join(f"{n.split(',')[0] + (' *' if ',' in n else ''):>16}" for n in NAMES)
            + f"{'ratio':>10}{'ratio *':>10}"
        )
        for task in ("train", "evaluate", "sample"):
            found = [results[task, name] for name in NAMES]
            rival = max(found[2:])
            ratios = f"{found[0] / rival:10.2f}{found[1] / rival:10.2f}"
            print(f"{task:34}" + "".join(f"{v:16,.0f}" for v in found) + ratios)
        print("* splines fused by torch.compile; ratio: to the better of nflows and zuko")
    for task in ("train", "evaluate", "sample"):
        assert results[task, NAMES[0]] > max(results[task, n] for n in NAMES[2:])
