"""Executing notebooks and making bands, on tiny notebooks that are written here.

Every test starts a kernel or several (a second or two each).
"""

from __future__ import annotations

import json
import sys

import nbformat
import numpy as np
import pytest
import tomlkit
from bs4 import BeautifulSoup

from galflow_lite import notebooks, reproduction
from galflow_lite.reproduction import bands


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)


def write(path, *cells):
    """A notebook of code cells, and of markdown cells where the text starts with '#  '."""
    book = nbformat.v4.new_notebook()
    for text in cells:
        kind = "markdown" if text.startswith("# ") else "code"
        book.cells.append(getattr(nbformat.v4, f"new_{kind}_cell")(text))
    nbformat.write(book, path)
    return path


def outputs(path):
    book = nbformat.read(path, as_version=4)
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in book.cells
        if cell.cell_type == "code"
    ]


def test_execute_writes_notebook_and_report(tmp_path, monkeypatch):
    # A kernel of the same name that the user has installed must not be taken.
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    source = write(
        tmp_path / "97_tiny.ipynb",
        "# Title",
        "import os, sys; print(sys.executable)",
        "print(os.environ['GALFLOW_QUIET'], os.environ['COLOUR'], os.listdir())",
        "from IPython.display import Image, display\n"
        "display(Image(b'\\x89PNG picture', format='png', alt='A \"rising\" line'))",
    )
    before = source.read_bytes()
    run = notebooks.execute(source, tmp_path / "runs", progress=False, env={"COLOUR": "blue"})
    assert outputs(run.notebook)[:2] == [f"{sys.executable}\n", "1 blue []\n"]
    assert source.read_bytes() == before
    page = run.report.read_text(encoding="utf-8")
    assert "1 blue []" in page
    picture = BeautifulSoup(page, features="html.parser").find("img")
    assert picture["alt"] == 'A "rising" line'
    assert picture["src"].startswith("data:image/png;base64,iVBOR")
    assert 0 < run.seconds < 60
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["97_tiny.html", "97_tiny.ipynb"]


def test_execute_shows_a_bar_that_names_the_section(tmp_path, capfd):
    source = write(tmp_path / "97_tiny.ipynb", "# Training the flow", "1", "# Figures", "2")
    notebooks.execute(source, tmp_path / "runs", report=False)
    shown = capfd.readouterr().err
    assert "97 Training the flow" in shown
    assert "97 Figures" in shown
    assert "2/2" in shown
    assert "WARNING" not in shown


def test_a_failing_cell_is_named_and_the_part_before_it_kept(tmp_path):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "# The catalogue",
        "print('first')",
        "raise ValueError('too few\\nstars')",
        "print('never')",
    )
    with pytest.raises(notebooks.NotebookFailed) as error:
        notebooks.execute(source, tmp_path / "runs", progress=False)
    assert str(error.value) == "97_tiny, cell 3 of 4 (The catalogue): ValueError: too few"
    assert outputs(tmp_path / "runs" / "97_tiny.ipynb") == ["first\n", "", ""]
    assert not (tmp_path / "runs" / "97_tiny.html").exists()


def test_a_cell_that_takes_too_long_is_named(tmp_path):
    source = write(tmp_path / "97_tiny.ipynb", "import time", "time.sleep(60)")
    with pytest.raises(notebooks.NotebookFailed, match=r"97_tiny, cell 2 of 2 .*no end after 1 s"):
        notebooks.execute(source, tmp_path / "runs", progress=False, timeout=1)


def test_a_kernel_that_dies_is_named(tmp_path):
    source = write(tmp_path / "97_tiny.ipynb", "import os", "os._exit(9)")
    with pytest.raises(notebooks.NotebookFailed, match=r"97_tiny, cell 2 of 2 .*the kernel died"):
        notebooks.execute(source, tmp_path / "runs", progress=False)


def test_execute_returns_what_the_notebook_recorded(tmp_path):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "from galflow_lite import reproduction as r\nconfig = r.settings('97', seed=4)",
        "r.check('galaxies.parameters', 2937788)",
        "r.record('galaxies.training.seconds', 2.5)",
    )
    run = notebooks.execute(source, tmp_path / "runs", progress=False, report=False)
    assert run.report is None
    assert [(line["id"], line["value"]) for line in run.records] == [
        ("galaxies.parameters", 2937788),
        ("galaxies.training.seconds", 2.5),
    ]
    found = reproduction.Results.of_run("97", "lite", run)
    assert found.seeds == [4]
    assert found.rows["galaxies.training.seconds"] == {"value": 2.5}


def test_a_remark_reaches_the_stored_results_and_is_no_row(tmp_path):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "from galflow_lite import reproduction as r\nconfig = r.settings('97')",
        "r.remark('cut short', scale='paper')\nr.remark('ten seeds', scale='paper')",
        "r.record('galaxies.training.seconds', 2.5, scale='paper')",
        "print(list(r.records('paper')))",
    )
    run = notebooks.execute(source, tmp_path / "runs", progress=False, report=False)
    found = reproduction.Results.of_run("97", "paper", run)
    assert found.remark == "ten seeds"
    assert found.origin().endswith("; ten seeds")
    assert list(found.rows) == ["galaxies.training.seconds"]
    assert outputs(run.notebook)[-1] == "['galaxies.training.seconds']\n"
    assert reproduction.Results.of_run("97", "lite", run).remark == ""


