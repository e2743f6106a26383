"""Seconds of calls that are compared on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def fastest(
    calls: dict[str, Callable[[], object]], *, turns: int, each: int = 1
) -> dict[str, float]:
    """Seconds of the fastest call of each, taken in turns: a busy machine slows all of them."""
    best = dict.fromkeys(calls, math.inf)
    for _ in range(turns):
        for name, call in calls.items():
            call()
            for _ in range(each):
                began = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - began)
    return best
