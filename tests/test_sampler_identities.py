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


def log_target(x: Tensor) -> Tensor:
    """log of N(-1, 0.5^2) / 2 + N(2, 1) / 2, normalised."""
    first = -((x + 1) ** 2) / 0.5 - math.log(0.5)
    second = -((x - 2) ** 2) / 2
    return torch.logaddexp(first, second) - math.log(2 * math.sqrt(2 * math.pi))


def target_score(x: Tensor) -> Tensor:
    first = -((x + 1) ** 2) / 0.5 - math.log(0.5)
    second = -((x - 2) ** 2) / 2
    r = torch.sigmoid(first - second)
    return -r * (x + 1) / 0.25 - (1 - r) * (x - 2)


def critic(x: Tensor) -> Tensor:
    """Score of the noised sampler, its parameters frozen at these values."""
    return -(x - B) / VARIANCE


@pytest.fixture(scope="module")
def rule() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Hermite nodes in z and eps, shape (m, 1), and weights, shape (m,), sum 1."""
    node, weight = np.polynomial.hermite_e.hermegauss(160)
    weight = weight / weight.sum()
    z, e = np.meshgrid(node, node, indexing="ij")
    w = np.outer(weight, weight)
    kept = w > 1e-25
    columns = (torch.from_numpy(part[kept]) for part in (z, e, w))
    z, e, w = columns
    return z[:, None], e[:, None], w


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def gradient(loss: Loss, rule: tuple[Tensor, Tensor, Tensor]) -> tuple[float, list[float]]:
    """Value and gradient in (theta, b) of a loss that takes x0, noise and weights."""
    z, noise, weight = rule
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(B, dtype=torch.float64, requires_grad=True)
    # The losses are means: weights of the rule times the number of nodes.
    value = loss(theta * z + b, noise, weight * len(z))
    slopes = torch.autograd.grad(value, (theta, b))
    return value.item(), [slope.item() for slope in slopes]


def divergence(kind: str) -> tuple[float, list[float]]:
    """A divergence and its gradient by the trapezoid rule on [-15, 15]."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(B, dtype=torch.float64, requires_grad=True)
    variance = theta**2 + SIGMA**2
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    log_p = -((x - b) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
    u = target_score(x) + (x - b) / variance
    integrand = {
        "fisher": u**2,
        "kl": log_p - log_target(x),
        "pseudo-huber": (u**2 + 1).sqrt() - 1,
    }[kind]
    value = torch.trapezoid(log_p.exp() * integrand, x)
    slopes = torch.autograd.grad(value, (theta, b))
    return value.item(), [slope.item() for slope in slopes]


def dft(**options) -> Loss:
    return lambda x0, e, w: dft_loss(target_score, critic, x0, e, SIGMA, weight=w, **options)


def hyvarinen(x0: Tensor, e: Tensor, w: Tensor) -> Tensor:
    return fisher_loss(target_score, critic, x0 + SIGMA * e, weight=w)


def first_term(x0: Tensor, e: Tensor, w: Tensor) -> Tensor:
    x = x0 + SIGMA * e
    return (w * (target_score(x) - critic(x))[:, 0] ** 2).mean()


def second_term_flipped(x0: Tensor, e: Tensor, w: Tensor) -> Tensor:
    x = x0 + SIGMA * e
    u = target_score(x) - critic(x)
    return (w * (u**2 - 2 * u * (critic(x) + e / SIGMA))[:, 0]).mean()


def test_the_divergence_has_the_known_value():
    value, slopes = divergence("fisher")
    assert value == pytest.approx(2.873438, abs=1e-6)
    assert slopes == pytest.approx([1.62462, -2.00343], abs=1e-5)


@pytest.mark.parametrize(
    "loss",
    [dft(), dft(independent_scores=True), hyvarinen],
    ids=["denoising", "two scores", "Hyvarinen"],
)
def test_loss_has_value_and_gradient_of_the_fisher_divergence(loss, rule):
    value, slopes = gradient(loss, rule)
    expected, exact = divergence("fisher")
    assert value == pytest.approx(expected, abs=1e-6)
    assert slopes == pytest.approx(exact, abs=1e-6)
    assert slopes == pytest.approx([1.62462, -2.00343], abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "known"),
    [(first_term, [2.03349, -1.82657]), (second_term_flipped, [2.44236, -1.64971])],
    ids=["first term only", "second term flipped"],
)
def test_wrong_variants_fail_the_identity(loss, known, rule):
    """They are what they are, and far from the gradient of the divergence."""
    _, slopes = gradient(loss, rule)
    _, exact = divergence("fisher")
    assert slopes == pytest.approx(known, abs=1e-5)
    assert slopes != pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("alpha", "known"), [(1.0, [-0.40887, -0.17686]), (1.2, [-1.22227, 0.55377])]
)
def test_other_members_of_the_family_do_not_descend(alpha, known, rule):
    value, slopes = gradient(dft(alpha=alpha), rule)
    _, exact = divergence("fisher")
    assert slopes == pytest.approx(known, abs=1e-5)
    assert sum(a * b for a, b in zip(slopes, exact, strict=True)) < 0
    if alpha == 1:
        assert value == pytest.approx(0, abs=1e-9)


