"""Small networks learn a velocity and a denoiser: the losses lead where the theory says."""

from __future__ import annotations

import math

import pytest
import torch
from exact_mixtures import ExactMixture, seeded
from torch import nn

from galflow_lite.interpolants import (
    MaskedVelocity,
    Schedule,
    inpainting,
    log_likelihood,
    sample_ode,
    velocity_loss,
)
from galflow_lite.interpolants.velocities import denoiser_loss
from galflow_lite.networks import MLP
from galflow_lite.training import fit


class Network(nn.Module):
    """A perceptron of x, t and the mask."""

    def __init__(self, dim: int, conditions: int = 0) -> None:
        super().__init__()
        self.body = MLP(dim + 1 + conditions, dim, hidden=(64, 64), activation=nn.SiLU)

    def forward(self, x, t, condition=None):
        parts = [x, t[:, None]] if condition is None else [x, t[:, None], condition]
        return self.body(torch.cat(parts, 1))


@pytest.mark.parametrize(("what", "gamma"), [("velocity", "quadratic"), ("denoiser", "smooth")])
def test_losses_lead_to_the_exact_fields(what, gamma):
    """From N(0, 1) to two modes, which a small network learns fast."""
    schedule = Schedule.linear(gamma=gamma)
    exact = ExactMixture(schedule, (0.0,), (-1.5, 1.5), data_width=0.5)
    torch.manual_seed(0)
    network = Network(1)
    loss = velocity_loss if what == "velocity" else denoiser_loss
    target = getattr(exact, what)

    def objective(batch):
        x0, x1 = batch
        return loss(network, x1, schedule=schedule, coupling=lambda x, c: x0)

    def batches(step):
        generator = seeded(step)
        return [x.float() for x in exact.sample_pairs(512, generator=generator)[:2]]

    fit(objective, network, batches, 1500, learning_rate=5e-3, schedule="cosine", progress=False)
    x0, x1, _ = exact.sample_pairs(5000, generator=seeded(9_999))
    t, z = torch.rand(5000, dtype=torch.float64), torch.randn(5000, 1, dtype=torch.float64)
    x = schedule.interpolate(x0, x1, t, z).value
    with torch.no_grad():
        error = (network(x.float(), t.float()) - target(x, t)).square().mean()
    # The field 0 has an error of 1 in this unit, a field of the wrong sign of 4.
    assert error < 0.15 * target(x, t).square().mean()


@pytest.fixture(scope="module")
def filler() -> MaskedVelocity:
    """Trained on (u, v), normal with unit variances and correlation 0.8; either may be the hole."""
    torch.manual_seed(0)
    velocity = MaskedVelocity(Network(2, conditions=2))
    schedule, coupling = Schedule.linear(), inpainting()

    def batches(step):
        generator = seeded(step)
        u, w = torch.randn(2, 512, generator=generator)
        first = torch.rand(512, generator=generator) < 0.5
        mask = torch.stack([first, ~first], 1).float()
        return torch.stack([u, 0.8 * u + 0.6 * w], 1), mask

    def objective(batch):
        return velocity_loss(velocity, *batch, schedule=schedule, coupling=coupling)

    fit(objective, velocity, batches, 500, learning_rate=5e-3, schedule="cosine", progress=False)
    return velocity


def test_fills_of_a_hole_follow_the_conditional_law(filler):
    damaged = torch.tensor([[1.0, math.nan]]).expand(4000, 2)
    mask = torch.tensor([[1.0, 0.0]]).expand(4000, 2)
    x0 = inpainting()(damaged, mask, generator=seeded())
    found = sample_ode(filler, x0, mask, method="heun", steps=20).samples
    assert (found[:, 0] == 1).all()
    # The network is off by a few hundredths; the errors of 4000 samples are below 0.01.
    assert found[:, 1].mean().item() == pytest.approx(0.8, abs=0.1)
    assert found[:, 1].std().item() == pytest.approx(0.6, abs=0.08)


def test_learned_conditional_likelihood(filler):
    v = torch.linspace(-0.4, 2.0, 9)
    x1 = torch.stack([torch.ones(9), v], 1)
    mask = torch.tensor([[1.0, 0.0]]).expand(9, 2)
    found = log_likelihood(filler, x1, mask, base=inpainting().base(x1, mask))
    exact = torch.distributions.Normal(0.8, 0.6).log_prob(v)
    assert torch.allclose(found.log_prob, exact, atol=0.2)
    # Forward again from where the backward flow ended.
    again = sample_ode(filler, found.x0, mask, method="rk4", steps=50).samples
    assert torch.allclose(again, x1, atol=1e-3)
