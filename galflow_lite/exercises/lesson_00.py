"""The exercises of lesson 00: flows on a line and in the plane."""

from __future__ import annotations

import math

import torch

from . import Wrong, exercise


@exercise(
    "00.1",
    "Two terms: the logarithm of the noise's density at f(x), and the logarithm of the slope.",
    "The slope of (x - 2) / 3 is 1/3, whatever x is.",
    "normal.log_prob((x - 2) / 3) - log(3)",
)
def affine_log_density(answer) -> str:
    """answer: function of x, shape (n,), to log-densities."""
    x = torch.linspace(-30, 30, 6001)
    found, noise = torch.as_tensor(answer(x)), torch.distributions.Normal(0.0, 1.0)
    right = noise.log_prob((x - 2) / 3) - math.log(3)
    if _close(found, right + math.log(3)):
        raise Wrong("this integrates to 3: the slope of the map is missing")
    if _close(found, right + 2 * math.log(3)):
        raise Wrong("this integrates to 9: the slope is 1/3, its logarithm is negative")
    if _close(found, right.exp()):
        raise Wrong("this is the density: take its logarithm")
    if _close(found, right + math.log(3) + 1 / 3):
        raise Wrong("you add the slope itself: add its logarithm")
    if not _close(found, right):
        raise Wrong(f"at x = 2 you give {found[3200]:.3f}, expected {right[3200]:.3f}")
    return "a normal density with mean 2 and width 3: a flow knows it without being told"


@exercise(
    "00.2",
    "A mean over points of p estimates an expectation over p.",
    "The standard error of a mean is the standard deviation over the root of the number.",
    "difference = log_p - log_q; difference.mean(), difference.std() / len(difference) ** 0.5",
)
def kl_and_error(answer) -> str:
    """answer: function of log p and log q, each of shape (n,), to KL and its standard error."""
    gap = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    log_q = torch.linspace(-3, -1, 400, dtype=torch.float64)
    found = answer(log_q + gap, log_q)
    if getattr(found, "ndim", 1) == 0:
        raise Wrong("that is one number: the standard error goes with it")
    value, error = (float(number) for number in found)
    mean, scatter = gap.mean().item(), gap.std().item()
    if math.isclose(value, -mean, rel_tol=1e-6):
        raise Wrong("the sign is reversed: where p is denser than q, log p - log q is positive")
    if not math.isclose(value, mean, rel_tol=1e-6):
        raise Wrong(
            f"the divergence is {value:.3f}, expected {mean:.3f}: the mean of log p - log q"
        )
    if math.isclose(error, scatter, rel_tol=0.01):
        raise Wrong("this is how much single points scatter: their mean scatters less, by root n")
    if math.isclose(error, scatter**2 / 400, rel_tol=0.01):
        raise Wrong("this is the variance of the mean: take its root")
    if not math.isclose(error, scatter / 20, rel_tol=0.01):
        raise Wrong(f"the standard error is {error:.4f}, expected {scatter / 20:.4f}")
    return "a number with its error: four times the points halve it"


@exercise(
    "00.3",
    "Copy the loop of section 2 for `small = FlowOnALine()`, with `few = data[:30]` as each batch.",
    "The loss of the last step is the first number: `loss.item()`.",
    "The second is -log_prob(small, bumps.sample((10_000,))).mean().item()",
)
def overfitted(on_few, on_fresh) -> str:
    """answers: mean NLL on the training points and on fresh ones."""
    on_few, on_fresh = (torch.as_tensor(value).detach() for value in (on_few, on_fresh))
    if max(on_few.numel(), on_fresh.numel()) > 1:
        raise Wrong("there is a value for each point: take the mean")
    if on_fresh < 0:
        raise Wrong("these are log-likelihoods: the NLL is their negative")
    if abs(on_fresh - on_few) < 0.05:
        raise Wrong("hardly a difference: did you train on 30 points only, for 1,500 steps?")
    if on_few > on_fresh:
        raise Wrong(
            "the training points came out worse: is the first number that of the 30 points?"
        )
    return "smaller: the flow learned these 30 points by heart, and fresh ones pay for it"


