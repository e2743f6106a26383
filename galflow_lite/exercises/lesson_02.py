"""The exercises of lesson 02."""

from __future__ import annotations

import math

import torch

from . import Wrong, exercise

_HALF_LOG = 0.5 * math.log(2 * math.pi)


def _close(found, right, atol=1e-4) -> bool:
    return found.shape == right.shape and torch.allclose(found.double(), right.double(), atol=atol)


@exercise(
    "02.1",
    "Two terms: the density of the noise at u, and the log-determinant.",
    "Coordinates of the noise are independent: their log-densities add up. So do the s.",
    "Normal(0.0, 1.0).log_prob(u).sum(1) - s.sum(1)",
)
def _log_density(answer):
    """A function of noise and s, each of shape (points, coordinates)."""
    u, s = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1))
    found, noise = answer(u, s), -0.5 * u**2 - _HALF_LOG
    if found.shape == u.shape:
        raise Wrong("This is a number for each coordinate: sum over the coordinates, .sum(1).")
    if found.shape != (30,):
        raise Wrong(f"The shape is {tuple(found.shape)}, expected one number for each point.")
    if _close(found, (noise + s).sum(1)):
        raise Wrong("The sign of s: u = (x - m) exp(-s), so the log-determinant is minus its sum.")
    if _close(found, noise.sum(1)):
        raise Wrong("This is the density of the noise: the log-determinant is missing.")
    if _close(found, (noise - s).mean(1)):
        raise Wrong("You averaged over the coordinates: independent log-densities add up.")
    for constant in (0, _HALF_LOG):  # left out, or once for all coordinates
        if _close(found, (-0.5 * u**2 - s).sum(1) - constant):
            raise Wrong("The constant: each coordinate of the noise brings -0.5 * log(2 pi).")
    if not _close(found, (noise - s).sum(1)):
        raise Wrong("Expected the log-density of the noise less the sum of s, for each point.")
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


@exercise(
    "02.2",
    "Solve u = (x - m) exp(-s) for x.",
    "s and m of coordinate i need the coordinates before it: call the network once for each.",
    "s, m = made.network(back); back[:, i] = u[:, i] * torch.exp(s[:, i]) + m[:, i]",
)
def _undo(answer):
    """A function of a layer and noise."""
    made, x = _Layer(), torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    s, m = made.network(x)
    u = (x - m) * torch.exp(-s)
    found = answer(made, u.clone())
    for s, m in (made.network(u), made.network(torch.zeros_like(u))):
        if _close(found, u * s.exp() + m):
            raise Wrong("One call for all coordinates: the network has to hear x, one at a time.")
    if _close(found, (u - made.network(u)[1]) * torch.exp(-made.network(u)[0])):
        raise Wrong("You went on towards the noise: solve the equations for x.")
    if _close(found, _in_turn(made, u, lambda s: s)):
        raise Wrong("s is a logarithm: the scale is its exponential.")
    if _close(found, _in_turn(made, u, lambda s: torch.exp(-s))):
        raise Wrong("The sign of s: on the way back e^s multiplies.")
    if _close(found, _in_turn(made, u, torch.exp, coordinates=2)):
        raise Wrong("These points have three coordinates, you filled in two: u.shape[1].")
    if found.shape == x.shape and not found[3:].any():
        raise Wrong("You filled in rows: back[i] is a point, back[:, i] a coordinate.")
    if not _close(found, x):
        raise Wrong("There and back does not end where it began: x = u exp(s) + m, in order.")
    return "There and back. Each coordinate took a call of the network."


@exercise(
    "02.3",
    "For a density all coordinates of x are known at once.",
    "A draw fills in one coordinate at a time, in each of the six layers.",
)
def _calls(density, draw):
    """Calls of a network for a density and for a draw, of six MADEs and 43 coordinates."""
    if (density, draw) == (258, 6):
        raise Wrong("The other way round: which of the two knows all coordinates of x at once?")
    if density == 1 or draw == 43:
        raise Wrong("That is one MADE: the stack has six.")
    if density != 6:
        raise Wrong("For a density each of the six MADEs is called once: x is known.")
    if draw == 6:
        raise Wrong("A draw has no x to show to the network: it fills in 43 coordinates in turn.")
    if draw != 258:
        raise Wrong("Each of the six MADEs is called once for each of the 43 coordinates.")
    return "6 and 258: a MAF gives densities fast and draws slowly. In the plane that is no matter."


