"""The exercises of lesson 03."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..interpolants import downsample
from . import Wrong, exercise, expect, refuse


@exercise("03.1")
def _centre(velocity):
    """The velocity in the centre of the ring: two numbers."""
    found = np.asarray(velocity, dtype=float).ravel()
    two = f"Found {found.size} numbers, expected two: a velocity in the plane."
    refuse({two: found.shape != (2,)})
    size = np.hypot(*found)
    told = {
        "That leads to one of the spots, and the other seven pull as much.": np.isclose(size, 2),
        "A turn by 45 degrees leaves ring and noise as they are, but not this arrow.": size > 1e-3,
    }
    refuse(told)
    return "Zero: lines go out in all directions, and the mean of their slopes vanishes."


@exercise("03.2")
def _midpoint(answer):
    """A function of a velocity, points and the number of steps."""
    looks = []

    def velocity(x, t):
        if getattr(t, "shape", None) != (len(x),):
            raise Wrong("The velocity wants one time for each point: torch.full((len(x),), ...).")
        looks.append(float(t[0]))
        return x * (1 - 3 * t[:, None])

    def ends(reach, clock, onward=0.0):
        x = begin
        for n in range(4):
            first = velocity(x, torch.full((2,), n / 4).double())
            second = velocity(x + reach * first / 4, torch.full((2,), (n + clock) / 4).double())
            x = x + (onward * first + second) / 4
        return x

    begin = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    told = {
        "That is Euler: one look a step. Look again half-way.": ends(0, 0),
        "The second look is at the old time: half a step later it is t + 1 / (2 * steps).": (
            ends(0.5, 0)
        ),
        "The second look is a whole step later: go half-way only.": ends(1, 1),
        "You go on from the half-way point: the whole step starts at x.": ends(0.5, 0.5, 0.5),
    }
    right = ends(0.5, 0.5)
    looks.clear()
    found = answer(velocity, begin, 4)
    last = f"The shape is {tuple(found.shape)}: hand back the last points alone."
    refuse({last: found.shape != right.shape})
    other = f"Other points come out; you looked at the times {np.round(looks, 3)}."
    expect(found, right, told, other, within=1e-4)
    return "Twice the looks a step, and an error that falls with the square of the step."


@exercise("03.3")
def _factor(answer):
    """A function of the time."""
    t = np.array([0.2, 0.5, 0.8])
    found = np.array([float(answer(s)) for s in t])
    told = {
        "That is the other mistake, the factor forgotten: it halves every velocity.": 0 * t + 0.5,
        "At t = 0 the whole way lies ahead: the factor is largest there.": t,
        "That would undo the mistake: the way that is left shrinks with t.": 1 / (1 - t),
        "Then nothing would be wrong. How far is it from I_t to x1?": np.ones(3),
    }
    other = "Put I_t = (1 - t) x0 + t x1 into x1 - I_t, and compare with x1 - x0."
    expect(found, 1 - t, told, other)
    return "1 - t: particles slow down before they arrive, and never do."


@exercise("03.4")
def _sharpening(answer):
    """A function of images, noise and its width."""
    generator = torch.Generator().manual_seed(3)
    x1, noise = torch.randn(2, 5, 1, 32, 32, generator=generator)
    low, found = downsample(x1, 4), answer(x1, noise, 0.25)
    refuse({"The shape is that of the small images: U is missing.": found.shape == low.shape})
    enlarged = low.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    told = {
        "The noise is missing: without it there is no density to start from.": enlarged,
        "The noise has width 1: multiply by sigma.": enlarged + noise,
        "sigma is the width of the noise, not its variance.": enlarged + 0.25**2 * noise,
        "You start from the sharp image itself: the answer would be known.": x1 + 0.25 * noise,
        "`repeat` lays the small image out like tiles: repeat_interleave each pixel.": (
            low.repeat(1, 1, 4, 4) + 0.25 * noise
        ),
    }
    other = "Not the enlarged image plus sigma times the noise: check D, then U."
    expect(found, enlarged + 0.25 * noise, told, other)
    return "This is where the flow of super-resolution starts; the paper gives no sigma."


@exercise("03.5")
def _gain(value):
    """Error of the mean of 16 answers over that of one."""
    told = {
        "That holds if the truth were the exact mean: it scatters like an answer.": 0.25,
        "That is the ratio of the squares: take the root.": 17 / 32,
        "That is in units of the scatter: one answer has an error of root 2.": (17 / 16) ** 0.5,
        "That holds for very many answers: the mean of 16 still scatters a little.": 0.5**0.5,
    }
    other = "Add the variance of the truth to that of a mean of 16, then to that of one."
    expect(value, (17 / 32) ** 0.5, told, other, within=0.01)
    return "0.73: a smooth mean beats every real-looking sky in this score."


@exercise("03.6")
def _beyond(value):
    """The calibration of answers in one large hole."""
    value = float(value)
    still = not math.isfinite(value) or value == 0
    told = {
        "Nothing scatters where you look: a mask is 1 where pixels are known, 0 in holes.": still,
        "Is this the error of single answers? That of their mean is asked for.": value > 1.3,
        "The error comes out far below the scatter: variances or their roots?": value < 0.7,
        "Is the middle missing, or all but the middle? A mask is 0 in holes.": value < 0.85,
    }
    refuse(told)
    return "Still about right: the holes are new, but each looks at the sky around it."
