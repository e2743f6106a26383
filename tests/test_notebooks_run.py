"""Executing notebooks and making bands, on tiny notebooks that are written here.

Every test starts a kernel or several.
"""

from __future__ import annotations

import sys

import nbformat
import numpy as np
import pytest
import tomlkit
from bs4 import BeautifulSoup

from galflow_lite import notebooks
from galflow_lite.reproduction import checks


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET", "RUNS"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)


def write(path, *cells):
    """A notebook of code cells, and of markdown cells where the text starts with '# '."""
    book = nbformat.v4.new_notebook()
    for text in cells:
        kind = "markdown" if text.startswith("# ") else "code"
        book.cells.append(getattr(nbformat.v4, f"new_{kind}_cell")(text))
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


def outputs(path):
    book = nbformat.read(path, as_version=4)
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in book.cells
        if cell.cell_type == "code"
    ]


def test_execute_writes_notebook_and_report_and_names_the_section(tmp_path, capfd):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "# Training the flow",
        "import os, sys; print(sys.executable)",
        "print(os.environ['GALFLOW_QUIET'], os.environ['COLOUR'], os.listdir())",
        "print(os.environ['GALFLOW_RUNS'])",
        "from IPython.display import Image, display\n"
        "display(Image(b'\\x89PNG picture', format='png', alt='A \"rising\" line'))",
    )
    before = source.read_bytes()
    run = notebooks.execute(source, tmp_path / "runs", env={"COLOUR": "blue"})
    said = outputs(run.notebook)
    assert said[:3] == [f"{sys.executable}\n", "1 blue []\n", f"{tmp_path / 'runs'}\n"]
    assert source.read_bytes() == before
    page = run.report.read_text(encoding="utf-8")
    assert "1 blue []" in page
    picture = BeautifulSoup(page, features="html.parser").find("img")
    assert picture["alt"] == 'A "rising" line'
    assert picture["src"].startswith("data:image/png;base64,iVBOR")
    assert 0 < run.seconds
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["97_tiny.html", "97_tiny.ipynb"]
    bar = capfd.readouterr().err
    assert "97 Training the flow" in bar
    assert "4/4" in bar
    assert "WARNING" not in bar


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("raise ValueError('too few\\nstars')", "ValueError: too few"),
        ("import os; os._exit(9)", "the kernel died"),
    ],
)
def test_a_failing_cell_is_named_and_the_part_before_it_kept(tmp_path, cell, message):
    source = write(tmp_path / "97_tiny.ipynb", "# The catalogue", "print('first')", cell, "2")
    with pytest.raises(notebooks.NotebookFailed) as error:
        notebooks.execute(source, tmp_path / "runs", progress=False)
    assert str(error.value).startswith(f"97_tiny, cell 3 of 4 (The catalogue): {message}")
    assert outputs(tmp_path / "runs" / "97_tiny.ipynb") == ["first\n", "", ""]
    assert not (tmp_path / "runs" / "97_tiny.html").exists()


def test_stored_outputs_keep_tags_and_ids_and_nothing_that_varies(tmp_path):
    source = write(tmp_path / "97_tiny.ipynb", "1")
    book = nbformat.read(source, as_version=4)
    (cell,) = book.cells
    cell.update(execution_count=1, outputs=[nbformat.v4.new_output("stream", text="hello")])
    cell.metadata = {"tags": ["nbval-check-output"], "execution": {"iopub.execute_input": "now"}}
    book.metadata = {"kernelspec": {"name": "mine", "display_name": "Mine"}}
    book.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    nbformat.write(book, source)
    notebooks.store_outputs(source, tmp_path / "stored.ipynb")
    stored = nbformat.read(tmp_path / "stored.ipynb", as_version=4)
    nbformat.validate(stored)
    assert stored.cells[0].outputs == cell.outputs
    assert stored.cells[0].id == cell.id
    assert stored.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert stored.metadata["kernelspec"]["name"] == "python3"
    assert "3.11.7" not in nbformat.writes(stored)


