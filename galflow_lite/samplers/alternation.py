"""A step of a sampler and of the score network that follows it: of one, or of several at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..inputs import as_number
from ..targets import Noised, Target
from ..training import LOOK_EVERY, History
from .implicit_sampler import ImplicitSampler, stacked
from .losses import LogUniform, Schedule, score_matching_loss, value_at

Loss = Callable[..., Tensor]
# Largest norm of the gradient of a sampler.
CLIP_NORM = 10.0


def _adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Its rate is set by a schedule in each step."""
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.0, 0.99), fused=True)


@dataclass(eq=False)
class Alternation:
    """A step of the sampler as a loss for `fit`: its score network catches up, then it moves."""

    target: Target
    network: nn.Module
    score_network: nn.Module
    loss: Loss
    method: Any
    differentiable: bool
    latent_dim: int
    rows: int
    pretraining: int
    sigma: float | LogUniform
    noised: bool
    tempering: Schedule
    score_steps: Schedule
    rate: Schedule
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.score_network.train()
        self.evaluate_score: Callable[..., Tensor] = self.score_network
        self.optimizer = _adam(list(self.score_network.parameters()))
        self.like = next(self.network.parameters())
        self.bound, self.evaluations = float("inf"), 0

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Any]]:
        """The loss of the sampler at a step, and what the score network and the target had to do.

        Samples beyond all bounds make the loss NaN, at which `fit` ends.
        """
        score_loss = self._catch_up(step)
        x0, noise, sigma = self.points = self._draw(self.rows, graph=True)
        inside = x0.detach().abs().amax() <= self.bound
        # A target is not asked beyond all bounds.
        value = self._loss(torch.where(inside, x0, 0.0), noise, sigma, step)
        value = torch.where(inside, value, torch.nan)
        logs = {"score_loss": score_loss, "gradient_evaluations": self.evaluations}
        self.evaluations = 0
        return value, logs

    def trained(self, history: History) -> Any:
        """The sampler, with its score network and the history of the training."""
        networks = {"network": self.network.eval(), "score_network": self.score_network.eval()}
        sigma = self.sigma.low if isinstance(self.sigma, LogUniform) else self.sigma
        sizes = {"latent_dim": self.latent_dim, "dim": self.target.dim, "sigma": sigma}
        count = int(sum(history.logs.get("gradient_evaluations", [])))
        return ImplicitSampler(**networks, **sizes, history=history, gradient_evaluations=count)

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
        score = self._target_score(self._level(self.rows, generator), 0)(x)
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

    def _catch_up(self, step: int) -> Tensor | float:
        """The steps of the score network that belong to a step; the mean of its loss."""
        if step == 0:
            for _ in range(self.pretraining):
                self._fit_score(1, 0)
        return self._fit_score(int(value_at(self.score_steps, step)), step)

    def _fit_score(self, count: int, step: int) -> Tensor | float:
        """Steps of the score network on fresh samples; the mean of its loss."""
        if not count:
            return 0.0
        self.optimizer.param_groups[0]["lr"] = value_at(self.rate, step)
        # All samples in one evaluation: the sampler does not change meanwhile.
        x0, noise, sigma = self._draw(count * self.rows, graph=False)
        total = 0.0
        for part in range(count):
            take = slice(2 * part * self.rows, 2 * (part + 1) * self.rows)
            level = sigma[..., take, :] if isinstance(sigma, Tensor) else sigma
            points = x0[..., take, :], noise[..., take, :]
            loss = score_matching_loss(self._score(level), *points, level)
            loss.sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total = total + loss.detach()
        return total / count

    def _draw(self, rows: int, *, graph: bool) -> tuple[Tensor, Tensor, float | Tensor]:
        """Samples without noise, noise and its level, for a whole number of batches of pairs."""
        z = self._normal(rows, self.latent_dim)
        noise = self._normal(rows, self.target.dim)
        sigma = self._level(rows)
        with torch.set_grad_enabled(graph):
            x0 = self._paired(self.network(z), 1)
        return x0, self._paired(noise, -1), self._paired(sigma, 1)

    def _paired(self, values: Tensor | float, sign: int) -> Tensor | float:
        """Each batch of rows followed by itself, with a sign; a number as it is."""
        if not isinstance(values, Tensor):
            return values
        parts = values.unflatten(-2, (-1, self.rows))
        return torch.stack((parts, sign * parts), dim=-3).flatten(-4, -2)

    def _level(self, n: int, generator: torch.Generator | None = None) -> float | Tensor:
        if isinstance(self.sigma, LogUniform):
            return self.sigma.draw(n, generator or self.generator, self.like.dtype)
        return self.sigma

    def _normal(self, n: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
        generator = self.generator if generator is None else generator
        like = {"dtype": self.like.dtype, "device": generator.device}
        return torch.randn(n, dim, generator=generator, **like)

    def _loss(self, x0: Tensor, noise: Tensor, sigma: float | Tensor, step: int) -> Tensor:
        weight = sigma[..., 0] ** 2 if self.noised and isinstance(sigma, Tensor) else None
        scores = self._target_score(sigma, step), self._score(sigma)
        return self.loss(*scores, x0, noise, sigma, weight=weight)

    def _score(self, sigma: float | Tensor) -> Callable[[Tensor], Tensor]:
        if not isinstance(sigma, Tensor):
            return self.evaluate_score
        return lambda x: self.evaluate_score(x, sigma)

    def _target_score(self, sigma: float | Tensor, step: int) -> Callable[[Tensor], Tensor]:
        """The score that the sampler is trained towards at a step, for points of these levels."""
        target, beta = self.target, value_at(self.tempering, step)
        as_number(beta, "tempering", above=0)
        if self.noised:
            target = Noised(target, sigma.flatten() if isinstance(sigma, Tensor) else sigma)

        def counted(x: Tensor) -> Tensor:
            self.evaluations += x.shape[-2]
            points = x.flatten(0, -2)
            score = target._score(points, create_graph=self.differentiable).view(x.shape)
            return score if beta == 1 else beta * score

        return counted


class Together(Alternation):
    """A step of several samplers of the same sizes, which share nothing but the time it takes.

    All tensors have the members on a leading axis. A member whose loss or gradient is not finite
    stays at its last good weights, and the others go on.

    Args:
        members: with a target, a loss, networks and draws of their own; all else is that of the
            first. Neighbours that share target and loss share their evaluation.
    """

    def __init__(self, members: Sequence[Alternation]) -> None:
        vars(self).update(vars(members[0]))
        self.members = members
        self.network = stacked([member.network for member in members])
        self.score_network = stacked([member.score_network for member in members])
        self.evaluate_score = self.score_network
        self.weights = [*self.network.parameters(), *self.score_network.parameters()]
        self.good = [p.detach().clone() for p in self.weights]
        self.optimizer = _adam(list(self.score_network.parameters()))
        self.bound = self.like.new_tensor([member.bound for member in members])
        self.sound = torch.ones(len(members), dtype=torch.bool, device=self.like.device)
        self.unseen: list[tuple[int, Tensor, list[int], tuple]] = []
        names = ("score_loss", "gradient_evaluations")
        self.histories = [History(logs={name: [] for name in names}) for _ in members]

    def __call__(self, step: int) -> Tensor:
        """The sum of the losses of the members that are sound, at which `fit` ends if none is."""
        score_loss = self._catch_up(step)
        x0, noise, sigma = self._draw(self.rows, graph=True)
        inside = self.sound & (x0.detach().abs().amax((1, 2)) <= self.bound)
        points = torch.where(_along(inside, x0), x0, 0.0)
        losses = torch.where(inside, self._loss(points, noise, sigma, step), torch.nan)
        self.sound = losses.isfinite()
        self._keep(self.good)
        score_loss = torch.as_tensor(score_loss, device=losses.device).expand_as(losses)
        counts = [member.evaluations for member in self.members]
        numbers = torch.stack((losses.detach(), score_loss))
        self.unseen.append((step, numbers, counts, (x0.detach(), noise, sigma)))
        for member in self.members:
            member.evaluations = 0
        if self.like.device.type == "cpu" or len(self.unseen) == LOOK_EVERY:
            self._look()
        return torch.where(self.sound | ~self.sound.any(), losses, 0.0).sum()

    def _look(self) -> None:
        """Turn what was kept of the last steps into numbers: waits for the device."""
        kept, self.unseen = self.unseen, []
        seen = torch.stack([numbers for _, numbers, _, _ in kept]).tolist() if kept else []
        for values, (step, _, counts, (x0, noise, sigma)) in zip(seen, kept, strict=True):
            for k, (value, score_value, count) in enumerate(zip(*values, counts, strict=True)):
                history, member = self.histories[k], self.members[k]
                if math.isfinite(value):
                    history.loss.append(value)
                    history.logs["score_loss"].append(score_value)
                    history.logs["gradient_evaluations"].append(count)
                elif history.stopped != "diverged":
                    history.stopped, member.points = "diverged", (x0[k], noise[k], _part(sigma, k))
                    reason = member.what_is_wrong() or f"the loss is {value}"
                    text = f"training {k} of {len(counts)} diverged at step {step}: {reason}"
                    warnings.warn(text, RuntimeWarning, stacklevel=3)

    def clipped_adam(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Clips the gradient of each member by itself, and holds those that are not sound."""

        @torch.no_grad()
        def clip(*_: Any) -> None:
            gradients = [p.grad for p in parameters]
            norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
            norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
            self.sound &= norm.isfinite()
            factor = (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, [_along(factor, g) for g in gradients])

        optimizer = _adam(parameters)
        optimizer.register_step_pre_hook(clip)
        optimizer.register_step_post_hook(lambda *_: self._keep(self.weights))
        return optimizer

    @torch.no_grad()
    def trained(self, history: History) -> list[ImplicitSampler]:
        """The sampler of each member; the seconds of its history are its share of all."""
        self._look()
        weights = [torch.empty_like(values) for values in self.good]
        self._keep(weights)
        found = []
        for k, (member, own) in enumerate(zip(self.members, self.histories, strict=True)):
            places = [*member.network.parameters(), *member.score_network.parameters()]
            torch._foreach_copy_(places, [values[k] for values in weights])
            stopped = history.stopped if self.sound[k] else "diverged"
            share = history.seconds / len(self.members)
            found.append(member.trained(replace(own, stopped=stopped, seconds=share)))
        return found

    @torch.no_grad()
    def _keep(self, into: list[Tensor]) -> None:
        """The weights of the members that are sound, the last good ones of the others."""
        for p, good, place in zip(self.weights, self.good, into, strict=True):
            torch.where(_along(self.sound, p), p, good, out=place)

    def _normal(self, n: int, dim: int) -> Tensor:
        return torch.stack([member._normal(n, dim) for member in self.members])

    def _level(self, n: int) -> float | Tensor:
        levels = [member._level(n) for member in self.members]
        return torch.stack(levels) if isinstance(levels[0], Tensor) else levels[0]

    def _loss(self, x0: Tensor, noise: Tensor, sigma: float | Tensor, step: int) -> Tensor:
        """The loss of each member, shape (k,)."""
        found, first = [], 0
        for _, run in groupby(self.members, _shared):
            group = list(run)
            part = slice(first, first := first + len(group))
            group[0].evaluate_score = partial(self._score_of, part)
            found.append(group[0]._loss(x0[part], noise[part], _part(sigma, part), step))
            for member in group:
                member.evaluations = group[0].evaluations
        return torch.cat(found)

    def _score_of(self, part: slice, *given: Tensor) -> Tensor:
        weights = {name: p[part] for name, p in self.score_network.named_parameters()}
        return functional_call(self.score_network, weights, given)


def _shared(member: Alternation) -> tuple[Any, int]:
    # One estimate of a stochastic score for several members would lead them astray together.
    return member.method, id(member if member.target.stochastic else member.target)


def _part(sigma: float | Tensor, part: int | slice) -> float | Tensor:
    return sigma[part] if isinstance(sigma, Tensor) else sigma


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Values of the members, shape (k,), to be combined with a tensor that has more axes."""
    return values.view(-1, *[1] * (like.ndim - 1))
