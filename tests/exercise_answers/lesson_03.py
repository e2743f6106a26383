"""Wrong answers to the exercises of lesson 03, with what the learner is told."""

from __future__ import annotations

import math

import torch

from galflow_lite.interpolants import downsample


def _steps(rule):
    """An answer to 03.2 with this rule for a step."""

    def answer(velocity, x, steps):
        for n in range(steps):
            x = rule(velocity, x, torch.full((len(x),), n / steps, dtype=x.dtype), 1 / steps)
        return x

    return answer


def _half(v, x, t, h):
    return x + v(x, t) * h / 2


def _all(velocity, x, steps):
    return torch.stack([x] * steps)


def _tiled(x1, noise, sigma):
    return downsample(x1, 4).repeat(1, 1, 4, 4) + sigma * noise


def _enlarged(x1):
    return downsample(x1, 4).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


WRONG: dict[str, list] = {
    "03.1": [(((2, 0),), "other seven"), (((0.3, 0.1),), "45 degrees"), ((0,), "expected two")],
    "03.2": [
        ((_steps(lambda v, x, t, h: x + h * v(x, t)),), "That is Euler"),
        ((_steps(lambda v, x, t, h: x + h * v(_half(v, x, t, h), t)),), "old time"),
        ((_steps(lambda v, x, t, h: x + h * v(x + h * v(x, t), t + h)),), "half-way only"),
        (
            (_steps(lambda v, x, t, h: _half(v, x, t, h) + h * v(_half(v, x, t, h), t + h / 2)),),
            "starts at x",
        ),
        ((_steps(lambda v, x, t, h: x + h * v(x, t[0])),), "one time for each point"),
        ((_steps(lambda v, x, t, h: x - h * v(x, t)),), "Other points"),
        ((_all,), "last points alone"),
    ],
    "03.3": [
        ((lambda t: 0.5,), "factor forgotten"),
        ((lambda t: t,), "whole way lies ahead"),
        ((lambda t: 1 / (1 - t),), "undo the mistake"),
        ((lambda t: 1,), "nothing would be wrong"),
        ((lambda t: 1 - 2 * t,), "compare with"),
    ],
    "03.4": [
        ((lambda x1, noise, sigma: downsample(x1, 4),), "U is missing"),
        ((lambda x1, noise, sigma: _enlarged(x1)[:, 0],), "expected"),
        ((lambda x1, noise, sigma: _enlarged(x1),), "noise is missing"),
        ((lambda x1, noise, sigma: _enlarged(x1) + noise,), "multiply by sigma"),
        ((lambda x1, noise, sigma: _enlarged(x1) + sigma**2 * noise,), "not its variance"),
        ((lambda x1, noise, sigma: x1 + sigma * noise,), "sharp image"),
        ((_tiled,), "like tiles"),
        ((lambda x1, noise, sigma: 2 * _enlarged(x1) + sigma * noise,), "check D"),
    ],
    "03.5": [
        ((0.25,), "exact mean"),
        ((17 / 32,), "take the root"),
        ((math.sqrt(17 / 16),), "units of the scatter"),
        ((math.sqrt(0.5),), "very many"),
        ((2,), "Add the variance"),
    ],
    "03.6": [
        ((math.nan,), "1 where pixels are known"),
        ((1.41,), "single"),
        ((0.2,), "far below"),
        ((0.8,), "all but the middle"),
    ],
}
