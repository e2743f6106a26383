"""Short runs of every sampler by Markov chains."""

from __future__ import annotations

import pytest

from galflow_lite.mcmc import hmc, langevin, svgd

RUNS = {
    "ula": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, **o),
    "mala": lambda t, start, **o: langevin(t, start, steps=12, step_size=0.01, adjust=True, **o),
    "hmc": lambda t, start, **o: hmc(t, start, steps=12, warmup=5, **o),
    "svgd": lambda t, start, **o: svgd(t, start, steps=12, **o),
}
every_run = pytest.mark.parametrize("name", RUNS)