def test_detaching_points_breaks_the_gradient(rule):
    """Gradients must flow through the points into both scores."""
    for q, s in (
        (lambda x: target_score(x).detach(), critic),
        (target_score, lambda x: critic(x).detach()),
    ):
        _, slopes = gradient(
            lambda x0, e, w, q=q, s=s: dft_loss(q, s, x0, e, SIGMA, weight=w), rule
        )
        assert slopes != pytest.approx([1.62462, -2.00343], rel=0.05)


def test_kl_surrogate_has_the_gradient_of_the_divergence(rule):
    expected, exact = divergence("kl")
    _, slopes = gradient(
        lambda x0, e, w: kl_loss(target_score, critic, x0 + SIGMA * e, weight=w), rule
    )
    assert expected == pytest.approx(0.392461, abs=1e-6)
    assert slopes == pytest.approx(exact, abs=1e-6)
    assert slopes == pytest.approx([-0.18195, -0.15741], abs=1e-5)


def test_pseudo_huber_has_value_and_gradient_of_its_divergence(rule):
    # A sharper integrand: the rule of 160 nodes is exact to some 1e-4 only, the trapezoid to more.
    value, slopes = gradient(dft(distance="pseudo-huber"), rule)
    expected, exact = divergence("pseudo-huber")
    assert value == pytest.approx(0.79872, abs=1e-5)
    assert value == pytest.approx(expected, abs=1e-3)
    assert exact == pytest.approx([-0.07313, -0.41898], abs=1e-5)
    assert slopes == pytest.approx(exact, abs=1e-3)


def test_an_inexact_critic_lowers_the_value(rule):
    """Value = divergence less the critic's mean square error, not E|u|^2."""
    _, e, w = rule

    def wrong(x: Tensor) -> Tensor:
        return critic(x) + 0.3 * x.sin()

    value, _ = gradient(
        lambda x0, e, w: dft_loss(target_score, wrong, x0, e, SIGMA, weight=w), rule
    )
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    density = (-((x - B) ** 2) / (2 * VARIANCE)).exp() / math.sqrt(2 * math.pi * VARIANCE)
    error = torch.trapezoid(density * (0.3 * x.sin()) ** 2, x).item()
    assert value == pytest.approx(divergence("fisher")[0] - error, abs=1e-8)
    assert value == pytest.approx(2.8293293909, abs=1e-8)
    square, _ = gradient(
        lambda x0, e, w: (
            w * (target_score(x0 + SIGMA * e) - wrong(x0 + SIGMA * e))[:, 0] ** 2
        ).mean(),
        rule,
    )
    assert square == pytest.approx(2.64170, abs=1e-5)


def field(x: Tensor) -> Tensor:
    """A field that knows nothing of the sampler."""
    return x.tanh() + x**2


def test_score_projection(rule):
    """E[u(x)^T s(x)] = -E[u(x)^T eps / sigma], the identity that makes the score tractable."""
    z, e, w = rule
    x = THETA * z + B + SIGMA * e
    u = field(x)
    left = (w * (u * critic(x))[:, 0]).sum().item()
    right = (w * (-u * e / SIGMA)[:, 0]).sum().item()
    assert left == pytest.approx(-1.2849321151, abs=1e-9)
    assert right == pytest.approx(left, abs=1e-9)


