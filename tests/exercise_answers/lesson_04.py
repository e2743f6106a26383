"""Wrong answers to the exercises of lesson 04, with what the learner is told."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch


def _pulls(share, a):
    def score(x, a=a):
        right = share(x, a)
        return torch.tensor([a, 0.0]) * (2 * right - 1) - x

    return score


def _right(slope):
    return lambda x, a: torch.sigmoid(slope * a * x[:, :1])


def _one_sided(x, a):
    return torch.tensor([a, 0.0]) * torch.sigmoid(2 * a * x[:, :1]) - x


WRONG: dict[str, list] = {
    "04.1": [
        ((1000, 0.5), "what f grows by"),
        ((math.log(1000), 0.5), "everywhere alike"),
        ((0, 0.5), "another number"),
        ((1, 1), "no constant factor"),
        ((1, 2), "get shorter"),
    ],
    "04.2": [
        ((lambda x, a: -_pulls(_right(2), a)(x),), "uphill"),
        ((lambda x, a: -x,), "one half everywhere"),
        ((lambda x, a: _pulls(_right(1), a)(x),), "log-odds are not"),
        ((_one_sided,), "pulls too"),
        ((lambda x, a: _pulls(_right(2), a)(x)[:, 0],), "expected (n, 2)"),
        ((lambda x, a: torch.sigmoid(2 * a * x[:, 0]) * x,), "is a column"),
        ((lambda x, a: 2 * a * torch.sigmoid(2 * a * x[:, :1]) - a - x,), "both centres are at 0"),
        ((lambda x, a: -2 * x,), "differ from the gradient"),
    ],
    "04.3": [
        ((0,), "guess the noise"),
        ((1 / 1.01,), "one coordinate"),
        ((2,), "answers 0"),
        ((2 * 0.01 / 1.01,), "subtract it"),
        ((1.5,), "into the loss"),
    ],
    "04.4": [
        ((2.873 + 0.044,), "the sign"),
        ((2.873,), "feels the error"),
        ((2.785,), "takes two"),
        ((2.5,), "less the mean square"),
    ],
    "04.5": [
        ((_pulls(_right(1), 4.0), [0.5, 0.1, 0.9]), "have not"),
        ((_pulls(_right(2), 2.0), [0.5, 0.1, 0.9]), "still the modes"),
        ((lambda x: -x, [0.5, 0.1, 0.9]), "not that of two"),
        ((_pulls(_right(2), 4.0), [0.3]), "each of three seeds"),
        ((_pulls(_right(2), 4.0), [50, 10, 90]), "between 0 and 1"),
        ((_pulls(_right(2), 4.0), [0.3, 0.3, 0.3]), "the same share"),
        ((_pulls(_right(2), 4.0), [0.5, 0.49, 0.505]), "exact samples"),
    ],
    "04.6": [
        ((lambda h: 1.0,), "limit of small steps"),
        ((lambda h: h / (1 - (1 - h) ** 2),), "not h"),
        ((lambda h: (1 / (1 - h / 2)) ** 0.5,), "square it"),
        ((lambda h: 2 * h,), "adds 2 h"),
        ((lambda h: 2 * h / (1 - (1 - h)),), "the square of that"),
        ((lambda h: (1 - h) ** 2 + 2 * h,), "as it went in"),
        ((lambda h: 1 + h,), "4/3"),
    ],
    "04.7": [
        ((0,), "shares differ"),
        ((0.5 * math.log(0.25 / 0.09),), "averages over the samples"),
        ((0.531,), "bits"),
        ((0.529,), "part of one mode"),
        ((-0.368,), "not negative"),
        ((math.log(1.8),), "counts too"),
        ((3,), "for both modes"),
    ],
    "04.8": [
        ((SimpleNamespace(largest_deviation=0.29),), "all shares"),
        ((0.29,), "times 100"),
        ((1.1,), "start at (3, 1)"),
        ((87.5,), "Hardly any"),
    ],
}
