"""Training steps and samples per second against flow matching in torchcfm, as ratios of one run.

Not part of the default tests, which pytest does not find by the name of this file. It needs
torchcfm (``pip install torchcfm``), which is in no extra of this project. Run it by

    pytest -n 0 -p no:nbval tests/benchmarks/bench_interpolants.py -s

Both sides train the same network on the same batches with Adam, independent coupling and the linear
schedule. Ours goes through `training.fit` with its checks; theirs is the loop of their examples,
which users write by hand. They sample by torchdiffeq, as their examples do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from galflow_lite.images import hubble_patches
from galflow_lite.interpolants import Schedule, independent, sample_ode, velocity_loss
from galflow_lite.networks import MLP, UNet
from galflow_lite.training import fit

torchcfm = pytest.importorskip("torchcfm", reason="torchcfm is not installed")


class PlaneVelocity(nn.Module):
    """The perceptron of their tutorials in two dimensions: three hidden layers of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = MLP(3, 2, hidden=(64, 64, 64), activation=nn.SELU)

    def forward(self, x: Tensor, t: Tensor, condition: None = None) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], dim=1))


def plane() -> tuple[Callable[[], nn.Module], Tensor, int, int]:
    generator = torch.Generator().manual_seed(0)
    return PlaneVelocity, torch.randn(10_000, 2, generator=generator), 256, 300


def galaxies() -> tuple[Callable[[], nn.Module], Tensor, int, int]:
    return lambda: UNet.lite(1), hubble_patches(32).images, 64, 25


def train_ours(network: nn.Module, batches: Callable[[int], Tensor], steps: int) -> None:
    schedule, coupling = Schedule.linear(), independent()
    fit(
        lambda x1: velocity_loss(
            network, x1, schedule=schedule, coupling=coupling, reduction="mean"
        ),
        network,
        batches,
        steps,
        progress=False,
    )


def train_theirs(network: nn.Module, batches: Callable[[int], Tensor], steps: int) -> None:
    matcher = torchcfm.ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(steps):
        x1 = batches(step)
        optimizer.zero_grad()
        t, x, rate = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((network(x, t) - rate) ** 2)
        loss.backward()
        optimizer.step()


def sample_ours(network: nn.Module, x0: Tensor) -> Tensor:
    return sample_ode(network, x0, method="euler", steps=20).samples


def sample_theirs(network: nn.Module, x0: Tensor) -> Tensor:
    from torchdiffeq import odeint

    with torch.no_grad():
        return odeint(
            lambda t, x: network(x, t.expand(len(x))), x0, torch.linspace(0, 1, 21), method="euler"
        )[-1]


def ratios(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> list[float]:
    """Seconds of theirs over seconds of ours, in turn: a busy machine slows both."""
    found = []
    for k in range(rounds + 1):
        spent = []
        for work in (ours, theirs) if k % 2 else (theirs, ours):
            begin = time.perf_counter()
            work()
            spent.append(time.perf_counter() - begin)
        if k:  # the first round warms up
            found.append(spent[1] / spent[0] if k % 2 else spent[0] / spent[1])
    return found


@pytest.mark.parametrize("case", [plane, galaxies])
def test_speed_against_torchcfm(case) -> None:
    torch.set_num_threads(1)
    make, data, batch_size, steps = case()
    torch.manual_seed(0)
    mine, other = make(), make()

    def batches(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        return data[torch.randint(len(data), (batch_size,), generator=generator)]

    training = ratios(
        lambda: train_ours(mine, batches, steps), lambda: train_theirs(other, batches, steps), 7
    )
    x0 = torch.randn(1000 if data.ndim == 2 else 64, *data.shape[1:])
    assert torch.allclose(sample_ours(mine, x0), sample_theirs(mine, x0), atol=1e-4)
    sampling = ratios(lambda: sample_ours(mine, x0), lambda: sample_theirs(mine, x0), 7)
    for name, found in (("training", training), ("sampling", sampling)):
        print(
            f"\n{case.__name__:9}{name:9} torchcfm's seconds over ours: median {median(found):.2f} "
            f"({min(found):.2f} to {max(found):.2f})",
            end="",
        )
