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

__all__ = ["dft_loss", "fisher_loss", "kl_loss", "score_matching_loss"]

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
    form: str = "denoising",
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
            (as in arXiv:2410.16794).
        c: of the pseudo-Huber distance, positive.
        form: "denoising" as above, or "expanded", E[|s_q|^2 - |s_phi|^2 + 2 u^T eps / sigma], the
            same number and gradient.
        independent_scores: call `target_score` twice and put two independent, unbiased estimates
            u1, u2 in the place of u: E[u1^T u2 + (u1 + u2)^T (s_phi + eps / sigma)]. With one
            mini-batch the loss would gain the variance of the estimate and be biased.
        weight: of each point, shape (n,); None weighs them equally.

    Returns:
        Scalar, mean over points.

    Raises:
        ValueError: shapes that differ, sigma or c not positive, an unknown distance or form, or
            options that exclude one another.
    """
    x = _noised(x0, noise, sigma)
    _require_options(alpha, distance, form, independent_scores, c)
    direction = noise / sigma
    p = score_network(x)
    a = target_score(x)
    _require_like(x, target_score=a, score_network=p)
    if independent_scores:
        b = target_score(x)
        u, v = a - p, b - p
        terms = (u * (b + direction) + v * (a + direction) - 2 * alpha * u * v).sum(1)
    elif distance == "pseudo-huber":
        u = a - p
        root = (u.square().sum(1) + c**2).sqrt()
        terms = root - c + (u * (p + direction)).sum(1) / root
    elif form == "expanded":
        terms = (a.square() - p.square() + 2 * (a - p) * direction).sum(1)
    elif alpha == 0.5:
        u = a - p
        terms = (u * (u + 2 * (p + direction))).sum(1)
    else:
        u = a - p
        terms = 2 * (u * (a + direction - alpha * u)).sum(1)
    return _mean(terms, weight)


def fisher_loss(
    target_score: Score,
    score_network: Score,
    x: Tensor,
    *,
    trace: str = "exact",
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
        trace: "exact", d backward passes, or "hutchinson", one for each probe, unbiased.
        probes: of Hutchinson's estimate, independent entries +1 and -1, shape (k, n, d); None draws
            one from torch's global generator.
        weight: of each point, shape (n,).

    Returns:
        Scalar, mean over points.

    Raises:
        ValueError: shapes that differ, or an unknown trace.
    """
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace is {trace!r}, expected 'exact' or 'hutchinson': choose one")
    if x.ndim != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected (n, d): give one point a row of x"
        )
    x = x if x.requires_grad else x.detach().requires_grad_()
    if trace == "exact":
        probes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
        share = 1.0
    else:
        if probes is None:
            probes = torch.randint(0, 2, (1, *x.shape), device=x.device).to(x) * 2 - 1
        if probes.ndim != 3 or probes.shape[1:] != x.shape:
            raise ValueError(
                f"probes has shape {tuple(probes.shape)}, expected (k, {x.shape[0]}, "
                f"{x.shape[1]}): draw one vector a point and probe"
            )
        share = 1 / len(probes)
    a, p = target_score(x), score_network(x)
    _require_like(x, target_score=a, score_network=p)
    # The divergence of the difference is the difference of the divergences.
    u = a - p
    terms = (a.square() - p.square()).sum(1)
    for probe in probes:
        (product,) = torch.autograd.grad(u, x, probe, create_graph=True)
        terms = terms + 2 * share * (product * probe).sum(1)
    return _mean(terms, weight)


def kl_loss(
    target_score: Score,
    score_network: Score,
    x: Tensor,
    *,
    weight: Tensor | None = None,
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

    Raises:
        ValueError: shapes that differ.
    """
    frozen = x.detach()
    with torch.no_grad():
        p = score_network(frozen)
        a = target_score(frozen)
    _require_like(frozen, target_score=a, score_network=p)
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

    Raises:
        ValueError: shapes that differ, or sigma not positive.
    """
    x = _noised(x0, noise, sigma)
    p = score_network(x)
    _require_like(x, score_network=p)
    return _mean((sigma * p + noise).square().sum(1), weight)


def _noised(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    if x0.ndim != 2 or noise.shape != x0.shape:
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)} and noise {tuple(noise.shape)}, expected (n, d) for "
            "both: draw the noise for these points"
        )
    if isinstance(sigma, Tensor):
        if sigma.ndim and sigma.shape != (len(x0), 1):
            raise ValueError(
                f"sigma has shape {tuple(sigma.shape)}, expected ({len(x0)}, 1) or a number: "
                "reshape it"
            )
        smallest = float(sigma.min())
    else:
        smallest = float(sigma)
    if not smallest > 0:
        raise ValueError(f"sigma is {smallest}, expected above 0: noise makes the score tractable")
    return x0 + sigma * noise


def _require_options(
    alpha: float, distance: str, form: str, independent_scores: bool, c: float
) -> None:
    if distance not in ("squared", "pseudo-huber"):
        raise ValueError(
            f"distance is {distance!r}, expected 'squared' or 'pseudo-huber': choose one"
        )
    if form not in ("denoising", "expanded"):
        raise ValueError(f"form is {form!r}, expected 'denoising' or 'expanded': choose one")
    if not c > 0:
        raise ValueError(f"c is {c}, expected above 0: use 1")
    if distance != "squared" and (alpha != 0.5 or form != "denoising" or independent_scores):
        raise ValueError(
            f"found distance {distance!r} with alpha {alpha}, form {form!r} and independent_scores "
            f"{independent_scores}, expected these at their defaults: use distance='squared'"
        )
    if form == "expanded" and (alpha != 0.5 or independent_scores):
        raise ValueError(
            f"found form 'expanded' with alpha {alpha} and independent_scores {independent_scores}"
            ", expected 0.5 and False: use form='denoising'"
        )


def _require_like(x: Tensor, **values: Tensor) -> None:
    for name, value in values.items():
        if value.shape != x.shape:
            raise ValueError(
                f"{name} returned shape {tuple(value.shape)} for points of shape {tuple(x.shape)}, "
                "expected the same: match the dimensions of target, sampler and score network"
            )


def _mean(terms: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return terms.mean()
    if weight.shape != terms.shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected ({len(terms)},): one a point"
        )
    return (weight * terms).mean()
