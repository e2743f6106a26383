"""Agreement within stated errors, the paper's own estimator, and summaries in the table."""

from __future__ import annotations

import json
import math

import pytest

from galflow_lite import reproduction
from galflow_lite.reproduction import Summary, bands, paper, results

OURS = """
["kl.ours"]
notebook = "98"
paper = "1234.56789"
where = "table 1"
source = "paper"
quantity = "reverse KL"
value = "0.010 ± 0.020"
estimator = "known normalisation"
criterion = {{ kind = "agrees", target = 0.01, error = 0.02{more} }}
note = "why"
{rest}
["kl.theirs"]
notebook = "98"
paper = "1234.56789"
where = "table 1"
source = "paper"
quantity = "the same"
value = "0.010 ± 0.020"
estimator = "self-normalised"
criterion = {{ kind = "agrees", target = 0.01, error = 0.02 }}
note = "why"
"""
OTHERWISE = ', otherwise = "kl.theirs"'


def write(folder, *, more="", rest=""):
    (folder / "paper_numbers.toml").write_text(OURS.format(more=more, rest=rest))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of this test's own, and a clean run."""
    for module in (paper, bands, results):
        monkeypatch.setattr(module, "share", lambda name: tmp_path)
    for name in ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    write(tmp_path, more=OTHERWISE)
    reproduction.settings("98")
    return tmp_path


def judge(value, others=None, **errors):
    named = {f"kl.{name}": error for name, error in errors.items()}
    row = reproduction.rows()["kl.ours"]
    return reproduction.verdict(row, value, others, standard_errors=named)


# ---- the criterion ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.0499, None, "reproduced"),
        (-0.0299, None, "reproduced"),
        (0.0501, None, "not reproduced"),
        (-0.0301, None, "not reproduced"),
        # 2 hypot(0.02, 0.015) = 0.05
        (0.0599, 0.015, "reproduced"),
        (0.0601, 0.015, "not reproduced"),
        # scatter of ours does not buy agreement: 2 hypot(0.02, 0.02) = 0.0566
        (0.0665, 10.0, "reproduced"),
        (0.0667, 10.0, "not reproduced"),
        (math.nan, None, "not reproduced"),
        (0.01, math.nan, "not reproduced"),
        (-math.inf, math.inf, "not reproduced"),
    ],
)
def test_agreement_is_two_standard_deviations_of_both(data, value, error, expected):
    assert judge(value, ours=error) == expected
    assert judge(value, {"kl.theirs": None}, ours=error) == expected
    if error is None:
        assert reproduction.verdict(reproduction.rows()["kl.ours"], value) == expected


def test_the_estimator_of_the_paper_may_agree_where_ours_does_not(data):
    only = "reproduced only with the paper's estimator"
    assert judge(0.2, {"kl.theirs": 0.02}) == only
    assert judge(0.2, {"kl.theirs": 0.2}) == "not reproduced"
    assert judge(0.2, {"kl.theirs": 0.0665}, theirs=0.2) == only
    assert judge(0.2, {"kl.theirs": 0.0667}, theirs=0.2) == "not reproduced"
    assert judge(0.2, {"kl.theirs": 0.2}, ours=0.01) == "not reproduced"
    assert judge(0.02, {"kl.theirs": 0.2}) == "reproduced"
    assert judge(0.2, {"kl.other": 0.02}) == "not reproduced"
    write(data, more=OTHERWISE + ', with = "their labels"')
    assert judge(0.2, {"kl.theirs": 0.02}) == "reproduced only with their labels"


def test_a_condition_of_the_row_stays(data):
    write(data, more=OTHERWISE, rest='only_with = "half the data"')
    assert judge(0.02) == "reproduced only with half the data"
    assert judge(0.2, {"kl.theirs": 0.02}) == "reproduced only with the paper's estimator"


def test_what_is_needed_is_said_where_nothing_was_measured(data):
    assert judge(None) == "not run: notebook 98 has not measured it here"
    write(data, rest='needs = "the data: fetch them"')
    assert judge(None) == "not run: needs the data: fetch them"
    assert judge(0.02) == "reproduced"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("error = 0.02 }", "}", r"write kind as one of .*agrees \(with target, error\)"),
        ("error = 0.02 }", "error = 0.0 }", "has the error 0.0; write one standard deviation"),
        ("error = 0.02 }", 'error = "small" }', "has the error 'small'"),
        ("error = 0.02 }", 'error = 1.0, otherwise = "kl.his" }', "correct criterion.otherwise"),
    ],
)
def test_criteria_refuse(tmp_path, old, new, message):
    path = tmp_path / "numbers.toml"
    path.write_text(OURS.format(more="", rest="").replace(old, new))
    with pytest.raises(ValueError, match=message):
        reproduction.rows(path=path)


# ---- summaries --------------------------------------------------------------------------------


VALUES = [0.01, 0.02, 0.03, 0.02]


