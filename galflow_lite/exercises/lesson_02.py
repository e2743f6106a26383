"""The exercises of lesson 02."""

from __future__ import annotations

import math

import torch

from . import Wrong, exercise, expect, refuse

_HALF_LOG = 0.5 * math.log(2 * math.pi)


@exercise("02.1")
def _log_density(answer):
    """A function of noise and s, each of shape (points, coordinates)."""
    u, s = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1))
    found, noise = answer(u, s), -0.5 * u**2 - _HALF_LOG
    each = "This is a number for each coordinate: sum over the coordinates, .sum(1)."
    refuse({each: found.shape == u.shape, "Expected one number for each point.": found.ndim != 1})
    constant = "The constant: each coordinate of the noise brings -0.5 * log(2 pi)."
    told = {
        "The sign of s: u = (x - m) exp(-s), so the log-determinant is minus its sum.": noise + s,
        "This is the density of the noise: the log-determinant is missing.": noise,
        "You averaged over the coordinates: independent log-densities add up.": (noise - s) / 3,
        constant: -0.5 * u**2 - s,
        f"{constant} Not once for all.": -0.5 * u**2 - s - _HALF_LOG / 3,
    }
    told = {said: mistake.sum(1) for said, mistake in told.items()}
    other = "Expected the log-density of the noise less the sum of s, for each point."
    expect(found, (noise - s).sum(1), told, other)
    return "One pass of the network, and the density of every point is known."


class _Layer:
    """A MADE of three coordinates without a network: each hears those before it."""

    def network(self, x):
        before = torch.cat([torch.zeros(len(x), 1), x[:, :-1].cumsum(1)], dim=1)
        return 0.5 + 0.3 * torch.sin(before), torch.cos(before)


def _in_turn(made, u, scale, coordinates=3):
    """Coordinates filled in one at a time: ``u * scale(s) + m``."""
    x = torch.zeros_like(u)
    for i in range(coordinates):
        s, m = (values[:, i] for values in made.network(x))
        x[:, i] = u[:, i] * scale(s) + m
    return x


@exercise("02.2")
def _undo(answer):
    """A function of a layer and noise."""
    made, x = _Layer(), torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    s, m = made.network(x)
    u = (x - m) * torch.exp(-s)
    found, (s, m), (s0, m0) = answer(made, u.clone()), made.network(u), made.network(0 * u)
    rows = "You filled in rows: back[i] is a point, back[:, i] a coordinate."
    refuse({rows: found.shape == x.shape and not found[3:].any()})
    once = "One call for all coordinates: the network has to hear x, one at a time."
    told = {
        once: u * s.exp() + m,
        f"{once} It heard zeros.": u * s0.exp() + m0,
        "You went on towards the noise: solve the equations for x.": (u - m) * torch.exp(-s),
        "s is a logarithm: the scale is its exponential.": _in_turn(made, u, lambda s: s),
        "The sign of s: on the way back e^s multiplies.": (
            _in_turn(made, u, lambda s: torch.exp(-s))
        ),
        "These points have three coordinates, you filled in two: u.shape[1].": (
            _in_turn(made, u, torch.exp, coordinates=2)
        ),
    }
    other = "There and back does not end where it began: x = u exp(s) + m, in order."
    expect(found, x, told, other)
    return "There and back. Each coordinate took a call of the network."


@exercise("02.3")
def _calls(density, draw):
    """Calls of a network for a density and for a draw, of six MADEs and 43 coordinates."""
    turned = (density, draw) == (258, 6)
    told = {
        "The other way round: which of the two knows all coordinates of x at once?": turned,
        "That is one MADE: the stack has six.": density == 1 or draw == 43,
        "For a density each of the six MADEs is called once: x is known.": density != 6,
        "A draw has no x to show to the network: it fills in 43 coordinates in turn.": draw == 6,
        "Each of the six MADEs is called once for each of the 43 coordinates.": draw != 258,
    }
    refuse(told)
    return "6 and 258: a MAF gives densities fast and draws slowly. In the plane that is no matter."


