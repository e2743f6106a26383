"""Seconds and peak memory of `choose_clusters`, each case in a process of its own.

Not part of the default tests, which pytest does not find by this file's name. Run it by

    pytest -n 0 tests/benchmarks/bench_clustering.py -s

The data are the two rings in two dimensions, all 19 candidates, default settings. The clustering
runs on one thread by itself; `threads` is what the environment offers beside that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASE = r"""
import re, sys, time
import numpy as np
from galflow_lite.piecewise.clustering import choose_clusters
algorithm, n = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
r = np.where(rng.random(n) < 1 / 3, 1, 2) + 0.125 * rng.normal(size=n)
angle = rng.uniform(0, 2 * np.pi, n)
x = np.c_[r * np.cos(angle), r * np.sin(angle)]
start = time.perf_counter()
found = choose_clusters(x, algorithm=algorithm)
seconds = time.perf_counter() - start
# Not ru_maxrss, which a child process inherits from the parent that it was forked from.
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]
print(len(found.labels), found.k, len(found.scores), seconds, int(peak) * 1024 / 1e9)
"""


def measure(algorithm: str, n: int, threads: int) -> tuple[float, float]:
    """Seconds, and peak memory of the whole process in GB."""
    run = subprocess.run(
        [sys.executable, "-c", CASE, algorithm, str(n)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    rows, k, candidates, seconds, peak = (float(v) for v in run.stdout.split())
    assert not run.stderr
    assert rows == n
    assert candidates == (1 if algorithm == "mean_shift" else 19)
    print(
        f"\n{algorithm:20}{n:>10,} rows, {threads} threads: {seconds:6.1f} s, "
        f"peak {peak:.2f} GB, k = {k:.0f}",
        end="",
    )
    return seconds, peak


linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")


@linux
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("algorithm", ["kmeans", "mini_batch_kmeans"])
def test_a_million_rows(algorithm, threads):
    seconds, peak = measure(algorithm, 1_000_000, threads)
    assert seconds < 60
    assert peak < 1


@linux
@pytest.mark.parametrize("algorithm", ["mean_shift", "birch", "agglomerative", "spectral"])
def test_a_million_rows_by_algorithms_without_a_promise_on_time(algorithm):
    assert measure(algorithm, 1_000_000, 2)[1] < 1


@linux
@pytest.mark.parametrize("threads", [1, 2])
def test_ten_thousand_rows(threads):
    assert measure("kmeans", 10_000, threads)[0] < 5