def test_a_summary_is_kept_with_its_errors(data, tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    monkeypatch.setenv("GALFLOW_RECORD", str(path))
    summary = Summary.of(VALUES)
    reproduction.record("kl.ours", summary)
    reproduction.record("kl.theirs", 0.5, 0.1, scale="paper")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["value"] == summary.mean
    assert first["standard_error"] == summary.standard_error
    assert first["scatter"] == summary.scatter
    assert first["runs"] == 4
    assert (second["scatter"], second["runs"]) == (None, None)
    found = results._row(first)
    assert found == {key: first[key] for key in ("value", "standard_error", "scatter", "runs")}
    assert results._row(second) == {"value": 0.5, "standard_error": 0.1}
    # Lines that an earlier version wrote.
    old = {key: second[key] for key in second if key not in ("scatter", "runs")}
    assert results._row(old) == {"value": 0.5, "standard_error": 0.1}


def test_the_mean_of_a_summary_is_held_against_the_band(data, capsys):
    made = {"kl.ours": bands.band_of([0.01, 0.02, 0.03, 0.02, 0.02])}
    bands._write(data / "bands.toml", "98", made, 5)
    reproduction.check("kl.ours", Summary.of(VALUES))
    assert capsys.readouterr().out.endswith("PASS\n")
    assert reproduction.records()["kl.ours"].runs == 4
    with pytest.raises(reproduction.OutOfBand, match=r"kl\.ours is 9\.00 ± 0\.58 and should be"):
        reproduction.check("kl.ours", Summary.of([8.0, 9.0, 10.0]))


@pytest.mark.parametrize("keep", [reproduction.record, reproduction.check])
def test_a_summary_brings_its_own_standard_error(data, keep):
    with pytest.raises(ValueError, match="summary of 4 runs and a standard error, expected one"):
        keep("kl.ours", Summary.of(VALUES), standard_error=0.1)


def test_the_table_shows_scatter_runs_and_estimator(data):
    summary = Summary.of(VALUES)
    reproduction.record("kl.ours", summary)
    reproduction.record("kl.theirs", 0.2)
    found = reproduction.table("98")
    assert found.lines[0].here == str(summary) == "0.0200 ± 0.0041 (scatter 0.0082, 4 runs)"
    assert found.lines[0].verdict == "reproduced"
    assert found.lines[1].verdict == "not reproduced"
    for text in (str(reproduction.table("98", format="markdown")), found._repr_html_()):
        assert str(summary) in text
        assert "Estimator: known normalisation. why (arXiv:1234.56789, table 1)" in text
        assert "0.010 ± 0.020 (paper)" in text
    text = " ".join(str(found).split())
    assert "Here: scatter 0.0082, 4 runs. Estimator: known normalisation. why" in text
    assert max(map(len, str(found).splitlines())) <= 100


def test_the_errors_of_a_run_reach_the_verdict(data):
    reproduction.record("kl.ours", 0.2)
    reproduction.record("kl.theirs", 0.06, 0.2)
    found = reproduction.table("98").lines
    assert found[0].verdict == "reproduced only with the paper's estimator"
    assert found[1].verdict == "reproduced"


def test_stored_results_keep_what_they_have(data):
    made = results.Results("98", "lite", 1.0, [0], {"kl.theirs": {"value": 1, "values": [1, 2]}})
    summary = Summary.of(VALUES)
    reproduction.record("kl.ours", summary)
    record = reproduction.records()["kl.ours"]
    made.rows["kl.ours"] = {key: getattr(record, key) for key in paper.MEASURED}
    read = results.Results.load(made.save())
    assert read == made
    assert str(summary) in str(read)
    reproduction.settings("97")
    assert reproduction.table("98").lines[0].here == str(summary)


# ---- the rows of notebook 02 ------------------------------------------------------------------


MODELS = ("maf", "real_nvp", "pieces")
TARGETS = ("moons", "circle", "rings")


@pytest.fixture(scope="module")
def shipped():
    return reproduction.rows("02")


def test_every_number_of_the_four_tables_has_its_row(shipped):
    names = {
        f"pieces.{table}.{target}.{model}"
        for table in ("kl", "cost", "epochs", "seconds")
        for target in TARGETS
        for model in MODELS
    }
    algorithms = "kmeans mini_batch_kmeans mean_shift spectral agglomerative birch".split()
    names |= {f"pieces.clustering.{name}" for name in ["maf", "real_nvp", *algorithms]}
    names |= {
        f"pieces.uci.{name}.{model}"
        for name in ("power", "gas", "hepmass", "miniboone")
        for model in ("maf", "pieces")
    }
    assert names <= set(shipped)
    assert {shipped[name].source for name in names} == {"paper"}
    assert {shipped[name].judged_at for name in names} == {"paper"}


def test_targets_and_errors_are_those_of_the_quotation(shipped):
    judged = [row for row in shipped.values() if row.criterion["kind"] == "agrees"]
    assert len(judged) > 50
    for row in judged:
        value, _, error = row.value.partition(" ± ")
        sigmas = 2 if "2 sigma" in error else 1
        error = error.removesuffix(" (2 sigma)")
        assert float(value.replace(",", "")) == row.criterion["target"], row.id
        assert float(error.replace(",", "")) / sigmas == row.criterion["error"], row.id


def test_every_kl_names_its_estimator(shipped):
    for row in shipped.values():
        if "KL(" in row.quantity:
            assert row.estimator, row.id
        other = shipped.get(row.criterion.get("otherwise"))
        if other is not None:
            assert other.estimator != row.estimator
            assert other.criterion["target"] == row.criterion["target"]


def test_the_cost_with_the_points_seen_is_the_stated_one_times_their_share(shipped):
    for target in TARGETS:
        stated, seen = (
            shipped[f"pieces.cost.{target}.real_nvp{end}"].criterion for end in ("", ".points_seen")
        )
        for key in ("target", "error"):
            rounded = stated[key] * 1024 / 10_000
            assert seen[key] == pytest.approx(rounded, abs=5e-4)


def test_quantities_tell_the_rows_apart(shipped):
    quantities = [row.quantity for row in shipped.values()]
    assert len(set(quantities)) == len(quantities)
    assert max(map(len, quantities)) <= 100


def test_the_table_of_notebook_02_can_be_printed():
    text = str(reproduction.table("02"))
    assert max(map(len, text.splitlines())) <= 100
    assert "-0.054 ± 0.009" in text
    assert "galflow-lite data fetch miniboone" in text
