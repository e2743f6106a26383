"""Settings, checks, bands, the table of runs, decisions, claims and rows."""

from __future__ import annotations

import json
import math
import re
from importlib import metadata

import numpy as np
import pytest
import tomlkit
import torch
from scipy import stats

from galflow_lite import reproduction
from galflow_lite.files import share
from galflow_lite.reproduction import Summary, bands, decide, tables
from galflow_lite.reproduction.summaries import COVERAGE, format_number, prediction_interval
from galflow_lite.reproduction.verdicts import UNTESTED

VALUES = [3.0, 3.1, 3.2, 3.3, 3.4]


def row_text(id="a.number", **fields):
    """A row of data/paper_numbers.toml, with these fields in place of the usual ones."""
    usual = {"notebook": "98", "paper": "1234.56789", "where": "table 1", "source": "paper"}
    usual |= {"quantity": f"{id} & co", "value": 1.0, "note": "why", **fields}
    return tomlkit.dumps({id: usual})


def line(row, value, seed=0, **fields):
    """A line of the table of runs."""
    usual = {"notebook": "98", "scale": "lite", "n": 1, "device": "cpu", "date": "2026-01-01"}
    return {**usual, "row": row, "value": value, "seed": seed, **fields}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of this test's own, and a clean run."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("GALFLOW_DATA", str(folder))
    for name in ("SCALE", "SEED", "RECORD", "QUIET"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    (folder / "paper_numbers.toml").write_text(row_text())
    made = {
        "a.number": bands.band_of(VALUES, null=9.0),
        "a.share": bands.band_of([0.74, 0.77, 0.55, 0.76, 0.79], within=(0, 1)),
    }
    bands._write(folder / "bands.toml", "98", made, 5)
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
    assert f"torch {metadata.version('torch')}" in str(first)
    assert "seed     3" in str(first)


# ---- check and record -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [3.2, np.float32(3.2), np.array([3.2]), torch.tensor(3.2), Summary.of([3.1, 3.3])]
)
def test_check_prints_the_band_and_not_the_number(data, capsys, value):
    reproduction.check("a.number", value, null=9.0)
    band = bands.read_bands()["a.number"]
    text = f"[{band.low:.10g}, {band.high:.10g}] (null: 9)"
    assert capsys.readouterr().out == f"a.number   ✔ in its usual range {text}\n"


@pytest.mark.parametrize("value", [99.0, -99.0, math.nan, math.inf, "3.2", Summary.of([8.0, 9.0])])
def test_a_number_outside_is_said_and_stops_nothing(data, monkeypatch, capsys, value):
    lines = data / "lines.jsonl"
    monkeypatch.setenv("GALFLOW_RECORD", str(lines))
    reproduction.check("a.number", value)
    out = capsys.readouterr().out
    assert out.startswith("a.number   ⚠ ")
    assert "is outside its usual range [" in out
    assert "you changed something, or this machine differs" in out
    assert json.loads(lines.read_text())["sign"] == "⚠"


def test_a_number_without_a_band_is_kept_and_told(data, capsys):
    reproduction.check("a.numbr", 3.2)
    out = capsys.readouterr().out
    assert out == "a.numbr   – no band (similar names: a.number): galflow-lite bands 98\n"
    reproduction.check("a.share", 1.01, within=(0, 1))
    assert "⚠ 1.01 is outside" in capsys.readouterr().out


@pytest.mark.parametrize(("right", "wrong"), [(2937788, 2937789), ("abc", "abd")])
def test_exact_quantities_are_compared_exactly_at_any_scale(data, capsys, right, wrong):
    (data / "paper_numbers.toml").write_text(row_text(id="a.count", expected=right))
    reproduction.settings("98", scale="paper")
    reproduction.check("a.count", right)
    assert capsys.readouterr().out == f"a.count   ✔ exactly {format_number(right)}\n"
    reproduction.check("a.count", wrong)
    assert "a.count   ⚠ " in capsys.readouterr().out


