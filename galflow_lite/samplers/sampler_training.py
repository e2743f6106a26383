"""train_sampler: a sampler and the score network that follows it, trained in turn by `fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..inputs import as_choice, as_number, as_whole, child_seed
from ..targets import Target
from ..targets.target import as_target
from ..training import TrainingDiverged, fit, threads
from .alternation import CLIP_NORM, Alternation, Together, _adam
from .implicit_sampler import ImplicitSampler, SamplerNetwork, ScoreNetwork
from .losses import LogUniform, Schedule, dft_loss, fisher_loss, kl_loss, linear_decay

# Steps of the score network before the first one of the sampler, as far as that takes as many.
_PRETRAINING = 500
# What holds the targets, methods, seeds or networks of several trainings.
_SEVERAL = (list, tuple, range)


def train_sampler(
    target: Target | Sequence[Target],
    *,
    method: str | Callable[..., Tensor] | Sequence[str | Callable[..., Tensor]] = "dft",
    steps: int = 2000,
    sampler: nn.Module | ImplicitSampler | Sequence[nn.Module | ImplicitSampler] | None = None,
    latent_dim: int | None = None,
    hidden: tuple[int, ...] = (64, 64, 64),
    sigma: float | LogUniform = 0.1,
    noised: bool = False,
    tempering: Schedule = 1.0,
    batch: int = 256,
    score_steps: Schedule = 3,
    learning_rate: Schedule = 1e-3,
    score_learning_rate: Schedule = 2e-3,
    seed: int | Sequence[int] = 0,
    progress: bool = True,
) -> ImplicitSampler | list[ImplicitSampler]:
    """Train a network that turns noise into samples of a target in one evaluation.

    In turn, `score_steps` steps of denoising score matching fit a network to the score of the
    noised sampler x = g(z) + sigma * noise, and one step of the sampler lowers a divergence from
    that distribution to the target, after arXiv:2411.01453 (DFT) and arXiv:2306.04952 (Fisher and
    KL). As in DFT the target is not noised unless `noised` asks for it, so keep sigma below its
    finest feature. Noise comes in pairs of both signs, gradients are clipped at norm 10, and what
    is returned has averaged weights. The settings are ours: those of the papers could not be read.

    Lists of targets, methods, seeds or samplers are so many trainings in one batched model, with
    about twice the throughput for eight small networks on one core: `seed=range(8)`, or
    `target=[a, b], method=["dft", "kl"]`. What is given once holds for all. Each is, to rounding,
    what it would be alone, if each has a stochastic target of its own. List those of one method,
    and of one target, side by side.

    A schedule is a function of the step, such as `geometric(0.05, 1, 1000)`; a number is the same
    at every step.

    Args:
        target: what to sample; a density of your own as `targets.FromLogDensity`.
        method: "dft" (`dft_loss`), "fisher" (`fisher_loss` of the same noised distribution), "kl"
            (`kl_loss`), or a loss of your own with
            the arguments of `dft_loss`, such as `partial(dft_loss, alpha=1.0)`; in several
            trainings these have the members on a leading axis, as the module `losses` says.
        steps: of the sampler.
        sampler: a network from z (n, latent_dim) to points (n, dim), which is trained in place, on
            its device and in its dtype; or an `ImplicitSampler`, of which a copy is trained on; by
            default a new `SamplerNetwork`, as several trainings need.
        latent_dim: columns of z ~ N(0, I); by default those of `sampler`, or of the target.
        hidden: hidden layers of the default networks.
        sigma: noise level, positive; or its distribution over points, `LogUniform`.
        noised: train towards the target noised as the sampler is, which DFT does not; for mixtures
            of Gaussians (`targets.Noised`). Where a distribution draws sigma, points count with
            sigma^2.
        tempering: the target's score is multiplied by this number or schedule; a ramp from small
            values to 1, `geometric(0.05, 1, ...)`, fills gaps between modes first.
        batch: points a step, for both networks; each pair of signs counts as two.
        score_steps: steps of the score network for one of the sampler; a number or a schedule.
        learning_rate: of the sampler. A number rises over 200 steps (mode weights go astray while
            the sampler runs ahead of its score network) and falls over the last 30 %, as
            `linear_decay` has it; a schedule is taken as it is.
        score_learning_rate: of the score network; a number falls alike and does not rise.
        seed: of the networks' first weights and of all draws but the mini-batches of a stochastic
            target, which come from its own generator.
        progress: show a bar; the environment variable GALFLOW_PROGRESS=0 hides all bars.

    Returns:
        An `ImplicitSampler` with its history. Ctrl-C returns the one reached so far, with
        `history.stopped == "interrupted"`. Of several trainings a list: the seconds of a history
        are then its share, and one that diverges stays at its last good weights, with
        `history.stopped == "diverged"`, while the others go on.

    Raises:
        TrainingDiverged: something became NaN, infinite or left all bounds; its `model`, with the
            score network, holds the last good weights.
        ValueError: dimensions that do not fit, a score that is NaN or not differentiable, or a
            stochastic one with a method that it would bias; lists of several lengths, or several
            trainings with other networks.
        NotImplementedError: `noised` for a target whose noised distribution is not known.

    Warns:
        RuntimeWarning: one of several trainings diverged, and why.
    """
    steps, batch = as_whole(steps, "steps", least=1), as_whole(batch, "batch", least=2)
    score_steps = score_steps if callable(score_steps) else as_whole(score_steps, "score_steps")
    if not callable(learning_rate):
        learning_rate = linear_decay(learning_rate, steps, warmup=200)
    if not callable(score_learning_rate):
        score_learning_rate = linear_decay(score_learning_rate, steps)

    def alone(target: Any, method: Any, seed: Any, sampler: Any) -> Alternation:
        target, seed = as_target(target), as_whole(seed, "seed")
        loss = _loss_of(method, target.stochastic)
        # `torch.manual_seed` would also seed accelerators, and they are not put back.
        torch.default_generator.manual_seed(child_seed(seed, "networks"))
        widths = tuple(as_whole(width, "a width of hidden", least=1) for width in hidden)
        network, latent = _network(target, sampler, latent_dim, widths)
        weight, law = next(network.parameters()), isinstance(sigma, LogUniform)
        score_network = ScoreNetwork(target.dim, hidden=widths, conditional=law)
        found = Alternation(
            target,
            network,
            score_network.to(weight.device, weight.dtype),
            loss,
            method=method,
            # The only loss that does not differentiate the target's score.
            differentiable=method != "kl",
            latent_dim=latent,
            rows=batch // 2,
            pretraining=min(_PRETRAINING, steps),
            sigma=sigma if law else as_number(sigma, "sigma", above=0),
            noised=noised,
            tempering=tempering,
            score_steps=score_steps,
            rate=score_learning_rate,
            generator=torch.Generator(weight.device).manual_seed(child_seed(seed, "training")),
        )
        found.look()
        return found

    # The caller may be in a block without gradients.
    with torch.random.fork_rng(devices=[]), threads(1), torch.enable_grad():
        each = each_of(target, method, seed, sampler)
        if each is None:
            training = alone(target, method, seed, sampler)
            own = {"optimizer": _adam, "clip_norm": CLIP_NORM}
        else:
            training = _together([alone(*one) for one in each])
            own = {"optimizer": training.clipped_adam}
        found = None
        try:
            history = fit(
                training,
                training.network,
                int,  # the batch of a step is the step itself: all else is drawn
                steps,
                schedule=learning_rate,
                ema_decay=0.99,
                extra_state={"score_network": training.score_network},
                progress=progress,
                description="sampler",
                **own,
            )
        except TrainingDiverged as error:
            found, history = error, error.history
            history.stopped = "diverged"
        result = training.trained(history)
        if each is None and found is not None:
            reason = training.what_is_wrong() or found
            text = f"{reason}; the model of this error holds the last good weights"
            raise TrainingDiverged(text, found.step, history, result) from None
        return result


def each_of(*given: Any) -> list[tuple] | None:
    """Target, method, seed and network of each of several trainings; None if there is but one."""
    lengths = {len(values) for values in given if isinstance(values, _SEVERAL)}
    if not lengths:
        return None
    k = max(lengths)
    return list(zip(*(v if isinstance(v, _SEVERAL) else [v] * k for v in given), strict=True))


def _together(members: list[Alternation]) -> Together:
    networks = [member.network for member in members]
    kinds = {(type(n), *((p.shape, p.dtype, p.device) for p in n.parameters())) for n in networks}
    alike = len(kinds) == 1 and type(networks[0]) is SamplerNetwork
    if not alike or len(set(networks)) < len(networks):
        raise ValueError(
            f"found {len(set(networks))} networks of {len(kinds)} kinds for {len(networks)} "
            "trainings, expected a SamplerNetwork of the same sizes for each: train these one by "
            "one"
        )
    return Together(members)


def _loss_of(method: str | Callable[..., Tensor], stochastic: bool) -> Callable[..., Tensor]:
    """The loss of a method, with the arguments of `dft_loss`.

    Raises:
        ValueError: a loss that a stochastic score would bias.
    """
    if callable(method):
        return method
    losses = {
        # Squares the score: one estimate of it would add its variance.
        "dft": partial(dft_loss, independent_scores=True) if stochastic else dft_loss,
        "fisher": _at_noised_points(fisher_loss),
        "kl": _at_noised_points(kl_loss),
    }
    as_choice(method, "method", losses)
    if stochastic and method == "fisher":
        raise ValueError(
            "the target's score is stochastic, which biases method 'fisher': use 'kl', 'dft' or "
            "the score of all data"
        )
    return losses[method]


def _at_noised_points(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of points x with the arguments of `dft_loss`, x being x0 + sigma * noise."""

    def noised(target_score, score_network, x0, noise, sigma, *, weight) -> Tensor:
        return loss(target_score, score_network, x0 + sigma * noise, weight=weight)

    return noised


def _network(
    target: Target, sampler: Any, latent_dim: int | None, hidden: tuple[int, ...]
) -> tuple[nn.Module, int]:
    latent_dim = latent_dim or getattr(sampler, "latent_dim", None) or target.dim
    if isinstance(sampler, ImplicitSampler):
        return copy.deepcopy(sampler.network).requires_grad_(True), latent_dim
    return sampler or SamplerNetwork(latent_dim, target.dim, hidden=hidden), latent_dim
