"""Independent streams of random numbers from one seed."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["child_seed"]


def child_seed(seed: int, *names: str | int) -> int:
    """A seed for one of several streams that share a seed.

    Generators that get the same seed draw the same numbers: a network and the noise it is trained
    with, or a start and the momenta of a chain, must not. Neighbouring seeds are no help where
    runs are repeated with neighbouring seeds.

    Args:
        seed: a whole number from 0 up.
        names: what the stream is for.

    Returns:
        A number below 2^32, for torch, numpy or another call.
    """
    words = (zlib.crc32(str(name).encode()) for name in names)
    return int(np.random.SeedSequence((seed, *words)).generate_state(1)[0])
