"""How near a sample is to a galaxy, and whether it has the conditions that were asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import metrics
from .catalogue import Catalogue
from .galaxy import Galaxy, conditions, profile_distance
from .scaling import OutsideTrainingRange

_PROFILES = ("rotation", "sigma_R", "sigma_z", "age", "feh")


def compare(data: Galaxy, sample: Galaxy, *, std: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Three scores of a sample; the other half of the galaxy shows what a perfect one gets.

    Args:
        data, sample: Galaxies of about as many stars, with all ten columns.
        std: Standard deviation of each column, for the score of the paper's code.
        seed: Of the classifier.

    Returns:
        ``c2st``, the accuracy of a classifier that tells them apart (0.5 is perfect); ``mmd``, the
        squared distance of their means (public code of arXiv:2312.06017); ``profiles``, the median
        of five profile distances.
    """
    own = data.stars.std(axis=0)
    return {
        "c2st": metrics.c2st(data.stars / own, sample.stars / own, seed=seed).value,
        "mmd": metrics.linear_mmd(data.stars, sample.stars, std=std).value,
        "profiles": float(np.nanmedian([profile_distance(data, sample, p) for p in _PROFILES])),
    }


def condition_errors(
    model: Any, galaxies: Catalogue | Sequence[Galaxy], *, stars: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How far the conditions of samples are from those asked for, in units of counting noise.

    Stellar mass is left out: a sample has as many stars as it is asked for.

    Args:
        model: Draws stars of given conditions, such as a `GalaxyFlow`.
        galaxies: Their conditions are asked for.
        stars: Of each sample.
        seed: Of the samples.

    Returns:
        Name of the condition to the root mean square over galaxies, divided by that of the change
        when a sample is drawn from again, with replacement.
    """
    names = [name for name in galaxies[0].conditions if name != "M_stars"]
    asked, found, again = [], [], []
    for i, galaxy in enumerate(galaxies):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutsideTrainingRange)
            sample = model.sample(galaxy.conditions, stars, seed=100 * seed + i)
        resampled = sample.take(np.random.default_rng(100 * seed + i).integers(stars, size=stars))
        own = (galaxy.conditions, conditions(sample), conditions(resampled))
        for table, values in zip((asked, found, again), own, strict=True):
            table.append([values[name] for name in names])
    asked, found, again = map(np.array, (asked, found, again))
    ratio = ((found - asked) ** 2).mean(axis=0) / ((again - found) ** 2).mean(axis=0)
    return dict(zip(names, np.sqrt(ratio).tolist(), strict=True))
