"""Training of implicit samplers: what is reached, what stops it, what is kept."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from galflow_lite.metrics import energy_distance, ksd, ksd_floor, mode_weights
from galflow_lite.networks import MLP
from galflow_lite.samplers import (
    ImplicitSampler,
    LogUniform,
    SamplerNetwork,
    ScoreNetwork,
    dft_loss,
    geometric,
    linear_decay,
    recipes,
    train_sampler,
)
from galflow_lite.samplers.alternation import Alternation
from galflow_lite.samplers.losses import value_at
from galflow_lite.targets import BENCHMARKS, Donut, GaussianMixture, Target
from galflow_lite.training import TrainingDiverged

LAW = LogUniform(0.1, 1.0)
GAUSSIAN = BENCHMARKS["gaussian"]()
# Enough to see that something runs, too few to learn much.
SHORT = {"steps": 6, "batch": 16, "hidden": (8,), "progress": False}


def train(target: Target = GAUSSIAN, **options) -> ImplicitSampler:
    return train_sampler(target, **{**SHORT, **options})


def weights(sampler: ImplicitSampler) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sampler.network.parameters()])


class Scored(Target):
    """A Gaussian whose score is written by a subclass; counts the points it is asked for."""

    dim, points = 2, 0

    def _log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2

    def _closed_score(self, x: Tensor) -> Tensor:
        self.points += len(x)
        return self._scored(x)

    def _scored(self, x: Tensor) -> Tensor:
        return -x


class Cliff(Scored):
    """Its score becomes NaN after some points."""

    def __init__(self, points: int) -> None:
        self.last = points

    def _scored(self, x: Tensor) -> Tensor:
        return -x if self.points <= self.last else x * math.nan


class Detached(Scored):
    def _scored(self, x: Tensor) -> Tensor:
        return -x.detach()


class Noisy(Scored):
    """Another estimate of its score in each call."""

    stochastic = True

    def _scored(self, x: Tensor) -> Tensor:
        return -x + torch.randn(x.shape)


@pytest.mark.parametrize(
    ("name", "method", "steps"),
    [("mog2", "dft", 300), ("gaussian", "kl", 150), ("gaussian", "fisher", 150)],
)
def test_a_short_training_reaches_the_floor(name, method, steps):
    target = BENCHMARKS[name]()
    sampler = train_sampler(target, method=method, steps=steps, progress=False)
    values = [ksd(sampler.sample(500, seed=k), target).value for k in range(5)]
    # 1.35 +- 0.28 times the floor over seeds (mog2), 1.1 +- 0.1 (the others); 5 to 10 at first.
    assert sum(values) / 5 < 3 * ksd_floor(target.mean_square_score, 2, 500)
    # So few steps settle no mode weights; of one mode also a distance: 0.005 +- 0.003 over seeds,
    # 0.056 +- 0.01 at first.
    if name == "gaussian":
        exact = target.sample(2000, seed=8)
        assert energy_distance(sampler.sample(2000, seed=9), exact).value < 0.025
    history = sampler.history
    assert history.stopped == "finished"
    assert len(history.loss) == len(history.logs["score_loss"]) == steps
    # Half a batch is looked at before the first step.
    assert sampler.gradient_evaluations == 128 + steps * 256


def test_kl_with_a_noised_target_finds_both_far_modes():
    target = BENCHMARKS["mog2_hard"]()
    law = LogUniform(0.05, 5.0)
    sampler = train_sampler(target, method="kl", steps=200, sigma=law, noised=True, progress=False)
    assert mode_weights(sampler.sample(4000, seed=0), target).largest_deviation < 0.1
    assert sampler.sigma == pytest.approx(0.05)


def test_samples_repeat_no_latent_points_of_the_training_with_the_same_seed():
    network, seen = nn.Linear(2, 2), []
    hook = network.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    sampler = train(sampler=network, seed=3)
    trained = torch.cat(seen)
    sampler.sample(len(trained), seed=3)
    hook.remove()
    assert torch.cdist(trained, seen[-1]).min() > 0


def test_the_seed_is_all_that_a_training_draws_from(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    torch.default_generator.manual_seed(5)
    state = torch.get_rng_state()
    with torch.no_grad():
        sampler = train()
    assert torch.equal(torch.get_rng_state(), state)
    assert not seen
    assert torch.equal(weights(sampler), weights(train(seed=np.int64(0))))
    assert not torch.equal(weights(sampler), weights(train(seed=1)))


OPTIONS = {
    "a loss of one's own": {"method": partial(dft_loss, alpha=1.0)},
    "more noise": {"sigma": 0.5},
    "law": {"sigma": LAW},
    "noised": {"sigma": LAW, "noised": True},
    "noised, one level": {"noised": True},
    "tempered": {"tempering": geometric(0.1, 1.0, 4)},
    "large latent": {"latent_dim": 5},
    "no warm-up": {"learning_rate": linear_decay(1e-3, 6)},
    "many score steps at first": {"score_steps": lambda step: 5 if step < 2 else 1},
    "no score steps": {"score_steps": 0},
}


def test_a_training_goes_on_from_a_copy_of_a_sampler():
    first = train(latent_dim=3)
    kept = weights(first)
    second = train(sampler=first, learning_rate=1e-12, method="kl")
    assert second.latent_dim == 3
    assert torch.allclose(weights(second), kept, atol=1e-8)
    assert not torch.allclose(weights(train(sampler=first)), kept, atol=1e-5)
    assert torch.equal(weights(first), kept)


@pytest.mark.parametrize(
    ("target", "method", "scores"),
    [
        (Scored, "dft", 1),
        (Scored, "kl", 1),
        (Scored, "fisher", 1),
        (Scored, partial(dft_loss, alpha=1.2), 1),
        # A stochastic target gets two scores by itself where the loss is quadratic in them; a loss
        # that is handed over is taken as it is.
        (Noisy, "dft", 2),
        (Noisy, "kl", 1),
        (Noisy, dft_loss, 1),
        # kl needs no differentiable score.
        (Detached, "kl", 1),
    ],
)
def test_every_evaluation_of_the_score_is_counted(target, method, scores):
    scored = target()
    sampler = train(scored, method=method)
    assert sampler.gradient_evaluations == scored.points == 8 + scores * 6 * 16


def test_a_loss_that_a_stochastic_score_would_bias_is_refused():
    with pytest.raises(ValueError, match="stochastic, which biases method 'fisher'"):
        train(Noisy(), method="fisher")


# ------------------------------------------------------------------------------ the alternation


def alternation(sigma: Any, tempering: Any = 1.0, **options: Any) -> Alternation:
    given = {"differentiable": True, "latent_dim": 2, "rows": 4, "pretraining": 0, "rate": 1e-3}
    given |= {"method": "dft"}
    given |= {"sigma": sigma, "tempering": tempering, "noised": False, "score_steps": 0} | options
    torch.manual_seed(0)
    score_network = ScoreNetwork(2, hidden=(8,), conditional=isinstance(sigma, LogUniform))
    given |= {"generator": torch.Generator().manual_seed(0)}
    return Alternation(
        GAUSSIAN, SamplerNetwork(2, 2, hidden=(8,)), score_network, dft_loss, **given
    )


@pytest.mark.parametrize(("sigma", "batches"), [(0.1, 1), (LAW, 3)])
def test_noise_comes_in_pairs_of_both_signs_that_share_the_rest(sigma, batches):
    x0, noise, level = alternation(sigma)._draw(batches * 4, graph=False)
    assert x0.shape == noise.shape == (batches * 8, 2)
    for points, sign in ((x0, 1), (noise, -1)):
        first, second = points.view(batches, 2, 4, 2).unbind(1)
        assert torch.equal(second, sign * first)
        assert len(first.reshape(-1, 2).unique(dim=0)) == batches * 4
    if sigma is LAW:
        first, second = level.view(batches, 2, 4).unbind(1)
        assert torch.equal(first, second)
        assert len(first.unique()) == batches * 4


def test_points_count_with_their_noise_where_the_target_is_noised_by_a_law():
    made = alternation(LAW, noised=True)
    value, _ = made(1)
    made.generator.manual_seed(0)
    x0, noise, sigma = made._draw(4, graph=True)
    scores = made._target_score(sigma, 1), lambda x: made.score_network(x, sigma)
    expected = dft_loss(*scores, x0, noise, sigma, weight=sigma[:, 0] ** 2)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tempering_multiplies_the_score_of_the_target():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    made = alternation(0.1, tempering=geometric(0.25, 1.0, 2))
    for step, beta in ((0, 0.25), (1, 0.5), (2, 1.0), (5, 1.0)):
        assert torch.allclose(made._target_score(0.1, step)(x), beta * GAUSSIAN.score(x))


def test_each_network_has_its_own_rate_and_the_warm_up_is_of_the_sampler_alone():
    seen: dict[bool, list[float]] = {True: [], False: []}
    network = SamplerNetwork(2, 2, hidden=(8,))

    def watch(optimiser: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        (group,) = optimiser.param_groups
        own = any(p is group["params"][0] for p in network.parameters())
        seen[own].append(group["lr"])

    rates = {
        "learning_rate": linear_decay(0.25, 10, share=0.4, warmup=200),
        "score_learning_rate": linear_decay(0.5, 10, share=0.4),
    }
    handle = register_optimizer_step_pre_hook(watch)
    try:
        train(sampler=network, steps=10, score_steps=1, **rates)
    finally:
        handle.remove()
    falling = [1, 1, 1, 1, 1, 1, 1, 0.7625, 0.525, 0.2875]
    # A warm-up of a fifth of all steps at most.
    rising = [1 / 3, 2 / 3, *[1] * 8]
    expected = [0.25 * a * b for a, b in zip(falling, rising, strict=True)]
    assert seen[True] == pytest.approx(expected)
    # After as many steps of pretraining as there are steps.
    assert seen[False] == pytest.approx([0.5] * 10 + [0.5 * a for a in falling])


def test_schedules():
    ramp = geometric(1.6, 0.1, 4)
    assert [ramp(k) for k in (0, 1, 4, 9)] == pytest.approx([1.6, 0.8, 0.1, 0.1])
    draws = LogUniform(0.1, 10.0).draw(20_000, torch.Generator().manual_seed(0)).log10()
    assert -1 <= draws.min() <= draws.max() <= 1
    assert float(draws.mean()) == pytest.approx(0, abs=0.02)
    assert float(draws.std()) == pytest.approx(2 / math.sqrt(12), rel=0.02)


# -------------------------------------------------------------------------------------- failures


def test_a_score_that_turns_nan_stops_and_keeps_good_weights():
    with pytest.raises(TrainingDiverged, match="score is NaN or infinite at 16 of 16") as caught:
        train(Cliff(8 + 3 * 16))
    error = caught.value
    assert error.step == len(error.history.loss) == 3
    assert error.history.stopped == "diverged"
    assert error.model.sample(10).isfinite().all()
    assert pickle.loads(pickle.dumps(error)).step == 3


@pytest.mark.parametrize(
    ("name", "rate"),
    # Above all bounds after the first step; the score network explodes.
    [("learning_rate", 1e6), ("score_learning_rate", 1e30)],
)
def test_an_exploding_training_goes_back_to_weights_that_were_good(name, rate):
    with pytest.raises(TrainingDiverged) as caught:
        train(Donut(), **{name: lambda step: rate})
    sampler = caught.value.model
    x = sampler.sample(1000, seed=0)
    assert x.abs().max() < 100
    with torch.no_grad():
        assert sampler.score_network(x).isfinite().all()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (GAUSSIAN, {"sampler": MLP(2, 3, hidden=(8,))}, r"\(8, 3\), expected \(8, 2\) for the tar"),
        (Cliff(0), {}, "the score of Cliff .* is NaN or infinite at 8 of them"),
        (Detached(), {}, "the score of Detached does not depend on the points differentiably"),
        (object(), {}, "expected a galflow_lite.targets.Target"),
    ],
)
def test_what_cannot_be_trained_is_named_before_the_first_step(target, options, message):
    with pytest.raises(ValueError, match=message):
        train(target, **options)


# ------------------------------------------------------------------------------ several at once


def double(seed: int, **sizes) -> SamplerNetwork:
    torch.manual_seed(seed)
    return SamplerNetwork(sizes.get("latent_dim", 2), 2, hidden=(8, 8)).double()


def same(one: ImplicitSampler, other: ImplicitSampler, error: float = 1e-10) -> bool:
    """Whether two trainings ended alike: networks, losses and what they cost."""
    for name in ("network", "score_network"):
        pairs = zip(getattr(one, name).parameters(), getattr(other, name).parameters(), strict=True)
        if not all(torch.allclose(a, b, rtol=0, atol=error) for a, b in pairs):
            return False
    return (
        one.history.loss == pytest.approx(other.history.loss, rel=1e-4, abs=error)
        and one.history.logs["score_loss"]
        == pytest.approx(other.history.logs["score_loss"], rel=1e-4, abs=error)
        and one.gradient_evaluations == other.gradient_evaluations
        and one.history.stopped == other.history.stopped
    )


@pytest.mark.parametrize("name", ["plain", *OPTIONS])
def test_several_seeds_end_where_each_would_alone(name):
    options, target = OPTIONS.get(name, {}), BENCHMARKS["mog2"]()
    alone = [train(target, seed=k, sampler=double(k, **options), **options) for k in (3, 5)]
    networks = [double(k, **options) for k in (3, 5)]
    together = train(target, seed=[3, 5], sampler=networks, **options)
    assert all(map(same, alone, together))
    assert [sampler.network for sampler in together] == networks
    assert not same(*together)
    plain = train(target, seed=3, sampler=double(3))
    assert name in ("plain", "large latent") or not same(alone[0], plain)


def test_several_targets_and_methods_end_where_each_would_alone():
    targets = [GAUSSIAN, GAUSSIAN, GaussianMixture([[0.0, 0.0], [4.0, 0.0]], 1.0)]
    targets += [Scored(), Scored()]
    methods = ["dft", "kl", "kl", "kl", "fisher"]
    together = train(targets, method=methods)
    alone = [train(target, method=method) for target, method in zip(targets, methods, strict=True)]
    assert all(same(a, b, 1e-5) for a, b in zip(alone, together, strict=True))
    again = train(targets, method=methods, sampler=together)
    assert not any(
        torch.equal(weights(a), weights(b)) for a, b in zip(again, together, strict=True)
    )
    # A share of the time of all.
    assert len({sampler.history.seconds for sampler in together}) == 1


class Kinked(Cliff):
    """After some points its score stays finite and its derivative becomes NaN."""

    def _scored(self, x: Tensor) -> Tensor:
        return -x if self.points <= self.last else -x + (x - x).sqrt()


@pytest.mark.parametrize("last", [Cliff, Kinked])
def test_a_training_that_diverges_leaves_the_others_alone(last):
    def targets() -> list[Target]:
        return [Scored(), last(8 + 2 * 16), Scored()]

    alone = []
    for target in targets():
        try:
            alone.append(train(target, steps=9))
        except TrainingDiverged as error:
            alone.append(error.model)
    with pytest.warns(RuntimeWarning, match=r"training 1 of 3 diverged at step [23]: .*(NaN|nan)"):
        together = train(targets(), steps=9)
    assert [sampler.history.stopped for sampler in together] == ["finished", "diverged", "finished"]
    assert all(same(a, b, 1e-5) for a, b in zip(alone, together, strict=True))
    with pytest.warns(RuntimeWarning, match=r"training \d of 2 diverged"):
        both = train([last(40), last(40)], steps=9)
    assert all(same(sampler, alone[1], 1e-5) for sampler in both)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": [0, 1], "method": ["kl"] * 3},
        {"seed": [0, 1], "sampler": SamplerNetwork(2, 2)},
        {"seed": [0, 1], "sampler": [SamplerNetwork(2, 2), SamplerNetwork(3, 2)]},
        {"seed": [0, 1], "sampler": [MLP(2, 2, hidden=(8,)) for _ in range(2)]},
    ],
)
def test_trainings_that_cannot_share_a_model_are_refused(options):
    with pytest.raises(ValueError, match="found .*expected|maps latent points|zip"):
        train(**options)


# --------------------------------------------------------------------------------------- samples


def test_samples_with_a_seed_and_with_noise():
    sampler = train()
    x = sampler.sample(np.int64(100), seed=np.int64(3))
    assert x.shape == (100, 2)
    assert not x.requires_grad
    assert torch.equal(sampler.sample(100, seed=3), x)
    assert not torch.equal(sampler.sample(100, seed=4), x)
    noise = sampler.sample(100_000, seed=3, noisy=True) - sampler.sample(100_000, seed=3)
    assert noise.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.02)
    assert not torch.equal(sampler.sample(5), sampler.sample(5))
    copied = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(copied.sample(100, seed=3), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [SamplerNetwork, partial(MLP, activation=nn.SiLU)])
def test_networks_are_trained_in_place_and_in_their_type(make, dtype):
    network = make(3, 2, hidden=(8,)).to(dtype)
    before = copy.deepcopy(network)
    sampler = train(sampler=network, latent_dim=3)
    assert sampler.network is network
    for old, new in zip(before.parameters(), network.parameters(), strict=True):
        assert sampler.sample(20, seed=0).dtype == new.dtype == dtype
        assert not torch.equal(old, new)


# --------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("method", recipes.ONE_STEP)
def test_recipes_can_be_trained_and_tempered_stages_end_at_the_target_itself(method):
    """A ramp that is longer than its stage would leave the sampler at another density."""
    for stage in recipes.ONE_STEP[method]:
        tempering = stage.get("tempering", 1.0)
        last = [value_at(tempering, step) for step in range(stage["steps"] - 100, stage["steps"])]
        assert last == [1.0] * 100
    shorter = [{**stage, "steps": 3, "batch": 8} for stage in recipes.ONE_STEP[method]]
    sampler = recipes.train_stages(BENCHMARKS["mog2_hard"](), shorter, seed=0)
    assert sampler.sample(5).shape == (5, 2)


def test_stages_go_on_from_one_another_and_their_costs_add():
    stage = {"method": "kl", "steps": 3, "batch": 8}
    alone, both = (
        recipes.train_stages(GAUSSIAN, (stage, {**stage, "method": "dft"})[:n], seed=0)
        for n in (1, 2)
    )
    assert both.gradient_evaluations == 2 * alone.gradient_evaluations
    assert both.history.seconds > alone.history.seconds / 10
    difference = (weights(alone) - weights(both)).abs()
    assert 0 < difference.max() < 0.1


def test_stages_of_several_trainings_end_where_each_would_alone():
    def trained(target: Any, seed: Any, sampler: Any) -> Any:
        stages = [{"method": method, "steps": 5, "batch": 16} for method in ("kl", "dft")]
        return recipes.train_stages(target, stages, seed=seed, sampler=sampler)

    targets = [GAUSSIAN, BENCHMARKS["mog2"](), Cliff(8 + 2 * 16)]
    alone = [trained(targets[k], k, double(k)) for k in range(2)]
    # It diverges in the first stage and has no second one.
    with pytest.raises(TrainingDiverged) as error:
        trained(Cliff(8 + 2 * 16), 2, double(2))
    with pytest.warns(RuntimeWarning, match="training 2 of 3 diverged"):
        together = trained(targets, range(3), [double(k) for k in range(3)])
    assert all(map(same, [*alone, error.value.model], together))
