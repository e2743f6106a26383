"""Parts of the loop that trains a sampler, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_samplers import GAUSSIAN, train, weights
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from galflow_lite.neural_samplers import (
    LogUniform,
    SamplerNetwork,
    ScoreNetwork,
    dft_loss,
    fisher_loss,
    geometric,
    kl_loss,
)
from galflow_lite.neural_samplers.loop import Loop
from galflow_lite.neural_samplers.options import Options

OPTIONS: dict[str, Any] = {
    "method": "dft",
    "steps": 6,
    "sigma": 0.1,
    "noised": False,
    "noise_weight": 0.0,
    "tempering": 1.0,
    "alpha": 0.5,
    "distance": "squared",
    "c": 1.0,
    "trace": "exact",
    "independent_scores": False,
    "antithetic": True,
    "batch": 8,
    "score_steps": 3,
    "pretrain": 0,
    "learning_rate": 1e-3,
    "score_learning_rate": 2e-3,
    "betas": (0.0, 0.99),
    "warmup": 0,
    "decay": 0.0,
    "decay_to": 0.05,
    "clip_norm": None,
    "ema_decay": None,
}
LAW = LogUniform(0.1, 1.0)


@pytest.fixture(autouse=True)
def _the_same_networks() -> None:
    torch.manual_seed(0)


def options(**changes: Any) -> Options:
    return Options(**{**OPTIONS, **changes})


def loop(**changes: Any) -> Loop:
    law = isinstance(changes.get("sigma"), LogUniform)
    network = SamplerNetwork(2, 2, hidden=(8,))
    score_network = ScoreNetwork(2, hidden=(8,), conditional=law)
    return Loop(GAUSSIAN, network, score_network, 2, options(**changes), seed=0)


@contextmanager
def steps_of_adam(score_network: nn.Module) -> Iterator[dict[str, list[tuple[float, float]]]]:
    """Learning rate and norm of the gradient in each step, of the sampler and of its score."""
    seen: dict[str, list[tuple[float, float]]] = {"sampler": [], "score": []}

    def watch(optimiser: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        (group,) = optimiser.param_groups
        norm = torch.cat([p.grad.flatten() for p in group["params"]]).norm()
        own = any(p is group["params"][0] for p in score_network.parameters())
        seen["score" if own else "sampler"].append((group["lr"], float(norm)))

    handle = register_optimizer_step_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("sigma", [0.1, LAW])
def test_noise_comes_in_pairs_of_both_signs_that_share_the_rest(batches, sigma):
    made = loop(sigma=sigma)
    assert made.rows == 4
    x0, noise, level = made._draw(batches * made.rows, 0, graph=False)
    assert x0.shape == noise.shape == (batches * 8, 2)
    for points, sign in ((x0, 1), (noise, -1)):
        first, second = points.view(batches, 2, 4, 2).unbind(1)
        assert torch.equal(second, sign * first)
        assert len(first.reshape(-1, 2).unique(dim=0)) == batches * 4
    if sigma is LAW:
        assert level.shape == (batches * 8, 1)
        first, second = level.view(batches, 2, 4).unbind(1)
        assert torch.equal(first, second)
        assert len(first.unique()) == batches * 4
    else:
        assert level == 0.1


def test_noise_without_pairs():
    made = loop(antithetic=False, sigma=LAW)
    for points in made._draw(16, 0, graph=False):
        assert len(points) == len(points.unique(dim=0)) == 16


def test_only_the_draws_of_the_sampler_carry_a_graph():
    made = loop()
    assert made._draw(4, 0, graph=True)[0].requires_grad
    assert not made._draw(4, 0, graph=False)[0].requires_grad


def test_the_average_of_the_weights():
    """The share of the old average is min(ema_decay, (1 + step) / (10 + step))."""
    seen = []
    plain = {"learning_rate": 0.1, "warmup": 0, "decay": 0.0}
    train(**plain, ema_decay=None, callback=lambda k, s: seen.append(weights(s)), callback_every=1)
    first, second, third = seen[:3]
    assert (second - first).abs().max() > 0.05
    after = []
    train(**plain, callback=lambda k, s: after.append(weights(s)), callback_every=1)
    assert torch.equal(after[0], first)
    expected = 0.1 * first + 0.9 * second
    assert torch.allclose(after[1], expected, atol=1e-6)
    assert torch.allclose(after[2], 2 / 11 * expected + 9 / 11 * third, atol=1e-6)
    after.clear()
    train(**plain, ema_decay=0.05, callback=lambda k, s: after.append(weights(s)), callback_every=1)
    assert torch.allclose(after[1], 0.05 * first + 0.95 * second, atol=1e-6)


def test_clipping_bounds_what_the_optimiser_gets_and_not_what_the_history_says():
    score_network = ScoreNetwork(2, hidden=(8,))
    with steps_of_adam(score_network) as seen:
        history = train(score_network=score_network, clip_norm=1e-3).history
    assert [norm for _, norm in seen["sampler"]] == pytest.approx([1e-3] * 6, rel=1e-2)
    assert min(history.gradient_norm) > 0.1
    # The score network is not clipped.
    assert min(norm for _, norm in seen["score"]) > 2e-3

    score_network = ScoreNetwork(2, hidden=(8,))
    with steps_of_adam(score_network) as seen:
        history = train(score_network=score_network, clip_norm=None).history
    assert [norm for _, norm in seen["sampler"]] == pytest.approx(history.gradient_norm)


def test_each_network_has_its_own_rate_and_the_warm_up_is_of_the_sampler_alone():
    score_network = ScoreNetwork(2, hidden=(8,))
    with steps_of_adam(score_network) as seen:
        train(
            score_network=score_network,
            steps=10,
            pretrain=2,
            score_steps=1,
            learning_rate=0.25,
            score_learning_rate=0.5,
            warmup=2,
            decay=0.4,
            decay_to=0.2,
        )
    falling = [1, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]
    rising = [1 / 3, 2 / 3, *[1] * 8]
    sampler = [0.25 * a * b for a, b in zip(falling, rising, strict=True)]
    assert [rate for rate, _ in seen["sampler"]] == pytest.approx(sampler)
    assert [rate for rate, _ in seen["score"]] == pytest.approx(
        [0.5] * 2 + [0.5 * a for a in falling]
    )


@pytest.mark.parametrize(
    ("fall", "expected"),
    [
        ((0.5, 0.0), [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ((1.0, 0.2), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        ((0.0, 0.0), [1] * 8),
        ((0.5, 1.0), [1] * 8),
    ],
)
def test_the_fall_of_the_rates(fall, expected):
    falling = options(steps=8, decay=fall[0], decay_to=fall[1])
    assert [falling.rate_factor(k) for k in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"),
    [
        (100, 4, [0.2, 0.4, 0.6, 0.8, 1, 1]),
        # No more than a fifth of all steps.
        (10, 200, [1 / 3, 2 / 3, 1, 1]),
        (4, 200, [1, 1, 1, 1]),
        (100, 0, [1, 1, 1]),
    ],
)
def test_the_rise_of_the_rate(steps, warmup, expected):
    rising = options(steps=steps, warmup=warmup)
    assert [rising.warmup_factor(k) for k in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["dft", "fisher", "kl"])
def test_points_count_with_a_power_of_their_noise(method):
    made = loop(method=method, sigma=LAW, noise_weight=1.5)
    x0, noise, sigma = made._draw(made.rows, 0, graph=True)

    def score(x: Tensor) -> Tensor:
        return made.score_network(x, sigma)

    target = GAUSSIAN.differentiable_score
    weight = sigma[:, 0] ** 1.5
    if method == "dft":
        expected = dft_loss(target, score, x0, noise, sigma, weight=weight)
    else:
        by_points = {"fisher": fisher_loss, "kl": kl_loss}[method]
        expected = by_points(target, score, x0 + sigma * noise, weight=weight)
    assert made._loss(x0, noise, sigma, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    made.options.noise_weight = 0.0
    assert made._loss(x0, noise, sigma, 0).item() != pytest.approx(expected.item(), rel=1e-2)


def test_the_default_power_depends_on_the_noise_of_the_target():
    for noised, power in ((True, 2.0), (False, 0.0)):
        made = weights(train(sigma=LAW, noised=noised))
        assert torch.equal(made, weights(train(sigma=LAW, noised=noised, noise_weight=power)))
        assert not torch.equal(made, weights(train(sigma=LAW, noised=noised, noise_weight=1.0)))


@pytest.mark.parametrize("method", ["dft", "kl"])
@pytest.mark.parametrize("noised", [False, lambda x, sigma: -x / (1 + sigma**2)])
def test_tempering_multiplies_the_score_of_the_target(method, noised):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    plain = loop(method=method, noised=noised).target_score(0.1, 0)(x)
    constant = loop(method=method, noised=noised, tempering=0.25)
    assert torch.allclose(constant.target_score(0.1, 0)(x), 0.25 * plain)
    ramp = loop(method=method, noised=noised, tempering=geometric(0.25, 1.0, 2))
    for step, beta in ((0, 0.25), (1, 0.5), (2, 1.0), (5, 1.0)):
        assert torch.allclose(ramp.target_score(0.1, step)(x), beta * plain)
    assert ramp.history.gradient_evaluations == 4 * 5
