"""Settings, checks, bands, rows, verdicts, stored results and the table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tomlkit
import torch

from galflow_lite import reproduction
from galflow_lite.files import share
from galflow_lite.reproduction import Results, Summary, checks
from galflow_lite.reproduction.rows import Row, format_number, prediction_interval, verdict

VALUES = [3.0, 3.1, 3.2, 3.3, 3.4]


def row_text(id="a.number", **fields):
    """A row of data/paper_numbers.toml, with these fields in place of the usual ones."""
    usual = {"notebook": "98", "paper": "1234.56789", "where": "table 1", "source": "paper"}
    usual |= {"quantity": f"{id} & co", "value": 1.0, "note": "why"}
    usual |= {"criterion": {"kind": "at_most", "high": 2.0}, **fields}
    return tomlkit.dumps({id: usual})


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of this test's own, and a clean run."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("GALFLOW_DATA", str(folder))
    for name in ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    (folder / "paper_numbers.toml").write_text(row_text())
    made = {
        "a.number": checks.band_of(VALUES),
        "a.time": checks.band_of([3.0, 3.5, 3.25, 90.0, 3.0], sides="none"),
        "a.share": checks.band_of([0.74, 0.77, 0.55, 0.76, 0.79], within=(0, 1)),
    }
    checks._write(folder / "bands.toml", "98", made, 5)
    reproduction.settings("98")
    return folder


# ---- settings ---------------------------------------------------------------------------------


def test_settings_seed_everything_and_pin_one_thread(data):
    torch.set_num_threads(2)
    first = reproduction.settings("98", seed=np.int64(3))
    draws = [*torch.rand(3).tolist(), *np.random.rand(3)]  # noqa: NPY002
    second = reproduction.settings("98", seed=3)
    assert draws == [*torch.rand(3).tolist(), *np.random.rand(3)]  # noqa: NPY002
    assert first == second
    assert torch.get_num_threads() == 1
    assert (first.scale, first.quiet) == ("lite", False)
    assert f"torch {torch.__version__}" in str(first)
    assert "seed     3" in str(first)


# ---- check and record -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [3.2, np.float32(3.2), np.array([3.2]), torch.tensor(3.2), Summary.of([3.1, 3.3])]
)
def test_check_prints_band_and_verdict_but_not_the_number(data, capsys, value):
    reproduction.check("a.number", value)
    out = capsys.readouterr().out
    band = checks.read_bands()["a.number"]
    assert out == f"a.number   in [{band.low:.10g}, {band.high:.10g}]   PASS\n"


@pytest.mark.parametrize("value", [99.0, -99.0, math.nan, math.inf, "3.2", Summary.of([8.0, 9.0])])
def test_check_raises_outside_with_value_band_and_advice(data, capsys, value):
    with pytest.raises(reproduction.OutOfBand, match=r"a\.number is .* should be in \[") as error:
        reproduction.check("a.number", value)
    assert "galflow-lite bands 98" in str(error.value)
    assert capsys.readouterr().out == ""


def test_check_needs_a_band_with_ends(data):
    with pytest.raises(ValueError, match=r"no band for 'a\.numbr'.*similar: a\.number"):
        reproduction.check("a.numbr", 3.2)
    with pytest.raises(ValueError, match=r"there is no band for 'a\.time'"):
        reproduction.check("a.time", 3.0)
    with pytest.raises(reproduction.OutOfBand, match=r"a\.share is 1\.01 and should be in"):
        reproduction.check("a.share", 1.01, within=(0, 1))


@pytest.mark.parametrize(("right", "wrong"), [(2937788, 2937789), ("abc", "abd")])
def test_exact_quantities_are_compared_exactly_at_any_scale(data, capsys, right, wrong):
    (data / "paper_numbers.toml").write_text(row_text(id="a.count", expected=right))
    reproduction.settings("98", scale="paper")
    reproduction.check("a.count", right)
    assert capsys.readouterr().out == f"a.count   exactly {format_number(right)}   PASS\n"
    with pytest.raises(reproduction.OutOfBand, match="exactly"):
        reproduction.check("a.count", wrong)


def test_numbers_that_are_not_judged_are_kept(data, monkeypatch, capsys):
    reproduction.settings("98", scale="paper")
    reproduction.check("a.number", 99.0)
    assert reproduction.records("lite") == {}
    reproduction.settings("98", judged=False)
    reproduction.check("a.number", 99.0)
    monkeypatch.setenv("GALFLOW_RECORD_ONLY", "1")
    reproduction.check("new.number", math.nan)
    reproduction.record("no.row", 1.0)
    assert capsys.readouterr().out.count("recorded, not checked") == 3
    assert list(reproduction.records()) == ["a.number", "new.number", "no.row"]
    reproduction.settings("98")
    assert not reproduction.records()


def test_numbers_are_appended_to_the_file_in_the_environment(data, monkeypatch, tmp_path):
    path = tmp_path / "lines.jsonl"
    monkeypatch.setenv("GALFLOW_RECORD", str(path))
    summary = Summary.of([1.0, 2.0])
    reproduction.check("a.number", 3.2, standard_error=np.float64(0.1))
    reproduction.record("another", summary, scale="paper")
    reproduction.remark("cut short", scale="paper")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["value"], line["checked"], line["scale"]) for line in lines] == [
        *((3.2, True, "lite"), (1.5, False, "paper"), ("cut short", False, "paper"))
    ]
    found = Results.of_run("98", "paper", 90.04, lines)
    kept = {"value": 1.5, "standard_error": 0.5, "scatter": summary.scatter, "runs": 2}
    assert found.rows == {"another": kept}
    assert (found.seconds, found.seeds, found.remark) == (90.0, [0], "cut short")
    assert list(reproduction.records("paper")) == ["another"]


# ---- bands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["normal", "lognormal"])
@pytest.mark.parametrize("n", [5, 8])
def test_a_new_run_falls_in_the_interval_as_often_as_stated(n, law):
    """Coverage by simulation; leaving out the 1/n or a tail would be seen at this size."""
    trials, coverage = 400_000, 0.999
    draws = np.random.default_rng(1).normal(5.0, 2.0, size=(trials, n + 1))
    draws = np.exp(draws) if law == "lognormal" else draws
    low, high = prediction_interval(draws[:, :n], coverage=coverage, allowance=0.0, law=law)
    covered = ((low <= draws[:, n]) & (draws[:, n] <= high)).mean()
    assert abs(covered - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / trials)


def test_the_allowance_covers_a_machine_that_shifts_the_mean():
    trials, shift = 100_000, 0.017
    draws = np.random.default_rng(2).normal(5.0, 0.001, size=(trials, 9))
    low, high = prediction_interval(draws[:, :8])
    for sign in (-1, 1):
        moved = draws[:, 8] * (1 + sign * shift)
        assert ((low <= moved) & (moved <= high)).mean() > 0.999
        moved = draws[:, 8] * (1 + sign * 2 * shift)
        assert ((low <= moved) & (moved <= high)).mean() < 0.001


def test_a_band_ends_where_the_quantity_does():
    assert (checks.band_of([0.0] * 5).low, checks.band_of([2.0] * 5).high) == (0.0, 2.04)
    values = [0.74, 0.77, 0.55, 0.76, 0.79]
    free, share = checks.band_of(values), checks.band_of(values, within=(0, 1))
    assert free.high > 1 == share.high
    assert share.low == max(free.low, 0.0)
    assert checks.band_of([7, 21, 6, 12, 11], within=(0, math.inf)).low == 0.0
    for bad in ([1.0] * 4, [1.0] * 4 + [math.nan], values):
        with pytest.raises(ValueError, match="expected 5 or more finite ones"):
            checks.band_of(bad, within=(0, 0.7) if bad is values else None)
    with pytest.raises(ValueError, match="expected 5 or more finite ones"):
        checks.band_of([0.0, *[1.0] * 4], law="lognormal")


def test_bands_are_read_as_they_were_written_and_others_stay(data):
    before = checks.read_bands()
    assert before["a.time"].values == [3.0, 3.5, 3.25, 90.0, 3.0]
    assert reproduction.band_values("a.time") == Summary.of(before["a.time"].values)
    assert reproduction.band_values("another.time") is None
    new = checks.band_of([0.004, 0.02, 0.007, 0.009, 0.012], law="lognormal")
    checks._write(data / "bands.toml", "97", {"b.number": new}, 5)
    assert checks.read_bands() == {**before, "b.number": new}
    checks._write(data / "bands.toml", "98", {"a.number": before["a.number"]}, 5)
    assert set(checks.read_bands()) == {"a.number", "b.number"}


def test_shipped_bands_are_what_the_rule_gives():
    """A band that was widened by hand, or that lacks the runs behind it, fails here."""
    content = tomlkit.parse((share("data") / "bands.toml").read_text(encoding="utf-8")).unwrap()
    assert content["rule"] == checks.RULE
    for number, notebook in content["notebook"].items():
        assert {"date", "seeds", "hardware", "versions"} <= set(notebook)
        assert notebook["seeds"] >= checks.FEWEST
        assert notebook["band"], f"notebook {number} has no band"
        for name, entry in notebook["band"].items():
            assert len(entry["values"]) == notebook["seeds"]
            kinds = {"law": "normal", "within": None, **entry}
            kinds = {name: kinds[name] for name in ("sides", "law", "within")}
            remade = checks._entry(checks.band_of(entry["values"], **kinds))
            assert set(entry) == set(remade)
            for key, value in remade.items():
                # Sums in another order move the last digits of mean and standard deviation.
                wanted = pytest.approx(value, rel=1e-9) if key in ("mean", "sd") else value
                assert entry[key] == wanted, f"{name}: {key} is {entry[key]}, the rule: {value}"


# ---- verdicts ---------------------------------------------------------------------------------


def judge(value, others=None, errors=None, **fields):
    """The verdict on a value, by a row with these fields."""
    (row,) = (Row(id=id, **entry) for id, entry in tomlkit.loads(row_text(**fields)).items())
    return verdict(row, value, others, standard_errors=errors)


@pytest.mark.parametrize(
    ("kind", "bounds", "value", "expected"),
    [
        ("equal", {"target": 90}, 90, "reproduced"),
        ("equal", {"target": 90}, 91, "not reproduced"),
        ("equal", {"target": "abc"}, "abc", "reproduced"),
        ("equal", {"target": 10.0, "tolerance": 0.1}, 10.9, "reproduced"),
        ("equal", {"target": 10.0, "tolerance": 0.1}, 11.1, "not reproduced"),
        ("at_most", {"high": 2.0}, 2.0, "reproduced"),
        ("at_most", {"high": 2.0}, 2.1, "not reproduced"),
        ("at_most", {"high": 2.0}, math.nan, "not reproduced"),
        ("at_least", {"low": 2.0}, 2.1, "reproduced"),
        ("at_least", {"low": 2.0}, 1.9, "not reproduced"),
        ("between", {"low": 1.0, "high": 2.0}, 1.5, "reproduced"),
        ("between", {"low": 1.0, "high": 2.0}, 0.5, "not reproduced"),
        ("between", {"low": 1.0, "high": 2.0}, 2.5, "not reproduced"),
        ("reference", {"row": "b", "relation": "at_most"}, 2.9, "reproduced"),
        ("reference", {"row": "b", "relation": "at_most"}, 3.1, "not reproduced"),
        ("reference", {"row": "b", "relation": "at_least"}, 2.9, "not reproduced"),
        ("reference", {"row": "c", "relation": "at_least"}, 2.9, "not run: c, which"),
        ("not_comparable", {"reason": "other data"}, 1.0, "not comparable: other data"),
        ("out_of_reach", {"reason": "3 GB"}, None, "not run: 3 GB"),
        ("at_most", {"high": 2.0}, None, "not run: notebook 98 has not measured it here"),
    ],
)
def test_verdict(kind, bounds, value, expected):
    assert judge(value, {"b": 3.0}, criterion={"kind": kind, **bounds}).startswith(expected)


def test_verdict_with_a_condition_or_without_a_reported_value():
    assert judge(1.0, only_with="half the data") == "reproduced only with half the data"
    assert judge(3.0, only_with="half the data") == "not reproduced"
    both = {**AGREES, "otherwise": "theirs", "with": "their labels"}
    assert judge(0.02, only_with="half", criterion=both) == "reproduced only with half"
    assert judge(None, needs="the data") == "not run: needs the data"
    assert judge(None, judged_at="paper").endswith("has not measured it at paper scale")
    ours = {"source": "none", "reason": "no loss"}
    assert judge(1.0, **ours) == "not comparable: no loss; our own criterion is met"
    assert judge(3.0, **ours) == "not comparable: no loss; our own criterion is not met"


AGREES = {"kind": "agrees", "target": 0.01, "error": 0.02}


@pytest.mark.parametrize(
    ("error", "inside", "outside"),
    [
        (None, (0.0499, -0.0299), (0.0501, -0.0301, math.nan)),
        # 2 hypot(0.02, 0.015) = 0.05
        (0.015, (0.0599,), (0.0601,)),
        # scatter of ours does not buy agreement: 2 hypot(0.02, 0.02) = 0.0566
        (10.0, (0.0665,), (0.0667,)),
        (math.nan, (), (0.01,)),
        (math.inf, (), (-math.inf,)),
    ],
)
def test_agreement_is_two_standard_deviations_of_both(error, inside, outside):
    for values, expected in ((inside, "reproduced"), (outside, "not reproduced")):
        for value in values:
            assert judge(value, errors={"a.number": error}, criterion=AGREES) == expected


@pytest.mark.parametrize(
    ("value", "others", "error", "expected"),
    [
        (0.2, {"theirs": 0.02}, None, "reproduced only with the paper's estimator"),
        (0.2, {"theirs": 0.2}, None, "not reproduced"),
        (0.2, {"theirs": 0.0665}, 0.2, "reproduced only with the paper's estimator"),
        (0.2, {"theirs": 0.0667}, 0.2, "not reproduced"),
        (0.02, {"theirs": 0.2}, None, "reproduced"),
        (0.2, {"other": 0.02}, None, "not reproduced"),
    ],
)
def test_the_estimator_of_the_paper_may_agree_where_ours_does_not(value, others, error, expected):
    criterion = {**AGREES, "otherwise": "theirs"}
    assert judge(value, others, {"theirs": error}, criterion=criterion) == expected
    named = judge(value, others, {"theirs": error}, criterion={**criterion, "with": "this"})
    assert named == expected.replace("the paper's estimator", "this")


# ---- the rows that ship -----------------------------------------------------------------------

KINDS = {"equal": ["target"], "at_most": ["high"], "at_least": ["low"], "between": ["low", "high"]}
KINDS |= {"agrees": ["target", "error"], "reference": ["row", "relation"]}
KINDS |= {"not_comparable": ["reason"], "out_of_reach": ["reason"]}


def test_shipped_rows_are_complete_and_honest():
    found = reproduction.rows()
    quantities = [row.quantity for row in found.values()]
    assert len(set(quantities)) == len(quantities)
    assert max(map(len, quantities)) <= 110
    for row in found.values():
        criterion, unjudged = row.criterion, ("not_comparable", "out_of_reach")
        kind = criterion["kind"]
        assert set(criterion) >= {*KINDS[kind]}, row.id
        assert criterion.get("relation", "at_most") in ("at_most", "at_least"), row.id
        assert row.judged_at in ("lite", "paper"), row.id
        assert row.source in ("paper abstract", "paper", "public code", "derived", "none"), row.id
        # What nobody states says why, and is there because a criterion judges it.
        assert (row.source == "none") == (row.value is None) == bool(row.reason), row.id
        assert row.note if kind not in unjudged else row.value is not None, row.id
    assert found["galaxies.parameters"].value - found["galaxies.parameters"].expected == 14 * 100


def test_targets_and_errors_are_those_of_the_quotation():
    shipped = reproduction.rows("02")
    agreeing = [row for row in shipped.values() if row.criterion["kind"] == "agrees"]
    # Tables 1 to 4, and the cost with the points seen, which is the stated one times their share.
    assert len(agreeing) == 60
    cost = "pieces.cost.moons.real_nvp"
    seen, stated = (shipped[cost + end].criterion["target"] for end in (".points_seen", ""))
    assert seen == pytest.approx(stated * 1024 / 10_000, abs=5e-4)
    for row in agreeing:
        value, error = row.value.replace(",", "").removesuffix(" (2 sigma)").split(" ± ")
        assert float(value) == row.criterion["target"], row.id
        sigmas = 2 if "2 sigma" in row.value else 1
        assert float(error) / sigmas == row.criterion["error"], row.id
        assert row.estimator or "KL(" not in row.quantity, row.id
        if "otherwise" in row.criterion:
            other = shipped[row.criterion["otherwise"]]
            assert other.estimator != row.estimator
            assert other.criterion["target"] == row.criterion["target"]


# ---- results and the table --------------------------------------------------------------------


def stored(scale, value):
    entry = {"value": value, "standard_error": 0.02, "scatter": 0.05, "runs": 6}
    return Results("98", scale, 90.0, [0], {"a.number": entry, "no.row": {"value": 7}})


def test_results_round_trip(data):
    before = stored("lite", 1.5)
    assert before.save() == data / "results" / "lite_98.json"
    assert Results.stored("98", "lite") == before
    assert Results.stored("98", "paper") is None
    with pytest.raises(ValueError, match=r"found a\.number not finite"):
        stored("paper", math.nan).save()


def test_the_table_shows_this_run_before_the_stored_one(data):
    more = row_text(id="another", value="0.010 ± 0.020", estimator="their own")
    (data / "paper_numbers.toml").write_text(row_text() + more)
    stored("lite", 1.5).save()
    stored("paper", 1.25).save()
    reproduction.settings("97")
    texts = [f"{value} ± 0.020 (scatter 0.05, 6 runs)" for value in ("1.500", "1.250")]
    assert [line[2:5] for line in reproduction.table("98").lines] == [
        (*texts, "reproduced"),
        ("", "", "not run: notebook 98 has not measured it here"),
    ]
    # An audit that runs without its lesson measures some of the rows.
    reproduction.settings("98")
    reproduction.check("a.share", 0.7)
    reproduction.record("another", Summary.of([3.1, 3.3]))
    found = reproduction.table("98")
    assert [line[2] for line in found.lines] == [texts[0], str(Summary.of([3.1, 3.3]))]
    assert found.lines[1][4] == "not reproduced"
    assert "Here: this run, and what it did not measure, lite scale" in found.caption
    assert "2 rows of notebook 98: 1 reproduced, 1 not reproduced" in found.caption
    given = reproduction.table("98", results=stored("lite", 1.75)).lines
    assert [line[2][:5] for line in given] == ["1.750", ""]
    assert "Estimator: their own. why (arXiv:1234.56789, table 1)" in str(found)
    for part in ("a.number &amp; co", "<caption", "0.010 ± 0.020 (paper)"):
        assert part in found._repr_html_()


def test_a_verdict_is_about_the_scale_its_row_names(data):
    (data / "paper_numbers.toml").write_text(row_text(judged_at="paper"))
    stored("lite", 99.0).save()
    assert reproduction.table("98").lines[0][4].startswith("not run: notebook 98")
    reproduction.record("a.number", 1.0, scale="paper")
    assert reproduction.table("98").lines[0][3:5] == ("1", "reproduced")


def test_the_tables_that_ship_fit_a_terminal_and_say_who_states_a_number():
    for notebook in (None, "01", "02", "03", "04"):
        text = str(reproduction.table(notebook))
        assert max(map(len, text.splitlines())) <= 100
    assert "2,939,188 (public" in str(reproduction.table())


def test_reference_is_never_blank(data):
    assert "galflow-lite reproduce 98 --scale paper --store" in str(reproduction.reference("98"))
    stored("paper", 1.25).save()
    for part in ("Stored reference: paper scale", "90 s, seed 0", "1.250 ± 0.020", "no.row"):
        assert part in str(reproduction.reference("98"))
    assert list(reproduction.reference("98", "a.").rows) == ["a.number"]
