"""Readers of the real simulated galaxies that tests use where they are present.

They are not part of the repository. Both sources have eight of the columns: no abundances.
Units as in `galflow_lite.galaxies`: kpc, km/s, mass fraction, Gyr, masses in Msun.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from galflow_lite.galaxies import Galaxy

COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "Z", "age")


def eagle(folder: Path) -> Galaxy:
    """A disc galaxy of the EAGLE simulation: centred, face-on, 54,860 stars within 30 kpc."""
    return _read(folder / "eagle_gsf_sim1_stars_r30_f32.npz", "eagle")


def illustris(folder: Path) -> list[Galaxy]:
    """Four Illustris-1 analogues of M31, face-on, mean velocity subtracted, 7,635 stars and more.

    The files give the stars out to beyond 200 kpc: apply the radius cut.
    """
    files = sorted(folder.glob("illustris1_*_stars_f32.npz"))
    return [_at_rest(_read(file, file.name.split("_stars")[0])) for file in files]


def _read(file: Path, name: str) -> Galaxy:
    with np.load(file, allow_pickle=False) as table:
        return Galaxy(dict(table), columns=COLUMNS, id=name, masses=table["mass"])


def _at_rest(galaxy: Galaxy) -> Galaxy:
    """Subtract the mean velocity: these files keep that of the galaxy in its surroundings."""
    for name in ("vx", "vy", "vz"):
        galaxy[name][:] -= galaxy[name].mean(dtype=np.float64)
    return galaxy
