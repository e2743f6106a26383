"""The Python examples of README and the site, as written there but for sizes and file names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from galflow_lite import reproduction

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_DATA = (ROOT / "notebooks/site/own_data.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", OWN_DATA, flags=re.S | re.M))


def run(title: str, changes: dict[str, str], **names) -> dict:
    """Names after the example under a title, each change of its text being made exactly once."""
    code = EXAMPLES[title]
    for old, new in changes.items():
        assert code.count(old) == 1, f"the example has no single {old!r} to make smaller"
        code = code.replace(old, new)
    exec(compile(code, f"own_data.md, {title}", "exec"), names)
    return names


def test_every_example_is_run_here():
    assert len(EXAMPLES) == OWN_DATA.count("```python") == 4


TROUBLES = (ROOT / "notebooks/site/troubleshooting.md").read_text(encoding="utf-8")


def test_examples_of_troubleshooting_run_one_after_the_other():
    names = {"torch": torch, "pytest": pytest}
    found = re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", TROUBLES, flags=re.DOTALL | re.M)
    assert len(found) == TROUBLES.count("\n## ")
    for title, code in found:
        exec(compile(code, f"troubleshooting.md, {title}", "exec"), names)


@pytest.mark.filterwarnings("ignore:.*outside the training range")
def test_galaxies(tmp_path):
    found = run(
        "Galaxies",
        {
            'galaxies.h5")  ': f'{ROOT / "data" / "galaxies_lite.h5"}")  ',
            "steps=2000": "steps=20",
            "1_000_000": "1_000",
            "flow.safetensors": str(tmp_path / "flow.safetensors"),
        },
    )
    flow, stars, galaxy = found["flow"], found["stars"], found["held_out"][0]
    assert len(stars) == 1000
    assert np.isfinite(stars["feh"]).all()
    again = type(flow).load(tmp_path / "flow.safetensors")
    np.testing.assert_array_equal(again.log_prob(galaxy), flow.log_prob(galaxy))


def test_several_modes():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 0.3, (150, 2)) for centre in (-2, 0, 2)])
    found = run(
        "Data with several modes",
        {
            "weights=None": "weights=None, epochs=2",
            "fine_tune(x)": "fine_tune(x, steps=3)",
        },
        x=x.astype(np.float32),
    )
    assert found["clusters"].k == 3
    assert found["flow"].log_prob(x).shape == (450,)


def test_images():
    found = run("Images", {"steps=20": "steps=2"})
    kept = found["model"].generate(found["patches"], {"mask": found["mask"]}, steps=1).samples
    known = found["mask"].expand_as(kept) == 1
    assert torch.equal(kept[known], found["patches"][known])


def test_a_density():
    found = run(
        "A density without its constant",
        {
            "RECIPE, seed": "[{**RECIPE[0], 'steps': 3}], seed",
            "1_000_000": "1_000",
        },
    )
    assert found["x"].shape == (1000, 2)
    assert found["x"].isfinite().all()


def test_the_claims_are_those_of_the_runs_that_ship():
    """Stale? `galflow-lite table --format markdown` prints what belongs between the markers."""
    (shown,) = re.findall(r"<!-- claims -->\n(.*?)<!-- /claims -->", README, flags=re.DOTALL)
    assert shown.strip() == reproduction.claims().to_markdown().strip()


@pytest.mark.parametrize("number", ["01", "02", "03", "04"])
def test_the_table_of_lessons_counts_the_claims(number):
    (row,) = re.findall(rf"^\| \[{number} .*$", README, flags=re.MULTILINE)
    counts = row.split(" | ")[-1].rstrip(" |").replace("<br>", " · ")
    assert counts == reproduction.claims().counts(number)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("notebooks/**/*.md")))
def test_links_between_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_a_mean_of_a_claim_is_recomputed_in_five_lines():
    (code,) = re.findall(r"^## What holds.*?```python\n(.*?)```", README, flags=re.DOTALL | re.M)
    assert len(code.splitlines()) <= 5
    names: dict = {}
    exec(compile(code, "README.md, What holds", "exec"), names)
    found = reproduction.stored("galaxies.c2st.flow", scale="lite")
    assert names["values"].mean() == pytest.approx(found.mean)
    assert names["values"].sem() == pytest.approx(found.standard_error)
