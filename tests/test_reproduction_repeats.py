"""Repeated runs: kept one by one, resumed, failed; and their summary."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from galflow_lite.files import os as files_os
from galflow_lite.reproduction import Case, CasesFailed, Summary, repeat, spent

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def calls(tmp_path):
    """A file with one line a call, which every process can append to."""
    path = tmp_path / "calls.txt"
    path.touch()
    return path


def counting(calls: Path, **more):
    """A function of a case; defined inside another, as in a cell of a notebook."""

    def run(seed, **settings):
        with calls.open("a") as file:
            file.write(f"{seed}\n")
        return {"value": seed / 8, "threads": torch.get_num_threads(), **settings, **more}

    return run


def cases(n, **settings):
    return [Case(f"case_{seed}", {"seed": seed, **settings}) for seed in range(n)]


# ---- repeat -----------------------------------------------------------------------------------


def test_the_time_spent_is_that_of_the_stored_cases(tmp_path):
    folder, wanted = tmp_path / "runs", cases(3)

    def slow(seed):
        time.sleep(0.02 * (seed + 1))
        return {"value": seed}

    with pytest.raises(ValueError, match="found no result of 3 cases in .*, case_0 among them"):
        spent(wanted, folder=folder)
    repeat(slow, wanted, folder=folder, jobs=1, progress=False)
    assert 0.12 <= spent(wanted, folder=folder) < 5
    assert spent(wanted[:1], folder=folder) < spent(wanted, folder=folder)


@pytest.mark.parametrize("jobs", [1, 2])
def test_cases_run_once_and_are_read_afterwards(tmp_path, calls, jobs):
    folder = tmp_path / "runs"
    wanted = cases(4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = repeat(counting(calls), wanted, folder=folder, jobs=jobs, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert list(first) == [case.name for case in wanted]
    assert [result["value"] for result in first.values()] == [0, 1 / 8, 2 / 8, 3 / 8]
    assert {result["threads"] for result in first.values()} == {1}
    again = repeat(counting(calls), wanted[::-1], folder=folder, jobs=jobs, progress=False)
    assert again == first
    assert list(again) == [case.name for case in wanted[::-1]]
    assert sorted(calls.read_text().split()) == ["0", "1", "2", "3"]
    assert sorted(os.listdir(folder)) == [f"case_{seed}.json" for seed in range(4)]


def test_a_file_says_how_its_result_was_made(tmp_path, calls):
    repeat(counting(calls), cases(1, rate=0.5), folder=tmp_path, jobs=1, progress=False)
    content = json.loads((tmp_path / "case_0.json").read_text())
    assert content["name"] == "case_0"
    assert content["settings"] == {"seed": 0, "rate": 0.5}
    assert content["version"] == "1"
    assert content["seconds"] >= 0
    assert content["versions"]["torch"] == torch.__version__
    assert {"cpu", "vector"} <= set(content["hardware"])
    assert len(content["date"].split("-")) == 3


def test_other_settings_or_another_version_run_anew(tmp_path, calls):
    def values(version="1", **settings):
        done = repeat(
            counting(calls),
            cases(1, **settings),
            folder=tmp_path,
            jobs=1,
            version=version,
            progress=False,
        )
        return done["case_0"].get("rate"), len(calls.read_text().split())

    assert values(rate=1) == (1, 1)
    assert values(rate=1) == (1, 1)
    # 1 == 1.0 == True in Python, and yet a run may differ.
    assert values(rate=1.0) == (1.0, 2)
    assert values(rate=True) == (True, 3)
    assert values(rate=np.int64(1)) == (1, 4)
    assert values(rate=1, version="2") == (1, 5)
    assert values(rate=1, version="2") == (1, 5)


def test_results_survive_as_they_are(tmp_path):
    result = {
        "floats": [math.inf, -math.inf, math.nan, 0.1, 1e-300],
        "texts": ["inf", "nan", "ü"],
        "nothing": None,
        "deep": {"z": [{"a": -math.inf}], "a": True},
        "count": 10**20,
    }
    arrays = {"array": np.array([[1.5, np.nan]]), "tensor": torch.arange(3), "flag": np.True_}
    wanted = {**result, "array": [[1.5, math.nan]], "tensor": [0, 1, 2], "flag": True}
    found = []
    for _ in range(2):
        found += repeat(
            lambda: {**result, **arrays}, [Case("a")], folder=tmp_path, jobs=1, progress=False
        ).values()
    for each in found:
        assert repr(each) == repr(wanted)  # nan is not equal to itself

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)


def test_the_others_finish_when_one_raises(tmp_path, calls):
    class Odd(Exception):
        def __init__(self, first, second):  # cannot be made anew from its args in another process
            super().__init__(f"{first} {second}")

    def run(seed):
        if seed in (1, 2):
            raise Odd("seed", seed)
        return counting(calls)(seed)

    with pytest.raises(CasesFailed, match=r"^2 of 4 cases failed \(case_1, case_2\); case_1 with"):
        repeat(run, cases(4), folder=tmp_path / "runs", jobs=2, progress=False)
    with pytest.raises(CasesFailed) as error:
        repeat(run, cases(4), folder=tmp_path / "runs", jobs=1, progress=False)
    assert "Odd: seed 1; the others are kept" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(error.value.tracebacks) == ["case_1", "case_2"]
    assert 'raise Odd("seed", seed)' in error.value.tracebacks["case_2"]
    assert 'raise Odd("seed", seed)' in str(error.value.__cause__)
    mended = repeat(counting(calls), cases(4), folder=tmp_path / "runs", jobs=1, progress=False)
    assert len(mended) == 4
    assert sorted(calls.read_text().split()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (0.5, "the function returned float, expected a mapping"),
        ({"a": object()}, "found object .*, expected numbers, texts, lists"),
        ({"a": {1: 2}}, "found the key 1, expected a text"),
        ({"$float": "1"}, r"found the key '\$float'"),
    ],
)
def test_results_that_cannot_be_kept_are_failures(tmp_path, result, message):
    with pytest.raises(CasesFailed, match=message):
        repeat(lambda: result, [Case("a")], folder=tmp_path, jobs=1, progress=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([Case("a/b")], "found the case name 'a/b', which becomes the name of a file"),
        ([Case("")], "found the case name ''"),
        ([Case(".a")], "found the case name '.a'"),
        ([Case("a"), Case("A")], "found two cases with the name 'A'"),
        ([Case("a", {"x": {1, 2}})], "settings of case 'a' cannot be kept: found set"),
    ],
)
def test_cases_refuse(tmp_path, wanted, message):
    with pytest.raises(ValueError, match=message):
        repeat(dict, wanted, folder=tmp_path, progress=False)


@pytest.mark.parametrize("content", ['{"format": 1', '{"format": 1, "rows": {}}', "[]", '{"a": 1}'])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is not the result of a case.*move it away"):
        repeat(dict, [Case("a")], folder=tmp_path, jobs=1, progress=False)
    assert path.read_text() == content


def test_no_cases(tmp_path):
    assert repeat(dict, [], folder=tmp_path / "runs") == {}


def test_a_full_disk_stops_the_call_and_keeps_the_old_file(tmp_path, calls, monkeypatch):
    repeat(counting(calls), cases(1), folder=tmp_path / "runs", jobs=1, progress=False)
    path = tmp_path / "runs" / "case_0.json"
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_os, "replace", full)
    with pytest.raises(OSError, match="no space is left on the disk"):
        repeat(counting(calls), cases(1), folder=path.parent, jobs=1, version="2", progress=False)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("name", "value", "visible"),
    [
        ("GALFLOW_PROGRESS", "0", False),
        ("GALFLOW_QUIET", "1", False),
        ("GALFLOW_PROGRESS", "1", True),
    ],
)
def test_the_bar_can_be_hidden(tmp_path, calls, monkeypatch, capsys, name, value, visible):
    for other in ("GALFLOW_PROGRESS", "GALFLOW_QUIET"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    repeat(counting(calls), cases(2), folder=tmp_path / "runs", jobs=1)
    assert ("2/2" in capsys.readouterr().err) is visible


SCRIPT = """
import sys, time
from galflow_lite.reproduction import Case, repeat

