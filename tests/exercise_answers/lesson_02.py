"""Wrong answers to the exercises of lesson 02, with what the learner is told."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal

_noise = Normal(0.0, 1.0).log_prob


def _in_turn(scale, coordinates=3):
    def undo(made, u):
        x = torch.zeros_like(u)
        for i in range(coordinates):
            s, m = made.network(x)
            x[:, i] = u[:, i] * scale(s[:, i]) + m[:, i]
        return x

    return undo


def _rows(made, u):
    x = torch.zeros_like(u)
    for i in range(u.shape[1]):
        s, m = made.network(x)
        x[i] = u[i] * s[i].exp() + m[i]
    return x


def _at_once(made, u):
    s, m = made.network(u)
    return u * s.exp() + m


def _again(made, u):
    s, m = made.network(u)
    return (u - m) * torch.exp(-s)


def _each(labels, weights):
    return torch.stack([weights[labels == k].sum() for k in labels.unique()])


WRONG: dict[str, list] = {
    "02.1": [
        ((lambda u, s: _noise(u) - s,), ".sum(1)"),
        ((lambda u, s: (_noise(u) - s).mean(),), "one number for each point"),
        ((lambda u, s: _noise(u).sum(1) + s.sum(1),), "sign of s"),
        ((lambda u, s: _noise(u).sum(1),), "is missing"),
        ((lambda u, s: (_noise(u) - s).mean(1),), "averaged"),
        ((lambda u, s: -0.5 * (u**2).sum(1) - s.sum(1),), "constant"),
        ((lambda u, s: (-0.5 * u**2 - s).sum(1) - 0.5 * math.log(2 * math.pi),), "constant"),
        ((lambda u, s: _noise(u).sum(1) - s.exp().sum(1),), "less the sum of s"),
    ],
    "02.2": [
        ((_at_once,), "one at a time"),
        ((_again,), "solve the equations"),
        ((_in_turn(lambda s: s),), "its exponential"),
        ((_in_turn(lambda s: torch.exp(-s)),), "sign of s"),
        ((_in_turn(torch.exp, coordinates=2),), "three coordinates"),
        ((_rows,), "filled in rows"),
        ((lambda made, u: u,), "There and back"),
    ],
    "02.3": [
        ((258, 6), "other way round"),
        ((1, 43), "has six"),
        ((258, 258), "called once"),
        ((6, 6), "no x to show"),
        ((6, 49), "each of the 43"),
    ],
    "02.4": [
        ((lambda labels, weights: torch.ones(3) / 3,), "same share"),
        ((_each,), "add up to one"),
        ((lambda labels, weights: labels.bincount() / len(labels),), "counted points"),
        ((lambda labels, weights: _each(labels, weights).softmax(0),), "0.4, 0.3"),
        ((lambda labels, weights: weights / weights.sum(),), "for each point"),
        ((lambda labels, weights: _each(labels, weights) / labels.bincount(),), "means"),
    ],
    "02.5": [
        ((lambda log_q, weights: log_q.logsumexp(0),), "number of pieces"),
        ((lambda log_q, weights: (weights[:, None] * log_q).sum(0),), "averaged"),
        ((lambda log_q, weights: (weights.log()[:, None] + log_q).amax(0),), "largest term"),
        ((lambda log_q, weights: (weights[:, None] * log_q.exp()).sum(0),), "its logarithm"),
        ((lambda log_q, weights: weights.log()[:, None] + log_q,), "one number for each"),
        ((lambda log_q, weights: (weights.log() + log_q).logsumexp(0),), "weights[:, None]"),
        ((lambda log_q, weights: (weights[:, None] + log_q).logsumexp(0),), "logarithm of W"),
        ((lambda log_q, weights: (weights[:, None] * log_q).logsumexp(0),), "before q"),
        ((lambda log_q, weights: (weights[:, None] * log_q.exp()).sum(0).log(),), "exp gives 0"),
        ((lambda log_q, weights: log_q.logsumexp(0) + weights.log().sum(),), "expected 1"),
    ],
    "02.6": [((90,), "root of it"), ((45,), "ratio"), ((2025,), "once"), ((100,), "twice")],
    "02.7": [((1 / 64,), "one piece"), ((1,), "Both"), ((8,), "reverse"), ((0.5,), "Eight times")],
    "02.8": [
        ((torch.full((9,), 0.2), 0.03), "KL is one number"),
        ((0.2, torch.ones(9) > 0), "share is one number"),
        ((0.06, 0.03), "arcs"),
        ((0.2, 700), "divide"),
        ((-0.2, 0.03), "negative"),
        ((3.0, 0.03), "Worse than one flow"),
        ((0.2, 0.0026), "draws of the pieces"),
    ],
}