def test_a_number_names_a_lesson_and_its_audit(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "share", lambda name: tmp_path)
    lesson, other = (write(tmp_path / f"{n}_tiny.ipynb", "1") for n in ("96", "97"))
    assert notebooks.find_notebooks(["96"]) == [lesson]
    audit = write(tmp_path / "audits" / "96_tiny.ipynb", "1")
    assert notebooks.find_notebooks() == [lesson, audit, other]
    for name in ("96", "96_tiny", "96_tiny.ipynb"):
        assert notebooks.find_notebooks([name]) == [lesson, audit]
    assert notebooks.find_notebooks([str(audit), "97"]) == [audit, other]
    with pytest.raises(ValueError, match="there is no notebook '77': choose one of 96, 97"):
        notebooks.find_notebooks(["77"])


# ---- bands ------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with one exact row and no band."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path / "data"))
    fields = "paper = ''\nwhere = ''\nsource = 'derived'\nquantity = 'n'\nvalue = 3\nnote = ''"
    (tmp_path / "data/paper_numbers.toml").write_text(
        f'["a.count"]\nnotebook = "97"\n{fields}\nexpected = 3\n'
        'criterion = { kind = "equal", target = 3 }\n'
    )
    (tmp_path / "data/bands.toml").write_text("# mine\n")
    return tmp_path / "data"


WRITE = (
    "import json, os\nseed = int(os.environ['GALFLOW_SEED'])\n"
    "assert os.environ['GALFLOW_RECORD_ONLY'] == os.environ['GALFLOW_JOBS'] == '1'\n"
    "with open(os.environ['GALFLOW_RECORD'], 'a') as file:\n"
    "    for name, value, checked in {}:\n"
    "        line = {{'id': name, 'value': value, 'checked': checked, 'scale': 'lite'}}\n"
    "        line['within'] = [0, 9] if name == 'tiny.seed' else None\n"
    "        file.write(json.dumps(line) + '\\n')"
)


def test_make_bands_repeats_lesson_and_audit_with_several_seeds(tmp_path, data, monkeypatch):
    monkeypatch.setattr(notebooks, "share", lambda name: tmp_path)
    write(
        tmp_path / "97_tiny.ipynb",
        WRITE.format("[('tiny.seed', float(seed), True), ('a.count', seed, True)]"),
        WRITE.format("[('tiny.seed', -1.0, False), ('sometimes', 1.0, False)][: 1 + seed % 2]"),
    )
    write(tmp_path / "audits/97_tiny.ipynb", WRITE.format("[('tiny.time', seed, False)]"))
    made = checks.make_bands("97", seeds=5, jobs=1)
    # An exact count gets no band, a recorded time no ends, and what not every seed gave is left.
    assert set(made) == {"tiny.seed", "tiny.time"}
    assert made["tiny.seed"].values == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (made["tiny.seed"].low, made["tiny.seed"].high) == (0.0, 9.0)
    assert made["tiny.time"].sides == "none"
    assert checks.read_bands() == made
    text = (data / "bands.toml").read_text()
    section = tomlkit.parse(text)["notebook"]["97"]
    assert section["seeds"] == 5
    assert np.isclose(section["band"]["tiny.seed"]["sd"], np.std([0, 1, 2, 3, 4], ddof=1))
    assert text.startswith("# mine")


def test_make_bands_needs_what_every_seed_gave(tmp_path, data, monkeypatch):
    source = write(tmp_path / "97_tiny.ipynb", "1")
    one = {"a": {"value": 1.0, "checked": True}}
    runs = iter([one] * 4 + [{**one, "b": {"value": 1, "checked": True}}])
    monkeypatch.setattr(checks, "_one_seed", lambda *_: next(runs))
    with pytest.raises(ValueError, match="^b: not"):
        checks.make_bands(str(source), seeds=5, jobs=1)
    assert (data / "bands.toml").read_text() == "# mine\n"


def test_make_bands_leaves_the_file_when_a_seed_fails(tmp_path, data):
    source = write(
        tmp_path / "97_tiny.ipynb",
        "import os\nif os.environ['GALFLOW_SEED'] == '1': raise ValueError('no')",
    )
    with pytest.raises(notebooks.NotebookFailed, match="97_tiny, cell 1 of 1"):
        checks.make_bands(str(source), seeds=5, jobs=1)
    assert (data / "bands.toml").read_text() == "# mine\n"
