"""The loop behind train_sampler: steps of the score network and of the sampler in turn."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import read_state, write_state
from ..targets import Noised, Target
from .identity import require_same
from .losses import dft_loss, fisher_loss, kl_loss, score_matching_loss
from .noise import LogUniform, noise_level, value_at
from .options import Options
from .sampler import ImplicitSampler, SamplerDiverged, SamplerHistory

__all__ = ["Loop"]

# Steps between copies of weights that are known to be good.
_KEEP_EVERY = 50
_KIND = "the training of an implicit sampler"


class Loop:
    """State of a training.

    Args:
        target: what is sampled.
        network: of the sampler; trained in place.
        score_network: of its score; trained in place.
        latent_dim: columns of z.
        options: how it is trained.
        seed: of all draws.
    """

    def __init__(
        self,
        target: Target,
        network: nn.Module,
        score_network: nn.Module,
        latent_dim: int,
        options: Options,
        seed: int,
    ) -> None:
        self.target, self.options, self.latent_dim = target, options, latent_dim
        self.network, self.score_network = network, score_network
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.device, self.dtype = self.weights[0].device, self.weights[0].dtype
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.score_weights = [p for p in score_network.parameters() if p.requires_grad]
        self.updater = torch.optim.Adam(
            self.weights, options.learning_rate, betas=options.betas, fused=True
        )
        self.score_updater = torch.optim.Adam(
            self.score_weights, options.score_learning_rate, betas=options.betas, fused=True
        )
        # Without averaging this is the current weights themselves.
        self.average = self.weights
        if options.ema_decay is not None:
            self.average = [p.detach().clone() for p in self.weights]
        self.history = SamplerHistory(stopped="running")
        self.step = 0
        self.good = [p.detach().clone() for p in self.average + self.score_weights]
        self.largest = math.inf
        self._began = time.perf_counter()

    @property
    def rows(self) -> int:
        """Latent points in a batch; each makes two points of a pair where noise is antithetic."""
        return self.options.batch // 2 if self.options.antithetic else self.options.batch

    def result(self) -> ImplicitSampler:
        """The sampler with the averaged weights, in evaluation mode; ends the training."""
        sampler = self._averaged(self.network)
        self.score_network.eval()
        sampler.score_network = self.score_network
        self.history.seconds = self._seconds()
        return sampler

    def snapshot(self) -> ImplicitSampler:
        """A copy of the sampler as `result` would return it now, with a history of its own."""
        sampler = self._averaged(copy.deepcopy(self.network))
        sampler.history = copy.deepcopy(self.history)
        sampler.history.seconds = self._seconds()
        return sampler

    def _averaged(self, network: nn.Module) -> ImplicitSampler:
        weights = [p for p in network.parameters() if p.requires_grad]
        with torch.no_grad():
            torch._foreach_copy_(weights, self.average)
        return ImplicitSampler(
            network.eval(),
            latent_dim=self.latent_dim,
            dim=self.target.dim,
            sigma=self.final_sigma(),
            history=self.history,
        )

    def final_sigma(self) -> float:
        """Noise level of the last step; the smallest one where a law draws it."""
        sigma = self.options.sigma
        last = self.options.steps - 1
        return value_at(sigma.low if isinstance(sigma, LogUniform) else sigma, last)

    def pretrain(self) -> None:
        """Fit the score network to the sampler as it begins."""
        for _ in range(self.options.pretrain):
            self._score_steps(1, step=0)
        self.history.pretraining_seconds = self._seconds()

    def advance(self) -> None:
        """One step of the sampler, after those of its score network.

        Raises:
            SamplerDiverged: a loss or a gradient is not finite, or samples left all bounds.
        """
        step, options = self.step, self.options
        factor = options.rate_factor(step)
        rise = options.warmup_factor(step)
        self.updater.param_groups[0]["lr"] = options.learning_rate * factor * rise
        self.score_updater.param_groups[0]["lr"] = options.score_learning_rate * factor
        score_loss = self._score_steps(options.score_steps_at(step), step)

        x0, noise, sigma = self._draw(self.rows, step, graph=True)
        largest = float(x0.detach().abs().max())
        if not largest <= self.largest:
            raise self._diverged(f"samples reach {largest:.3g}")
        loss = self._loss(x0, noise, sigma, step)
        gradients = torch.autograd.grad(loss, self.weights)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.weights, options.clip_norm or math.inf)
        loss, norm, score_loss = torch.stack((loss.detach(), norm, score_loss)).tolist()
        if not math.isfinite(loss + norm + score_loss):
            raise self._diverged(
                f"the loss is {loss:.3g}, its gradient {norm:.3g}, that of the score network's "
                f"loss {score_loss:.3g}",
                # Where the losses look at the target.
                (x0 + sigma * noise).detach(),
                sigma,
            )
        if step % _KEEP_EVERY == 0:
            # Before the step: what it makes of these weights was not looked at yet.
            with torch.no_grad():
                torch._foreach_copy_(self.good, self.average + self.score_weights)
        self.updater.step()
        if self.average is not self.weights:
            # The first weights are forgotten quickly, as in galflow_lite.training.fit.
            decay = min(options.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        history = self.history
        history.loss.append(loss)
        history.gradient_norm.append(norm)
        history.score_loss.append(score_loss)
        self.step += 1

    def save(self, path: str | Path, settings: dict[str, Any]) -> None:
        """Write everything that the rest of the training depends on."""
        self.history.seconds = self._seconds()
        state = {
            "settings": settings,
            "step": self.step,
            "network": dict(self.network.state_dict()),
            "score_network": dict(self.score_network.state_dict()),
            "updater": self.updater.state_dict(),
            "score_updater": self.score_updater.state_dict(),
            "average": None if self.average is self.weights else self.average,
            "good": self.good,
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "history": {
                name: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
                for name, value in vars(self.history).items()
            },
        }
        write_state(path, state, kind=_KIND)

    def restore(self, path: str | Path, settings: dict[str, Any]) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: the file is damaged, of another target, other networks or settings.
        """
        state = read_state(path, kind=_KIND)
        require_same(path, state["settings"], settings)
        try:
            self.network.load_state_dict(state["network"])
            self.score_network.load_state_dict(state["score_network"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint {path} is of other networks "
                f"({str(error).splitlines()[-1].strip()}): use the same or another file"
            ) from None
        self.updater.load_state_dict(state["updater"])
        self.score_updater.load_state_dict(state["score_updater"])
        if state["average"] is not None:
            self.average = [value.to(self.device) for value in state["average"]]
        self.good = [value.to(self.device) for value in state["good"]]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        self.history = SamplerHistory(
            **{k: v.tolist() if isinstance(v, Tensor) else v for k, v in state["history"].items()}
        )
        self.history.stopped = "running"
        self.step = state["step"]
        self._began -= self.history.seconds

    def _score_steps(self, count: int, step: int) -> Tensor:
        """Steps of the score network on fresh samples; the mean of its loss."""
        if not count:
            return torch.zeros((), dtype=self.dtype, device=self.device)
        # All samples in one evaluation: the sampler does not change meanwhile.
        x0, noise, sigma = self._draw(count * self.rows, step, graph=False)
        total = 0.0
        for part in range(count):
            take = slice(part * self.options.batch, (part + 1) * self.options.batch)
            level = sigma[take] if isinstance(sigma, Tensor) else sigma
            loss = score_matching_loss(self._score(level), x0[take], noise[take], level)
            loss.backward()
            self.score_updater.step()
            self.score_updater.zero_grad(set_to_none=True)
            total = total + loss.detach()
        return total / count

    def _loss(self, x0: Tensor, noise: Tensor, sigma: float | Tensor, step: int) -> Tensor:
        options = self.options
        weight = None
        if options.noise_weight and isinstance(sigma, Tensor):
            weight = sigma[:, 0] ** options.noise_weight
        score, target_score = self._score(sigma), self.target_score(sigma, step)
        if options.method == "kl":
            return kl_loss(target_score, score, x0 + sigma * noise, weight=weight)
        if options.method == "fisher":
            return fisher_loss(
                target_score,
                score,
                x0 + sigma * noise,
                trace=options.trace,
                probes=self._probes(x0) if options.trace == "hutchinson" else None,
                weight=weight,
            )
        return dft_loss(
            target_score,
            score,
            x0,
            noise,
            sigma,
            alpha=options.alpha_at(step),
            distance=options.distance,
            c=options.c,
            independent_scores=options.independent_scores,
            weight=weight,
        )

    def _draw(self, rows: int, step: int, *, graph: bool) -> tuple[Tensor, Tensor, float | Tensor]:
        """Samples without noise, noise and its level, for a whole number of batches."""
        z = self.normal((rows, self.latent_dim))
        noise = self.normal((rows, self.target.dim))
        sigma = noise_level(self.options.sigma, rows, step, self.generator)
        with torch.set_grad_enabled(graph):
            x0 = self.network(z)
        if not self.options.antithetic:
            return x0, noise, sigma
        if isinstance(sigma, Tensor):
            sigma = self._paired(sigma, 1)
        return self._paired(x0, 1), self._paired(noise, -1), sigma

    def _paired(self, values: Tensor, sign: int) -> Tensor:
        """Each batch of rows followed by itself, with a sign."""
        parts = values.view(-1, self.rows, values.shape[1])
        return torch.stack((parts, sign * parts), dim=1).flatten(0, 2)

    def _score(self, sigma: float | Tensor) -> Callable[[Tensor], Tensor]:
        if not isinstance(sigma, Tensor):
            return self.score_network
        return lambda x: self.score_network(x, sigma)

    def target_score(self, sigma: float | Tensor, step: int) -> Callable[[Tensor], Tensor]:
        """The score that the sampler is trained towards at a step, for points of these levels."""
        options, target = self.options, self.target
        beta = options.tempering_at(step)
        if callable(options.noised):

            def score(x: Tensor) -> Tensor:
                levels = sigma if isinstance(sigma, Tensor) else x.new_full((len(x), 1), sigma)
                return options.noised(x, levels)

        else:
            if options.noised:
                target = Noised(target, sigma[:, 0] if isinstance(sigma, Tensor) else sigma)
            score = target.score if options.method == "kl" else target.differentiable_score

        def counted(x: Tensor) -> Tensor:
            self.history.gradient_evaluations += len(x)
            return score(x) if beta == 1 else beta * score(x)

        return counted

    def _diverged(
        self, found: str, x: Tensor | None = None, sigma: float | Tensor = 0.0
    ) -> SamplerDiverged:
        """Put the last good weights back and say what was seen and what to change."""
        advice = "lower learning_rate, raise score_steps, pretrain or sigma, or begin with KL"
        if x is not None and bool(x.isfinite().all()):
            bad = int((~self.target_score(sigma, self.step)(x).isfinite()).any(1).sum())
            if bad:
                found = f"the target's score is NaN or infinite at {bad} of {len(x)} points"
                advice = "look at the target with galflow_lite.targets.check_score"
        self.history.stopped = "diverged"
        with torch.no_grad():
            torch._foreach_copy_(self.average + self.score_weights, self.good)
        return SamplerDiverged(
            f"{found} at step {self.step}, expected finite and bounded values; the sampler of "
            f"the error and its score network hold the last good weights: {advice}",
            self.step,
            self.history,
            self.result(),
        )

    def _probes(self, x: Tensor) -> Tensor:
        shape = (1, *x.shape)
        signs = torch.randint(0, 2, shape, generator=self.generator, device=self.device)
        return signs.to(self.dtype) * 2 - 1

    def normal(self, shape: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal numbers from the generator of the training, or another one."""
        return torch.randn(
            shape,
            generator=self.generator if generator is None else generator,
            dtype=self.dtype,
            device=self.device,
        )

    def _seconds(self) -> float:
        return time.perf_counter() - self._began