@exercise(
    "00.4",
    "The kept coordinate is the same on both sides: u1 = x1.",
    "Solve u2 = x2 exp(s) + t for x2.",
    "torch.stack([u[:, 0], (u[:, 1] - t(u[:, 0])) * torch.exp(-s(u[:, 0]))], dim=1)",
)
def inverse_of_a_coupling(answer) -> str:
    """answer: function of u (n, 2) and of s and t, each (n,) to (n,), to x (n, 2)."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(2))

    def shift(kept):
        return torch.sin(2 * kept) + 1

    moved = x[:, 1] * torch.cos(x[:, 0]).exp() + shift(x[:, 0])
    try:
        found = answer(torch.stack([x[:, 0], moved], dim=1), torch.cos, shift)
    except TypeError as error:
        if "function" not in str(error):
            raise
        raise Wrong("s and t are functions: call them, as in s(u[:, 0])") from error
    if found.shape != x.shape:
        raise Wrong(f"the shape is {tuple(found.shape)}, expected {tuple(x.shape)}")
    if _close(found[:, 1], moved * torch.exp(-torch.cos(x[:, 0])) - shift(x[:, 0])):
        raise Wrong("the order is reversed: the shift came last, so it goes first")
    if _close(found[:, 1], moved * x[:, 0].cos().exp() + shift(x[:, 0])):
        raise Wrong("this goes from x to u once more: subtract the shift, divide by the scale")
    if not _close(found, x):
        raise Wrong("going there and back does not end where it began")
    return "there and back, exactly, although s and t have no inverse"


@exercise(
    "00.5",
    "A determinant may be negative, a factor of area may not.",
    "torch.autograd.functional.jacobian(f, point) is a matrix; it has a method det().",
    "torch.autograd.functional.jacobian(f, point).det().abs().log()",
)
def log_det_by_autograd(answer) -> str:
    """answer: function of a map and of a point (2,), to log |det| of the Jacobian there."""
    point = torch.tensor([0.3, -1.2])
    stretch = float(answer(lambda x: torch.stack([x[0], x[1] * torch.sin(x[0]).exp()]), point))
    if math.isclose(stretch, math.exp(math.sin(0.3)), rel_tol=1e-4):
        raise Wrong("this is the determinant: take its logarithm")
    if not math.isclose(stretch, math.sin(0.3), rel_tol=1e-4):
        raise Wrong(f"of a coupling with s = sin you give {stretch:.3f}, expected sin(x1)")
    mirrored = float(answer(lambda x: torch.stack([x[0] + 2 * x[1], 3 * x[0] + 4 * x[1]]), point))
    if math.isclose(mirrored, math.log(4), rel_tol=1e-4):
        raise Wrong(
            "the diagonal is enough for a coupling, not for every map: take the determinant"
        )
    if not math.isclose(mirrored, math.log(2), rel_tol=1e-4):
        raise Wrong("a map that mirrors has a negative determinant: take the absolute value")
    return "the formula of a coupling agrees with automatic differentiation"


@exercise(
    "00.6",
    "`train(FlowInThePlane(number))` gives a flow, `draw(flow, 4000)` its points.",
    "torch.cdist(points, moons[:2000]).amin(1) is the distance to the nearest data point.",
    "The mean of (distance > 0.25), as a float, is the share.",
)
def bridges(answer) -> str:
    """answer: dictionary from 2, 6 and 10 couplings to the share of points far from the data."""
    if not isinstance(answer, dict) or set(answer) != {2, 6, 10}:
        raise Wrong("expected a dictionary with the keys 2, 6 and 10")
    two, six, ten = (float(answer[number]) for number in (2, 6, 10))
    if max(two, six, ten) > 1:
        raise Wrong("a share lies between 0 and 1: divide by the number of points")
    if two > 0.5:
        raise Wrong("more than half of the points is far away: did you train the flow?")
    if not two > max(six, ten):
        raise Wrong("two couplings should leave the most points between the moons")
    if min(six, ten) == 0:
        return "less with six than with two: none among these points is not none, draw more"
    return "less with six than with two: a bridge can be thin, it cannot go away"


def _close(found, right) -> bool:
    return found.shape == right.shape and torch.allclose(found, right.to(found), atol=1e-4)
