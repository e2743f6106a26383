"""Gradient identities of the losses, in one dimension, by deterministic quadrature in float64.

The sampler is x0 = theta z + b, so that the law of x0 + sigma eps is a Gaussian with a known score,
and the target is a mixture of two Gaussians. The divergences come from a trapezoid rule and their
gradients from automatic differentiation of that rule, which knows nothing of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from galflow_lite.samplers import dft_loss, fisher_loss, kl_loss, score_matching_loss

THETA, B, SIGMA = 1.3, 0.4, 0.3
VARIANCE = THETA**2 + SIGMA**2


def components(x: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of N(-1, 0.5^2) and N(2, 1), both times sqrt(2 pi)."""
    return -((x + 1) ** 2) / 0.5 - math.log(0.5), -((x - 2) ** 2) / 2


def log_target(x: Tensor) -> Tensor:
    """log of N(-1, 0.5^2) / 2 + N(2, 1) / 2, normalised."""
    return torch.logaddexp(*components(x)) - math.log(2 * math.sqrt(2 * math.pi))


def target_score(x: Tensor) -> Tensor:
    first, second = components(x)
    r = torch.sigmoid(first - second)
    return -r * (x + 1) / 0.25 - (1 - r) * (x - 2)


def critic(x: Tensor, variance: float = VARIANCE) -> Tensor:
    """Score of the noised sampler, its parameters frozen at these values."""
    return -(x - B) / variance


@pytest.fixture(scope="module")
def rule() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Hermite nodes in z and eps, shape (m, 1), and weights, shape (m,), sum 1."""
    node, weight = np.polynomial.hermite_e.hermegauss(160)
    weight = weight / weight.sum()
    z, e = np.meshgrid(node, node, indexing="ij")
    w = np.outer(weight, weight)
    kept = w > 1e-25
    z, e, w = (torch.from_numpy(part[kept]) for part in (z, e, w))
    return z[:, None], e[:, None], w


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def parameters() -> tuple[Tensor, Tensor]:
    theta, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (THETA, B))
    return theta, b


def slopes(value: Tensor, of: tuple[Tensor, Tensor]) -> list[float]:
    return [slope.item() for slope in torch.autograd.grad(value, of)]


def gradient(loss: Loss, rule: tuple[Tensor, Tensor, Tensor]) -> tuple[float, list[float]]:
    """Value and gradient in (theta, b) of a loss that takes x0, noise and weights."""
    z, noise, weight = rule
    theta, b = parameters()
    # The losses are means: weights of the rule times the number of nodes.
    value = loss(theta * z + b, noise, weight * len(z))
    return value.item(), slopes(value, (theta, b))


def divergence(kind: str) -> tuple[float, list[float]]:
    """A divergence and its gradient by the trapezoid rule on [-15, 15]."""
    theta, b = parameters()
    variance = theta**2 + SIGMA**2
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    log_p = -((x - b) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
    u = target_score(x) + (x - b) / variance
    integrand = {
        "fisher": u**2,
        "kl": log_p - log_target(x),
    }[kind]
    value = torch.trapezoid(log_p.exp() * integrand, x)
    return value.item(), slopes(value, (theta, b))


def dft(q: Callable = target_score, s: Callable = critic, **options) -> Loss:
    return lambda x0, e, w: dft_loss(q, s, x0, e, SIGMA, weight=w, **options)


def hyvarinen(x0: Tensor, e: Tensor, w: Tensor) -> Tensor:
    return fisher_loss(target_score, critic, x0 + SIGMA * e, weight=w)


def surrogate(x0: Tensor, e: Tensor, w: Tensor) -> Tensor:
    return kl_loss(target_score, critic, x0 + SIGMA * e, weight=w)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (dft(), "fisher"),
        (dft(independent_scores=True), "fisher"),
        (hyvarinen, "fisher"),
        (surrogate, "kl"),
    ],
    ids=["denoising", "two scores", "Hyvarinen", "KL"],
)
def test_loss_has_value_and_gradient_of_its_divergence(loss, kind, rule):
    value, found = gradient(loss, rule)
    expected, exact = divergence(kind)
    assert found == pytest.approx(exact, abs=1e-6)
    if kind != "kl":  # only the gradient of the surrogate means something
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "known"), [(1.0, [-0.40887, -0.17686]), (1.2, [-1.22227, 0.55377])]
)
def test_other_members_of_the_family_do_not_descend(alpha, known, rule):
    value, found = gradient(dft(alpha=alpha), rule)
    assert found == pytest.approx(known, abs=1e-5)
    assert sum(a * b for a, b in zip(found, divergence("fisher")[1], strict=True)) < 0
    if alpha == 1:
        assert value == pytest.approx(0, abs=1e-9)


def test_score_matching_is_least_at_the_score(rule):
    z, e, w = rule
    x0 = THETA * z + B
    slope = torch.tensor(-1 / VARIANCE, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor(B, dtype=torch.float64, requires_grad=True)
    loss = score_matching_loss(lambda x: slope * (x - shift), x0, e, SIGMA, weight=w * len(z))
    assert slopes(loss, (slope, shift)) == pytest.approx([0, 0], abs=1e-9)
    # The noise that no function of x explains: 1 - sigma^2 / v.
    assert loss.item() == pytest.approx(1 - SIGMA**2 / VARIANCE, abs=1e-9)


def test_fisher_loss_in_several_dimensions():
    """Against |s|^2 + 2 trace of the Jacobian, a point at a time."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)

    def score(points: Tensor) -> Tensor:
        return (points @ matrix).sin() - points

    def network(points: Tensor) -> Tensor:
        return -(points @ matrix.T).tanh()

    def hyvarinen_score(function, point: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda p: function(p[None])[0], point)
        return function(point[None]).square().sum() + 2 * jacobian.trace()

    expected = torch.stack(
        [hyvarinen_score(score, p) - hyvarinen_score(network, p) for p in x]
    ).mean()
    found = fisher_loss(score, network, x)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
