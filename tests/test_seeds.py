"""Seeds of streams."""

from __future__ import annotations

import numpy as np
import pytest

from galflow_lite.seeds import child_seed


def test_streams_of_one_seed_and_of_neighbouring_seeds_differ():
    found = {child_seed(seed, name) for seed in range(200) for name in ("start", "chain", 0, 1)}
    assert len(found) == 800
    assert not found & set(range(1000))
    assert child_seed(3, "a", "b") != child_seed(3, "b", "a")


def test_a_stream_is_the_same_everywhere():
    assert child_seed(0, "start") == child_seed(np.int64(0), "start") == 1339937399


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="negative"):
        child_seed(-1, "start")