@exercise(
    "02.4",
    "Add up the weights of the points of each cluster.",
    "weights[labels == k].sum() for each k, then divide by the total.",
)
def _shares(answer):
    """A function of labels and weights of points, to the share of each cluster."""
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 1])
    weights = torch.tensor([4.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    found = torch.as_tensor(answer(labels, weights)).float()
    sums, counts = torch.tensor([4.0, 3.0, 3.0]), labels.bincount().float()
    if _close(found, torch.ones(3) / 3):
        raise Wrong("Every cluster in the same share, whatever it holds.")
    if _close(found, sums):
        raise Wrong(f"These add up to {sums.sum():.0f}, and shares add up to one.")
    if _close(found, counts / 8) or _close(found, counts):
        raise Wrong("You counted points: add up their weights.")
    if found.shape == weights.shape:
        raise Wrong("This is a share for each point: add up those of a cluster.")
    if _close(found, sums / counts):
        raise Wrong("These are means: add up the weights of a cluster, then divide by all of them.")
    if not _close(found, sums / 10):
        raise Wrong("With weights 4, 3 and 3 in three clusters, the shares are 0.4, 0.3 and 0.3.")
    return "Shares, which add up to one."


@exercise(
    "02.5",
    "Probabilities add, logarithms do not.",
    "In logarithms each term is log W_k + log q_k; torch.logsumexp adds over k.",
    "torch.logsumexp(weights.log()[:, None] + log_q, dim=0)",
)
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
    if found.shape != line.shape:
        raise Wrong(f"The shape is {tuple(found.shape)}, expected one number for each point.")
    right = torch.logsumexp(weights.log()[:, None] + log_q, dim=0)
    total = float(found.exp().sum() * 0.005)
    if _close(found, right.exp()):
        raise Wrong("This is the density: take its logarithm.")
    if math.isclose(total, 3, rel_tol=0.01):
        raise Wrong("This integrates to 3, the number of pieces: each counts in full. Weights?")
    if _close(found, (weights[:, None] * log_q).sum(0)):
        raise Wrong("You averaged the logarithms. Probabilities add, logarithms do not.")
    if _close(found, (weights.log()[:, None] + log_q).amax(0)):
        raise Wrong("That is the largest term: the density is the sum over all pieces.")
    if _close(found, torch.logsumexp(weights[:, None] + log_q, dim=0)):
        raise Wrong("In logarithms a weight is a term of its own: the logarithm of W.")
    if _close(found, torch.logsumexp(weights[:, None] * log_q, dim=0)):
        raise Wrong("The weight stands before q, not before log q: add its logarithm.")
    if not _close(found, right):
        raise Wrong(f"This integrates to {total:.2f}, expected 1, or is another density.")
    if not _close(answer(log_q - 200, weights), right - 200):
        raise Wrong("Right here; far from all pieces exp gives 0, its log -inf: torch.logsumexp.")
    return "It integrates to one. Without the weights it would integrate to the number of pieces."


@exercise(
    "02.6",
    "The standard error of a mean of n numbers is their scatter over the root of n.",
    "Solve 0.002 = 2 * 0.09 / n ** 0.5 for n.",
)
def _points(n):
    """The number of test points at which the KL is twice its standard error."""
    told = {
        90: "That is the root of it: the error falls with the root of n.",
        45: "That is a ratio: the error falls with the root of n.",
        2025: "At that number the KL is once its standard error.",
    }
    for wrong, said in told.items():
        if math.isclose(n, wrong, rel_tol=0.02):
            raise Wrong(said)
    if not math.isclose(n, 8100, rel_tol=0.02):
        raise Wrong("Put twice the standard error, 2 * 0.09 / root n, equal to 0.002.")
    return "8,100. Half the KL, with the same scatter, would need four times as many."


@exercise(
    "02.7",
    "Each piece has an eighth of the points and an eighth of the parameters.",
    "Sum eight such costs.",
)
def _cost(ratio):
    """The cost of eight pieces in units of one flow's."""
    if math.isclose(ratio, 1 / 64):
        raise Wrong("That is one piece: there are eight.")
    if math.isclose(ratio, 1):
        raise Wrong("Both the points and the parameters of a piece are an eighth.")
    if math.isclose(ratio, 8):
        raise Wrong("That is the reverse: each point goes through one small piece only.")
    if not math.isclose(ratio, 1 / 8, rel_tol=0.01):
        raise Wrong("Eight times the same passes, times 1/8 of the points, times 1/8 of the size.")
    return "An eighth: each point goes through its own piece alone, and that one is small."


@exercise(
    "02.8",
    "fit_pieces(data['rings'], labels, **size(2)) takes labels 0 and 1.",
    "gap(rings, partial(log_pieces, pieces=...), tests['rings']).mean() is the KL.",
    "A ring has a hole. Can a flow make one?",
)
def _by_radius(kl, between):
    """KL of two pieces cut by radius, and the share of draws between the rings."""
    for found, what in ((kl, "KL"), (between, "share")):
        if torch.as_tensor(found).numel() > 1:
            raise Wrong(f"The {what} is one number: take the mean of these.")
    kl, between = float(kl), float(between)
    if not 0 <= between <= 1:
        raise Wrong("A share lies between 0 and 1: divide by the number of draws.")
    if kl < 0:
        raise Wrong("The KL is negative: the mean is of log p - log q, at points of the target.")
    if kl < 0.1:
        raise Wrong("That is what arcs give, or deeper pieces: cut at r = 1.5, and **size(2)?")
    if kl > 0.6:
        raise Wrong("Worse than one flow: did both pieces train for 60 passes, with **size(2)?")
    if between < 0.005:
        raise Wrong(
            "Hardly more than the rings themselves have there: are these draws of the pieces?"
        )
    return "Worse than arcs: a ring has a hole, and no flow can make one. An arc has none."
