"""train_sampler: a sampler and the score network that follows it, trained in turn by `fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..inputs import as_choice, as_number, as_whole, child_seed
from ..targets import Noised, Target
from ..targets.target import as_target
from ..training import TrainingDiverged, fit, threads
from .implicit_sampler import ImplicitSampler, SamplerNetwork, ScoreNetwork
from .losses import (
    LogUniform,
    Schedule,
    dft_loss,
    fisher_loss,
    kl_loss,
    linear_decay,
    score_matching_loss,
    value_at,
)

# Steps of the score network before the first one of the sampler, as far as that takes as many.
_PRETRAINING = 500
# Spreads of the points at which a checkpoint knows a target again.
_SPREADS = (0.5, 1.0, 2.0, 4.0)


def train_sampler(
    target: Target,
    *,
    method: str | Callable[..., Tensor] = "dft",
    steps: int = 2000,
    sampler: nn.Module | ImplicitSampler | None = None,
    latent_dim: int | None = None,
    hidden: tuple[int, ...] = (64, 64, 64),
    sigma: Schedule | LogUniform = 0.1,
    noised: bool = False,
    tempering: Schedule = 1.0,
    batch: int = 256,
    score_steps: Schedule = 3,
    learning_rate: Schedule = 1e-3,
    score_learning_rate: Schedule = 2e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    callback: Callable[[int, ImplicitSampler], Any] | None = None,
    progress: bool = True,
) -> ImplicitSampler:
    """Train a network that turns noise into samples of a target in one evaluation.

    In turn, `score_steps` steps of denoising score matching fit a network to the score of the
    noised sampler x = g(z) + sigma * noise, and one step of the sampler lowers a divergence from
    that law to the target, after arXiv:2411.01453 (DFT) and arXiv:2306.04952 (Fisher and KL). As
    in DFT the target is not noised unless `noised` asks for it, so keep sigma below its finest
    feature. Noise comes in pairs of both signs, gradients are clipped at norm 10, and what is
    returned has averaged weights. The settings are ours: those of the papers could not be read.

    A schedule is a function of the step, such as `geometric(1.5, 0.1, 1000)`; a number is the same
    at every step.

    Args:
        target: what to sample; a density of your own as `targets.FromLogDensity`.
        method: "dft" (`dft_loss`), "pseudo-huber" (the same with that distance), "fisher"
            (`fisher_loss` of the same noised law), "kl" (`kl_loss`), or a loss of your own with
            the arguments of `dft_loss`, such as `partial(dft_loss, alpha=1.0)`.
        steps: of the sampler.
        sampler: a network from z (n, latent_dim) to points (n, dim), which is trained in place, on
            its device and in its dtype; or an `ImplicitSampler`, of which a copy is trained on; by
            default a new `SamplerNetwork`.
        latent_dim: columns of z ~ N(0, I); by default those of `sampler`, or of the target.
        hidden: hidden layers of the default networks.
        sigma: noise level, positive: a number, a schedule, or a law for each point, `LogUniform`.
        noised: train towards the target noised as the sampler is, which DFT does not; for mixtures
            of Gaussians (`targets.Noised`). Where a law draws sigma, points count with sigma^2.
        tempering: the target's score is multiplied by this number or schedule; a ramp from small
            values to 1, `geometric(0.05, 1, ...)`, fills gaps between modes first.
        batch: points a step, for both networks; each pair of signs counts as two.
        score_steps: steps of the score network for one of the sampler; a number or a schedule.
        learning_rate: of the sampler. A number rises over 200 steps (mode weights go astray while
            the sampler runs ahead of its score network) and falls over the last 30 %, as
            `linear_decay` has it; a schedule is taken as it is.
        score_learning_rate: of the score network; a number falls alike and does not rise.
        seed: of the networks' first weights and of all draws.
        checkpoint: file that keeps the state of the training, see `training.fit`. A target is known
            again by its type and, where it is not stochastic, its score at fixed points.
        callback: called as callback(step, sampler) before the first step, every 100 steps and
            after the last, with a copy of the sampler as it would be returned.
        progress: show a bar; the environment variable GALFLOW_PROGRESS=0 hides all bars.

    Returns:
        An `ImplicitSampler` with its history. Ctrl-C returns the one reached so far, with
        `history.stopped == "interrupted"`.

    Raises:
        TrainingDiverged: something became NaN, infinite or left all bounds; its `model`, with the
            score network, holds the last good weights.
        ValueError: dimensions that do not fit, a score that is NaN or not differentiable, or a
            stochastic one with a method that it would bias; a checkpoint of another training.
        NotImplementedError: `noised` for a target whose noised law is not known.
    """
    target, seed = as_target(target), as_whole(seed, "seed")
    steps, batch = as_whole(steps, "steps", least=1), as_whole(batch, "batch", least=2)
    if not callable(learning_rate):
        learning_rate = linear_decay(learning_rate, steps, warmup=200)
    if not callable(score_learning_rate):
        score_learning_rate = linear_decay(score_learning_rate, steps)
    loss = _loss_of(method, target.stochastic)
    # The caller may be in a block without gradients.
    with torch.random.fork_rng(devices=[]), threads(1), torch.enable_grad():
        # `torch.manual_seed` would also seed accelerators, and they are not put back.
        torch.default_generator.manual_seed(child_seed(seed, "networks"))
        hidden = tuple(as_whole(width, "a width of hidden", least=1) for width in hidden)
        network, latent_dim = _network(target, sampler, latent_dim, hidden)
        weight = next(network.parameters())
        score_network = ScoreNetwork(
            target.dim, hidden=hidden, conditional=isinstance(sigma, LogUniform)
        )
        alternation = _Alternation(
            target,
            network,
            score_network.to(weight.device, weight.dtype),
            loss,
            # The only loss that does not differentiate the target's score.
            differentiable=method != "kl",
            latent_dim=latent_dim,
            rows=batch // 2,
            pretraining=min(_PRETRAINING, steps),
            sigma=sigma,
            noised=noised,
            tempering=tempering,
            score_steps=score_steps,
            rate=score_learning_rate,
            generator=torch.Generator(weight.device).manual_seed(child_seed(seed, "training")),
        )
        final = value_at(sigma.low if isinstance(sigma, LogUniform) else sigma, steps - 1)
        as_number(final, "sigma", above=0)
        wrap = partial(ImplicitSampler, latent_dim=latent_dim, dim=target.dim, sigma=final)
        alternation.look()

        def watch(step: int) -> None:
            callback(step, wrap(copy.deepcopy(network)))

        settings = None
        if checkpoint is not None:
            schedules = (learning_rate, score_learning_rate, score_steps, tempering, sigma)
            settings = {
                "target": type(target).__name__,
                "score of the target": alternation.known_scores(),
                "method": method,
                "noised": noised,
                "latent_dim": latent_dim,
                "batch": batch,
                "seed": seed,
                "steps": steps,
                "schedules": [_values(schedule, steps) for schedule in schedules],
            }
        try:
            history = fit(
                alternation,
                network,
                int,  # the batch of a step is the step itself: all else is drawn
                steps,
                optimizer=_adam,
                schedule=learning_rate,
                clip_norm=10.0,
                ema_decay=0.99,
                checkpoint=checkpoint,
                extra_state={
                    "score_network": alternation.score_network,
                    "score_optimizer": alternation.optimizer,
                    "draws": alternation,
                },
                settings=settings,
                callback=None if callback is None else watch,
                progress=progress,
                description="sampler",
            )
        except TrainingDiverged as error:
            found, history = error, error.history
        else:
            found = None
        result = wrap(network.eval(), history=history)
        result.score_network = alternation.score_network.eval()
        if found is None:
            return result
        history.stopped = "diverged"
        raise TrainingDiverged(
            f"{alternation.what_is_wrong() or found}; the model of this error holds the last good "
            "weights",
            found.step,
            history,
            result,
        ) from None


class _Alternation:
    """A step of the sampler as a loss for `fit`: its score network catches up, then it moves.

    The random state of all draws is its state.
    """

    def __init__(
        self,
        target: Target,
        network: nn.Module,
        score_network: nn.Module,
        loss: Callable[..., Tensor],
        **options: Any,
    ) -> None:
        self.target, self.network, self.score_network = target, network, score_network.train()
        self.loss, self.evaluations = loss, 0
        vars(self).update(options)
        self.optimizer = _adam(list(score_network.parameters()))
        self.like = next(network.parameters())
        self.bound = float("inf")
        self.points: tuple[Tensor, Tensor, float | Tensor] | None = None

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Any]]:
        """The loss of the sampler at a step, and what the score network and the target had to do.

        Samples beyond all bounds make the loss NaN, at which `fit` ends.
        """
        if step == 0:
            for _ in range(self.pretraining):
                self._fit_score(1, 0)
        score_loss = self._fit_score(int(value_at(self.score_steps, step)), step)
        x0, noise, sigma = self.points = self._draw(self.rows, step, graph=True)
        if float(x0.detach().abs().max()) <= self.bound:
            weight = sigma[:, 0] ** 2 if self.noised and isinstance(sigma, Tensor) else None
            scores = self._target_score(sigma, step), self._score(sigma)
            value = self.loss(*scores, x0, noise, sigma, weight=weight)
        else:
            value = x0.sum() * torch.nan
        logs = {"score_loss": score_loss, "gradient_evaluations": self.evaluations}
        self.evaluations = 0
        return value, logs

    def look(self) -> None:
        """Check on a first batch that target and network fit each other, with draws of its own.

        Raises:
            ValueError: another dimension; a score that is NaN, infinite or not differentiable.
        """
        name, dim = type(self.target).__name__, self.target.dim
        generator = torch.Generator(self.like.device).manual_seed(0)
        with torch.no_grad():
            x = self.network(self._normal(self.rows, self.latent_dim, generator))
        if x.shape != (self.rows, dim):
            raise ValueError(
                f"the sampler network maps latent points to shape {tuple(x.shape)}, expected "
                f"({self.rows}, {dim}) for the target {name}: match the dimensions"
            )
        x = x.clone().requires_grad_()
        score = self._target_score(self._level(self.rows, 0, generator), 0)(x)
        bad = int((~score.isfinite()).any(-1).sum())
        if score.shape != x.shape or bad:
            raise ValueError(
                f"the score of {name} has shape {tuple(score.shape)} for points of shape "
                f"{tuple(x.shape)} and is NaN or infinite at {bad} of them, expected finite values "
                "of the same shape: look at it with targets.check_score"
            )
        if self.differentiable and not score.requires_grad:
            raise ValueError(
                f"the score of {name} does not depend on the points differentiably, which every "
                "method but 'kl' needs: write the log density in torch and hand it over as "
                "targets.FromLogDensity, or use method='kl'"
            )
        # 1000 times what a sane training reaches.
        self.bound = 1e3 * max(10.0, float(x.detach().abs().max()))
        with suppress(NotImplementedError):
            self.bound = max(self.bound, 1e3 * float(self.target.box))

    def what_is_wrong(self) -> str | None:
        """The target's part in a failure: points where the last losses looked at it in vain."""
        x0, noise, sigma = self.points
        x = (x0 + sigma * noise).detach()
        if not x.isfinite().all():
            return None
        bad = int((~self._target_score(sigma, 0)(x).isfinite()).any(1).sum())
        if not bad:
            return None
        return (
            f"the target's score is NaN or infinite at {bad} of {len(x)} points of the sampler, "
            "expected finite values: look at it with targets.check_score"
        )

    def known_scores(self) -> list[str] | None:
        """The target's score at fixed points, to the digits that do not depend on a machine."""
        if self.target.stochastic:
            return None
        x = self._normal(len(_SPREADS), self.target.dim, torch.Generator().manual_seed(0))
        x = x.to(self.like) * torch.tensor(_SPREADS).to(self.like)[:, None]
        return [f"{value:.3g}" for value in self.target.score(x).flatten().tolist()]

    def _fit_score(self, count: int, step: int) -> Tensor | float:
        """Steps of the score network on fresh samples; the mean of its loss."""
        if not count:
            return 0.0
        self.optimizer.param_groups[0]["lr"] = value_at(self.rate, step)
        # All samples in one evaluation: the sampler does not change meanwhile.
        x0, noise, sigma = self._draw(count * self.rows, step, graph=False)
        total = 0.0
        for part in range(count):
            take = slice(2 * part * self.rows, 2 * (part + 1) * self.rows)
            level = sigma[take] if isinstance(sigma, Tensor) else sigma
            loss = score_matching_loss(self._score(level), x0[take], noise[take], level)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total = total + loss.detach()
        return total / count

    def _draw(self, rows: int, step: int, *, graph: bool) -> tuple[Tensor, Tensor, float | Tensor]:
        """Samples without noise, noise and its level, for a whole number of batches of pairs."""
        z = self._normal(rows, self.latent_dim)
        noise = self._normal(rows, self.target.dim)
        sigma = self._level(rows, step, self.generator)
        with torch.set_grad_enabled(graph):
            x0 = self._paired(self.network(z), 1)
        return x0, self._paired(noise, -1), self._paired(sigma, 1)

    def _paired(self, values: Tensor | float, sign: int) -> Tensor | float:
        """Each batch of rows followed by itself, with a sign; a number as it is."""
        if not isinstance(values, Tensor):
            return values
        parts = values.view(-1, self.rows, values.shape[1])
        return torch.stack((parts, sign * parts), dim=1).flatten(0, 2)

    def _level(self, n: int, step: int, generator: torch.Generator) -> float | Tensor:
        if isinstance(self.sigma, LogUniform):
            return self.sigma.draw(n, step, generator, self.like.dtype)
        return value_at(self.sigma, step)

    def _normal(self, n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        generator = self.generator if generator is None else generator
        like = {"dtype": self.like.dtype, "device": generator.device}
        return torch.randn(n, dim, generator=generator, **like)

    def _score(self, sigma: float | Tensor) -> Callable[[Tensor], Tensor]:
        if not isinstance(sigma, Tensor):
            return self.score_network
        return lambda x: self.score_network(x, sigma)

    def _target_score(self, sigma: float | Tensor, step: int) -> Callable[[Tensor], Tensor]:
        """The score that the sampler is trained towards at a step, for points of these levels."""
        target, beta = self.target, value_at(self.tempering, step)
        if self.noised:
            target = Noised(target, sigma[:, 0] if isinstance(sigma, Tensor) else sigma)

        def counted(x: Tensor) -> Tensor:
            self.evaluations += len(x)
            score = target._score(x, create_graph=self.differentiable)
            return score if beta == 1 else beta * score

        return counted


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
        "pseudo-huber": partial(dft_loss, distance="pseudo-huber"),
        "fisher": partial(_at_noised_points, fisher_loss),
        "kl": partial(_at_noised_points, kl_loss),
    }
    as_choice(method, "method", losses)
    if stochastic and method in ("fisher", "pseudo-huber"):
        raise ValueError(
            f"the target's score is stochastic, which biases method {method!r}: use 'kl', 'dft' or "
            "the score of all data"
        )
    return losses[method]


