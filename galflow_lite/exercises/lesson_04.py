"""The exercises of lesson 04."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..targets import GaussianMixture
from . import Wrong, exercise, expect, refuse


@exercise("04.1")
def _factors(for_a_thousand, for_a_root):
    """By which factor the score grows for 1000 f and for the root of f."""
    told = {
        "1,000 is what f grows by. The score is the gradient of its logarithm.": 1000,
        "log f grows by log 1000, everywhere alike: what does its gradient do?": math.log(1000),
        "The change is 0, so the factor is another number.": 0,
    }
    other = "Take the logarithm of 1000 f, then the gradient."
    expect(for_a_thousand, 1, told, other, within=0.01)
    told = {
        "The root is no constant factor: its logarithm is half of log f.": 1,
        "The root makes the density flatter: its arrows get shorter.": 2,
    }
    expect(for_a_root, 0.5, told, "Take the logarithm of the root of f, then the gradient.")
    return "The constant is gone, and a power of f scales the arrows: section 8 makes use of it."


@exercise("04.2")
def _two(answer):
    """A function of points (n, 2) and a that returns scores (n, 2)."""
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) * 2
    for a in (1.0, 3.0):
        try:
            found = answer(x, a)
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise Wrong("Shapes do not fit: x[:, :1] is a column, x[:, 0] is not.") from None
            raise
        shape = f"The shape is {tuple(found.shape)}, expected (n, 2): keep x[:, :1]."
        refuse({shape: found.shape != x.shape})
        exact = GaussianMixture([[-a, 0.0], [a, 0.0]], 1.0).score(x)
        centre = torch.tensor([a, 0.0])
        told = {
            "The sign: the arrows point uphill.": -exact,
            "Shares of one half everywhere: a point at a belongs to the right one.": -x,
            "The left one pulls too, towards -a, with what is left of the share.": (
                centre * torch.sigmoid(2 * a * x[:, :1]) - x
            ),
        }
        odds = "The pulls are right, the log-odds are not: (x+a)^2/2 - (x-a)^2/2."
        for slope in {a, 1.0, 2.0, 4.0} - {2 * a}:
            told[f"{odds} They are not {slope:g} x1."] = (
                centre * torch.tanh(slope / 2 * x[:, :1]) - x
            )
        other = f"For a = {a:g} the arrows differ from the gradient of log f."
        if not torch.allclose(found[:, 1], exact[:, 1].to(found), atol=1e-3):
            other += " Along the second axis both centres are at 0."
        expect(found, exact, told, other)
    return "Far from the middle one share is 1, and the other centre has no say."


@exercise("04.3")
def _lowest(value):
    """The smallest loss of denoising score matching on a Gaussian in the plane."""
    told = {
        "A loss of 0 would mean to guess the noise from the point: most of it is lost.": 0,
        "That is one coordinate: the loss adds up two.": 1 / 1.01,
        "That is the network that answers 0. The best one is a little better.": 2,
        "That is what the best network gains: subtract it from 2.": 0.0198,
    }
    other = "Put s = -x / (1 + sigma^2), x = x0 + sigma e, into the loss."
    expect(value, 2 / 1.01, told, other, within=2e-3)
    return "1.98 of 2: a loss that hardly falls is no failure here. Compare with the lowest one."


@exercise("04.4")
def _spoilt(value):
    """The value of the loss with a score network that is off."""
    told = {
        "You would expect a bad network to cost something. Work out the sign.": 2.873 + 0.044,
        "The gradient may be about right, but the value feels the error of the network.": 2.873,
        "|u|^2 brings one mean square, the second term takes two.": 2.873 - 2 * 0.044,
        "Mean squares: no root is taken.": 2.873 - math.sqrt(0.044),
        "The second term enters with minus two mean squares.": 2.873 + 3 * 0.044,
    }
    expect(value, 2.829, told, "L is D less the mean square error of the score network.")
    return "2.829, lower than D: a bad score network makes the loss look better."


@exercise("04.5")
def _far(score, shares):
    """The score of two Gaussians at 4 and -4, and shares on the right for three seeds."""
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(2)) * 3
    pull = torch.tensor([4.0, 0.0])
    near, far = (GaussianMixture([[-a, 0.0], [a, 0.0]], 1.0).score(x) for a in (2.0, 4.0))
    told = {
        "The centres have moved, the log-odds have not: they are 2 a x1.": (
            pull * torch.tanh(2 * x[:, :1]) - x
        ),
        "These are still the modes at 2 and -2.": near,
    }
    other = "The score is not that of two Gaussians of width 1 at 4 and -4."
    expect(score(x), far, told, other)
    shares = np.asarray(shares, dtype=float)
    three = f"Found {shares.size} shares, expected one for each of three seeds."
    refuse({three: shares.shape != (3,)})
    exact = np.abs(shares - 0.5).max() < 0.02
    told = {
        "A share lies between 0 and 1: divide by the number of points.": (
            shares.min() < 0 or shares.max() > 1
        ),
        "Three times the same share: did the seed go into train?": (
            np.ptp(shares) == 0 and 0 < shares[0] < 1
        ),
        "All three at one half is what exact samples give: are these of the sampler?": exact,
    }
    refuse(told)
    return "Farther apart the seeds differ more: nothing that the sampler sees pulls shares back."


@exercise("04.6")
def _variance(answer):
    """A function of the step size that returns the variance at which a chain stays."""
    h = np.array([0.1, 0.5, 1.0])
    found, exact = np.array([float(answer(value)) for value in h]), 1 / (1 - h / 2)
    told = {
        "One is the limit of small steps. At a finite step the chain is wider.": np.ones(3),
        "The noise of a step has variance 2 h, not h.": exact / 2,
        "That is the standard deviation: square it.": np.sqrt(exact),
        "That is the variance after one step from 1: it has to come out as it went in.": (
            (1 - h) ** 2 + 2 * h
        ),
        "The first step from a point adds 2 h, but then the pull acts on all of it.": 2 * h,
        "The old point shrinks by 1 - h, its variance by the square of that.": np.full(3, 2.0),
    }
    other = f"At h = 0.5 you get {found[1]:.3f}; the chain of this section has 4/3."
    expect(found, exact, told, other)
    return "v = 1 / (1 - h/2): the error is of order h, and at h = 2 the chain explodes."


@exercise("04.7")
def _nats(value):
    """The KL divergence of shares 90 : 10 from 50 : 50."""
    right, turned = 0.9 * math.log(1.8) + 0.1 * math.log(0.2), 0.5 * math.log(0.5**2 / 0.09)
    told = {
        "Zero would mean equal distributions. The shares differ.": 0.0,
        "That is the part of one mode. The part of the other is negative.": 0.9 * math.log(1.8),
        "You averaged over the target. KL(samples | target) averages over the samples.": turned,
        "These are bits: take the natural logarithm.": right / math.log(2),
        "A divergence is not negative: samples over target.": -right,
        "That is one mode. The other counts too, with its share.": math.log(1.8),
    }
    other = "Add share times log(share over 1/2) for both modes."
    expect(value, right, told, other, within=2e-3)
    return "0.368, however far apart the modes are: KL compares the shares themselves."


@exercise("04.8")
def _astray(points):
    """How far the worst mode of chains from (3, 1) is off, in points."""
    shares = hasattr(points, "largest_deviation")
    refuse({"These are all shares: its `largest_deviation`, times 100, is asked for.": shares})
    points = float(points)
    told = {
        "A share? Give points: times 100.": 0.05 < points < 0.6,
        "Chains from the centre score so. Did yours start at (3, 1)?": points < 5,
        "Hardly any chain has moved: 500 steps of h = 0.02.": points > 60,
    }
    refuse(told)
    return "Off by tens of points: a chain, too, only knows the modes near its start."
