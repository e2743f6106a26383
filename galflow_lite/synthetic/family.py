"""A family of synthetic galaxies from dwarfs to Milky Way mass, and their global parameters.

Scaling relations and their scatter; units kpc, Gyr, solar masses, dex.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..galaxies import Galaxy, clean
from ..inputs import as_number, as_whole
from .galaxy_model import GalaxyModel

_CRITICAL_DENSITY = 136.0  # Msun / kpc^3 for h = 0.7
_HUBBLE = 0.7


@dataclass(frozen=True)
class GalaxyParameters:
    """Everything that fixes one synthetic galaxy before its stars are drawn.

    Args:
        log_mass: log10 of the stellar mass in Msun.
        halo_mass: M200 in Msun.
        concentration: c200.
        disc_length: exponential scale length Rd in kpc.
        disc_height: reference layer height hz in kpc; populations have multiples of it.
        bulge_fraction: share of the stars in the bulge.
        thick_fraction: share in the thick disc.
        halo_fraction: share in the stellar halo; the thin disc has the rest.
        thin_onset: time at which the thin disc starts to form in Gyr.
        thin_tau: timescale of its star formation history in Gyr.
        recent_activity: star formation rate of the last 2 Gyr over that of the smooth history.
        oxygen: equilibrium [O/H] at 1.5 Rd in dex.
        mixing: star-to-star scatter of the metallicity at birth in dex.
    """

    log_mass: float
    halo_mass: float
    concentration: float
    disc_length: float
    disc_height: float
    bulge_fraction: float
    thick_fraction: float
    halo_fraction: float
    thin_onset: float
    thin_tau: float
    recent_activity: float
    oxygen: float
    mixing: float

    @property
    def mass(self) -> float:
        """Stellar mass in Msun."""
        return 10.0**self.log_mass

    @property
    def r200(self) -> float:
        """Halo radius in kpc: mean density 200 times critical."""
        return (3 * self.halo_mass / (4 * np.pi * 200 * _CRITICAL_DENSITY)) ** (1 / 3)

    @property
    def bulge_scale(self) -> float:
        """Hernquist scale of the bulge in kpc."""
        return 0.2 * self.disc_length * (1 + self.bulge_fraction)

    @property
    def halo_scale(self) -> float:
        """Hernquist scale of the stellar halo in kpc."""
        return 2.0 * self.disc_length


def _halo_mass_of(log_mass: float) -> float:
    """Log10 of the halo mass that hosts a stellar mass, both in Msun.

    Inverse of Moster, Naab and White (2013), arXiv:1205.5807, at redshift zero.
    """
    grid = np.linspace(8.5, 15.0, 1301)
    x = grid - 11.590
    stellar = grid + np.log10(2 * 0.0351) - np.log10(10 ** (-1.376 * x) + 10 ** (0.608 * x))
    return float(np.interp(log_mass, stellar, grid))


def draw_parameters(log_mass: float, *, rng: np.random.Generator | None = None) -> GalaxyParameters:
    """Draw the parameters of a galaxy of the given stellar mass.

    Choices, with the 1-sigma scatter in brackets:

    * Halo mass: Moster, Naab and White (2013), arXiv:1205.5807 [0.15 dex].
    * Concentration: Dutton and Maccio (2014), arXiv:1402.7073 [0.11 dex].
    * Half-mass radius: Shen et al. (2003), arXiv:astro-ph/0301527, late types; [0.6 times theirs,
      as theirs holds measurement error and non-circularity]. Rd = R50 / 1.678.
    * Height: hz / Rd = 0.22 at 10^10.7 Msun, thicker for dwarfs by 0.09 per dex [0.02]. With
      sech^2(z/h) falling as exp(-2z/h) that is an exponential height of about 0.3 kpc for the
      thin disc of a Milky Way, and dispersions near 8 km/s for dwarfs, which are observed to be
      thick (Sanchez-Janssen, Mendez-Abreu and Aguerri 2010, arXiv:1005.4688).
    * Bulge: 0.05, rising to 0.30 of the stars above 10^10.4 Msun [0.05].
    * Thick disc: 0.12 + 0.05 (log M* - 9) of the rest [0.05]: more of it in massive galaxies, so
      that dwarfs come out younger than giants, as they do in NIHAO.
    * Stellar halo: 0.04 [0.25 dex]: above the Milky Way's 0.01 to 0.02, towards the hotter
      galaxies of NIHAO.
    * Thin-disc onset 4 Gyr [1.5 Gyr] and timescale 4.5 + 1.5 (10.5 - log M*) Gyr [0.2 dex]: at
      fixed mass galaxies assemble early or late with their haloes.
    * Recent activity 1 [0.3 dex]: the scatter of the star-forming main sequence. It moves the
      10th percentile of age and hardly the median.
    * [O/H]: slope 0.30 per dex below 10^10.7 Msun (Kirby et al. 2013, arXiv:1310.0814), flat
      0.33 dex above [0.15 dex, about their 0.17].
    * Mixing 0.05 dex at 10^10.5 Msun, 0.04 more per dex below, at most 0.2: bursty, badly mixed
      dwarfs have the wider metallicity distributions.

    Args:
        log_mass: log10 of the stellar mass in Msun.
        rng: source of random numbers; None gives the median galaxy, without scatter.

    Raises:
        ValueError: when the mass is outside 10^6 to 10^11.5 Msun, where the relations are known.
    """
    log_mass = as_number(log_mass, "log10 of the stellar mass", least=6.0, most=11.5)

    def scatter(sigma: float) -> float:
        return 0.0 if rng is None else float(rng.normal(0.0, sigma))

    mass = 10.0**log_mass
    halo_mass = 10 ** (_halo_mass_of(log_mass) + scatter(0.15))
    concentration = 10 ** (0.905 - 0.101 * np.log10(halo_mass * _HUBBLE / 1e12) + scatter(0.11))

    ratio = mass / 3.98e10
    half_mass_radius = 0.1 * mass**0.14 * (1 + ratio) ** 0.25
    half_mass_radius *= np.exp(scatter(0.6 * (0.34 + 0.13 / (1 + ratio**2))))
    disc_length = half_mass_radius / 1.678
    flattening = np.clip(0.22 + 0.09 * (10.7 - log_mass) + scatter(0.02), 0.10, 0.65)

    bulge = 0.05 + 0.25 / (1 + np.exp(-(log_mass - 10.4) / 0.3)) + scatter(0.05)
    bulge = np.clip(bulge, 0.02, 0.6)
    halo = 0.04 * 10 ** scatter(0.25)
    thick = np.clip(0.12 + 0.05 * (log_mass - 9) + scatter(0.05), 0.05, 0.4)
    thick *= 1 - bulge - halo

    onset = np.clip(4.0 + scatter(1.5), 1.0, 8.0)
    tau = np.clip((4.5 + 1.5 * (10.5 - log_mass)) * 10 ** scatter(0.2), 1.5, 20.0)

    oxygen = np.clip(0.30 * (log_mass - 10.7), -3.0, 0.1) - 0.08 + scatter(0.15)
    recent_activity = 10 ** scatter(0.3)
    mixing = np.clip(0.05 + 0.04 * (10.5 - log_mass), 0.05, 0.2)
    sizes = (halo_mass, concentration, disc_length, flattening * disc_length, bulge, thick, halo)
    values = (log_mass, *sizes, onset, tau, recent_activity, oxygen, mixing)
    return GalaxyParameters(*map(float, values))


# Cleaning, which removes up to about 10 % of the stars and the ten of highest Z, asks for 500.
_FEWEST_BEFORE_CLEANING = 600

_GOLDEN = 0.5 * (5**0.5 - 1)


def galaxy(
    log_mass: float,
    n_stars: int | None = None,
    *,
    seed: int | np.random.SeedSequence | np.random.Generator = 0,
    id: str = "synthetic",
) -> Galaxy:
    """Draw one synthetic galaxy, with the cuts of the paper (`galaxies.clean`).

    Args:
        log_mass: log10 of the stellar mass in Msun, 6 to 11.5.
        n_stars: stars before the cuts; None takes 10^(4.2 + 0.55 (log M* - 9)), 600 to 60,000. The
            exponent is that of the star numbers of the paper's simulations, whose particles are
            more massive in more massive galaxies.
        seed: seed, seed sequence or generator.
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
    rng = np.random.default_rng(seed)
    parameters = draw_parameters(log_mass, rng=rng)
    default = int(np.clip(10 ** (4.2 + 0.55 * (log_mass - 9)), _FEWEST_BEFORE_CLEANING, 60_000))
    n = as_whole(default if n_stars is None else n_stars, "n_stars", least=_FEWEST_BEFORE_CLEANING)
    stars, _ = GalaxyModel(parameters).sample(n, rng=rng)
    about = dict(masses=parameters.mass / n, attributes=asdict(parameters))
    return clean(Galaxy(stars.astype(np.float32), id=id, **about))


def galaxy_family(
    n_galaxies: int, stars_per_galaxy: int | None = None, *, seed: int = 0
) -> list[Galaxy]:
    """Draw a family of synthetic galaxies of 10^6.5 to 10^11 Msun, with the cuts of the paper.

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
        stars_per_galaxy: stars of each galaxy before the cuts; None as in `galaxy`.
        seed: of the whole family.

    Returns:
        Galaxies named synthetic_000, synthetic_001, ...; see `galaxy`.

    Raises:
        ValueError: for fewer than one galaxy or too few stars.
    """
    root = np.random.SeedSequence(as_whole(seed, "seed"))
    offset = np.random.default_rng(root).random()
    children = root.spawn(as_whole(n_galaxies, "n_galaxies", least=1))
    places = [(offset + i * _GOLDEN) % 1 for i in range(len(children))]
    # The inverse of the cumulative distribution of a density 1 + 2 s on [0, 1].
    masses = [6.5 + (11.0 - 6.5) * (np.sqrt(1 + 8 * u) - 1) / 2 for u in places]
    return [
        galaxy(log_mass, stars_per_galaxy, seed=child, id=f"synthetic_{i:03d}")
        for i, (log_mass, child) in enumerate(zip(masses, children, strict=True))
    ]
