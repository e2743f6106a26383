"""Training of implicit samplers: what is reached, what stops it, what is kept."""

from __future__ import annotations

import math

import pytest
import torch
from small_samplers import Detached, Noisy, train, weights
from torch import Tensor, nn

from galflow_lite.metrics import energy_distance, ksd, ksd_floor, mode_weights
from galflow_lite.networks import MLP
from galflow_lite.neural_samplers import (
    ImplicitSampler,
    LogUniform,
    SamplerNetwork,
    ScoreNetwork,
    geometric,
    train_sampler,
)
from galflow_lite.targets import BENCHMARKS, Target


@pytest.mark.parametrize(
    ("name", "method", "steps"),
    [
        ("gaussian", "dft", 500),
        ("mog2", "dft", 500),
        ("gaussian", "kl", 250),
        ("gaussian", "fisher", 250),
    ],
)
def test_a_short_training_reaches_the_floor(name, method, steps):
    target = BENCHMARKS[name]()
    sampler = train_sampler(target, method=method, steps=steps, progress=False)
    values = [ksd(sampler.sample(500, seed=k), target).value for k in range(5)]
    assert sum(values) / 5 < 1.5 * ksd_floor(target.mean_square_score, 2, 500)
    # The floor also takes samples that miss a mode: weights, and a distance to exact samples.
    exact = target.sample(2000, seed=8)
    if name == "mog2":
        assert mode_weights(sampler.sample(4000, seed=0), target).largest_deviation < 0.15
    else:
        assert energy_distance(sampler.sample(2000, seed=9), exact).value < 0.02
    # The bound tells a trained sampler from one as it begins, which is 0.05 to 0.06 away.
    start = train_sampler(target, steps=1, pretrain=0, learning_rate=1e-9, progress=False)
    assert energy_distance(start.sample(2000, seed=9), exact).value > 2 * 0.02
    history = sampler.history
    assert history.stopped == "finished"
    assert len(history.loss) == len(history.gradient_norm) == len(history.score_loss) == steps
    # Half a batch is looked at before the first step.
    assert history.gradient_evaluations == 128 + steps * 256
    assert history.seconds > history.pretraining_seconds > 0


def test_kl_with_a_noised_target_finds_both_far_modes():
    target = BENCHMARKS["mog2_hard"]()
    sampler = train_sampler(
        target,
        method="kl",
        steps=300,
        sigma=LogUniform(geometric(0.5, 0.05, 240), 5.0),
        noised=True,
        progress=False,
    )
    found = mode_weights(sampler.sample(4000, seed=0), target)
    assert found.largest_deviation < 0.1
    assert sampler.sigma == pytest.approx(0.05)