def test_numbers_that_are_not_judged_are_kept(data, capsys):
    reproduction.settings("98", scale="paper")
    reproduction.check("a.number", 99.0)
    reproduction.settings("98", judged=False)
    reproduction.check("a.number", 99.0)
    reproduction.record("no.row", 1.0)
    assert capsys.readouterr().out.count("– kept: bands hold") == 2


# ---- bands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "law"), [(5, "normal"), (8, "lognormal")])
def test_a_new_run_falls_in_the_interval_as_often_as_stated(n, law):
    """Coverage by simulation; leaving out the 1/n or a tail would be seen at this size."""
    trials, coverage = 400_000, COVERAGE
    draws = np.random.default_rng(1).normal(5.0, 2.0, size=(trials, n + 1))
    draws = np.exp(draws) if law == "lognormal" else draws
    low, high = prediction_interval(draws[:, :n], allowance=0.0, law=law)
    covered = ((low <= draws[:, n]) & (draws[:, n] <= high)).mean()
    assert abs(covered - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / trials)


def test_a_band_ends_where_the_quantity_does_and_excludes_its_null():
    assert (bands.band_of([0.0] * 5).low, bands.band_of([2.0] * 5).high) == (0.0, 2.04)
    values = [0.74, 0.77, 0.55, 0.76, 0.79]
    free, share_of = bands.band_of(values), bands.band_of(values, within=(0, 1))
    assert free.high > 1 == share_of.high
    assert share_of.low == max(free.low, 0.0)
    assert bands.band_of([7, 21, 6, 12, 11], within=(0, math.inf)).low == 0.0
    for bad in ([1.0] * 4, [1.0] * 4 + [math.nan], values):
        with pytest.raises(ValueError, match="expected 5 or more finite ones"):
            bands.band_of(bad, within=(0, 0.7) if bad is values else None)
    with pytest.raises(ValueError, match="expected 5 or more finite ones"):
        bands.band_of([0.0, *[1.0] * 4], law="lognormal")
    with pytest.raises(ValueError, match="holds its null 0.9"):
        bands.band_of(values, null=0.9)


def test_bands_are_read_as_they_were_written_and_others_stay(data):
    before = bands.read_bands()
    new = bands.band_of([0.004, 0.02, 0.007, 0.009, 0.012], law="lognormal", within=(0, 1))
    bands._write(data / "bands.toml", "97", {"b.number": new}, 5)
    assert bands.read_bands() == {**before, "b.number": new}
    bands._write(data / "bands.toml", "98", {"a.number": before["a.number"]}, 5)
    assert set(bands.read_bands()) == {"a.number", "b.number"}


def test_shipped_bands_are_what_the_rule_gives():
    """A band that was widened by hand, or that lacks the runs behind it, fails here."""
    content = tomlkit.parse((share("data") / "bands.toml").read_text(encoding="utf-8")).unwrap()
    shipped = bands.read_bands()
    for number, notebook in content["notebook"].items():
        assert notebook["band"], f"notebook {number} has no band"
        for name in notebook["band"]:
            values, band = reproduction.stored(name, scale="lite"), shipped[name]
            assert values.n == notebook["seeds"] >= bands.FEWEST
            assert band.null is not None, name
            kinds = {"law": band.law, "within": band.within, "null": band.null}
            assert bands.band_of(values.values, **kinds) == band, name


# ---- the table of runs ------------------------------------------------------------------------


