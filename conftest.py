"""Settings under which pytest runs tests and notebooks alike."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Two notebooks at a time, each in one process with one thread (see the variables in
# notebooks/site/commands.md). Runs that a notebook makes are thrown away, so that each session
# makes them anew.
os.environ.setdefault("GALFLOW_JOBS", "1")
os.environ.setdefault("GALFLOW_QUIET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "GALFLOW_RUNS" not in os.environ:
    os.environ["GALFLOW_RUNS"] = tempfile.mkdtemp(prefix="galflow-runs-")
    atexit.register(shutil.rmtree, os.environ["GALFLOW_RUNS"], ignore_errors=True)
