"""Wrong answers to the exercises of lesson 01, with what the learner is told."""

from __future__ import annotations

import numpy as np

from galflow_lite.flows import rational_quadratic_spline


def _bent(coupling, source, bent, c, inverse=True):
    numbers = coupling.theta(source, c)
    return rational_quadratic_spline(bent.T, numbers, inverse=inverse, **coupling.spline)


def _again(coupling, kept, bent, c):
    return _bent(coupling, kept, bent, c, inverse=False)[0].T


def _from_bent(coupling, kept, bent, c):
    return _bent(coupling, bent, bent, c)[0].T


def _centred_as_a_whole(stars, rng):
    noise = rng.standard_normal(stars.shape)
    return noise - noise.mean() + stars.mean()


WRONG: dict[str, list] = {
    "01.1": [((5,), "whole galaxies"), ((90,), "training too"), ((17,), "other stars")],
    "01.2": [
        ((_again,), "a second time"),
        ((lambda coupling, kept, bent, c: coupling(kept, bent, c)[0],), "a second time"),
        ((_from_bent,), "saw the bent half"),
        ((lambda coupling, kept, bent, c: _bent(coupling, kept, bent, c),), "two things"),
        ((lambda coupling, kept, bent, c: _bent(coupling, kept, bent, c)[0],), "transpose back"),
        ((lambda coupling, kept, bent, c: bent,), "do not come back"),
    ],
    "01.3": [
        ((lambda p, stars, given: p - np.log(stars).sum() - np.log(given).sum(),), "given"),
        ((lambda p, stars, given: p + np.log(stars).sum(),), "The sign"),
        ((lambda p, stars, given: p,), "missing"),
        ((lambda p, stars, given: p - np.log(stars).mean(),), "sum of the logarithms"),
    ],
    "01.4": [
        ((np.log(1000),), "fewer stars"),
        ((-3,), "decimal"),
        ((0.001,), "take its logarithm"),
        ((0,), "falls by the factor"),
    ],
    "01.5": [
        ((0,), "by chance"),
        ((0.01,), "Both halves"),
        ((0.002,), "one column"),
        ((1,), "Add"),
    ],
    "01.6": [
        ((lambda stars, rng: rng.permutation(stars),), "galaxy itself"),
        ((lambda stars, rng: 0.1 * rng.standard_normal(stars.shape),), "around zero"),
        ((lambda stars, rng: stars.mean(0) + rng.standard_normal(stars.shape),), "by chance"),
        ((_centred_as_a_whole,), "each column"),
    ],
    "01.7": [
        ((0.0,), "swap"),
        ((25.0,), "same scales"),
        ([[1.0, 1.1]], "each star"),
        ((np.inf,), "training stars?"),
    ],
}