def test_the_table_keeps_one_line_for_a_run_and_number(data):
    tables.store([line("a", 1.25), line("a", 2.0, 1), line("b", 7, error=0.5)])
    tables.store([line("a", 1.5), line("a", 3.0, scale="paper", seed=-1, n=10, error=0.1)])
    found = reproduction.runs("98")
    assert found.value.tolist() == [1.5, 7.0, 2.0, 3.0]
    assert reproduction.stored("a", scale="lite").values == (1.5, 2.0)
    assert reproduction.stored("b") == Summary(1, 7.0, 0.0, 0.0)
    # The scale with more seeds; and runs in the place of a summary of earlier ones.
    assert reproduction.stored("a") == Summary(10, 3.0, 0.1, 0.1 * 10**0.5)
    tables.store([line("a", value, seed, scale="paper") for seed, value in enumerate((4, 5, 6))])
    assert reproduction.stored("a").mean == 5.0
    assert reproduction.stored("a", "another case") is None
    assert reproduction.runs("97").empty
    tables.store([line("a", 1.0, 7)], afresh=True)
    assert reproduction.stored("a", scale="lite") == Summary(1, 1.0, 0.0, 0.0)
    # New settings of a repeated experiment; a run without a number is not forgotten.
    for key in "xy":
        tables.store([line("c", math.nan, seed, case="k", key=key) for seed in (1, 2)])
    found = reproduction.stored("c", "k")
    assert found.n == 2
    assert math.isnan(found.mean)
    assert not decide(found, 1e9).below


def test_the_table_that_ships_is_whole():
    found = reproduction.runs()
    assert list(found.columns) == list(tables.COLUMNS)
    assert not found.duplicated(["notebook", "row", "case", "seed", "scale"]).any()
    assert found.scale.isin(["lite", "paper"]).all()
    assert (found[["device", "versions", "date"]] != "").all().all()
    # What sums up several seeds says how many, and only that does.
    assert ((found.seed == -1) == (found.n > 1)).all()


# ---- decisions --------------------------------------------------------------------------------


def test_a_decision_is_students_t():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 1.0, 6), rng.normal(2.0, 3.0, 9)
    found = decide(Summary.of(a), Summary.of(b))
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative="less")[1])
    b = a + rng.normal(0.5, 0.2, 6)
    found = decide(Summary.of(a, range(6)), Summary.of(b, range(6)))
    assert found.p == pytest.approx(stats.ttest_rel(a, b, alternative="less")[1])
    # Not the same seeds: not paired, and the scatter between seeds hides the difference.
    assert decide(Summary.of(a, range(6)), Summary.of(b, range(1, 7))).p > 5 * found.p
    found = decide(Summary.of(a), 1.5, margin=-0.25)
    assert found.p == pytest.approx(stats.ttest_1samp(a, 1.75, alternative="less")[1])
    assert math.isnan(decide(Summary(1, 1.0, 0.0, 0.0), 2.0).p)
    assert [decide(Summary.of([1, 1, 1]), end).below for end in (1, 2)] == [False, True]


# ---- claims -----------------------------------------------------------------------------------

CLAIM = {"notebook": "98", "short": "short", "claim": "A claim", "place": "abstract"}
CLAIM |= {"tested": "So", "section": "audit 98, section 1", "criterion": "Below."}


def judged(data, **criteria):
    content = {"papers": {"98": "A paper"}, "claim": [{**CLAIM, **criteria}]}
    (data / "claims.toml").write_text(tomlkit.dumps(content))
    return reproduction.claims("98")


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"holds": [{"row": "low", "below": "high"}]}, "✔ holds"),
        ({"holds": [{"row": "low", "below": 2.0}]}, "✔ holds"),
        ({"holds": [{"row": "high", "above": "low"}]}, "✔ holds"),
        ({"holds": [{"row": "count", "equals": 7}]}, "✔ holds"),
        ({"holds": [{"row": "count", "equals": 8}]}, "✘ does not hold here"),
        ({"holds": [{"row": "low", "below": "high", "margin": 3.0}]}, "✘ does not hold here"),
        ({"holds": [{"row": "high", "below": "low", "margin": -9.0}]}, "✔ holds"),
        ({"holds": [{"row": "{}", "below": 2.0, "each": ["low", "high"]}]}, "✘ does not hold here"),
        (
            {
                "holds": [{"row": "high", "below": 2.0}],
                "only_with": [{"row": "low", "below": 2.0}],
                "with": "less",
            },
            "◐ holds only with less",
        ),
        (
            {
                "holds": [{"row": "high", "below": 2.0}],
                "direction": [{"row": "high", "below": 9.0}],
            },
            "~ holds in direction",
        ),
        ({"direction": [{"row": "high", "below": 2.0}]}, "✘ does not hold here"),
        ({"holds": [{"row": "once", "below": 2.0}]}, "– not testable here"),
        ({"holds": [{"row": "never", "below": 2.0}]}, "– not testable here"),
        ({"here": "needs a GPU"}, "– not testable here"),
    ],
)
def test_verdicts(data, criteria, said):
    lines = [line("low", 1 + k / 9, k) for k in range(5)]
    lines += [line("high", 3 + k / 8, k) for k in range(5)] + [line("once", 1.0)]
    tables.store(lines + [line("count", 7, k) for k in range(5)])
    found = judged(data, **criteria)
    assert str(found.claims[0]) == said
    assert said[:9] in str(found)
    for shown in (found.to_markdown(), found.to_html()):
        assert said in shown