def _at_noised_points(
    loss: Callable[..., Tensor],
    target_score: Callable[[Tensor], Tensor],
    score_network: Callable[[Tensor], Tensor],
    x0: Tensor,
    noise: Tensor,
    sigma: float | Tensor,
    *,
    weight: Tensor | None,
) -> Tensor:
    return loss(target_score, score_network, x0 + sigma * noise, weight=weight)


def _network(
    target: Target,
    sampler: nn.Module | ImplicitSampler | None,
    latent_dim: int | None,
    hidden: tuple[int, ...],
) -> tuple[nn.Module, int]:
    if latent_dim is not None:
        latent_dim = as_whole(latent_dim, "latent_dim", least=1)
    latent_dim = latent_dim or getattr(sampler, "latent_dim", None) or target.dim
    if isinstance(sampler, ImplicitSampler):
        return copy.deepcopy(sampler.network).requires_grad_(True), latent_dim
    return sampler or SamplerNetwork(latent_dim, target.dim, hidden=hidden), latent_dim


def _adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Its rate is set by a schedule in each step."""
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.0, 0.99), fused=True)


def _values(schedule: Schedule | LogUniform, steps: int) -> list[float] | dict[str, list[float]]:
    """A schedule at some steps: for a checkpoint, functions of the same values are the same."""
    if isinstance(schedule, LogUniform):
        return {"low": _values(schedule.low, steps), "high": _values(schedule.high, steps)}
    return [float(f"{value_at(schedule, k * (steps - 1) // 8):.6g}") for k in range(9)]
