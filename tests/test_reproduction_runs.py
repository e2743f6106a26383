"""Repeated runs: kept one by one, resumed, made again and compared."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from galflow_lite import reproduction
from galflow_lite.reproduction import Summary, repeat, tables
from galflow_lite.reproduction.repeat_runs import compared, read_kept, store_run

CASES = {"a": {"rate": 1}, "b/deep": {"rate": 2}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Empty folders for the runs that ship and those of the reader."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("GALFLOW_DATA", str(data))
    tables.store([])
    monkeypatch.setenv("GALFLOW_RUNS", str(tmp_path / "own"))
    for name in ("FRESH", "JOBS", "RECORD"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    return tmp_path


def counting(folder: Path, fail=()):
    """A function of a case, defined inside another as in a cell of a notebook."""

    def experiment(rate, seed):
        with (folder / "calls.txt").open("a") as file:
            file.write(f"{seed}\n")
        if seed in fail:
            raise ArithmeticError(f"seed {seed}")
        value = rate * (1 + 0.01 * math.sin(seed))
        return {"value": value, "list": np.arange(2), "threads": torch.get_num_threads()}

    return experiment


def run(folder: Path, seeds=3, cases=CASES, fail=(), **options):
    return repeat(counting(folder, fail), cases, seeds, row="row", jobs=1, **options)


def calls(folder: Path) -> int:
    path = folder / "calls.txt"
    return len(path.read_text().split()) if path.is_file() else 0


def made(found) -> int:
    return sum(run["source"] == "made" for run in found.runs)


def ship(folder: Path, change=lambda run: None) -> None:
    """Move the reader's runs to those that ship, each changed."""
    path = folder / "own/row.jsonl"
    for run in read_kept(path):
        change(run)
        text = json.dumps({"id": "row", "scale": "lite", "value": "", "kept": str(path)})
        path.write_text(json.dumps(run) + "\n")
        store_run("98", [json.loads(text)])
    path.unlink()


def test_runs_are_made_once_and_read_afterwards(here):
    # Two processes, each of which imports torch: the other tests have one.
    first = repeat(counting(here), CASES, 3, row="row", jobs=2)
    assert made(first) == 6
    assert first.values("a", "value") == [1 + 0.01 * math.sin(seed) for seed in range(3)]
    assert first.values("b/deep", "list") == [[0, 1]] * 3
    assert first.values("a", "threads") == [1] * 3
    assert first.summary("b/deep", "value").n == 3
    assert "6 made (" in first.origin()
    second = repeat(counting(here), dict(reversed(CASES.items())), (2, 1), row="row", jobs=2)
    assert made(second) == 0
    assert second.values("a", "value") == first.values("a", "value")[:0:-1]
    assert calls(here) == 6


def test_other_settings_another_seed_or_version_make_a_new_run(here):
    for settings, seed, version, total in [
        ({"rate": 1}, 0, "1", 1),
        ({"rate": 1}, 0, "1", 1),
        ({"rate": 1.0}, 0, "1", 2),
        ({"rate": True}, 0, "1", 3),
        ({"rate": 1}, 1, "1", 4),
        ({"rate": 1}, 0, "2", 5),
        ({"rate": np.float64(1)}, 0, "1", 5),
    ]:
        run(here, [seed], {"a": settings}, version=version)
        assert calls(here) == total


def test_a_failed_run_is_named_and_only_it_is_made_again(here):
    message = r"2 of 6 runs failed \(a with seed 1, b/deep with seed 1\).*ArithmeticError: seed 1"
    with pytest.raises(RuntimeError, match=message) as error:
        run(here, fail=[1])
    assert "in experiment" in str(error.value)
    assert made(run(here)) == 2
    assert calls(here) == 8


def test_half_a_line_is_no_run_and_spoils_none(here):
    run(here, 2)
    path = here / "own/row.jsonl"
    path.write_text(path.read_text()[:-100])
    assert [made(run(here, 3)), made(run(here, 3))] == [3, 0]


def test_values_that_are_not_finite_survive(here):
    values = {"x": math.inf, "y": [math.nan, 1e-300], "z": "text", "n": None}
    for _ in range(2):
        found = repeat(lambda seed: values, {"a": {}}, 1, row="row", jobs=1)
        assert repr(found.runs[0]["value"]) == repr(values)


def test_shipped_runs_are_read_never_written_and_can_be_left_out(here, monkeypatch):
    run(here)
    ship(here)
    shipped = (here / "data/runs.csv").read_bytes()
    origin = run(here, 4).origin()
    assert "8 runs: 6 shipped (" in origin
    assert "2 made (" in origin
    monkeypatch.setenv("GALFLOW_FRESH", "1")
    assert made(run(here, 4)) == 6
    assert (here / "data/runs.csv").read_bytes() == shipped


def test_seeds_that_go_together_are_kept_one_by_one_and_fail_together(here):
    asked = []

    def experiment(rate, seed):
        asked.append(seed)
        time.sleep(0.2)
        return [{"value": rate * one} for one in seed[len(asked) == 1 :]]

    call = partial(repeat, experiment, CASES, 3, row="row", jobs=1)
    with pytest.raises(RuntimeError, match=r"2 of 6 .*a with seed 0, a .* found .*, expected a"):
        call(together=2)
    found = call(together=3)
    assert asked == [[0, 1], [2], [0, 1], [2], [0, 1]]
    assert [run["value"]["value"] for run in found.runs] == [0, 1, 2, 0, 2, 4]
    # Those of a call share its seconds.
    assert 0.1 <= found.runs[0]["seconds"] == found.runs[1]["seconds"] < 0.2
    ship(here)
    call(together=3, again=1).confirm()
    assert asked[5:] in ([[0]], [[1]], [[2]])