@exercise("02.4")
def _shares(answer):
    """A function of labels and weights of points, to the share of each cluster."""
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 1])
    weights = torch.tensor([4.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    found, sums = torch.as_tensor(answer(labels, weights)), torch.tensor([4.0, 3.0, 3.0])
    each = found.shape == weights.shape
    refuse({"This is a share for each point: add up those of a cluster.": each})
    counts, total = labels.bincount(), found.sum()
    told = {
        "Every cluster in the same share, whatever it holds.": torch.ones(3) / 3,
        "These add up to 10, and shares add up to one.": sums,
        "You counted points: add up their weights.": counts / 8 * total.clamp(1, 8),
        "These are means: add up the weights of a cluster, then divide by all of them.": (
            sums / counts
        ),
    }
    other = "With weights 4, 3 and 3 in three clusters, the shares are 0.4, 0.3 and 0.3."
    expect(found, sums / 10, told, other)
    return "Shares, which add up to one."


@exercise("02.5")
def _sum(answer):
    """A function of log-densities of three pieces, shape (3, points), and their weights."""
    line, weights = torch.linspace(-12, 12, 4801), torch.tensor([0.2, 0.3, 0.5])
    at = torch.tensor([[-4.0], [0.0], [5.0]])
    log_q = -0.5 * (line - at) ** 2 - _HALF_LOG
    try:
        found = answer(log_q, weights)
    except RuntimeError as error:
        if "must match the size" not in str(error):
            raise
        raise Wrong("The shapes (k,) and (k, points) do not meet: weights[:, None].") from error
    refuse({"Expected one number for each point.": found.ndim != 1})
    w, total = weights[:, None], float(found.exp().sum() * 0.005)
    right = torch.logsumexp(w.log() + log_q, dim=0)
    told = {
        "This is the density: take its logarithm.": right.exp(),
        "This integrates to 3, the number of pieces: each counts in full. Weights?": (
            log_q.logsumexp(0)
        ),
        "You averaged the logarithms. Probabilities add, logarithms do not.": (w * log_q).sum(0),
        "That is the largest term: the density is the sum over all pieces.": (
            (w.log() + log_q).amax(0)
        ),
        "In logarithms a weight is a term of its own: the logarithm of W.": (
            torch.logsumexp(w + log_q, dim=0)
        ),
        "The weight stands before q, not before log q: add its logarithm.": (
            torch.logsumexp(w * log_q, dim=0)
        ),
    }
    other = f"This integrates to {total:.2f}, expected 1, or is another density."
    expect(found, right, told, other)
    far = "Right here; far from all pieces exp gives 0, its log -inf: torch.logsumexp."
    expect(answer(log_q - 200, weights), right - 200, {}, far)
    return "It integrates to one. Without the weights it would integrate to the number of pieces."


@exercise("02.6")
def _points(n):
    """The number of test points at which the KL is twice its standard error."""
    told = {
        "That is the root of it: the error falls with the root of n.": 90,
        "That is a ratio: the error falls with the root of n.": 45,
        "At that number the KL is once its standard error.": 2025,
    }
    other = "Put twice the standard error, 2 * 0.045 / root n, equal to 0.001."
    expect(n, 8100, told, other, within=0.02)
    return "8,100. Half the KL, with the same scatter, would need four times as many."


@exercise("02.7")
def _cost(ratio):
    """The cost of eight pieces in units of one flow's."""
    told = {
        "That is one piece: there are eight.": 1 / 64,
        "Both the points and the parameters of a piece are an eighth.": 1,
        "That is the reverse: each point goes through one small piece only.": 8,
    }
    other = "Eight times the same passes, times 1/8 of the points, times 1/8 of the size."
    expect(ratio, 1 / 8, told, other, within=0.01)
    return "An eighth: each point goes through its own piece alone, and that one is small."


@exercise("02.8")
def _by_radius(kl, between):
    """KL of two pieces cut by radius, and the share of draws between the rings."""
    for found, what in ((kl, "KL"), (between, "share")):
        many = torch.as_tensor(found).numel() > 1
        refuse({f"The {what} is one number: take the mean of these.": many})
    kl, between = float(kl), float(between)
    share, few = not 0 <= between <= 1, between < 0.005
    told = {
        "A share lies between 0 and 1: divide by the number of draws.": share,
        "The KL is negative: the mean is of log p - log q, at points of the target.": kl < 0,
        "That is what arcs give, or deeper pieces: cut at r = 1.5, and **size(2)?": kl < 0.1,
        "Worse than one flow: did both pieces train for 60 passes, with **size(2)?": kl > 0.6,
        "Hardly more than the rings themselves have there: are these draws of the pieces?": few,
    }
    refuse(told)
    return "Worse than arcs: a ring has a hole, and no flow can make one. An arc has none."
