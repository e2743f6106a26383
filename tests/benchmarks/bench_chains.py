"""A step of Langevin chains against a compiled loop in JAX, as ratios of one run, on one core.

Not part of the default tests, which pytest does not find by this file's name. It needs jax (``pip
install jax``), which is in no extra of this project. Run it by

    pytest -n 0 -p no:nbval tests/benchmarks/bench_chains.py -s

JAX has the score of the mixture in closed form, that of the network by its automatic
differentiation, and all steps in one compiled loop, the noise included.
"""

from __future__ import annotations

import math
import os
import time

import pytest
import torch

from galflow_lite.mcmc import langevin
from galflow_lite.targets import BENCHMARKS, EnergyModel

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
jax = pytest.importorskip("jax", reason="jax is not installed")
jax.config.update("jax_enable_x64", True)


def mixture(dtype):
    target = BENCHMARKS["mog2"]()
    means, logs = (jax.numpy.array(v.numpy(), dtype) for v in (target.modes, target.mode_weights))
    variance = float(target.covariance[0, 0])

    def score(x):
        square = ((x[:, None] - means) ** 2).sum(-1)
        share = jax.nn.softmax(jax.numpy.log(logs) - square / (2 * variance), axis=1)
        return (share @ means - x) / variance

    return target, score, 500, 2000


def network(dtype):
    target = EnergyModel(64)
    state = [jax.numpy.array(p.numpy(), dtype) for p in target.network.parameters()]

    def log_density(x):
        values = x
        for weight, bias in zip(state[:-2:2], state[1:-2:2], strict=True):
            values = jax.nn.silu(values @ weight.T + bias)
        return ((values @ state[-2].T)[:, 0] - (x**2).sum(1) / 2).sum() / target.sigma**2

    return target, jax.grad(log_density), 1000, 40


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("case", "most"), [(mixture, 3.0), (network, 1.3)])
def test_step_against_jax(case, most, precision) -> None:
    torch.set_num_threads(1)
    target, score, chains, steps = case(precision)
    start = torch.randn(chains, target.dim, dtype=getattr(torch, precision))
    begin, epsilon = jax.numpy.array(start.numpy()), 0.01

    @jax.jit
    def theirs(x, key):
        def step(_, state):
            x, key = state
            key, now = jax.random.split(key)
            noise = math.sqrt(2 * epsilon) * jax.random.normal(now, x.shape, x.dtype)
            return x + epsilon * score(x) + noise, key

        return jax.lax.fori_loop(0, steps, step, (x, key))[0]

    spent = [[], []]
    for _ in range(6):  # in turn: a busy machine slows both
        began = time.perf_counter()
        langevin(target, start, steps=steps, step_size=epsilon, seed=0)
        between = time.perf_counter()
        theirs(begin, jax.random.key(0)).block_until_ready()
        spent[0].append((between - began) / steps)
        spent[1].append((time.perf_counter() - between) / steps)
    ours, jaxs = min(spent[0]), min(spent[1])
    print(f"\n{case.__name__:8} {precision}: ours {1e6 * ours:6.0f} us a step, JAX ", end="")
    print(f"{1e6 * jaxs:6.0f}, ratio {ours / jaxs:.2f}", end="")
    assert ours < most * jaxs
