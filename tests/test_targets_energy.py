"""The energy model: score, training on data with a known law, digits, files."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from galflow_lite import mcmc
from galflow_lite.files import write_state
from galflow_lite.images import digits
from galflow_lite.metrics import energy_distance
from galflow_lite.targets import EnergyModel, GaussianMixture, Noised, check_score
from galflow_lite.training import TrainingDiverged


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    """Trained on the digits for a short time: about 4 s."""
    model = EnergyModel(seed=1)
    model.fit(digits().images, steps=700, learning_rate=2e-3, seed=1, progress=False)
    return model


def test_density_is_network_and_quadratic_term():
    model = EnergyModel(5, hidden=(8, 7))
    x = torch.randn(6, 5)
    expected = (model.network(x)[:, 0] - x.square().sum(1) / 2) / 0.3**2
    torch.testing.assert_close(model.log_density(x), expected)
    assert [p.shape for p in model.network.parameters()][::2] == [(8, 5), (7, 8), (1, 7)]
    default = EnergyModel()
    assert (
        sum(p.numel() for p in default.network.parameters()) == 64 * 256 + 2 * 256**2 + 4 * 256 + 1
    )
    assert isinstance(default.network.layers[1], nn.SiLU)


def test_score_is_differentiable_and_trains_nothing(model):
    x = digits(split="test").images.flatten(1)[:20].clone()
    check_score(model, x + 0.3 * torch.randn(20, 64))
    x.requires_grad_()
    score = model.differentiable_score(x)
    score.square().sum().backward()
    assert float(x.grad.abs().max()) > 0.1
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())
    torch.testing.assert_close(model.score(x), score.detach())


def test_precision_follows_the_points(model):
    x = digits(split="test").images.flatten(1)[:5]
    single, double = model.score(x), model.score(x.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    assert next(model.network.parameters()).dtype == torch.float32


def test_training_finds_the_noised_law():
    law = GaussianMixture([[-0.8, 0.0], [0.8, 0.0]], 0.04)
    model = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    history = model.fit(law.sample(4000, seed=1), steps=1500, learning_rate=2e-3, progress=False)
    noised = Noised(law, 0.4)
    x = noised.sample(4000, seed=2)
    exact = noised.score(x)
    error = float((model.score(x) - exact).square().sum(1).mean())
    assert error < 0.05 * float(exact.square().sum(1).mean())
    untrained = EnergyModel(2, hidden=(64, 64), sigma=0.4)
    assert float((untrained.score(x) - exact).square().sum(1).mean()) > 10 * error
    # The loss tends to dim - sigma^2 E|s|^2, what the noise leaves open.
    floor = 2 - 0.16 * noised.mean_square_score
    assert sum(history.loss[-300:]) / 300 == pytest.approx(floor, abs=0.1)
    # One step of denoising gives the mean of the data at each noisy point.
    torch.testing.assert_close(model.denoise(x), x + 0.16 * model.score(x))
    clean = law.sample(4000, seed=3)
    noisy = clean + 0.4 * torch.randn(4000, 2, dtype=torch.float64)
    left = (model.denoise(noisy) - clean).square().sum(1).mean()
    best = (noisy + 0.16 * noised.score(noisy) - clean).square().sum(1).mean()
    assert float(left) < 1.05 * float(best) < 0.5 * float((noisy - clean).square().sum(1).mean())


def test_digits(model):
    clean = digits(split="test").images.flatten(1)
    generator = torch.Generator().manual_seed(0)
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
    x = digits().images.flatten(1)
    generator = torch.Generator().manual_seed(0)
    near = x[:200] + 0.3 * torch.randn(200, 64, generator=generator)
    far = torch.randn(200, 64, generator=generator)
    one, two = (
        mcmc.hmc(model, start, steps=60, warmup=40, seed=seed).samples
        for seed, start in enumerate((near, far))
    )
    apart = energy_distance(one, two)
    assert abs(apart.value) < 4 * apart.standard_error
    assert float((two.norm(dim=1) / near.norm(dim=1).mean() - 1).abs().mean()) < 0.15


def test_seeds_fix_the_training():
    x = digits().images
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        small = EnergyModel(64, hidden=(16,), seed=3)
        small.fit(x, steps=20, seed=seed, progress=False)
        runs.append(torch.cat([p.flatten() for p in small.network.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    first, again, other = (EnergyModel(2, seed=s).log_density([[1.0, 2.0]]) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_and_noise_are_streams_of_their_own(monkeypatch):
    # torch.manual_seed would seed the GPUs as well, and nothing would restore them.
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("seeds every device"))
    x = digits().images
    made, begin = [], torch.Generator.manual_seed

    class Recorded(torch.Generator):
        def manual_seed(self, seed):
            made.append(seed)
            return begin(self, seed)

    monkeypatch.setattr(torch, "Generator", Recorded)
    for seed in (0, 1):
        model = EnergyModel(64, hidden=(16,), seed=seed)
        model.fit(x, steps=2, seed=seed, progress=False)
    # The batches and the noise of each fit: four streams.
    assert len(made) == len(set(made)) == 4
    plain = torch.Generator().manual_seed(0)
    bound = 1 / math.sqrt(64)
    same_numbers = torch.empty(16, 64).uniform_(-bound, bound, generator=plain)
    assert not torch.equal(EnergyModel(64, hidden=(16,)).network.layers[0].weight, same_numbers)


def test_training_again_refreshes_other_precisions():
    model = EnergyModel(64, hidden=(16,))
    x = digits().images.flatten(1)
    before = model.score(x[:3].double())
    model.fit(x, steps=20, progress=False)
    after = model.score(x[:3].double())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after.float(), model.score(x[:3]), rtol=1e-3, atol=1e-3)


def test_save_and_load(model, tmp_path):
    file = tmp_path / "deep" / "energy.safetensors"
    model.save(file)
    loaded = EnergyModel.load(file)
    x = torch.randn(4, 64)
    assert torch.equal(loaded.score(x), model.score(x))
    assert repr(loaded) == repr(model) == "EnergyModel(dim=64, hidden=(256, 256, 256), sigma=0.3)"
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert [p.name for p in file.parent.iterdir()] == ["energy.safetensors"]


def test_a_failed_write_keeps_the_old_file(model, tmp_path, monkeypatch):
    file = tmp_path / "energy.safetensors"
    model.save(file)
    old = file.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space is left on the disk"):
        EnergyModel(3).save(file)
    monkeypatch.undo()
    assert file.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["energy.safetensors"]


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        EnergyModel.load(tmp_path / "missing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        EnergyModel.load(tmp_path / "cut.safetensors")
    write_state(tmp_path / "other.safetensors", {"a": 1}, kind="something else")
    with pytest.raises(ValueError, match="holds something else, expected an energy model"):
        EnergyModel.load(tmp_path / "other.safetensors")


def test_divergence_keeps_the_last_good_weights():
    model = EnergyModel(64, hidden=(16,))
    with pytest.raises(
        TrainingDiverged, match="the last good weights are restored: lower learning"
    ):
        model.fit(digits().images, steps=200, learning_rate=1e30, progress=False)
    assert all(p.isfinite().all() and not p.requires_grad for p in model.network.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnergyModel(0), "dim is 0, expected a whole number of at least 1"),
        (lambda: EnergyModel(hidden=(8, 0)), "hidden is 0, expected a whole number of at least 1"),
        (lambda: EnergyModel(sigma=0), "sigma is 0, expected a finite number above 0"),
        (lambda: EnergyModel(sigma=-0.3), "sigma is -0.3, expected a finite number above 0"),
        (lambda: EnergyModel().fit(torch.zeros(9, 3), steps=1), "x has 3 columns, expected 64"),
        (lambda: EnergyModel(2).fit(torch.full((9, 2), math.nan), steps=1), "NaN"),
        (lambda: EnergyModel(3).score(torch.zeros(4, 2)), r"x has shape \(4, 2\), expected \(n, 3"),
        (lambda: EnergyModel(2).denoise([[math.inf, 0.0]]), "x has infinite values in 1 of 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
