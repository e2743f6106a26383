"""train_sampler: implicit samplers of unnormalised densities."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..inputs import as_whole
from ..seeds import child_seed
from ..targets import Target
from .checking import look
from .identity import identity
from .loop import Loop
from .networks import SamplerNetwork, ScoreNetwork
from .noise import LogUniform, Schedule
from .options import Options
from .sampler import ImplicitSampler

__all__ = ["train_sampler"]


def train_sampler(
    target: Target,
    *,
    method: str = "dft",
    steps: int = 2000,
    latent_dim: int | None = None,
    sampler: nn.Module | None = None,
    score_network: nn.Module | None = None,
    hidden: tuple[int, ...] = (64, 64, 64),
    warm_start: ImplicitSampler | None = None,
    sigma: Schedule | LogUniform = 0.1,
    noised: bool | Callable[[Tensor, Tensor], Tensor] = False,
    noise_weight: float | None = None,
    tempering: Schedule = 1.0,
    alpha: Schedule = 0.5,
    distance: str = "squared",
    c: float = 1.0,
    trace: str = "exact",
    independent_scores: bool | None = None,
    antithetic: bool = True,
    batch: int = 256,
    score_steps: int | Callable[[int], int] = 3,
    pretrain: int = 500,
    learning_rate: float = 1e-3,
    score_learning_rate: float = 2e-3,
    betas: tuple[float, float] = (0.0, 0.99),
    warmup: int = 200,
    decay: float = 0.3,
    decay_to: float = 0.05,
    clip_norm: float | None = 10.0,
    ema_decay: float | None = 0.99,
    seed: int = 0,
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    callback: Callable[[int, ImplicitSampler], None] | None = None,
    callback_every: int = 100,
    progress: bool = True,
) -> ImplicitSampler:
    """Train a network that turns noise into samples of a target in one evaluation.

    In turn, `score_steps` steps of denoising score matching fit a network to the score of the
    noised sampler x = g(z) + sigma * noise, and one step of the sampler lowers a divergence from
    that law to the target, after arXiv:2411.01453 (DFT) and arXiv:2306.04952 (Fisher and KL). As
    in DFT the target is not noised unless `noised` asks for it, so keep sigma below its finest
    feature. The settings are ours: those of the papers could not be read.

    Args:
        target: has `differentiable_score` (or `score` for KL) and `dim`.
        method: "dft" (`dft_loss`), "fisher" (`fisher_loss` of the same noised law) or "kl"
            (`kl_loss`).
        steps: of the sampler.
        latent_dim: columns of z ~ N(0, I); by default as many as the target has.
        sampler: a network from z (n, latent_dim) to points (n, dim), trained in place; by default a
            new `SamplerNetwork`.
        score_network: from points (n, dim), and sigma (n, 1) where a law draws it, to scores
            (n, dim), trained in place, with smooth activations; by default a `ScoreNetwork`.
        hidden: hidden layers of the default networks.
        warm_start: begin with a copy of this sampler, for example one trained by KL.
        sigma: noise level, positive: a number, a schedule (a function of the step, such as
            `geometric(1.5, 0.1, 1000)`), or a law for each point, `LogUniform`.
        noised: train towards the target noised as the sampler is, which DFT does not: True for
            mixtures of Gaussians (`targets.Noised`), or a function of points (n, dim) and sigma
            (n, 1) that returns the score of the noised target. For use with `LogUniform`.
        noise_weight: each point counts with sigma to this power where a law draws sigma; by
            default 2 with a noised target and 0 without.
        tempering: the target's score is multiplied by this, a number or a schedule; a ramp from
            small values to 1, `geometric(0.05, 1, ...)`, fills gaps between modes first.
        alpha: of `dft_loss`, a number or a schedule; 0.5 is the exact gradient.
        distance: of `dft_loss`, "squared" or "pseudo-huber".
        c: of the pseudo-Huber distance.
        trace: of `fisher_loss`, "exact" or "hutchinson".
        independent_scores: two independent estimates of a stochastic score, in DFT; by default
            where the target says that its score is `stochastic`.
        antithetic: noise in pairs of both signs, which share z; `batch` counts both.
        batch: points a step, for both networks.
        score_steps: steps of the score network for one of the sampler; a number or a function of
            the step. Many at first keep the network up with a sampler that moves fast.
        pretrain: steps of the score network before the first one of the sampler.
        learning_rate: of the sampler.
        score_learning_rate: of the score network.
        betas: of Adam, for both.
        warmup: steps over which the sampler's rate rises linearly, at most a fifth of all. Mode
            weights go astray while the sampler runs ahead of its score network. A warm-up helps at
            the start only: in notebook 04 it gains less than the scatter between seeds.
        decay: share of the steps, at the end, over which both rates fall linearly.
        decay_to: what they fall to, as a share of their start.
        clip_norm: largest norm of the sampler's gradient; None does not clip.
        ema_decay: of the average of the sampler's weights, which is what is returned; None returns
            the last weights.
        seed: of the networks' first weights and of all draws.
        device: where the networks are trained.
        threads: of torch on a CPU, meanwhile: small networks are slowed down by many. None leaves
            them as they are.
        checkpoint: file that keeps the state of the training. If it exists, the training goes on
            from there to the same result as without the pause; a stochastic target that draws
            from a generator of its own goes on with other draws. The target may be made anew: it
            is known by its type, and where it is not stochastic by its values at fixed points.
        checkpoint_every: steps between checkpoints, a tenth of `steps` by default.
        callback: called as callback(step, sampler) with the sampler as it would be returned.
        callback_every: steps between calls; there is one before the first step and one at the end.
        progress: show a bar; the environment variable GALFLOW_PROGRESS=0 hides all bars.

    Returns:
        An `ImplicitSampler` with its history. Ctrl-C returns the one reached so far, with
        `history.stopped == "interrupted"`.

    Raises:
        SamplerDiverged: something became NaN, infinite or left all bounds; its `sampler`, with the
            score network, holds the last good weights.
        ValueError: an unknown name, a number out of its range, dimensions that do not fit, a score
            that is NaN or not differentiable, a stochastic target with method "fisher", or a
            checkpoint of another training.
        NotImplementedError: `noised` for a target whose noised law is not known.
        OSError: the checkpoint cannot be written; the file before it is intact.
    """
    seed = as_whole(seed, "seed")
    callback_every = as_whole(callback_every, "callback_every", least=1)
    hidden = tuple(as_whole(width, "a width of hidden", least=1) for width in hidden)
    stochastic = bool(getattr(target, "stochastic", False))
    if independent_scores is None:
        independent_scores = method == "dft" and stochastic
    law = isinstance(sigma, LogUniform)
    options = Options(
        method=method,
        steps=steps,
        sigma=sigma,
        noised=noised,
        noise_weight=(2.0 if noised and law else 0.0) if noise_weight is None else noise_weight,
        tempering=tempering,
        alpha=alpha,
        distance=distance,
        c=c,
        trace=trace,
        independent_scores=independent_scores,
        antithetic=antithetic,
        batch=batch,
        score_steps=score_steps,
        pretrain=pretrain,
        learning_rate=learning_rate,
        score_learning_rate=score_learning_rate,
        betas=betas,
        warmup=warmup,
        decay=decay,
        decay_to=decay_to,
        clip_norm=clip_norm,
        ema_decay=ema_decay,
    )
    options.require(stochastic)
    steps = options.steps
    if checkpoint_every is None:
        checkpoint_every = max(1, steps // 10)
    checkpoint_every = as_whole(checkpoint_every, "checkpoint_every", least=1)
    device = torch.device(device)
    # The caller may be in a block without gradients.
    with torch.random.fork_rng(devices=[]), _threads(threads, device), torch.enable_grad():
        # `torch.manual_seed` would also seed accelerators, and they are not put back.
        torch.default_generator.manual_seed(child_seed(seed, "networks"))
        network, latent_dim = _network(target, sampler, latent_dim, hidden, warm_start)
        if score_network is None:
            score_network = ScoreNetwork(target.dim, hidden=hidden, conditional=law)
        loop = Loop(
            target,
            network.to(device).train(),
            score_network.to(device).train(),
            latent_dim,
            options,
            child_seed(seed, "training"),
        )
        loop.largest = look(loop)
        if checkpoint is not None:
            settings = {**identity(loop), "seed": seed}
            if Path(checkpoint).exists():
                loop.restore(checkpoint, settings)

        def watch() -> None:
            if callback is not None:
                callback(loop.step, loop.snapshot())

        hidden_bar = not progress or os.environ.get("GALFLOW_PROGRESS", "1") == "0"
        bar = tqdm(total=steps, initial=loop.step, desc=f"{method} sampler", disable=hidden_bar)
        try:
            if not loop.step:
                loop.pretrain()
                watch()
            while loop.step < steps:
                loop.advance()
                bar.update()
                if checkpoint is not None and (
                    loop.step % checkpoint_every == 0 or loop.step == steps
                ):
                    loop.save(checkpoint, settings)
                if loop.step % callback_every == 0 or loop.step == steps:
                    watch()
            loop.history.stopped = "finished"
        except KeyboardInterrupt:
            loop.history.stopped = "interrupted"
        finally:
            bar.close()
        return loop.result()


def _network(
    target: Target,
    sampler: nn.Module | None,
    latent_dim: int | None,
    hidden: tuple[int, ...],
    warm_start: ImplicitSampler | None,
) -> tuple[nn.Module, int]:
    if latent_dim is not None:
        latent_dim = as_whole(latent_dim, "latent_dim", least=1)
    if warm_start is None:
        latent_dim = latent_dim or getattr(sampler, "latent_dim", None) or target.dim
        return sampler or SamplerNetwork(latent_dim, target.dim, hidden=hidden), latent_dim
    if sampler is not None:
        raise ValueError("found sampler and warm_start, expected one of them: drop one")
    if warm_start.dim != target.dim or latent_dim not in (None, warm_start.latent_dim):
        raise ValueError(
            f"warm_start maps {warm_start.latent_dim} to {warm_start.dim} coordinates, expected "
            f"{latent_dim or 'any'} to {target.dim}: train one for this target"
        )
    network = copy.deepcopy(warm_start.network).requires_grad_(True)
    return network, warm_start.latent_dim


@contextmanager
def _threads(count: int | None, device: torch.device) -> Iterator[None]:
    """So many threads of torch within the block, on a CPU."""
    before = torch.get_num_threads()
    if count is not None and device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
