"""Losses of implicit samplers and of their score networks, as plain functions.

Notation of arXiv:2411.01453: a sampler makes x0 = g(z), and x = x0 + sigma * noise follows a law
with score s_phi, which a network learns; s_q is the score of the target; u = s_q - s_phi.

A loss of the sampler is to be differentiated with respect to the sampler alone, through the input
of the score network and not its parameters: take `torch.autograd.grad(loss, weights_of_sampler)`.
`backward` on the loss would also add to the gradients of the score network, unless its parameters
are frozen (`requires_grad_(False)`) or these gradients are set to zero before its own step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..inputs import as_choice

Score = Callable[[Tensor], Tensor]


def dft_loss(
    target_score: Score,
    score_network: Score,
    x0: Tensor,
    noise: Tensor,
    sigma: float | Tensor,
    *,
    alpha: float = 0.5,
    distance: str = "squared",
    c: float = 1.0,
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
            alone the gradient of the divergence. 1 freezes the law under the expectation (the
            second term alone); 1.2 is the default of score identity distillation (SiD). Both vanish
            at the optimum, but need not descend.
        distance: "squared", or "pseudo-huber" for sqrt(|u|^2 + c^2) - c in the place of |u|^2
            (as in arXiv:2410.16794), which has neither another alpha nor independent scores.
        c: of the pseudo-Huber distance, positive.
        independent_scores: call `target_score` twice and put two independent, unbiased estimates
            u1, u2 in the place of u: E[u1^T u2 + (u1 + u2)^T (s_phi + eps / sigma)]. With one
            mini-batch the loss would gain the variance of the estimate and be biased.
        weight: of each point, shape (n,); None weighs them equally.

    Returns:
        Scalar, mean over points.
    """
    as_choice(distance, "distance", ("squared", "pseudo-huber"))
    if distance == "pseudo-huber" and (alpha != 0.5 or independent_scores):
        raise ValueError(
            f"found distance 'pseudo-huber' with alpha {alpha} and independent_scores "
            f"{independent_scores}, for which it is not known: use distance='squared'"
        )
    x = x0 + sigma * noise
    direction = noise / sigma
    p = score_network(x)
    a = target_score(x)
    u = a - p
    if independent_scores:
        b = target_score(x)
        v = b - p
        terms = (u * (b + direction) + v * (a + direction) - 2 * alpha * u * v).sum(1)
    elif distance == "pseudo-huber":
        root = (u.square().sum(1) + c**2).sqrt()
        terms = root - c + (u * (p + direction)).sum(1) / root
    elif alpha == 0.5:
        terms = (u * (u + 2 * (p + direction))).sum(1)
    else:
        terms = 2 * (u * (a + direction - alpha * u)).sum(1)
    return _mean(terms, weight)


def fisher_loss(
    target_score: Score,
    score_network: Score,
    x: Tensor,
    *,
    probes: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Fisher training with divergences: E[H_q - H_phi], :math:`H_s = |s|^2 + 2 \nabla \cdot s`.

    The same number and gradient as `dft_loss` by Stein's lemma, at the price of a trace (compare
    arXiv:2306.04952). Three derivatives of the target's log-density are taken.

    Args:
        target_score: s_q, takes points (n, d) and returns (n, d); twice differentiable.
        score_network: s_phi, alike.
        x: samples with their graph, shape (n, d): of the sampler or, as in DFT, noised ones.
        probes: of Hutchinson's unbiased estimate of the trace, independent entries +1 and -1, shape
            (k, n, d), one backward pass for each of the k; None takes the exact trace in d passes.
        weight: of each point, shape (n,).

    Returns:
        Scalar, mean over points.
    """
    x = x if x.requires_grad else x.detach().requires_grad_()
    share = 1.0 if probes is None else 1 / len(probes)
    if probes is None:
        probes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
    a, p = target_score(x), score_network(x)
    # The divergence of the difference is the difference of the divergences.
    u = a - p
    terms = (a.square() - p.square()).sum(1)
    for probe in probes:
        (product,) = torch.autograd.grad(u, x, probe, create_graph=True)
        terms = terms + 2 * share * (product * probe).sum(1)
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
    return _mean(((p - a.detach()) * x).sum(1), weight)


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

    Least for the score of the law of x0 + sigma * noise. The factor sigma keeps the loss near the
    dimension d at every noise level.

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
    return _mean((sigma * p + noise).square().sum(1), weight)


def _mean(terms: Tensor, weight: Tensor | None) -> Tensor:
    return terms.mean() if weight is None else (weight * terms).mean()
