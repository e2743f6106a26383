"""The exercises of lesson 00: flows on a line and in the plane."""

from __future__ import annotations

import math

import torch

from . import Wrong, exercise, expect, refuse


@exercise("00.1")
def affine_log_density(answer) -> str:
    """answer: function of x, shape (n,), to log-densities."""
    x, log_3 = torch.linspace(-30, 30, 6001), math.log(3)
    found, noise = torch.as_tensor(answer(x)), torch.distributions.Normal(0.0, 1.0)
    right = noise.log_prob((x - 2) / 3) - log_3
    told = {
        "this integrates to 3: the slope of the map is missing": right + log_3,
        "this integrates to 9: the slope is 1/3, its logarithm is negative": right + 2 * log_3,
        "this is the density: take its logarithm": right.exp(),
        "you add the slope itself: add its logarithm": right + log_3 + 1 / 3,
    }
    expect(found, right, told, f"at x = 2 you give {found[3200]:.3f}, expected {right[3200]:.3f}")
    return "a normal density with mean 2 and width 3: a flow knows it without being told"


@exercise("00.2")
def kl_and_error(answer) -> str:
    """answer: function of log p and log q, each of shape (n,), to KL and its standard error."""
    gap = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    log_q = torch.linspace(-3, -1, 400, dtype=torch.float64)
    found = answer(log_q + gap, log_q)
    one = getattr(found, "ndim", 1) == 0
    refuse({"that is one number: the standard error goes with it": one})
    value, error = (float(number) for number in found)
    mean, scatter = gap.mean().item(), gap.std().item()
    told = {"the sign is reversed: where p is denser than q, log p - log q is positive": -mean}
    other = f"the divergence is {value:.3f}, expected {mean:.3f}: the mean of log p - log q"
    expect(value, mean, told, other)
    told = {
        "this is how much single points scatter: their mean scatters less, by root n": scatter,
        "this is the variance of the mean: take its root": scatter**2 / 400,
    }
    other = f"the standard error is {error:.4f}, expected {scatter / 20:.4f}"
    expect(error, scatter / 20, told, other, within=0.01)
    return "a number with its error: four times the points halve it"


@exercise("00.3")
def overfitted(on_few, on_fresh) -> str:
    """answers: mean NLL on the training points and on fresh ones."""
    few, fresh = (torch.as_tensor(value).detach() for value in (on_few, on_fresh))
    many = max(few.numel(), fresh.numel()) > 1
    refuse({"there is a value for each point: take the mean": many})
    near = (fresh - few).abs() < 0.05
    refuse(
        {
            "these are log-likelihoods: the NLL is their negative": fresh < 0,
            "hardly a difference: did you train on 30 points only, for 1,500 steps?": near,
            "the training points came out worse: is the first number that of the 30 points?": (
                few > fresh
            ),
        }
    )
    return "smaller: the flow learned these 30 points by heart, and fresh ones pay for it"


@exercise("00.4")
def inverse_of_a_coupling(answer) -> str:
    """answer: function of u (n, 2) and of s and t, each (n,) to (n,), to x (n, 2)."""
    kept, free = torch.randn(50, 2, generator=torch.Generator().manual_seed(2)).T

    def shift(kept):
        return torch.sin(2 * kept) + 1

    def pair(second):
        return torch.stack([kept, second], dim=1)

    moved = free * kept.cos().exp() + shift(kept)
    try:
        found = answer(pair(moved), torch.cos, shift)
    except TypeError as error:
        if "function" not in str(error):
            raise
        raise Wrong("s and t are functions: call them, as in s(u[:, 0])") from error
    reversed_, again = moved * (-kept.cos()).exp() - shift(kept), moved * kept.cos().exp()
    told = {
        "the order is reversed: the shift came last, so it goes first": pair(reversed_),
        "this goes from x to u once more: subtract the shift, divide by the scale": (
            pair(again + shift(kept))
        ),
    }
    expect(found, pair(free), told, "going there and back does not end where it began")
    return "there and back, exactly, although s and t have no inverse"


@exercise("00.5")
def log_det_by_autograd(answer) -> str:
    """answer: function of a map and of a point (2,), to log |det| of the Jacobian there."""
    point, right = torch.tensor([0.3, -1.2]), math.sin(0.3)
    stretch = float(answer(lambda x: torch.stack([x[0], x[1] * torch.sin(x[0]).exp()]), point))
    told = {"this is the determinant: take its logarithm": math.exp(right)}
    other = f"of a coupling with s = sin you give {stretch:.3f}, expected sin(x1)"
    expect(stretch, right, told, other)
    mirrored = float(answer(lambda x: torch.stack([x[0] + 2 * x[1], 3 * x[0] + 4 * x[1]]), point))
    diagonal = "the diagonal is enough for a coupling, not for every map: take the determinant"
    other = "a map that mirrors has a negative determinant: take the absolute value"
    expect(mirrored, math.log(2), {diagonal: math.log(4)}, other)
    return "the formula of a coupling agrees with automatic differentiation"


@exercise("00.6")
def bridges(answer) -> str:
    """answer: dictionary from 2, 6 and 10 couplings to the share of points far from the data."""
    other = not isinstance(answer, dict) or set(answer) != {2, 6, 10}
    refuse({"expected a dictionary with the keys 2, 6 and 10": other})
    two, six, ten = (float(answer[number]) for number in (2, 6, 10))
    refuse(
        {
            "a share lies between 0 and 1: divide by the number of points": max(two, six, ten) > 1,
            "more than half of the points is far away: did you train the flow?": two > 0.5,
            "two couplings should leave the most points between the moons": two <= max(six, ten),
        }
    )
    if min(six, ten) == 0:
        return "less with six than with two: none among these points is not none, draw more"
    return "less with six than with two: a bridge can be thin, it cannot go away"