folder, calls, jobs, slow = sys.argv[1:]

def run(seed):
    with open(calls, "a") as file:
        file.write(f"{seed}\\n")
    if seed >= 2 and slow == "slow":
        time.sleep(60)
    return {"value": float(seed)}

cases = [Case(f"c{seed}", {"seed": seed}) for seed in range(5)]
if __name__ == "__main__":
    print(repeat(run, cases, folder=folder, jobs=int(jobs), progress=False))
"""


@pytest.mark.parametrize(("how", "jobs"), [(signal.SIGINT, "2"), (signal.SIGKILL, "1")])
def test_a_call_that_was_interrupted_goes_on_where_it_was(tmp_path, calls, how, jobs):
    """Slow for a unit test: processes have to start and to be stopped."""
    script, folder = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(SCRIPT)
    call = [sys.executable, str(script), str(folder), str(calls), jobs]
    errors = (tmp_path / "errors.txt").open("w")
    process = subprocess.Popen([*call, "slow"], stderr=errors, start_new_session=True)
    deadline = time.monotonic() + 60
    try:
        while len(list(folder.glob("c*.json"))) < 2 or len(calls.read_text().split()) < 3:
            assert process.poll() is None, Path(errors.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(how)
        # It does not wait for the cases that run.
        process.wait(timeout=30)
    finally:
        # Workers of a killed process would notice by themselves, later.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        errors.close()
    calls.write_text("")
    assert sorted(path.name for path in folder.glob("c*.json")) == ["c0.json", "c1.json"]
    done = subprocess.run([*call, "fast"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({f"c{seed}": {"value": float(seed)} for seed in range(5)})
    assert done.stderr == ""
    assert sorted(calls.read_text().split()) == ["2", "3", "4"]


def test_cases_run_on_a_dask_cluster(tmp_path, calls):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = repeat(counting(calls), cases(3), folder=tmp_path / "runs", progress=False)
    assert [result["value"] for result in found.values()] == [0, 1 / 8, 2 / 8]
    assert len(os.listdir(tmp_path / "runs")) == 3


# ---- Summary ----------------------------------------------------------------------------------


def test_summary_is_what_statistics_give():
    values = np.random.default_rng(0).normal(3.0, 0.5, size=10)
    found = Summary.of(values)
    assert found.n == 10
    assert found.mean == pytest.approx(values.mean())
    assert found.scatter == pytest.approx(values.std(ddof=1))
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(10))
    assert found.median == pytest.approx(statistics.median(values))
    assert found.values == tuple(values)


def test_the_standard_error_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(size=(4000, 10))
    found = [Summary.of(values) for values in draws]
    inside = np.mean([abs(each.mean) <= 2.262 * each.standard_error for each in found])
    # 2.262 is the 97.5 % point of Student's t with 9 degrees of freedom.
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_summary_as_text():
    values = [0.012 + 0.003 * x for x in (-1, 1, -1, 1, -1, 1, -1, 1, 0, 0)]
    assert str(Summary.of(values)) == "0.01200 ± 0.00089 (scatter 0.0028, 10 runs)"
    assert str(Summary.of([100.0, 400.0])) == "250 ± 150 (scatter 212, 2 runs)"
    assert str(Summary.of([2.0, 2.0, 2.0])) == "2 (scatter 0, 3 runs)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "found 0 values, not finite: none; expected two or more"),
        ([1.0], "found 1 values"),
        ([1.0, math.nan, math.inf], "found 3 values, not finite: nan, inf"),
    ],
)
def test_summary_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Summary.of(values)