def test_clean_keeps_outputs_tags_and_ids_and_nothing_that_varies(tmp_path):
    book = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", text="hello")]
    cell.metadata = {"tags": ["nbval-check-output"], "execution": {"iopub.execute_input": "now"}}
    book.cells = [cell]
    book.metadata = {
        "kernelspec": {"name": "mine", "display_name": "Mine"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    cleaned = notebooks.clean(book)
    nbformat.validate(cleaned)
    assert cleaned.cells[0].outputs == cell.outputs
    assert cleaned.cells[0].id == cell.id
    assert cleaned.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert cleaned.metadata["kernelspec"]["name"] == "python3"
    assert "3.11.7" not in nbformat.writes(cleaned)
    assert "execution" in book.cells[0].metadata


def test_find_notebook_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "share", lambda name: tmp_path)
    with pytest.raises(ValueError, match="holds no numbered notebook"):
        notebooks.find_notebooks()
    other = write(tmp_path / "96_other.ipynb", "1")
    with pytest.raises(ValueError, match="there is no notebook '77': choose one of 96"):
        notebooks.find_notebook("77")
    for name in ("96", "96_other", "96_other.ipynb", other):
        assert notebooks.find_notebook(name) == other
    path = write(tmp_path / "97_tiny.ipynb", "1")
    assert notebooks.find_notebooks([str(path)]) == [path]
    assert notebooks.find_notebooks() == [other, path]


def test_make_bands_repeats_a_notebook_with_several_seeds(tmp_path):
    source = write(
        tmp_path / "97_tiny.ipynb",
        # The lines that check and record write; importing them five times would take longer.
        "import json, os\nseed = int(os.environ['GALFLOW_SEED'])",
        "rows = [('tiny.seed', float(seed), True), ('galaxies.training.seconds', seed, False),\n"
        "        ('galaxies.parameters', seed, True), ('remark', 'once', False)]\n"
        "rows += [('tiny.seed', -1.0, False), ('tiny.sometimes', 1.0, False)][: 1 + seed % 2]",
        "assert os.environ['GALFLOW_RECORD_ONLY'] == '1'",
        "with open(os.environ['GALFLOW_RECORD'], 'a') as file:\n"
        "    for name, value, checked in rows:\n"
        "        line = {'id': name, 'value': value, 'checked': checked, 'scale': 'lite'}\n"
        "        line['within'] = [0, 9] if name == 'tiny.seed' else None\n"
        "        file.write(json.dumps(line) + '\\n')",
    )
    path = tmp_path / "bands.toml"
    path.write_text("# mine\n")
    made = reproduction.make_bands(str(source), seeds=5, jobs=2, path=path)
    # An exact count gets no band, and a recorded time no ends.
    assert set(made) == {"tiny.seed", "galaxies.training.seconds"}
    assert made["tiny.seed"].values == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert (made["tiny.seed"].low, made["tiny.seed"].high) == (0.0, 9.0)
    assert made["galaxies.training.seconds"].sides == "none"
    assert reproduction.read_bands(path) == made
    assert reproduction.band_values("galaxies.training.seconds", path=path).mean == 2.0
    section = tomlkit.parse(path.read_text())["notebook"]["97"]
    assert section["seeds"] == 5
    assert np.isclose(section["band"]["tiny.seed"]["sd"], np.std([0, 1, 2, 3, 4], ddof=1))
    assert path.read_text().startswith("# mine")


def test_make_bands_leaves_the_file_when_a_seed_fails(tmp_path):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "import os\nif os.environ['GALFLOW_SEED'] == '1': raise ValueError('no')",
    )
    path = tmp_path / "bands.toml"
    path.write_text("# mine\n")
    with pytest.raises(notebooks.NotebookFailed, match="97_tiny, cell 1 of 1"):
        reproduction.make_bands(str(source), seeds=5, jobs=2, path=path)
    assert path.read_text() == "# mine\n"


def test_make_bands_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="5 or more seeds and got 3"):
        reproduction.make_bands("01", seeds=3)
    source = write(tmp_path / "97_tiny.ipynb", "1")
    one = {"value": 1.0, "checked": True}
    runs = iter([{"a": one}] * 4 + [{"a": one, "b": one}])
    monkeypatch.setattr(bands, "_one_seed", lambda *_: next(runs))
    path = tmp_path / "bands.toml"
    with pytest.raises(ValueError, match="not every seed gave b"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    runs = iter([{"a": {**one, "value": float("nan")}}] * 5)
    with pytest.raises(ValueError, match="a was nan, .*expected finite numbers"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    runs = iter([{"a": {**one, "value": -1.0, "positive": True}}] * 5)
    with pytest.raises(ValueError, match="needs values above zero and got -1.0"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    runs = iter([{"a": {**one, "value": 2.0, "within": [0, 1]}}] * 5)
    with pytest.raises(ValueError, match="from 2 to 2, expected all within 0 to 1"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    runs = iter([{"a": {**one, "checked": False}, "b": {"value": "text", "checked": False}}] * 5)
    with pytest.raises(ValueError, match="checks nothing"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    runs = iter([{}] * 5)
    with pytest.raises(ValueError, match="checks nothing"):
        reproduction.make_bands(str(source), seeds=5, jobs=1, path=path)
    assert not path.exists()
