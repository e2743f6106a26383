"""Wrong answers to the exercises of lesson 00, with what the learner is told."""

from __future__ import annotations

import math

import torch

NORMAL = torch.distributions.Normal(0.0, 1.0)


def determinant(f, point):
    return torch.autograd.functional.jacobian(f, point).det()


def product_of_the_diagonal(f, point):
    return torch.autograd.functional.jacobian(f, point).diag().abs().log().sum()


WRONG = {
    "00.1": [
        ((lambda x: NORMAL.log_prob((x - 2) / 3),), "slope of the map is missing"),
        ((lambda x: NORMAL.log_prob((x - 2) / 3) + math.log(3),), "logarithm is negative"),
        ((lambda x: NORMAL.log_prob((x - 2) / 3).exp() / 3,), "take its logarithm"),
        ((lambda x: NORMAL.log_prob((x - 2) / 3) + 1 / 3,), "add its logarithm"),
        ((lambda x: print(x.shape),), "missing `return`"),
    ],
    "00.2": [
        ((lambda p, q: ((q - p).mean(), (q - p).std()),), "sign is reversed"),
        ((lambda p, q: ((p - q).mean(), (p - q).std()),), "scatters less"),
        ((lambda p, q: ((p - q).mean(), (p - q).std() / len(p)),), "expected 0.0"),
        ((lambda p, q: ((p - q).mean(), (p - q).var() / len(p)),), "take its root"),
        ((lambda p, q: (p - q).mean(),), "one number"),
    ],
    "00.3": [
        ((2.0, 1.2), "came out worse"),
        ((1.41, 1.42), "hardly a difference"),
        ((-1.2, -2.0), "their negative"),
        ((torch.ones(30), torch.ones(10_000)), "take the mean"),
    ],
    "00.4": [
        (
            (lambda u, s, t: torch.stack([u[:, 0], u[:, 1] / s(u[:, 0]).exp() - t(u[:, 0])], 1),),
            "the shift came last",
        ),
        ((lambda u, s, t: u[:, 1],), "shape is"),
        ((lambda u, s, t: (u[:, 1] - t) / s,), "are functions"),
        (
            (lambda u, s, t: torch.stack([u[:, 0], u[:, 1] * s(u[:, 0]).exp() + t(u[:, 0])], 1),),
            "once more",
        ),
        ((lambda u, s, t: u,), "there and back"),
    ],
    "00.5": [
        ((determinant,), "take its logarithm"),
        ((lambda f, x: determinant(f, x).clamp_min(1e-9).log(),), "absolute value"),
        ((product_of_the_diagonal,), "not for every map"),
    ],
    "00.6": [
        (({2: 0.05, 6: 0.05, 10: 0.0},), "should leave the most"),
        (({2: 200, 6: 40, 10: 40},), "divide by"),
        (([0.1, 0.05, 0.04],), "keys 2, 6 and 10"),
    ],
}