def test_a_claim_shows_its_numbers_with_errors(data):
    tables.store([line(row, v + k / 9, k) for row, v in (("a", 1), ("b", 3)) for k in range(5)])
    found = judged(data, holds=[{"row": "a", "below": "b", "margin": 0.5}])
    assert found.claims[0].here == "1.222 ± 0.079 against 3.222 ± 0.079"
    assert "A claim" in found.to_html()
    assert found.table().verdict.tolist() == ["✔ holds"]
    with pytest.raises(ValueError, match="no paper for notebook '97': choose one of 98"):
        reproduction.claims("97")


def test_the_claims_that_ship_fit_a_screen_and_name_what_they_rest_on():
    found = reproduction.claims()
    for number in found.papers:
        lines = str(reproduction.claims(number)).splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 100
        assert 6 <= len(found.of(number)) <= 12
    for claim in found.claims:
        assert len(claim.short) <= 45, claim.short
        kind, number, section = re.fullmatch(
            r"(lesson|audit) (\d\d), section (\d+)", claim.section
        ).groups()
        (path,) = share("notebooks").glob(f"{'audits/' * (kind == 'audit')}{number}_*.ipynb")
        assert f"## {section} " in path.read_text(encoding="utf-8"), claim.short
        assert claim.criterion or claim.here, claim.short
        # A claim that nothing was run for says what it needs.
        assert claim.comparisons or claim.verdict == UNTESTED, claim.short
        assert claim.verdict != UNTESTED or claim.here or claim.comparisons, claim.short


# ---- the rows that ship -----------------------------------------------------------------------


def test_shipped_rows_are_complete_and_honest():
    found = reproduction.rows()
    quantities = [row.quantity for row in found.values()]
    assert len(set(quantities)) == len(quantities)
    for row in found.values():
        assert row.source in ("paper abstract", "paper", "public code", "derived"), row.id
    assert found["galaxies.parameters"].value - found["galaxies.parameters"].expected == 14 * 100
    # Tables 1 to 4, and the cost with the points seen, which is the stated one times their share.
    assert sum(row.error is not None for row in found.values()) == 60
    cost = "pieces.cost.moons.real_nvp"
    seen, stated = (found[cost + end].value for end in (".points_seen", ""))
    assert seen == pytest.approx(stated * 1024 / 10_000, abs=5e-4)
    table = reproduction.row_table("02")
    assert len(table) == len(reproduction.rows("02"))
    ours = table.set_index("number").loc["pieces.kl.moons.maf"]
    assert ours.paper == "-0.0540 ± 0.0090"
    assert "paper: table 1" in ours.place


def test_reference_is_never_blank(data):
    tables.store([line("a.number", 1.0)])
    assert "galflow-lite reproduce 98 --scale paper --store" in reproduction.reference("98")
    tables.store([line("a.number", 1.25, scale="paper"), line("b", 2.0, scale="paper")])
    for part in ("Stored at paper scale: cpu, 2026-01-01", "1.25", "1 seed"):
        assert part in reproduction.reference("98")
    assert " b " not in reproduction.reference("98", "a.")
