"""A family of synthetic galaxies founded on physics, for use without a download.

Potential, Jeans kinematics, star formation histories and closed-form chemistry, from 10^6.5 to
10^11 solar masses, with the columns and conditions of arXiv:2312.06017.
"""

from __future__ import annotations

from .chemistry import Yields, enrichment
from .family import FEWEST_STARS, galaxy, galaxy_family, star_number
from .model import COMPONENTS, YIELDS, GalaxyModel, Stars, birth_times
from .parameters import AGE_OF_UNIVERSE, LOG_MASS_LIMITS, GalaxyParameters
from .parameters import draw as draw_parameters
from .potential import NFW, GalaxyPotential, Hernquist, MiyamotoNagai, exponential_disc

__all__ = [
    "AGE_OF_UNIVERSE",
    "COMPONENTS",
    "FEWEST_STARS",
    "LOG_MASS_LIMITS",
    "NFW",
    "YIELDS",
    "GalaxyModel",
    "GalaxyParameters",
    "GalaxyPotential",
    "Hernquist",
    "MiyamotoNagai",
    "Stars",
    "Yields",
    "birth_times",
    "draw_parameters",
    "enrichment",
    "exponential_disc",
    "galaxy",
    "galaxy_family",
    "star_number",
]