def test_the_same_seed_gives_the_same_sampler_and_another_one_another():
    first, again, other = train(), train(), train(seed=1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


class Watched(nn.Module):
    """A sampler network that keeps the latent points it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.seen = nn.Linear(2, 2), []

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach())
        return self.inside(z)


def test_samples_repeat_no_latent_points_of_the_training_with_the_same_seed():
    network = Watched()
    sampler = train(sampler=network, seed=3)
    trained = torch.cat(network.seen)
    network.seen.clear()
    sampler.sample(len(trained), seed=3)
    (drawn,) = network.seen
    assert torch.cdist(trained, drawn).min() > 0


def test_the_seed_of_a_training_is_that_of_no_accelerator(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    train()
    assert not seen


def test_training_leaves_global_randomness_and_threads_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    train(threads=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_training_in_a_block_without_gradients():
    with torch.no_grad():
        sampler = train()
    assert torch.equal(weights(sampler), weights(train()))


OPTIONS = {
    "hutchinson": {"method": "fisher", "trace": "hutchinson"},
    "pseudo-huber": {"distance": "pseudo-huber", "c": 0.5},
    "plain noise": {"antithetic": False, "batch": 15},
    "annealed": {"sigma": geometric(1.5, 0.1, 4)},
    "law": {"sigma": LogUniform(0.1, 1.0)},
    "law, no pairs": {"sigma": LogUniform(0.1, 1.0), "antithetic": False},
    "noised": {"sigma": LogUniform(0.1, 1.0), "noised": True},
    "noised, one level": {"noised": True},
    "noised by a function": {"noised": lambda x, sigma: -x / (1 + sigma**2)},
    "tempered": {"tempering": geometric(0.1, 1.0, 4)},
    "alpha": {"alpha": lambda step: 1.0 if step < 3 else 0.5},
    "two scores": {"independent_scores": True},
    "large latent": {"latent_dim": 5},
    "small latent": {"latent_dim": 1},
    "no averages": {"ema_decay": None, "clip_norm": None, "decay": 0.0},
    "other betas": {"betas": (0, 0.9)},
    "no warm-up": {"warmup": 0},
    "many score steps at first": {"score_steps": lambda step: 5 if step < 2 else 1},
    "no score steps": {"score_steps": 0, "pretrain": 0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_and_changes_the_result(name):
    options = OPTIONS[name]
    plain = train(method=options.get("method", "dft"), latent_dim=options.get("latent_dim"))
    if name == "two scores":
        # A score without noise gives the same loss, but for rounding.
        assert torch.allclose(weights(train(**options)), weights(plain), atol=1e-5)
        assert train(**options).history.gradient_evaluations == 8 + 2 * 6 * 16
        return
    sampler = train(**options)
    assert sampler.sample(3, seed=0).isfinite().all()
    if "latent_dim" not in options:
        assert not torch.equal(weights(sampler), weights(plain))


def test_networks_of_your_own():
    network = MLP(3, 2, hidden=(8,), activation=nn.SiLU).double()
    score = MLP(2, 2, hidden=(8,), activation=nn.SiLU).double()
    before = [p.detach().clone() for p in network.parameters()]
    sampler = train(sampler=network, score_network=score, latent_dim=3)
    assert sampler.network is network
    assert sampler.score_network is score
    assert sampler.sample(4).dtype == torch.float64
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_default_networks():
    z = torch.randn(5, 4)
    for dim in (2, 4, 6):
        network = SamplerNetwork(4, dim, hidden=(8,), scale=3.0)
        skip = torch.cat((z, torch.zeros(5, 2)), dim=1)[:, :dim]
        assert torch.allclose(network(z), 3 * (network.mlp(z) + skip))
        plain = SamplerNetwork(4, dim, hidden=(8,), skip=False)
        assert torch.equal(plain(z), plain.mlp(z))
    score, sigma = ScoreNetwork(4, hidden=(8,), conditional=True), torch.full((5, 1), 2.0)
    expected = score.mlp(torch.cat((z / 3, sigma.log()), dim=1)) / 2
    assert torch.allclose(score(z, sigma), expected)


def test_warm_start_goes_on_from_a_copy():
    first = train()
    kept = weights(first)
    second = train(warm_start=first, learning_rate=1e-12, method="kl")
    assert torch.allclose(weights(second), kept, atol=1e-8)
    third = train(warm_start=first)
    assert not torch.allclose(weights(third), kept, atol=1e-5)
    assert torch.equal(weights(first), kept)


def test_callback_sees_the_sampler_as_it_would_be_returned():
    seen = {}
    sampler = train(callback=lambda step, s: seen.update({step: weights(s)}), callback_every=2)
    assert list(seen) == [0, 2, 4, 6]
    assert torch.equal(seen[6], weights(sampler))
    assert not torch.equal(seen[4], weights(sampler))
    assert torch.equal(weights(train()), weights(sampler))


def test_a_callback_sees_a_history_that_is_still_running_and_keeps_it():
    seen = {}
    sampler = train(callback=lambda step, s: seen.update({step: s.history}), callback_every=2)
    assert [history.stopped for history in seen.values()] == ["running"] * 4
    assert sampler.history.stopped == "finished"
    assert [len(history.loss) for history in seen.values()] == [0, 2, 4, 6]
    assert [history.gradient_evaluations for history in seen.values()] == [8, 40, 72, 104]
    assert seen[4].loss == sampler.history.loss[:4]
    assert 0 < seen[2].seconds < seen[6].seconds < sampler.history.seconds


def test_a_stochastic_target_gets_two_scores_by_itself():
    assert train(Noisy()).history.gradient_evaluations == 8 + 2 * 6 * 16
    assert train(Noisy(), method="kl").history.gradient_evaluations == 8 + 6 * 16


class Counting(Target):
    """A Gaussian that counts the points at which its score is asked for."""

    dim = 2

    def __init__(self) -> None:
        self.points = 0

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        self.points += len(x)
        return -x


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "kl"},
        {"method": "fisher"},
        {"independent_scores": True},
        {"antithetic": False, "tempering": 0.5},
        {"checkpoint": "state"},
    ],
)
def test_every_evaluation_of_the_score_is_counted(options, tmp_path):
    if "checkpoint" in options:
        options = {"checkpoint": tmp_path / options["checkpoint"]}
    target = Counting()
    history = train(target, **options).history
    assert history.gradient_evaluations == target.points > 6 * 16


# ----------------------------------------------------------------------------------------- samples


def test_samples_in_blocks_with_a_seed_and_with_noise():
    sampler = train()
    x = sampler.sample(100, seed=3)
    assert x.shape == (100, 2)
    assert not x.requires_grad
    assert torch.allclose(sampler.sample(100, seed=3, block=7), x, atol=1e-6)
    assert not torch.equal(sampler.sample(100, seed=4), x)
    assert sampler.sample(0).shape == (0, 2)
    noise = sampler.sample(100_000, seed=3, noisy=True) - sampler.sample(100_000, seed=3)
    assert noise.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.02)
    torch.manual_seed(0)
    first = sampler.sample(5)
    assert not torch.equal(first, sampler.sample(5))
    torch.manual_seed(0)
    assert torch.equal(first, sampler.sample(5))


def test_saved_and_loaded(tmp_path):
    sampler = train(latent_dim=3)
    path = tmp_path / "new" / "sampler.safetensors"
    sampler.save(path)
    loaded = ImplicitSampler.load(path)
    assert torch.equal(loaded.sample(20, seed=0), sampler.sample(20, seed=0))
    assert (loaded.latent_dim, loaded.dim, loaded.sigma) == (3, 2, 0.1)

    double = SamplerNetwork(3, 2, hidden=(8,)).double()
    kept = train(sampler=double, score_network=ScoreNetwork(2, hidden=(8,)).double())
    kept.save(path)
    read = ImplicitSampler.load(path).sample(20, seed=0)
    assert read.dtype == torch.float64
    assert torch.equal(read, kept.sample(20, seed=0))

    own = train(sampler=MLP(2, 2, hidden=(8,), activation=nn.SiLU))
    own.save(path)
    with pytest.raises(ValueError, match="holds the weights of a network of your own, found none"):
        ImplicitSampler.load(path)
    with pytest.raises(ValueError, match="holds weights of another architecture"):
        ImplicitSampler.load(path, network=MLP(2, 2, hidden=(9,)))
    again = ImplicitSampler.load(path, network=MLP(2, 2, hidden=(8,), activation=nn.SiLU))
    assert torch.equal(again.sample(20, seed=0), own.sample(20, seed=0))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        ImplicitSampler.load(path)


def test_there_is_no_density():
    with pytest.raises(NotImplementedError, match="an implicit sampler has no density, only samp"):
        train().log_prob(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n is -1, expected a whole number of at least 0"),
        ({"n": 3, "seed": 0.5}, "seed is 0.5, expected a whole number of at least 0"),
        ({"n": 3, "block": 0}, "block is 0, expected a whole number of at least 1"),
        ({"n": 3, "noisy": True}, "noisy samples are asked for and this sampler has no sigma"),
    ],
)
def test_bad_samples_are_named(options, message):
    sampler = ImplicitSampler(SamplerNetwork(2, 2), latent_dim=2, dim=2)
    with pytest.raises(ValueError, match=message):
        sampler.sample(**options)


def test_kl_needs_no_differentiable_score():
    assert train(Detached(), method="kl").history.stopped == "finished"


def test_schedules():
    ramp = geometric(1.6, 0.1, 4)
    assert [ramp(k) for k in (0, 1, 4, 9)] == pytest.approx([1.6, 0.8, 0.1, 0.1])
    draws = LogUniform(0.1, 10.0).draw(20_000, 0, torch.Generator().manual_seed(0)).log10()
    assert draws.min() >= -1
    assert draws.max() <= 1
    assert float(draws.mean()) == pytest.approx(0, abs=0.02)
    assert float(draws.std()) == pytest.approx(2 / math.sqrt(12), rel=0.02)
