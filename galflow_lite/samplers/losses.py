"""Losses of implicit samplers, and the noise levels and schedules that they are taken at.

Points have shape (n, d) and a loss is a scalar; of k samplers at once points have shape (k, n, d),
noise levels (k, n, 1), weights (k, n), and the loss has shape (k,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs import as_number, as_whole

Schedule = float | Callable[[int], float]


def geometric(start: float, stop: float, steps: int) -> Callable[[int], float]:
    """Schedule that goes from `start` to `stop` by a constant factor a step, then stays there.

    Args:
        start: value at step 0, positive.
        stop: value from step `steps` on, positive.
        steps: at least 1.
    """
    start, stop = as_number(start, "start", above=0), as_number(stop, "stop", above=0)
    steps = as_whole(steps, "steps", least=1)
    return lambda step: start * (stop / start) ** min(1.0, step / steps)


def linear_decay(
    start: float, steps: int, *, share: float = 0.3, warmup: int = 0
) -> Callable[[int], float]:
    """Learning rate that falls on a line to a twentieth of `start` at the end of a training.

    Args:
        start: value before it falls, positive.
        steps: of the whole training.
        share: of the steps, at the end, in which it falls, from 0 to 1.
        warmup: steps over which it rises first, at most a fifth of all.
    """
    start = as_number(start, "the learning rate", above=0)
    share = as_number(share, "share", least=0, most=1)
    begin, rising = (1 - share) * steps, min(warmup, steps // 5) + 1

    def rate(step: int) -> float:
        fall = 1 - (1 - 0.05) * (step - begin) / (steps - begin) if step >= begin else 1.0
        return start * fall * min(1.0, (step + 1) / rising)

    return rate


@dataclass(frozen=True)
class LogUniform:
    """Noise levels drawn for each point, uniform in log sigma.

    Attributes:
        low: smallest level, positive.
        high: largest level.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        as_number(self.high, "high", least=as_number(self.low, "low", above=0))

    def draw(
        self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Levels of n points, shape (n, 1)."""
        low, high = self.low, self.high
        uniform = torch.rand(n, 1, generator=generator, device=generator.device, dtype=dtype)
        return low * (high / low) ** uniform


def value_at(schedule: Schedule, step: int) -> float:
    """A schedule at a step; a number is the same at every step."""
    return float(schedule(step)) if callable(schedule) else float(schedule)


Score = Callable[[Tensor], Tensor]


def dft_loss(
    target_score: Score,
    score_network: Score,
    x0: Tensor,
    noise: Tensor,
    sigma: float | Tensor,
    *,
    alpha: float = 0.5,
    independent_scores: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Denoising Fisher training (DFT): the loss of the sampler of arXiv:2411.01453.

    .. math::
        L = E\big[ |u|^2 + 2 u^T (s_\phi + \epsilon / \sigma) \big], \qquad u = s_q - s_\phi,

    all at :math:`x_0 + \sigma \epsilon`. With an exact score network its value and gradient are
    those of the Fisher divergence E|s_q - s|^2, s being the score of the noised sampler; with an
    inexact one the value is lower by the network's mean square error, so that a bad network makes
    the loss look better. The first term alone is no Fisher divergence: its gradient lacks the
    change of s with the sampler, which the second term restores without knowing it.

    Args:
        target_score: s_q, takes points (n, d) and returns (n, d); gradients must flow back.
        score_network: s_phi, alike.
        x0: output of the sampler with its graph, shape (n, d).
        noise: epsilon, shape (n, d). Use pairs with both signs (antithetic): without them the
            noise of the gradient grows as 1 / sigma.
        sigma: positive; a number or shape (n, 1).
        alpha: of the family 2 E[u^T (s_q + eps / sigma) - alpha |u|^2]. 1/2 is the loss above and
            alone the gradient of the divergence. 1 freezes the distribution under the expectation
            (the second term alone); 1.2 is the default of score identity distillation (SiD). Both
            vanish at the optimum, but need not descend.
        independent_scores: call `target_score` twice and put two independent, unbiased estimates
            u1, u2 in the place of u: E[u1^T u2 + (u1 + u2)^T (s_phi + eps / sigma)]. With one
            mini-batch the loss would gain the variance of the estimate and be biased.
        weight: of each point, shape (n,); None weighs them equally.

    Returns:
        Scalar, mean over points.
    """
    x = x0 + sigma * noise
    direction = noise / sigma
    p = score_network(x)
    a = target_score(x)
    u = a - p
    if independent_scores:
        b = target_score(x)
        v = b - p
        terms = (u * (b + direction) + v * (a + direction) - 2 * alpha * u * v).sum(-1)
    elif alpha == 0.5:
        terms = (u * (u + 2 * (p + direction))).sum(-1)
    else:
        terms = 2 * (u * (a + direction - alpha * u)).sum(-1)
    return _mean(terms, weight)


def fisher_loss(
    target_score: Score,
    score_network: Score,
    x: Tensor,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Fisher training with divergences: E[H_q - H_phi], :math:`H_s = |s|^2 + 2 \nabla \cdot s`.

    The same number and gradient as `dft_loss` by Stein's lemma, at the price of a trace (compare
    arXiv:2306.04952). Three derivatives of the target's log-density are taken.

    Args:
        target_score: s_q, takes points (n, d) and returns (n, d); twice differentiable.
        score_network: s_phi, alike.
        x: samples with their graph, shape (n, d): of the sampler or, as in DFT, noised ones.
        weight: of each point, shape (n,).

    Returns:
        Scalar, mean over points.
    """
    x = x if x.requires_grad else x.detach().requires_grad_()
    a, p = target_score(x), score_network(x)
    # The divergence of the difference is the difference of the divergences.
    u = a - p
    terms = (a.square() - p.square()).sum(-1)
    for k in range(x.shape[-1]):
        (slope,) = torch.autograd.grad(u[..., k].sum(), x, create_graph=True)
        terms = terms + 2 * slope[..., k]
    return _mean(terms, weight)


def kl_loss(
    target_score: Score, score_network: Score, x: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""KL training: a surrogate whose gradient is that of KL(sampler || target).

    .. math:: E\big[ \mathrm{sg}(s_\phi - s_q)(x)^T x \big]

    with sg the frozen value (arXiv:2306.04952). Its value has no meaning. Linear in s_q, so a
    mini-batch estimate of it leaves the gradient unbiased.

    Args:
        target_score: s_q, takes points (n, d) and returns (n, d); need not be differentiable.
        score_network: s_phi, alike.
        x: samples with their graph, shape (n, d).
        weight: of each point, shape (n,).

    Returns:
        Scalar, mean over points.
    """
    frozen = x.detach()
    with torch.no_grad():
        p = score_network(frozen)
        a = target_score(frozen)
    return _mean(((p - a.detach()) * x).sum(-1), weight)


def score_matching_loss(
    score_network: Score,
    x0: Tensor,
    noise: Tensor,
    sigma: float | Tensor,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Denoising score matching (Vincent 2011).

    .. math:: E|\sigma s_\phi(x_0 + \sigma \epsilon) + \epsilon|^2

    Least for the score of the distribution of x0 + sigma * noise. The factor sigma keeps the loss
    near the dimension d at every noise level.

    Args:
        score_network: s_phi, takes points (n, d) and returns (n, d).
        x0: samples without noise, detached, shape (n, d).
        noise: epsilon, shape (n, d).
        sigma: positive; a number or shape (n, 1).
        weight: of each point, shape (n,).

    Returns:
        Scalar, mean over points.
    """
    p = score_network(x0 + sigma * noise)
    return _mean((sigma * p + noise).square().sum(-1), weight)


def _mean(terms: Tensor, weight: Tensor | None) -> Tensor:
    return terms.mean(-1) if weight is None else (weight * terms).mean(-1)
