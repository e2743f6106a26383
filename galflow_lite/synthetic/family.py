"""A family of synthetic galaxies from dwarfs to Milky Way mass."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from tqdm import tqdm

from ..galaxies import Galaxy, clean, conditions
from ..inputs import as_number, as_whole
from .galaxy_model import GalaxyModel
from .galaxy_parameters import LOG_MASS_LIMITS, draw_parameters

FEWEST_STARS = 500
"""Least number of stars of a galaxy, as in the paper's cleaning (arXiv:2312.06017)."""

# Cleaning removes up to about 10 % of the stars and the ten of highest Z.
_FEWEST_BEFORE_CLEANING = 600

_WEIGHT_OF_MASSIVE = 2.0
_GOLDEN = 0.5 * (5**0.5 - 1)


def star_number(log_mass: float) -> int:
    """Number of stars that a galaxy gets by default: 10^(4.2 + 0.55 (log M* - 9)), 600 to 60000.

    The exponent is that of the star numbers of the paper's simulations, whose particles are
    more massive in more massive galaxies.
    """
    return int(np.clip(10 ** (4.2 + 0.55 * (log_mass - 9)), _FEWEST_BEFORE_CLEANING, 60_000))


def galaxy(
    log_mass: float,
    n_stars: int | None = None,
    *,
    seed: int | np.random.SeedSequence | np.random.Generator = 0,
    scatter: bool = True,
    cleaned: bool = True,
    id: str = "synthetic",
) -> Galaxy:
    """Draw one synthetic galaxy.

    Args:
        log_mass: log10 of the stellar mass in Msun, 6 to 11.5.
        n_stars: stars before cleaning; `star_number` of the mass when None.
        seed: seed, seed sequence or generator.
        scatter: draw the global parameters with their scatter; False gives the median galaxy.
        cleaned: apply the cuts of the paper (`galaxies.clean`) with its defaults.
        id: name of the galaxy.

    Returns:
        Galaxy with `COLUMNS` as float32, its conditions, and equal stellar masses. Its attributes
        are the global parameters: ``GalaxyModel(GalaxyParameters(**galaxy.attributes))`` has
        its potential and rotation curve.

    Raises:
        ValueError: for a mass out of range or too few stars.

    Example:
        >>> dwarf = galaxy(8.0, 2000, seed=1)
        >>> 1850 < len(dwarf) < 1900
        True
    """
    log_mass = _in_range(log_mass)
    fewest = _FEWEST_BEFORE_CLEANING if cleaned else FEWEST_STARS
    n = as_whole(star_number(log_mass) if n_stars is None else n_stars, "n_stars", least=fewest)
    rng = np.random.default_rng(seed)
    model = GalaxyModel(draw_parameters(log_mass, rng=rng if scatter else None))
    stars = model.sample(n, rng=rng)
    columns = stars.position, stars.velocity, stars.Z, stars.feh, stars.ofe, stars.age
    rows = np.column_stack(columns).astype(np.float32)
    masses, attributes = model.parameters.mass / n, asdict(model.parameters)
    drawn = Galaxy(rows, id=id, masses=masses, attributes=attributes)
    return clean(drawn) if cleaned else replace(drawn, conditions=conditions(drawn))


def _in_range(log_mass: float) -> float:
    least, most = LOG_MASS_LIMITS
    return as_number(log_mass, "log10 of the stellar mass", least=least, most=most)


def galaxy_family(
    n_galaxies: int,
    stars_per_galaxy: int | None = None,
    *,
    seed: int = 0,
    log_mass_range: tuple[float, float] = (6.5, 11.0),
    cleaned: bool = True,
    progress: bool = False,
) -> list[Galaxy]:
    """Draw a family of synthetic galaxies.

    Galaxy i has its own random stream, spawned from the seed, and its own place in a
    low-discrepancy sequence of masses: it does not depend on how many galaxies are drawn, and
    few galaxies cover the mass range already. The density of galaxies in log10 M* rises
    linearly, by a factor of 3 over the range, to lean towards massive galaxies as the paper's
    star-weighted sample does while every decade keeps its dwarfs.

    Against the star-weighted moments of the paper's 90 simulated galaxies, the means of [Fe/H],
    [O/Fe] and age and the spread of tau50 and tau10 are close; positions in the plane and
    velocities spread about two thirds as far, heights half as far, and the mean of Z is half. The
    velocities follow the observed Tully-Fisher relation, not the simulations.

    Args:
        n_galaxies: at least 1.
        stars_per_galaxy: stars of each galaxy before cleaning; None takes `star_number`.
        seed: of the whole family.
        log_mass_range: lowest and highest log10 of the stellar mass in Msun.
        cleaned: apply the cuts of the paper (arXiv:2312.06017).
        progress: show a progress bar.

    Returns:
        Galaxies named synthetic_000, synthetic_001, ...; see `galaxy`.

    Raises:
        ValueError: for fewer than one galaxy, too few stars or masses out of range.
    """
    low, high = map(_in_range, log_mass_range)
    root = np.random.SeedSequence(as_whole(seed, "seed"))
    offset = np.random.default_rng(root).random()
    children = root.spawn(as_whole(n_galaxies, "n_galaxies", least=1))
    return [
        galaxy(
            low + (high - low) * _rising((offset + i * _GOLDEN) % 1),
            stars_per_galaxy,
            seed=child,
            cleaned=cleaned,
            id=f"synthetic_{i:03d}",
        )
        for i, child in enumerate(tqdm(children, disable=not progress))
    ]


def _rising(u: float) -> float:
    """Inverse of the cumulative distribution of a density 1 + k s on [0, 1]."""
    k = _WEIGHT_OF_MASSIVE
    return (np.sqrt(1 + 2 * k * u * (1 + k / 2)) - 1) / k
