"""Stars per second of one flow: this package, plain nflows, zuko and flowjax, one core, one run.

Not part of the default tests, which pytest does not find by this file's name. Run it by

    pytest -n 0 -s tests/benchmarks/bench_flows.py

The flow is GalacticFlow's at lite size: 4 layers of a linear map and two rational-quadratic
couplings on 10 features with 10 bins, conditioner the product of an MLP of the kept half and an MLP
of the 4 conditions. A batch holds 1024 stars of 85 galaxies, as in training. nflows runs the very
same function; zuko has no product conditioner and takes one MLP of both with as many parameters;
flowjax (skipped where it is not installed) has 8 couplings of 10 knots with one MLP of both, and
fewer parameters. All train with Adam.
"""

from __future__ import annotations

import os
import time
import warnings
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

LITE = {"layers": 4, "hidden": 32}
FEATURES, CONDITIONS, BATCH, DRAWN, GALAXIES = 10, 4, 1024, 8192, 85
TASKS = {"train": 15, "evaluate": 15, "sample": 3}
TURNS = 4


class Product(nn.Module):
    """The paper's conditioner in nflows' layout, applied to each row."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        options = {"hidden": (LITE["hidden"],) * 3, "activation": partial(nn.LeakyReLU, 0.2)}
        self.of_inputs, self.of_context = (
            MLP(width, outputs, **options, final_activation=True) for width in (inputs, CONDITIONS)
        )

    def forward(self, inputs, context):
        return self.of_inputs(inputs) * self.of_context(context)


def nflows_flow() -> NflowsFlow:
    half = torch.tensor([1] * 5 + [-1] * 5)
    transforms = []
    for _ in range(LITE["layers"]):
        transforms += [RandomPermutation(FEATURES), LULinear(FEATURES)]
        transforms += [
            PiecewiseRationalQuadraticCouplingTransform(
                mask, Product, num_bins=10, tails="linear", tail_bound=3.0
            )
            for mask in (half, -half)
        ]
    return NflowsFlow(CompositeTransform(transforms), StandardNormal([FEATURES]))


class Case:
    """A torch library: its flow, and the same three calls."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        self.x, self.rows = torch.randn(BATCH, FEATURES), torch.randn(GALAXIES, CONDITIONS)
        self.index = torch.randint(GALAXIES, (BATCH,))
        self.context = self.rows[self.index]
        if name == "nflows":
            self.flow = nflows_flow()
        elif name == "zuko":
            size = {"transforms": 2 * LITE["layers"], "hidden_features": (LITE["hidden"],) * 5}
            self.flow = zuko.flows.NSF(FEATURES, CONDITIONS, bins=10, passes=2, **size)
        else:
            self.flow = flows.neural_spline_flow(FEATURES, CONDITIONS, **LITE)
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


class Flowjax:
    """The same three calls, compiled by JAX."""

    def __init__(self) -> None:
        import equinox as eqx
        import jax
        import optax
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.flows import coupling_flow

        key = jax.random.key(0)
        x = jax.random.normal(key, (BATCH, FEATURES))
        rows = jax.random.normal(key, (BATCH, CONDITIONS))
        flow = coupling_flow(
            key,
            base_dist=Normal(jax.numpy.zeros(FEATURES)),
            transformer=RationalQuadraticSpline(knots=10, interval=3),
            cond_dim=CONDITIONS,
            flow_layers=2 * LITE["layers"],
            nn_width=LITE["hidden"],
            nn_depth=3,
        )
        adam = optax.adam(1e-3)
        state = [flow, adam.init(eqx.filter(flow, eqx.is_inexact_array))]

        @eqx.filter_jit
        def step(flow, inner):
            loss = eqx.filter_grad(lambda flow: -flow.log_prob(x, rows).mean())
            updates, inner = adam.update(loss(flow), inner)
            return eqx.apply_updates(flow, updates), inner

        def train() -> None:
            state[:] = step(*state)
            jax.block_until_ready(eqx.filter(state[0], eqx.is_inexact_array))

        density = eqx.filter_jit(lambda flow: flow.log_prob(x, rows))
        draws = eqx.filter_jit(lambda flow: flow.sample(key, (DRAWN,), rows[0]))
        self.train = train
        self.evaluate = lambda: density(state[0]).block_until_ready()
        self.sample = lambda: draws(state[0]).block_until_ready()


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    warnings.simplefilter("ignore")
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def milliseconds(calls: dict[str, dict[str, object]]) -> dict[str, dict[str, float]]:
    """Fastest call of each, taken in turns: on a shared machine the others measure neighbours."""
    best = {task: dict.fromkeys(cases, float("inf")) for task, cases in calls.items()}
    for _ in range(TURNS):
        for task, cases in calls.items():
            for name, call in cases.items():
                call()
                for _ in range(TASKS[task]):
                    began = time.perf_counter()
                    call()
                    best[task][name] = min(best[task][name], 1e3 * (time.perf_counter() - began))
    return best


def test_lite_size(capsys):
    cases = {name: Case(name) for name in ("galflow_lite", "nflows", "zuko")}
    try:
        cases["flowjax"] = Flowjax()
    except ImportError:
        pass
    best = milliseconds({t: {name: getattr(c, t) for name, c in cases.items()} for t in TASKS})
    with capsys.disabled():
        for task, found in best.items():
            ours = found.pop("galflow_lite")
            ratios = "".join(f"  {name} {other / ours:.1f}" for name, other in found.items())
            print(f"\n{task:10} {ours:6.1f} ms, ratio of others: {ratios}")
            assert ours < min(found["nflows"], found["zuko"])
