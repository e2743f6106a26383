"""Time and peak memory against size, with the exponents of their growth, a line for each call.

Not part of the default tests, which pytest does not find by this file's name. Run it on Linux by

    pytest -n 0 -p no:nbval tests/benchmarks/bench_growth.py -s

Each size has a process of its own, forked from one that has imported everything, on one thread. It
makes its data, calls once at a small size, and is then measured once: seconds, and how far memory
rises above what the data take. Exponents are slopes between the last two sizes, where fixed costs
weigh least: 1 is proportional, and n log n, or what leaves the caches, a little above it. What
needs more says so in its docstring.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from galflow_lite import flows, metrics
from galflow_lite.galaxies import Catalogue, Galaxy
from galflow_lite.piecewise import PiecewiseFlow, choose_clusters
from galflow_lite.targets import BENCHMARKS
from galflow_lite.training import TensorBatches, fit

BATCH = 1024
plane = partial(BENCHMARKS["mog2"]().sample, seed=0)


def normal(n: int, columns: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed))


def flow(gradients: bool = True) -> flows.Flow:
    torch.manual_seed(0)
    return flows.neural_spline_flow(10, layers=4, hidden=32).requires_grad_(gradients)


def training(n: int, batch_size: int):
    model, batches = flow(), TensorBatches(normal(n), batch_size=batch_size)
    steps = n // batch_size
    return lambda: fit(lambda x: -model(x[0]).mean(), model, batches, steps, progress=False)


def pieces(n: int, **options):
    return partial(PiecewiseFlow().fit, plane(n), clusters=2, epochs=2, **options)


def two_processes(n: int):
    return pieces(n, n_jobs=2)


def piecewise_density(n: int):
    model = PiecewiseFlow()
    model.fit(plane(2000), clusters=2, epochs=1)
    return partial(model.log_prob, plane(n))


def of_two(n: int, measure, columns: int = 10):
    return partial(measure, normal(n, columns), normal(n, columns, seed=1))


def stream(n: int):
    """An epoch of a catalogue whose stars alone would take all the memory that is allowed."""
    folder = tempfile.TemporaryDirectory()
    size = n // 10
    rows = (Galaxy(normal(size).numpy(), id=str(i), masses=1.0) for i in range(10))
    catalogue = Catalogue.open(Catalogue.write(Path(folder.name) / "large.h5", rows))

    def epoch():
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + 40 * n,) * 2)
        batches = catalogue.batches(BATCH)
        for step in range(len(batches)):
            batches(step)
        folder.cleanup()

    return epoch


SMALL, LARGE, PAIRS = (8_000, 32_000, 128_000), (10_000, 100_000, 1_000_000), (5_000, 20_000)
CASES = {  # what makes the call, and the sizes
    "fit, a step of n rows": (lambda n: training(n, n), (1_000, 4_000, 16_000)),
    "fit, an epoch": (lambda n: training(n, BATCH), SMALL),
    "log_prob": (lambda n: partial(flow(False).log_prob, normal(n)), SMALL),
    "log_prob, with gradients": (lambda n: partial(flow().log_prob, normal(n)), SMALL),
    "sample": (lambda n: partial(flow(False).sample, n, batch_size=BATCH), SMALL),
    "choose_clusters": (lambda n: partial(choose_clusters, plane(n), candidates=(2, 3)), LARGE),
    "pieces, fit": (pieces, SMALL),
    "pieces, fit, two processes": (two_processes, SMALL),
    "pieces, log_prob": (piecewise_density, SMALL),
    "energy distance, one column": (lambda n: of_two(n, metrics.energy_distance, 1), LARGE),
    "energy distance, ten": (lambda n: of_two(n, metrics.energy_distance), PAIRS),
    "KSD": (lambda n: partial(metrics.ksd, normal(n), lambda x: -x), PAIRS),
    "C2ST": (lambda n: of_two(n, metrics.c2st), LARGE),
    "catalogue beyond memory": (stream, LARGE),
}


def status(name: str) -> int:
    """Bytes of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


def measure(make, n: int, least: int, results) -> None:
    torch.set_num_threads(1)
    call = make(n)
    if make is not stream:
        make(least)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before, began = status("VmRSS"), time.perf_counter()
    call()
    results.send((time.perf_counter() - began, max(status("VmHWM") - before, 4096)))


@pytest.mark.parametrize("name", CASES)
def test_growth(name) -> None:
    make, sizes = CASES[name]
    found, context = [], multiprocessing.get_context("fork")
    for n in sizes:
        mine, theirs = context.Pipe()
        settings = make, n, sizes[0] // 4, theirs
        if make is two_processes:  # their memory is not seen, and a forked one could not start them
            measure(*settings)
        else:
            context.Process(target=measure, args=settings).start()
        theirs.close()
        found.append(mine.recv())
    slopes = np.diff(np.log(found[-2:]), axis=0)[0] / math.log(sizes[-1] / sizes[-2])
    text = [
        f"{n:>10,}: {t:6.2f} s {b / 1e6:5.0f} MB" for n, (t, b) in zip(sizes, found, strict=True)
    ]
    print(f"\n{name:27}{''.join(text)}   n^{slopes[0]:.2f} s, n^{slopes[1]:.2f} bytes", end="")
    # All pairs of rows, as the docstrings of these two say.
    assert slopes[0] < (2.5 if sizes is PAIRS else 1.5)
