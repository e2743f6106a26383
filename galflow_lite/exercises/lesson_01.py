"""The exercises of lesson 01."""

from __future__ import annotations

import numpy as np
import torch

from ..flows import rational_quadratic_spline
from ..metrics import linear_mmd
from . import exercise, expect, refuse


@exercise("01.1")
def _split(unseen):
    """The number of galaxies in a random test of stars whose conditions are new."""
    told = {
        "5 is what holding out whole galaxies gives. A star drawn at random has siblings.": 5,
        "All 90 are in such a test, but each has stars in the training too.": 90,
    }
    expect(unseen, 0, told, "Take one star of the test: where are the other stars of its galaxy?")
    return (
        "None: such a test asks for more stars of known galaxies. So whole galaxies are held out."
    )


class _Coupling:
    """What the lesson's coupling has, with one matrix for its networks."""

    spline = {"bins": 10, "tail_bound": 5.0}

    def __init__(self, weights):
        self.weights = weights

    def theta(self, kept, c):
        return ((kept + c) @ self.weights).T.expand(2, 29, -1)

    def __call__(self, kept, moved, c):
        bent, slope = rational_quadratic_spline(moved.T, self.theta(kept, c), **self.spline)
        return bent.T, slope.sum(0)


@exercise("01.2")
def _undo(answer):
    """A function of a coupling, the kept half, the bent one and conditions."""
    torch.manual_seed(5)
    weights, kept, moved, c = torch.randn(2, 29).double(), *torch.randn(3, 40, 2).double()
    coupling = _Coupling(weights)
    bent, numbers = coupling(kept, moved, c)[0], coupling.theta(kept, c)

    def bend(x, theta, inverse):
        return rational_quadratic_spline(x.T, theta, inverse=inverse, **coupling.spline)[0].T

    found, both = answer(coupling, kept, bent, c), "The spline returns two things: "
    refuse({both + "hand back the coordinates alone.": isinstance(found, tuple)})
    told = {
        "You bent the coordinates a second time: the spline has to run backwards.": (
            bend(bent, numbers, False)
        ),
        "The networks saw the bent half. On the way there they saw the kept half.": (
            bend(bent, coupling.theta(bent, c), True)
        ),
        "These are (moved, stars), expected (stars, moved): transpose back.": moved.T,
    }
    expect(found, moved, told, "The coordinates do not come back to where they were.")
    return "The stars are back, and no network had to be inverted."


@exercise("01.3")
def _physical(answer):
    """A function of log p of the flow, scales of star columns, scales of conditions."""
    log_p, stars, given = np.array([-3.0, -1.0]), np.array([0.5, 4.0, 30.0]), np.array([2.0, 0.1])
    found = np.asarray(answer(log_p, stars, given)) - log_p
    one, both = np.log(stars).sum(), np.log(stars).sum() + np.log(given).sum()
    told = {
        "You subtract the scales of the conditions too, and these are given.": -both,
        "The sign: a column spread over more units has a lower density per unit.": one,
        "This is still the density per standardised column: the Jacobian is missing.": 0,
        "Determinants multiply: it takes the sum of the logarithms.": -np.log(stars).mean(),
    }
    told = {said: np.full(2, value) for said, value in told.items()}
    other = "For scales .5, 4 and 30 the Jacobian adds -log(60) to every star."
    expect(found, np.full(2, -one), told, other)
    return "Now it integrates to one over the star columns, whatever the conditions."


@exercise("01.4")
def _units(change):
    """The change of log p, in nats."""
    change = float(change)
    told = {
        "The size is right. Per Myr there are fewer stars than per Gyr.": np.log(1000),
        "That is the decimal logarithm: nats are natural ones.": np.copysign(3, change),
        "That is the factor on the density: take its logarithm.": (
            np.copysign(1000 if abs(change) > 1 else 0.001, change)
        ),
    }
    other = "The density falls by the factor by which the numbers grow."
    expect(change, -np.log(1000), told, other, within=0.01)
    return "log p falls by log(1000) = 6.9: a value of log p means nothing without its units."


@exercise("01.5")
def _chance(value):
    """The squared distance of two means, expected by chance."""
    told = {
        "Two halves are different stars: their means differ by chance.": 0.0,
        "Both halves have an error, not one of them.": 0.01,
        "That is one column: the squared distance adds up ten.": 0.002,
        "The mean of 1,000 stars scatters a thousand times less in the square than one star.": 0.2,
    }
    other = "Add the variances of the two means over ten columns."
    expect(value, 0.02, told, other, within=0.05)
    return "0.02. The public code compares a galaxy with itself, which scores 0: chance never does."


@exercise("01.6")
def _invent(answer):
    """A function of stars and a generator of random numbers."""
    rng = np.random.default_rng(1)
    stars = rng.standard_normal((300, 4)) * [1.0, 5.0, 0.2, 3.0] + [0.0, 2.0, -1.0, 6.0]
    stars[:, 1] += 4 * stars[:, 0]
    fake = np.asarray(answer(stars.copy(), rng))
    refuse({f"The shape is {fake.shape}, expected {stars.shape}.": fake.shape != stars.shape})
    known, means = np.isin(fake[:, 0], stars[:, 0]).mean() > 0.5, fake.mean(axis=0)
    off = linear_mmd(stars, fake, std=stars.std(axis=0)).value > 1e-6
    whole, other = abs(fake.mean() - stars.mean()) < 1e-6, "Close, but the means differ by chance: "
    refuse(
        {
            "These are stars of the galaxy itself, or pieces of them: invent some.": known,
            "Your stars lie around zero: move them to the means of the galaxy.": (
                abs(means).max() < 0.5
            ),
            "The mean of all is right, that of each column is not: mean(axis=0).": whole and off,
            other + "subtract the mean of the noise itself.": off,
        }
    )
    return "A perfect score for stars that nobody would take for a galaxy."


@exercise("01.7")
def _memorised(ratio):
    """Median distance to the training stars, of drawn over real stars."""
    many = np.size(ratio) > 1
    refuse({"There is a value for each star: take the medians, then one ratio.": many})
    zero, ratio = not np.isfinite(float(ratio)), float(ratio)
    swapped, scaled = ratio < 0.5, ratio > 2
    refuse(
        {
            "The distances of the real stars are zero: are they training stars?": zero,
            "Drawn stars on top of training stars: did you swap the samples or scales?": swapped,
            "Drawn stars much farther than real ones: divide all three by the same scales.": scaled,
        }
    )
    return "Drawn stars keep the distance of real ones: the flow has not stored its training stars."
