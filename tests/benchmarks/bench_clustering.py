"""Seconds and peak memory of `choose_clusters` on a million rows, each case in its own process.

Not part of the default tests, which pytest does not find by this file's name. Run it by

    pytest -n 0 tests/benchmarks/bench_clustering.py -s

The data are the two rings in two dimensions, all 19 candidates, default settings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASE = r"""
import re, sys, time
from galflow_lite.piecewise import choose_clusters
from galflow_lite.targets import TwoRings
x = TwoRings().sample(1_000_000, seed=0)
start = time.perf_counter()
found = choose_clusters(x, algorithm=sys.argv[1])
seconds = time.perf_counter() - start
# Not ru_maxrss, which a child process inherits from the parent that it was forked from.
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]
print(seconds, int(peak) * 1024 / 1e9)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
@pytest.mark.parametrize(
    "algorithm",
    ["kmeans", "mini_batch_kmeans", "mean_shift", "birch", "agglomerative", "spectral"],
)
def test_a_million_rows(algorithm):
    """Below 1.5 GB each; both k-means in less than a minute."""
    command = [sys.executable, "-c", CASE, algorithm]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = map(float, run.stdout.split())
    print(f"\n{algorithm:20} 1,000,000 rows: {seconds:6.1f} s, peak {peak:.2f} GB", end="")
    assert peak < 1.5
    if "kmeans" in algorithm:
        assert seconds < 60
