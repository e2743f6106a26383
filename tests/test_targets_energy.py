"""The energy model: score, training on data with a known law, digits."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from galflow_lite import mcmc
from galflow_lite.metrics import energy_distance
from galflow_lite.targets import EnergyModel, GaussianMixture, Noised, check_score
from galflow_lite.training import TrainingDiverged

DIGITS, UNSEEN = (torch.from_numpy(load_digits().data / 8 - 1).float()).split(1400)


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    """Trained on the digits for a short time: a few seconds."""
    model = EnergyModel(hidden=(128, 128), seed=1)
    model.fit(DIGITS, steps=1000, seed=1, progress=False)
    return model


def test_density_is_network_and_quadratic_term():
    model = EnergyModel(5, hidden=(8, 7))
    x = torch.randn(6, 5)
    expected = (model.network(x)[:, 0] - x.square().sum(1) / 2) / 0.3**2
    torch.testing.assert_close(model.log_density(x), expected)
    assert [p.shape for p in model.network.parameters()][::2] == [(8, 5), (7, 8), (1, 7)]


def test_score_is_differentiable_and_trains_nothing(model):
    x = UNSEEN[:20].clone()
    check_score(model, x + 0.3 * torch.randn(20, 64))
    x.requires_grad_()
    score = model.differentiable_score(x)
    score.square().sum().backward()
    assert float(x.grad.abs().max()) > 0.1
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())
    torch.testing.assert_close(model.score(x), score.detach())


def test_training_finds_the_noised_law():
    law = GaussianMixture([[-0.8, 0.0], [0.8, 0.0]], 0.04)
    model = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    history = model.fit(law.sample(4000, seed=1), steps=2000, progress=False)
    noised = Noised(law, 0.4)
    x = law.sample(4000, seed=2) + 0.4 * torch.randn(4000, 2, dtype=torch.float64)
    exact = noised.score(x)
    error = float((model.score(x) - exact).square().sum(1).mean())
    assert error < 0.05 * float(exact.square().sum(1).mean())
    untrained = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    assert float((untrained.score(x) - exact).square().sum(1).mean()) > 10 * error
    # The loss tends to dim - sigma^2 E|s|^2, what the noise leaves open.
    floor = 2 - 0.16 * float(exact.square().sum(1).mean())
    assert sum(history.loss[-300:]) / 300 == pytest.approx(floor, abs=0.1)
    # One step of denoising gives the mean of the data at each noisy point.
    torch.testing.assert_close(model.denoise(x), x + 0.16 * model.score(x))
    clean = law.sample(4000, seed=3)
    noisy = clean + 0.4 * torch.randn(4000, 2, dtype=torch.float64)
    left = (model.denoise(noisy) - clean).square().sum(1).mean()
    best = (noisy + 0.16 * noised.score(noisy) - clean).square().sum(1).mean()
    assert float(left) < 1.05 * float(best) < 0.5 * float((noisy - clean).square().sum(1).mean())


def test_digits(model):
    clean, generator = UNSEEN, torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = clean + 0.3 * noise
    loss = (0.3 * model.score(noisy) + noise).square().sum(1).mean()
    # A zero score gives 64; half of that is far from what an untrained network reaches.
    untrained = (0.3 * EnergyModel().score(noisy) + noise).square().sum(1).mean()
    assert float(loss) < 32 < 45 < float(untrained)
    before = float((noisy - clean).square().mean())
    after = float((model.denoise(noisy) - clean).square().mean())
    assert after < 0.5 * before
    # Digits are likelier than what has the same pixels in another order.
    shuffled = clean[:, torch.randperm(64, generator=generator)]
    gap = model.log_density(noisy) - model.log_density(shuffled + 0.3 * noise)
    assert float((gap > 0).double().mean()) > 0.98


def test_regions_without_data_stay_empty(model):
    """Chains from N(0, I) end where chains from the data are: the model has no other modes."""
    generator = torch.Generator().manual_seed(0)
    near = DIGITS[:100] + 0.3 * torch.randn(100, 64, generator=generator)
    far = torch.randn(100, 64, generator=generator)
    one, two = (
        mcmc.hmc(model, start, steps=60, warmup=40, seed=seed).samples
        for seed, start in enumerate((near, far))
    )
    apart = energy_distance(one, two)
    assert abs(apart.value) < 4 * apart.standard_error
    assert float((two.norm(dim=1) / near.norm(dim=1).mean() - 1).abs().mean()) < 0.15


def test_seeds_fix_the_training():
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        small = EnergyModel(64, hidden=(16,), seed=3)
        small.fit(DIGITS, steps=20, seed=seed, progress=False)
        runs.append(torch.cat([p.flatten() for p in small.network.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    first, again, other = (EnergyModel(2, seed=s).log_density([[1.0, 2.0]]) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_divergence_keeps_the_last_good_weights():
    model = EnergyModel(64, hidden=(16,))
    with pytest.raises(TrainingDiverged):
        model.fit(1e18 * DIGITS, steps=200, progress=False)
    assert all(p.isfinite().all() and not p.requires_grad for p in model.network.parameters())
