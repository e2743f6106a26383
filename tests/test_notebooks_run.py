"""Executing notebooks and making bands, on tiny notebooks that are written here."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import tomlkit
from bs4 import BeautifulSoup

import galflow_lite
from galflow_lite import notebooks, reproduction
from galflow_lite.reproduction import bands, faults, rows, stored


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("SCALE", "SEED", "RECORD", "QUIET", "PROGRESS", "RUNS"):
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
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


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


def test_a_run_does_not_take_the_place_of_its_notebook(tmp_path):
    source = write(tmp_path / "97_tiny.ipynb", "1")
    before = source.read_bytes()
    with pytest.raises(ValueError, match="would be overwritten by its own run"):
        notebooks.execute(source, tmp_path, progress=False)
    assert source.read_bytes() == before


WRONG = {"empty": "", "object": "{}", "list": "[]", "nothing": "null", "bytes": "\udcff"}
WRONG["no cells"] = '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'
WRONG["no text"] = WRONG["no cells"].replace("3", '[{"cell_type": "code", "source": 5}]')


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_notebook_gets_one_sentence(tmp_path, kind):
    path = tmp_path / "97_tiny.ipynb"
    path.write_bytes(WRONG[kind].encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"97_tiny.ipynb is no notebook \(.*expected one that Jup"):
        notebooks.execute(path, tmp_path / "runs", progress=False)


def test_folders_that_cannot_be_written_to_are_named_before_anything_runs(tmp_path, monkeypatch):
    source = write(tmp_path / "97_tiny.ipynb", "1")
    (tmp_path / "file").touch()
    monkeypatch.setattr(bands, "share", lambda name: tmp_path / "file")
    monkeypatch.setattr("joblib.Parallel", lambda **_: pytest.fail("something ran"))
    monkeypatch.setenv("GALFLOW_RUNS", str(tmp_path / "file"))
    for long in (
        lambda: notebooks.execute(source, tmp_path / "file"),
        lambda: bands.make_bands(str(source)),
        lambda: reproduction.repeat(int, {"case": {"a": 1}}, 1, row="row"),
    ):
        with pytest.raises(OSError, match="file cannot be written to .*expected a folder for resu"):
            long()


def test_stored_outputs_keep_tags_and_ids_and_nothing_that_varies(tmp_path):
    source = write(tmp_path / "97_tiny.ipynb", "1")
    book = nbformat.read(source, as_version=4)
    (cell,) = book.cells
    cell.update(execution_count=1, outputs=[nbformat.v4.new_output("stream", text="hello")])
    cell.metadata = {"tags": ["nbval-check-output"], "execution": {"iopub.execute_input": "now"}}
    book.metadata = {"language_info": {"name": "python", "version": "3.11.7"}}
    nbformat.write(book, source)
    notebooks.store_outputs(source, source)
    stored = nbformat.read(source, as_version=4)
    nbformat.validate(stored)
    (kept,) = stored.cells
    assert (kept.outputs, kept.id) == (cell.outputs, cell.id)
    assert kept.metadata == {"tags": ["nbval-check-output"]}
    assert stored.metadata["kernelspec"]["name"] == "python3"
    assert "3.11.7" not in nbformat.writes(stored)


def test_a_number_names_a_lesson_and_its_audit(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "share", lambda name: tmp_path)
    names = ("96_tiny", "audits/96_tiny", "97_tiny")
    lesson, audit, other = (write(tmp_path / f"{name}.ipynb", "1") for name in names)
    assert notebooks.find_notebooks() == [lesson, audit, other]
    for name in ("96", "96_tiny", "96_tiny.ipynb"):
        assert notebooks.find_notebooks([name]) == [lesson, audit]
    assert notebooks.find_notebooks([str(audit), "97"]) == [audit, other]


# ---- bands ------------------------------------------------------------------------------------


@pytest.fixture
def bands_of(tmp_path, monkeypatch):
    """Makes bands of a lesson and its audit that "run" by writing the lines given here."""
    (tmp_path / "bands.toml").write_text("# mine\n")
    row = {"notebook": "97", "paper": "", "where": "", "source": "derived", "quantity": "n"}
    row |= {"value": 3, "expected": 3}
    (tmp_path / "paper_numbers.toml").write_text(tomlkit.dumps({"a.count": row}))
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    paths = [tmp_path / "97_tiny.ipynb", tmp_path / "audits/97_tiny.ipynb"]
    monkeypatch.setattr(bands, "find_notebooks", lambda names: paths)

    def make(lines):
        def execute(path, folder, *, env, **options):
            assert env["GALFLOW_JOBS"] == "1"
            seed, records = int(env["GALFLOW_SEED"]), []
            for line in lines(path.parent.name == "audits", seed):
                line = dict(zip(("id", "value", "checked", "null"), line, strict=False))
                records.append(
                    {**line, "scale": "lite", "seed": seed, "standard_error": None, "values": None}
                )
            return SimpleNamespace(records=records)

        monkeypatch.setattr(bands, "execute", execute)
        return bands.make_bands("97", seeds=5, jobs=1)

    return make


def test_make_bands_repeats_lesson_and_audit_with_several_seeds(tmp_path, bands_of):
    def lines(audit, seed):
        if audit:
            return [("tiny.time", seed, False)]
        checked = [("tiny.seed", float(seed), True, "tiny.rival"), ("a.count", seed, True)]
        rival = ("tiny.rival", 100.0 + seed, False)
        return [*checked, ("tiny.seed", -1.0, False), rival, *[("some", 1.0, False)] * (seed % 2)]

    made = bands_of(lines)
    # An exact count gets no band, a number that is only recorded neither.
    assert set(made) == {"tiny.seed"}
    assert made["tiny.seed"].null == 102.0
    assert bands.read_bands() == made
    assert stored("tiny.seed").values == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert stored("tiny.time").n == stored("tiny.rival").n == 5
    assert stored("some").n == 2
    text = (tmp_path / "bands.toml").read_text()
    assert tomlkit.parse(text)["notebook"]["97"]["seeds"] == 5
    assert text.startswith("# mine")


def test_make_bands_needs_what_every_seed_gave(tmp_path, bands_of):
    with pytest.raises(ValueError, match="^b: not"):
        bands_of(lambda audit, seed: [("a", 1.0, True, 9), *[("b", 1, True, 9)] * (seed == 4)])
    with pytest.raises(ValueError, match="^a: found no null"):
        bands_of(lambda audit, seed: [("a", 1.0, True)])
    with pytest.raises(ValueError, match="^a: the band .* holds its null 1"):
        bands_of(lambda audit, seed: [("a", float(seed), True, 1.0)])
    assert (tmp_path / "bands.toml").read_text() == "# mine\n"


# ---- planted faults ---------------------------------------------------------------------------


def test_each_fault_has_one_place_to_be_planted():
    package, shipped = Path(galflow_lite.__file__).parent, notebooks.find_notebooks()
    sources = [c.source for path in shipped for c in nbformat.read(path, as_version=4).cells]
    told = set(re.findall(r"\btell\(\s*\"([\w.]+)\"", "\n".join(sources)))
    exact = {name for name, row in rows().items() if row.expected is not None}
    known = {*bands.read_bands(), *told, *exact, "(an error)"}
    for fault in faults.faults().values():
        places = [package / fault.file] if fault.file != "notebook" else []
        texts = [place.read_text(encoding="utf-8") for place in places]
        for path in shipped if not places else ():
            book = nbformat.read(path, as_version=4)
            texts += [c.source for c in book.cells if fault.old in c.source]
        assert len(texts) == 1, fault.name
        assert fault.plant(texts[0]) != texts[0]
        assert {path.name[:2] for path in shipped} >= set(fault.notebooks)
        assert set(fault.moves) <= known, fault.name


def test_every_checked_line_has_a_fault_that_turns_it_amber():
    moved = {name for fault in faults.faults().values() for name in fault.moves}
    for path in notebooks.find_notebooks():
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        texts = [output.get("text", "") for cell in cells for output in cell.outputs]
        checked = set(re.findall(r"^([\w.]+)   [✔⚠] ", "\n".join(texts), flags=re.MULTILINE))
        assert checked - moved == set(), path.name


def test_a_planted_fault_turns_its_checks_amber(tmp_path):
    fault = faults.faults("00")["flow without its slope"]
    assert set(faults.run_with(fault, "00", tmp_path)) >= set(fault.moves) > set()
