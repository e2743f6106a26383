"""Stars per second of one flow: this package, plain nflows, zuko and flowjax, one core, one run.

Not part of the default tests, which pytest does not find by this file's name. Run it by

    pytest -n 0 -s tests/benchmarks/bench_flows.py

The flow is GalacticFlow's at lite size: 4 layers of a linear map and two rational-quadratic
couplings on 10 features with 10 bins, conditioner the product of an MLP of the kept half and an MLP
of the 4 conditions. A batch holds 1024 stars of 85 galaxies, as in training. nflows runs the very
same function; zuko has no product conditioner and takes one MLP of both with as many parameters;
flowjax (skipped where it is not installed) has 8 couplings of 10 knots with one MLP of both, and
fewer parameters. All train with Adam. Two further comparisons: a context of its own for every star,
and the paper's size beside its own matrix products.
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
PAPER = {"layers": 14, "hidden": 128}
FEATURES, CONDITIONS, BATCH, DRAWN, GALAXIES = 10, 4, 1024, 8192, 85
TASKS = {"train": 15, "evaluate": 15, "sample": 3}
TURNS = 4


class Product(nn.Module):
    """The paper's conditioner in nflows' layout, applied to each row."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        build = partial(
            MLP,
            out_features=outputs,
            hidden=(LITE["hidden"],) * 3,
            activation=partial(nn.LeakyReLU, 0.2),
            final_activation=True,
        )
        self.of_inputs, self.of_context = build(inputs), build(CONDITIONS)

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

    def __init__(self, name: str, *, own_context: bool = False, **size: int) -> None:
        torch.manual_seed(0)
        self.name, self.own_context, size = name, own_context, size or LITE
        self.x, self.rows = torch.randn(BATCH, FEATURES), torch.randn(GALAXIES, CONDITIONS)
        self.index = torch.randint(GALAXIES, (BATCH,))
        self.context = self.rows[self.index]
        if name == "nflows":
            self.flow = nflows_flow()
        elif name == "zuko":
            self.flow = zuko.flows.NSF(
                *(FEATURES, CONDITIONS),
                bins=size.get("bins", 10),
                transforms=2 * size["layers"],
                hidden_features=(size["hidden"],) * 5,
                passes=2,
            )
        else:
            self.flow = flows.neural_spline_flow(FEATURES, CONDITIONS, **size)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), fused=True)

    def log_prob(self):
        if self.name == "zuko":
            return self.flow(self.context).log_prob(self.x)
        if self.name == "nflows" or self.own_context:
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


def show(capsys, title: str, best: dict[str, dict[str, float]]) -> None:
    with capsys.disabled():
        print(f"\n{title}, milliseconds on one core")
        for task, found in best.items():
            print(f"  {task:10}" + "".join(f"  {name} {v:.1f}" for name, v in found.items()))


def test_lite_size(capsys, monkeypatch):
    cases = {name: Case(name) for name in ("galflow_lite", "nflows", "zuko")}
    try:
        cases["flowjax"] = Flowjax()
    except ImportError:
        pass
    plain = Case("galflow_lite")

    def plainly(task):
        monkeypatch.setenv("GALFLOW_FUSED", "0")
        getattr(plain, task)()
        monkeypatch.delenv("GALFLOW_FUSED")

    calls = {task: {name: getattr(c, task) for name, c in cases.items()} for task in TASKS}
    for task in TASKS:
        calls[task]["without numba"] = partial(plainly, task)
    best = milliseconds(calls)
    show(capsys, "lite size", best)
    for task, found in best.items():
        ours, rival = found["galflow_lite"], min(found["nflows"], found["zuko"])
        with capsys.disabled():
            jax = f", to flowjax {found['flowjax'] / ours:.1f}" if "flowjax" in found else ""
            plain_ratio = rival / found["without numba"]
            print(
                f"  {task:10}  ratio to the better of nflows and zuko {rival / ours:.1f} (without "
                f"numba {plain_ratio:.1f}){jax}"
            )
        assert ours < rival


def test_a_context_of_its_own_for_every_star(capsys):
    size = {"layers": 6, "hidden": 64, "bins": 8}
    calls = {name: Case(name, own_context=True, **size).train for name in ("galflow_lite", "zuko")}
    best = milliseconds({"train": calls})
    show(capsys, "a context for every star", best)
    with capsys.disabled():
        print(f"  ratio to zuko {best['train']['zuko'] / best['train']['galflow_lite']:.1f}")
    assert best["train"]["galflow_lite"] < best["train"]["zuko"]


def test_paper_size_beside_its_matrix_products(capsys):
    case = Case("galflow_lite", **PAPER)
    shapes = [(layer.out_features, layer.in_features) for layer in linear_layers(case.flow)]
    weights = [torch.randn(shape) for shape in shapes]
    inputs = {width: torch.randn(width, BATCH) for shape in shapes for width in shape}

    def products() -> None:
        for weight in weights:
            out, into = inputs[len(weight)], inputs[weight.shape[1]]
            torch.mm(weight, into), torch.mm(weight.t(), out), torch.mm(out, into.t())

    best = milliseconds({"train": {"galflow_lite": case.train, "its products": products}})
    show(capsys, "paper size", best)
    with capsys.disabled():
        share = best["train"]["galflow_lite"] / best["train"]["its products"]
        print(f"  a step takes {share:.1f} times its own matrix products")


def linear_layers(flow) -> list[nn.Linear]:
    """The layers that see every star: those of the context see each galaxy once."""
    return [
        layer
        for name, layer in flow.named_modules()
        if isinstance(layer, nn.Linear) and "of_context" not in name
    ]
