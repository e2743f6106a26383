"""The public paths on a pretended GPU: same results, nothing left behind, no waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_device import pretended

from galflow_lite import images, interpolants, mcmc, metrics, targets
from galflow_lite.galaxies import Catalogue, Galaxy, GalaxyFlow
from galflow_lite.galaxies import galaxy_flow as galaxy_flow_module
from galflow_lite.interpolants.image_models import train_velocity
from galflow_lite.networks import MLP
from galflow_lite.piecewise import PiecewiseFlow
from galflow_lite.samplers import SamplerNetwork, train_sampler
from galflow_lite.training import TensorBatches, fit

SCHEDULE = interpolants.Schedule.linear()
POINTS = np.random.default_rng(0).normal(size=(300, 2)) + np.repeat([[0.0], [6.0]], 150, axis=0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path = tmp_path_factory.mktemp("galaxies") / "galaxies.h5"
    conditions = {"M_stars": 1e9, "tau50": 3.0}
    drawn = np.random.default_rng(0).normal(size=(4, 100, 2)).astype(np.float32)
    found = [
        Galaxy(stars * (1 + k), {n: v * (1 + k) for n, v in conditions.items()}, str(k), ("x", "y"))
        for k, stars in enumerate(drawn)
    ]
    Catalogue.write(path, found)
    return Catalogue.open(path)


def galaxy_flow(catalogue: Catalogue, device: str, steps: int, **options) -> list[float]:
    flow = GalaxyFlow(("x", "y"), ("M_stars", "tau50"), layers=1, hidden=8).to(device)
    options = {"batch_size": 64, "learning_rate": 1e-3, "optimizer": "adam", **options}
    losses = flow.fit(catalogue, steps=steps, progress=False, **options).loss
    drawn = flow.sample({"M_stars": 1e9, "tau50": 3.0}, 20, seed=0).stars
    return [*losses, *flow.log_prob(catalogue[0])[:9], *drawn.ravel()]


def piecewise_flow(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    flow = PiecewiseFlow(layers=1, hidden=8).to(device)
    # One pass is one step here, and with it one validation.
    history = flow.fit(POINTS, clusters=2, epochs=steps // 10, batch_size=None)
    tuned = flow.fine_tune(POINTS, steps=steps)
    values = flow.log_prob(POINTS)[:9], flow.sample(20, seed=0)
    assert flow.to("cpu").log_prob(POINTS).dtype == torch.float64
    return np.concatenate([*history.validation, tuned.loss, *(v.cpu().ravel() for v in values)])


def velocity(
    catalogue: Catalogue, device: str, steps: int, spoil: Callable | None = None, **options
) -> list[float]:
    torch.manual_seed(0)
    network = MLP(2, 2, hidden=(16,), context_features=1).to(device)
    coupling = interpolants.independent()
    points = torch.tensor(POINTS, dtype=torch.float32).to(device)
    noise = torch.Generator(device).manual_seed(0)

    def model(x, t, condition=None):
        return network(x, t[:, None])

    def loss(batch):
        drawing = {"schedule": SCHEDULE, "coupling": coupling, "generator": noise}
        value = interpolants.velocity_loss(model, *batch, **drawing)
        return value if spoil is None else spoil(value)

    batches = TensorBatches(points, batch_size=300)
    losses = fit(loss, network, batches, steps, progress=False, **options).loss
    found = [
        interpolants.sample_ode(model, points[:9], method=m, steps=4) for m in ("euler", "rk4")
    ]
    base = interpolants.GaussianBase(torch.zeros_like(points[:9]))
    likelihood = interpolants.log_likelihood(model, points[:9], base=base, method="rk4", steps=4)
    parts = [likelihood.log_prob, *(samples.samples for samples in found)]
    return [*losses, *torch.cat([part.flatten() for part in parts]).tolist()]


def pictures(device: str) -> images.ImageSet:
    found = images.parametric_galaxies(24, 16)
    # The other parts follow the images.
    return replace(found, images=found.images.to(device))


def inpainting(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    data, coupling = pictures(device), interpolants.inpainting(tiles=4)
    model = train_velocity(data, coupling, seed=0, steps=steps, batch_size=4)
    some = data[:2]
    mask = interpolants.tile_mask(2, 16, tiles=4, generator=torch.Generator().manual_seed(0))
    condition = {"mask": mask.to(device), "label": some.labels}
    made = model.generate(some.images, condition, steps=2).samples
    return [*model.history.loss, *made.flatten().tolist(), *data[3].targets.flatten().tolist()]


def samplers(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    target = targets.GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], 0.5)
    torch.manual_seed(0)
    networks = [SamplerNetwork(2, 2, hidden=(8,)).to(device) for _ in range(3)]
    sizes = {"steps": steps, "batch": 32, "hidden": (8,), "progress": False}
    found = [train_sampler(target, sampler=networks[0], **sizes)]
    found += train_sampler(target, method=["dft", "kl"], sampler=networks[1:], **sizes)
    drawn = found[0].sample(9, seed=0).flatten().tolist()
    return sum((one.history.loss for one in found), drawn)


def energy_model(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    model = targets.EnergyModel(2, hidden=(8,))
    model.network.to(device)
    losses = model.fit(POINTS, steps=steps, progress=False).loss
    return [*losses, *model.denoise(torch.tensor(POINTS[:9]).to(device)).flatten().tolist()]


def chains(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    posterior = targets.BayesianLogisticRegression(rows, rows[:, 0] > 0)
    four = torch.tensor(POINTS[:20]).repeat(1, 2).to(device)
    two = four[:, :2].contiguous()
    moons, mixture = targets.TwoMoons(), targets.GaussianMixture(POINTS[::100], [[2, 1], [1, 2]])
    found = [
        mcmc.langevin(posterior, four, steps=steps, step_size=0.01, seed=0),
        mcmc.langevin(posterior.with_batches(9), four, steps=steps, step_size=1e-3, seed=0),
        mcmc.langevin(mixture, two, steps=steps, step_size=0.1, adjust=True, seed=0),
        mcmc.svgd(moons, two, steps=steps),
    ]
    return torch.cat([run.samples.flatten() for run in found]).tolist()


def the_rest(catalogue: Catalogue, device: str, steps: int) -> list[float]:
    x, y = (torch.tensor(POINTS[start::2]).to(device) for start in (0, 1))
    target = targets.CircleOfGaussians()
    run = mcmc.hmc(target, x[:9], steps=5, warmup=5, seed=0)
    pairs = (metrics.energy_distance, metrics.linear_mmd)
    values = [measure(x, y).value for measure in (*pairs, metrics.sliced_wasserstein)]
    values += [metrics.energy_distance(*both).value for both in ((x, y.cpu()), (x.cpu(), y))]
    values += [metrics.ksd(x, target).value, metrics.frechet_distance(x, y, features=abs).value]
    log_p = target.log_prob(x)
    values += [metrics.forward_kl(log_p, 1.1 * log_p).value, metrics.effective_sample_size(log_p)]
    power = metrics.power_spectrum(pictures(device).images)[2]
    flow = {"velocity": lambda x, t, condition: -x, "x0": x[:9]}
    values += [interpolants.flow_costs(**flow, steps=4).kinetic_energy.value, float(power.mean())]
    moved = interpolants.sample_ode(**flow, method="dopri5", times=[0.5]).path
    return [*values, *moved.flatten().tolist(), *run.samples.flatten().tolist()]


LOOPS = (galaxy_flow, velocity, inpainting, samplers, energy_model, chains)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("path", [*LOOPS, piecewise_flow, the_rest])
def test_results_are_those_of_the_cpu(
    path: Callable, kind: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "mps":
        monkeypatch.setitem(globals(), "POINTS", POINTS.astype(np.float32))
    expected = path(catalogue, "cpu", 20)
    with pretended(kind) as device:
        found = path(catalogue, kind, 20)
    assert device.launches > 500
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def waits(path: Callable, catalogue: Catalogue, steps: int, **options) -> int:
    with pretended() as device:
        path(catalogue, "cuda", steps, **options)
    return sum(device.waits.values())


@pytest.mark.parametrize("path", LOOPS)
def test_a_loop_does_not_wait(path: Callable, catalogue: Catalogue) -> None:
    # One in 20 steps; of several samplers two.
    looks = {chains: 0, samplers: 6}.get(path, 2)
    assert waits(path, catalogue, 60) - waits(path, catalogue, 20) == looks


def test_stars_stay_on_the_device(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (2**30, 3000):  # bytes; the stars have 3200
        monkeypatch.setattr(galaxy_flow_module, "_HELD", most)
        with pretended() as device:
            losses = galaxy_flow(catalogue, "cuda", 20)
        found.append((losses, device.sent))
    (losses, few), (expected, many) = found
    assert losses == expected
    # The numbers of 64 stars a step; else the stars, their galaxies and the conditions.
    assert few.count(64 * 8) == 20
    assert len(many) - len(few) == 3 * 20 - 20 - 3


def test_a_graph_repeats_the_step(catalogue: Catalogue, tmp_path: Path) -> None:
    options = {"optimizer": "radam", "clip_norm": 1.0, "ema_decay": 0.9}
    launches, found = [], []
    for more in ({}, {"cuda_graph": True, "checkpoint": tmp_path / "flow.safetensors"}):
        with pretended() as device:
            found.append(galaxy_flow(catalogue, "cuda", 50, **options, **more))
        launches.append(device.launches)
    assert found[0] == found[1]
    assert launches[1] < launches[0] / 4
    expected = galaxy_flow(catalogue, "cpu", 50, **options)
    assert galaxy_flow(catalogue, "cpu", 50, **options, cuda_graph=True) == expected
    count = [waits(galaxy_flow, catalogue, n, cuda_graph=True) for n in (20, 60)]
    assert count[1] - count[0] == 2


# What the pretended device is for: each of these passes on a CPU.
def test_a_tensor_left_behind_is_caught(catalogue: Catalogue) -> None:
    with pretended(), pytest.raises(RuntimeError, match="cuda:0 and on the cpu meet in mul"):
        velocity(catalogue, "cuda", 2, lambda value: (value * torch.ones(3)).mean())
    assert not [b for b in GalaxyFlow(layers=1).flow.buffers() if b.dtype == torch.float64]


def test_a_look_in_the_loop_is_caught(catalogue: Catalogue) -> None:
    def look(value):
        return value * (1.0 if value.item() < 1e9 else 0.0)

    counts = [waits(velocity, catalogue, steps, spoil=look) for steps in (20, 60)]
    assert counts[1] - counts[0] == 42
    with pretended(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        velocity(catalogue, "cuda", 2, look, cuda_graph=True)


def test_a_number_of_the_host_is_frozen_in_a_graph(catalogue: Catalogue) -> None:
    def spoilt() -> Callable:
        calls = iter(range(1, 99))
        return lambda value: value * next(calls)

    with pretended():
        first, second = (velocity(catalogue, "cuda", 9, spoilt(), cuda_graph=g) for g in (0, 1))
    assert not np.allclose(first[:9], second[:9])


@pytest.mark.parametrize("fault", ["generator", "numpy", "float64"])
def test_other_rules_of_a_device(fault: str) -> None:
    calls = dict(generator=lambda x: x.normal_(generator=torch.Generator()))
    calls |= dict(numpy=np.asarray, float64=torch.Tensor.double)
    with pretended("mps"):
        x = torch.ones(3, device="mps")
        with pytest.raises((RuntimeError, TypeError), match=fault):
            calls[fault](x)
