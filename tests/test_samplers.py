"""Training of implicit samplers: what is reached, what stops it, what is kept."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_samplers import GAUSSIAN, Cliff, Detached, Fenced, Noisy, Scored, train, weights
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import galflow_lite.samplers
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
from galflow_lite.samplers.alternating_training import _Alternation
from galflow_lite.samplers.losses import value_at
from galflow_lite.targets import (
    BENCHMARKS,
    BayesianLogisticRegression,
    Donut,
    GaussianMixture,
)
from galflow_lite.training import TrainingDiverged

LAW = LogUniform(0.1, 1.0)


@pytest.mark.parametrize(
    ("name", "method", "steps"),
    [
        ("mog2", "dft", 300),
        ("gaussian", "kl", 150),
        ("gaussian", "fisher", 150),
    ],
)
def test_a_short_training_reaches_the_floor(name, method, steps):
    target = BENCHMARKS[name]()
    sampler = train_sampler(target, method=method, steps=steps, progress=False)
    values = [ksd(sampler.sample(500, seed=k), target).value for k in range(5)]
    assert sum(values) / 5 < 1.5 * ksd_floor(target.mean_square_score, 2, 500)
    # The floor also takes samples that miss a mode: weights, and a distance to exact samples.
    if name == "mog2":
        assert mode_weights(sampler.sample(4000, seed=0), target).largest_deviation < 0.15
    else:
        # A sampler as it begins is 0.05 to 0.06 away.
        exact = target.sample(2000, seed=8)
        assert energy_distance(sampler.sample(2000, seed=9), exact).value < 0.02
    history = sampler.history
    assert history.stopped == "finished"
    assert len(history.loss) == len(history.logs["score_loss"]) == steps
    # Half a batch is looked at before the first step.
    assert sampler.gradient_evaluations == 128 + steps * 256


def test_kl_with_a_noised_target_finds_both_far_modes():
    target = BENCHMARKS["mog2_hard"]()
    law = LogUniform(geometric(0.5, 0.05, 160), 5.0)
    sampler = train_sampler(target, method="kl", steps=200, sigma=law, noised=True, progress=False)
    assert mode_weights(sampler.sample(4000, seed=0), target).largest_deviation < 0.1
    assert sampler.sigma == pytest.approx(0.05)


def test_the_same_seed_gives_the_same_sampler_and_another_one_another():
    first, again, other = train(), train(seed=np.int64(0)), train(seed=1)
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


def test_training_leaves_randomness_threads_and_accelerators_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.default_generator.manual_seed(5)
    threads, seen[:] = torch.get_num_threads(), []
    with torch.no_grad():
        sampler = train()
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not seen
    assert torch.equal(weights(sampler), weights(train()))


OPTIONS = {
    "pseudo-huber": {"method": "pseudo-huber"},
    "a loss of one's own": {"method": partial(dft_loss, alpha=1.0)},
    "annealed": {"sigma": geometric(1.5, 0.1, 4)},
    "law": {"sigma": LAW},
    "noised": {"sigma": LAW, "noised": True},
    "noised, one level": {"noised": True},
    "tempered": {"tempering": geometric(0.1, 1.0, 4)},
    "large latent": {"latent_dim": 5},
    "small latent": {"latent_dim": np.int64(1)},
    "no warm-up": {"learning_rate": linear_decay(1e-3, 6)},
    "many score steps at first": {"score_steps": lambda step: 5 if step < 2 else 1},
    "no score steps": {"score_steps": 0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_and_changes_the_result(name):
    sampler = train(**OPTIONS[name])
    assert sampler.sample(3, seed=0).isfinite().all()
    if "latent_dim" not in OPTIONS[name]:
        assert not torch.equal(weights(sampler), weights(train()))


def test_networks_of_your_own_are_trained_in_place_and_in_their_type():
    network = MLP(3, 2, hidden=(8,), activation=nn.SiLU).double()
    before = [p.detach().clone() for p in network.parameters()]
    sampler = train(sampler=network, latent_dim=3, sigma=LAW)
    assert sampler.network is network
    assert sampler.sample(4).dtype == torch.float64
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_default_networks():
    z = torch.randn(5, 4)
    for dim in (2, 4, 6):
        network = SamplerNetwork(4, dim, hidden=(8,))
        skip = torch.cat((z, torch.zeros(5, 2)), dim=1)[:, :dim]
        assert torch.allclose(network(z), network.mlp(z) + skip)
    score, sigma = ScoreNetwork(4, hidden=(8,), conditional=True), torch.full((5, 1), 2.0)
    expected = score.mlp(torch.cat((z / 3, sigma.log()), dim=1)) / 2
    assert torch.allclose(score(z, sigma), expected)


def test_a_training_goes_on_from_a_copy_of_a_sampler():
    first = train(latent_dim=3)
    kept = weights(first)
    second = train(sampler=first, learning_rate=1e-12, method="kl")
    assert second.latent_dim == 3
    assert torch.allclose(weights(second), kept, atol=1e-8)
    assert not torch.allclose(weights(train(sampler=first)), kept, atol=1e-5)
    assert torch.equal(weights(first), kept)


def test_callback_sees_the_sampler_as_it_would_be_returned():
    seen = {}
    sampler = train(steps=120, callback=lambda step, s: seen.update({step: weights(s)}))
    assert list(seen) == [0, 100, 120]
    assert torch.equal(seen[120], weights(sampler))
    assert not torch.equal(seen[100], weights(sampler))
    assert torch.equal(weights(train(steps=120)), weights(sampler))


@pytest.mark.parametrize("method", ["dft", "kl", "fisher", partial(dft_loss, alpha=1.2)])
def test_every_evaluation_of_the_score_is_counted(method):
    target = Scored()
    assert train(target, method=method).gradient_evaluations == target.points == 8 + 6 * 16


def test_a_stochastic_target_gets_two_scores_by_itself():
    assert train(Noisy()).gradient_evaluations == 8 + 2 * 6 * 16
    assert train(Noisy(), method="kl").gradient_evaluations == 8 + 6 * 16
    # A loss that is handed over is taken as it is.
    assert train(Noisy(), method=dft_loss).gradient_evaluations == 8 + 6 * 16


@pytest.mark.parametrize("method", ["fisher", "pseudo-huber"])
def test_a_loss_that_a_stochastic_score_would_bias_is_refused(method):
    with pytest.raises(ValueError, match=f"stochastic, which biases method '{method}': use 'kl'"):
        train(Noisy(), method=method)


def test_one_mini_batch_for_both_factors_adds_its_variance_to_the_loss():
    """The loss is quadratic in the score: one batch biases it, two independent ones do not."""
    rng = np.random.default_rng(0)
    design = rng.standard_normal((300, 4))
    labels = (rng.random(300) < 1 / (1 + np.exp(-design @ [1.5, -1.0, 0.5, 0.0]))).astype(int)
    posterior = BayesianLogisticRegression(design, labels, bias=True)
    exact, batches = posterior.whitened(), posterior.with_batches(60, seed=1).whitened()
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 20, exact.dim, generator=generator, dtype=torch.float64)

    def loss(target, independent: bool) -> float:
        return float(
            dft_loss(target.score, lambda x: -x, x0, noise, 0.1, independent_scores=independent)
        )

    draws = torch.stack([batches.score(x0 + 0.1 * noise) for _ in range(500)])
    variance = float(draws.var(0).sum(1).mean())
    one, two = (
        torch.tensor([loss(batches, independent) for _ in range(500)]) for independent in (0, 1)
    )
    full = loss(exact, False)
    assert abs(float(two.mean()) - full) < 4 * float(two.std()) / 500**0.5
    error = float(one.std()) / 500**0.5
    assert abs(float(one.mean()) - full - variance) < 4 * error + 0.03 * variance
    assert variance > 10 * error


# ------------------------------------------------------------------------------ the alternation


def alternation(**options: Any) -> _Alternation:
    given = {
        "differentiable": True,
        "latent_dim": 2,
        "rows": 4,
        "pretraining": 0,
        "sigma": 0.1,
        "noised": False,
        "tempering": 1.0,
        "score_steps": 3,
        "rate": 1e-3,
        "generator": torch.Generator().manual_seed(0),
    }
    given |= options
    torch.manual_seed(0)
    conditional = isinstance(given["sigma"], LogUniform)
    network = SamplerNetwork(2, 2, hidden=(8,))
    score_network = ScoreNetwork(2, hidden=(8,), conditional=conditional)
    return _Alternation(GAUSSIAN, network, score_network, dft_loss, **given)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("sigma", [0.1, LAW])
def test_noise_comes_in_pairs_of_both_signs_that_share_the_rest(batches, sigma):
    x0, noise, level = alternation(sigma=sigma)._draw(batches * 4, 0, graph=False)
    assert x0.shape == noise.shape == (batches * 8, 2)
    for points, sign in ((x0, 1), (noise, -1)):
        first, second = points.view(batches, 2, 4, 2).unbind(1)
        assert torch.equal(second, sign * first)
        assert len(first.reshape(-1, 2).unique(dim=0)) == batches * 4
    if sigma is LAW:
        first, second = level.view(batches, 2, 4).unbind(1)
        assert torch.equal(first, second)
        assert len(first.unique()) == batches * 4
    else:
        assert level == 0.1


def test_points_count_with_their_noise_where_the_target_is_noised_by_a_law():
    made = alternation(sigma=LAW, noised=True, score_steps=0)
    value, _ = made(1)
    made.generator.manual_seed(0)
    x0, noise, sigma = made._draw(4, 1, graph=True)
    expected = dft_loss(
        made._target_score(sigma, 1),
        lambda x: made.score_network(x, sigma),
        x0,
        noise,
        sigma,
        weight=sigma[:, 0] ** 2,
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tempering_multiplies_the_score_of_the_target():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    made = alternation(tempering=geometric(0.25, 1.0, 2))
    for step, beta in ((0, 0.25), (1, 0.5), (2, 1.0), (5, 1.0)):
        assert torch.allclose(made._target_score(0.1, step)(x), beta * GAUSSIAN.score(x))


def test_each_network_has_its_own_rate_and_the_warm_up_is_of_the_sampler_alone():
    seen: dict[str, list[float]] = {"sampler": [], "score": []}
    network = SamplerNetwork(2, 2, hidden=(8,))

    def watch(optimiser: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        (group,) = optimiser.param_groups
        own = any(p is group["params"][0] for p in network.parameters())
        seen["sampler" if own else "score"].append(group["lr"])

    handle = register_optimizer_step_pre_hook(watch)
    try:
        train(
            sampler=network,
            steps=10,
            score_steps=1,
            learning_rate=linear_decay(0.25, 10, share=0.4, warmup=2),
            score_learning_rate=linear_decay(0.5, 10, share=0.4),
        )
    finally:
        handle.remove()
    falling = [1, 1, 1, 1, 1, 1, 1, 0.7625, 0.525, 0.2875]
    rising = [1 / 3, 2 / 3, *[1] * 8]
    expected = [0.25 * a * b for a, b in zip(falling, rising, strict=True)]
    assert seen["sampler"] == pytest.approx(expected)
    # After as many steps of pretraining as there are steps.
    assert seen["score"] == pytest.approx([0.5] * 10 + [0.5 * a for a in falling])


def test_schedules():
    ramp = geometric(1.6, 0.1, 4)
    assert [ramp(k) for k in (0, 1, 4, 9)] == pytest.approx([1.6, 0.8, 0.1, 0.1])
    assert pickle.loads(pickle.dumps(ramp))(1) == ramp(1)
    # A warm-up of a fifth of all steps at most.
    assert [linear_decay(1, 10, share=0, warmup=200)(k) for k in (0, 1, 2, 9)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1]
    )
    draws = LogUniform(0.1, 10.0).draw(20_000, 0, torch.Generator().manual_seed(0)).log10()
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


@pytest.mark.parametrize("method", ["dft", "kl", "fisher"])
def test_a_score_that_is_nan_where_the_noise_leads_is_named(method):
    inside = nn.Linear(2, 2, bias=False)
    nn.init.constant_(inside.weight, 1e-3)
    with pytest.raises(TrainingDiverged, match=r"score is NaN or infinite at \d+ of 16"):
        train(Fenced(), method=method, sampler=inside, sigma=1.0)


@pytest.mark.parametrize(
    "options",
    [
        # Above all bounds after the first step.
        {"learning_rate": lambda step: 1e6},
        # The score network explodes.
        {"score_learning_rate": lambda step: 1e30},
    ],
)
def test_an_exploding_training_goes_back_to_weights_that_were_good(options):
    with pytest.raises(TrainingDiverged) as caught:
        train(Donut(), **options)
    sampler = caught.value.model
    x = sampler.sample(1000, seed=0)
    assert x.abs().max() < 100
    with torch.no_grad():
        assert sampler.score_network(x).isfinite().all()


class Own:
    """A density that knows nothing of this package."""

    dim = 2

    def log_prob(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (GAUSSIAN, {"sampler": MLP(2, 3, hidden=(8,))}, r"\(8, 3\), expected \(8, 2\) for the tar"),
        (Cliff(0), {}, "the score of Cliff .* is NaN or infinite at 8 of them"),
        (Detached(), {}, "the score of Detached does not depend on the points differentiably"),
        (
            Own(),
            {},
            "expected a galflow_lite.targets.Target: wrap its log density, targets.FromLog",
        ),
    ],
)
def test_what_cannot_be_trained_is_named_before_the_first_step(target, options, message):
    with pytest.raises(ValueError, match=message):
        train(target, **options)


def test_kl_needs_no_differentiable_score():
    assert train(Detached(), method="kl").history.stopped == "finished"


def test_ctrl_c_keeps_what_was_reached():
    def interrupt(step: int, sampler: ImplicitSampler) -> None:
        if step == 100:
            raise KeyboardInterrupt

    sampler = train(steps=300, callback=interrupt)
    assert sampler.history.stopped == "interrupted"
    assert len(sampler.history.loss) == 100
    assert sampler.sample(3, seed=0).isfinite().all()


# ----------------------------------------------------------------------------------- checkpoints


def test_a_resumed_training_gives_the_same_result(tmp_path):
    path, options = tmp_path / "state.safetensors", {"steps": 150, "sigma": LAW}
    whole = train(**options)

    class Stop(Exception):
        pass

    def stop(step: int, sampler: ImplicitSampler) -> None:
        if step == 100:
            raise Stop

    with pytest.raises(Stop):
        train(callback=stop, checkpoint=path, **options)
    resumed = train(checkpoint=path, **options)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.loss == whole.history.loss
    assert resumed.gradient_evaluations > 0
    # A finished one is read, not trained again.
    assert torch.equal(weights(train(checkpoint=path, **options)), weights(whole))


def mixture(share: float = 0.5, distance: float = 4.0) -> GaussianMixture:
    return GaussianMixture([[0.0, 0.0], [distance, 0.0]], 1.0, [share, 1 - share])


# A call of each makes all arguments anew, as a second run of a script does.
BEFORE: dict[str, Callable[[], dict[str, Any]]] = {
    "a mixture": lambda: {"target": mixture()},
    "a stochastic target": lambda: {"target": Noisy()},
    "a ramp": lambda: {"tempering": geometric(0.1, 1.0, 4)},
    "a law": lambda: {"sigma": LogUniform(geometric(1.0, 0.1, 4), 2.0)},
    "a function": lambda: {"score_steps": lambda step: 2},
}
AFTER: dict[str, dict[str, Any]] = {
    "a mixture": {"target": mixture(distance=4.1)},
    "a stochastic target": {"target": Scored()},
    "a ramp": {"tempering": geometric(0.1, 1.0, 3)},
    "a law": {"sigma": LogUniform(geometric(1.0, 0.1, 4), 2.1)},
    "a function": {"score_steps": lambda step: 1 + step},
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_made_anew_goes_on_and_another_training_is_refused(name, tmp_path):
    path = tmp_path / "state.safetensors"
    first = train(**BEFORE[name](), checkpoint=path)
    again = train(**BEFORE[name](), checkpoint=path)
    assert torch.equal(weights(first), weights(again))
    for other in (AFTER[name], {**BEFORE[name](), "seed": 1}):
        with pytest.raises(ValueError, match="belongs to another training"):
            train(**other, checkpoint=path)


# --------------------------------------------------------------------------------------- samples


def test_samples_with_a_seed_and_with_noise():
    sampler = train()
    x = sampler.sample(np.int64(100), seed=np.int64(3))
    assert x.shape == (100, 2)
    assert not x.requires_grad
    assert torch.equal(sampler.sample(100, seed=3), x)
    assert not torch.equal(sampler.sample(100, seed=4), x)
    assert sampler.sample(0).shape == (0, 2)
    noise = sampler.sample(100_000, seed=3, noisy=True) - sampler.sample(100_000, seed=3)
    assert noise.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.02)
    torch.manual_seed(0)
    first = sampler.sample(5)
    assert not torch.equal(first, sampler.sample(5))
    torch.manual_seed(0)
    assert torch.equal(first, sampler.sample(5))
    with pytest.raises(NotImplementedError, match="an implicit sampler has no density, only samp"):
        sampler.log_prob(x)


def test_saved_and_loaded(tmp_path):
    sampler = train(latent_dim=3)
    path = tmp_path / "new" / "sampler.safetensors"
    sampler.save(path)
    loaded = ImplicitSampler.load(path)
    assert torch.equal(loaded.sample(20, seed=0), sampler.sample(20, seed=0))
    assert (loaded.latent_dim, loaded.dim, loaded.sigma) == (3, 2, 0.1)
    copied = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(copied.sample(20, seed=0), sampler.sample(20, seed=0))

    double = train(sampler=SamplerNetwork(3, 2, hidden=(8,)).double())
    double.save(path)
    assert torch.equal(ImplicitSampler.load(path).sample(20, seed=0), double.sample(20, seed=0))

    own = train(sampler=MLP(2, 2, hidden=(8,), activation=nn.SiLU))
    own.save(path)
    with pytest.raises(ValueError, match="holds the weights of a network of your own, found none"):
        ImplicitSampler.load(path)
    again = ImplicitSampler.load(path, network=MLP(2, 2, hidden=(8,), activation=nn.SiLU))
    assert torch.equal(again.sample(20, seed=0), own.sample(20, seed=0))


# --------------------------------------------------------------------------------------- recipes


def test_the_former_name_of_the_room_is_the_room():
    from galflow_lite.neural_samplers.recipes import RECIPE, train_stages

    from galflow_lite import neural_samplers

    assert neural_samplers is galflow_lite.samplers
    assert RECIPE is recipes.RECIPE
    assert train_stages is recipes.train_stages


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