def test_gradient_of_the_score_in_its_parameters(rule):
    """E[u ds/dtheta] = d/dtheta E{u(x) [-eps / sigma - s(x)]}, with s frozen on the right."""
    z, e, w = rule
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(B, dtype=torch.float64, requires_grad=True)
    x = (theta * z + b + SIGMA * e).detach()
    score = -(x - b) / (theta**2 + SIGMA**2)
    left = torch.autograd.grad((w * (field(x) * score)[:, 0]).sum(), (theta, b))
    _, right = gradient(
        lambda x0, e, w: (
            w * (field(x0 + SIGMA * e) * (-e / SIGMA - critic(x0 + SIGMA * e)))[:, 0]
        ).mean(),
        rule,
    )
    assert [slope.item() for slope in left] == pytest.approx([1.876867, 1.201229], abs=1e-6)
    assert right == pytest.approx([slope.item() for slope in left], abs=1e-8)


def test_score_matching_is_least_at_the_score(rule):
    z, e, w = rule
    x0 = THETA * z + B
    slope = torch.tensor(-1 / VARIANCE, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor(B, dtype=torch.float64, requires_grad=True)
    loss = score_matching_loss(lambda x: slope * (x - shift), x0, e, SIGMA, weight=w * len(z))
    slopes = torch.autograd.grad(loss, (slope, shift))
    assert [value.item() for value in slopes] == pytest.approx([0, 0], abs=1e-9)
    # The noise that no function of x explains: 1 - sigma^2 / v.
    assert loss.item() == pytest.approx(1 - SIGMA**2 / VARIANCE, abs=1e-9)


@pytest.mark.parametrize(
    ("sigma", "plain", "pairs"),
    [
        (0.1, (1.70, 1.95), (1.07, 1.30)),
        (0.03, (4.77, 6.3), (1.04, 1.57)),
        (0.01, (14.9, 20.9), (1.01, 1.64)),
    ],
)
def test_antithetic_noise_keeps_the_gradient_quiet_at_small_sigma(sigma, plain, pairs):
    """Standard deviations of the gradient in theta and b over batches of 1000 evaluations."""
    # One of 200 values is known to 5 %.
    assert spread_of_gradients(sigma, pairs=False) == pytest.approx(plain, rel=0.25)
    assert spread_of_gradients(sigma, pairs=True) == pytest.approx(pairs, rel=0.25)


def spread_of_gradients(sigma: float, *, pairs: bool) -> tuple[float, ...]:
    generator = torch.Generator().manual_seed(0)
    variance = THETA**2 + sigma**2
    found = []
    for _ in range(200):
        z, e = torch.randn(2, 500 if pairs else 1000, 1, dtype=torch.float64, generator=generator)
        if pairs:
            z, e = torch.cat((z, z)), torch.cat((e, -e))
        theta, b = (torch.tensor(v, dtype=z.dtype, requires_grad=True) for v in (THETA, B))
        loss = dft_loss(target_score, lambda x: -(x - B) / variance, theta * z + b, e, sigma)
        found.append([slope.item() for slope in torch.autograd.grad(loss, (theta, b))])
    return tuple(np.std(found, axis=0, ddof=1))


def test_two_independent_scores_are_unbiased_and_one_is_not():
    """Noise in the target's score adds its variance to a squared loss, nothing to the other."""
    generator = torch.Generator().manual_seed(1)
    n, noise_std = 400_000, 2.0
    z, e = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)

    def noisy(x: Tensor) -> Tensor:
        # The noise depends on x, as that of a mini-batch does, so that its variance has a gradient.
        draw = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        return target_score(x) + noise_std * (1 + 0.3 * x) * draw

    exact = divergence("fisher")[1]
    slopes = {}
    for two in (False, True):
        theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
        b = torch.tensor(B, dtype=torch.float64, requires_grad=True)
        loss = dft_loss(noisy, critic, theta * z + b, e, SIGMA, independent_scores=two)
        slopes[two] = [slope.item() for slope in torch.autograd.grad(loss, (theta, b))]
    # E[noise^2] = 4 E[(1 + 0.3 x)^2]: its gradient in theta is 8 * 0.09 theta.
    assert slopes[False][0] - exact[0] == pytest.approx(8 * 0.09 * THETA, abs=0.15)
    assert slopes[True] == pytest.approx(exact, abs=0.15)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_fisher_loss_in_several_dimensions(trace):
    """Against |s|^2 + 2 trace of the Jacobian, a point at a time; probes over all sign vectors."""
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
    # The mean over all 8 sign vectors is the exact trace.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    probes = signs[:, None].expand(8, 6, 3) if trace == "hutchinson" else None
    found = fisher_loss(score, network, x, probes=probes)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