# ---- stored runs, made again ------------------------------------------------------------------


def test_the_quickest_shipped_runs_are_made_again_and_agree(here, capsys):
    run(here, 8)

    ship(here, lambda line: line.update(seconds=line["seed"] - 9 * (line["case"] == "b/deep")))
    found = run(here, 8, again=2)
    assert made(found) == 0
    assert [(run["case"], run["seed"]) for run in found.again] == [("b/deep", 0), ("b/deep", 1)]
    found.confirm()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"row: b/deep, seed {seed}, run again   ✔ 2 numbers as in 8 stored runs" for seed in (0, 1)
    ]
    assert not (here / "own/row.jsonl").exists()


@pytest.mark.parametrize("seeds", [[0], range(8)])
@pytest.mark.parametrize("wrong", [1.3, math.nan])
def test_a_stored_value_that_is_wrong_is_noticed(here, capsys, seeds, wrong):
    run(here, 8)

    def spoil(line):
        line["seconds"] = float(line["seed"])
        if line["seed"] in seeds:
            line["value"]["value"] *= wrong

    ship(here, spoil)
    run(here, 8, again=1).confirm()
    (said,) = capsys.readouterr().out.splitlines()
    assert said == "row: a, seed 0, run again   ⚠ differs from the stored run in value"


def test_another_machine_may_move_a_run_within_the_scatter_of_the_seeds(here, capsys):
    def noisy(seed, factor=1.0):
        return {"value": factor * 10 ** math.sin(5 * seed), "fit_seconds": time.perf_counter()}

    repeat(noisy, {"a": {}}, 8, row="row", jobs=1)
    ship(here, lambda line: line.update(seconds=float(line["seed"])))
    moved = partial(noisy, factor=2.0)
    repeat(moved, {"a": {}}, 8, row="row", jobs=1, again=1).confirm()
    assert "✔ 1 numbers as in 8 stored runs" in capsys.readouterr().out


def test_without_a_shipped_run_there_is_nothing_to_confirm(here, capsys):
    run(here, again=1).confirm()
    assert capsys.readouterr().out == "row   – no shipped run was used, nothing to confirm\n"


# ---- interrupted ---------------------------------------------------------

SCRIPT = """
import time
from galflow_lite.reproduction import repeat

def run(seed):
    if seed >= 2:
        time.sleep(60)
    return {"value": float(seed)}

repeat(run, {"a": {}}, 5, row="row", jobs=1)
"""


def test_a_call_that_was_killed_goes_on_where_it_was(here):
    kept = here / "own/row.jsonl"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=here)
    deadline = time.monotonic() + 60
    while not kept.exists() or len(kept.read_text().splitlines()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    found = repeat(lambda seed: {"value": float(seed)}, {"a": {}}, 5, row="row", jobs=1)
    assert found.values("a", "value") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [line["source"] for line in found.runs] == ["kept"] * 2 + ["made"] * 3


def test_a_run_of_a_notebook_is_compared_and_stored(here, monkeypatch, capsys):
    (here / "data/paper_numbers.toml").write_text("")
    lines = here / "lines.jsonl"
    monkeypatch.setenv("GALFLOW_RECORD", str(lines))
    reproduction.settings("98")
    run(here, 2)
    reproduction.record("number", 4.0, 0.5)
    reproduction.record("numbers", Summary.of([1.0, 2.0], (5, 6)), scale="paper")
    records = [json.loads(text) for text in lines.read_text().splitlines()]
    assert compared(records) == "This run: 0 numbers as stored for its seed, 3 not stored, 0 moved"
    assert store_run("98", records) == 2 * 2 * 4 + 3
    assert reproduction.stored("number") == Summary(1, 4.0, 0.0, 0.0)
    assert reproduction.stored("numbers", scale="paper").seeds == (5, 6)
    assert reproduction.stored("row.list[1]", "b/deep").values == (1.0, 1.0)
    monkeypatch.setenv("GALFLOW_RUNS", str(here / "elsewhere"))
    (here / "elsewhere").mkdir()
    # A line that an older version left, without a key, is no run.
    (here / "elsewhere/row.jsonl").write_text('{"row": "row", "seed": 0, "value": {"a": 1}}\n')
    assert run(here, 2).values("b/deep", "list") == [[0, 1]] * 2
    assert calls(here) == 4
    records[-2]["value"] *= 1.03
    assert "2 numbers as stored for its seed, 0 not stored, 1 moved: number" in compared(records)
    # A summary of other seeds takes its place; one run among several changes nothing.
    again = records[-1]
    assert store_run("98", [again | {"seeds": [7, 6]}]) == 2
    assert store_run("98", [again | {"seeds": None, "values": None, "seed": 7}]) == 0
    assert reproduction.stored("numbers", scale="paper").values == (2.0, 1.0)


# ---- Summary ----------------------------------------------------------------------------------


def test_summary_is_what_statistics_give():
    values = np.random.default_rng(0).normal(3.0, 0.5, size=10)
    found = Summary.of(values)
    assert (found.n, found.values) == (10, tuple(values))
    numbers = (found.mean, found.scatter, found.standard_error)
    assert numbers == pytest.approx((values.mean(), values.std(ddof=1), stats.sem(values)))
    for values in ([], [1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="expected two or more"):
            Summary.of(values)
