"""A family of synthetic galaxies founded on physics, for use without a download.

Potential, Jeans kinematics, star formation histories and closed-form chemistry, from 10^6.5 to
10^11 solar masses, with the columns and conditions of arXiv:2312.06017.
"""

from __future__ import annotations

from .family import galaxy, galaxy_family

__all__ = ["galaxy", "galaxy_family"]
