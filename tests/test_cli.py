"""The command line: exit codes, one-line errors, and what each command leaves behind."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile

import nbformat
import numpy as np
import pytest

from galflow_lite import cli, environment, files, notebooks, reproduction, teaching


def run(*words):
    """Exit code of ``galflow-lite`` with these words."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return stop.value.code or 0


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, and a data folder that results are stored in."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("paper_numbers.toml", "claims.toml", "runs.csv"):
        shutil.copy(files.share("data") / name, data)
    monkeypatch.setenv("GALFLOW_DATA", str(data))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("SCALE", "SEED", "RECORD", "QUIET", "RUNS"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    return tmp_path / "work"


# What `check` and `record` write; a kernel that imports torch would take seconds to start.
RECORD = """import json, os
with open(os.environ["GALFLOW_RECORD"], "a") as file:
    line = {{"id": "{}", "value": {}, "scale": "{}", "seed": 0, "notebook": "01"}}
    line |= {{"values": None, "seeds": None, "standard_error": None, "sign": "{}", "said": "far"}}
    file.write(json.dumps(line) + "\\n")"""


def tiny(path, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(text) for text in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture
def pair(here, monkeypatch):
    """A tiny lesson and its audit in the place of the notebooks that ship."""
    folder = here.parent / "notebooks"
    lesson = tiny(
        folder / "01_tiny.ipynb",
        RECORD.format("galaxies.parameters", 2937788, "lite", ""),
        "print(os.environ['GALFLOW_SCALE'], os.environ['GALFLOW_SEED'] or 'default')",
        RECORD.format("a.paper.time", 3.25, "paper", ""),
    )
    audit = tiny(folder / "audits/01_tiny.ipynb", RECORD.format("a.new.number", 0.5, "lite", ""))
    monkeypatch.setattr(notebooks, "share", lambda name: folder)
    return lesson, audit


# ---- help, errors and exit codes --------------------------------------------------------------


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom galflow_lite import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'h5py', 'matplotlib', 'nbclient'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", code], stdout=-1, text=True, check=True).stdout
    assert all(name in shown for name in ("check", "reproduce", "table", "bands", "data"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reproduce", "77"), "there is no notebook '77': choose one of 00"),
        (("reproduce", "--store", "--seed", "3"), "leave out one of them"),
        (("table", "77"), "no paper for notebook '77'"),
        (("data", "convert", "nowhere", "a.h5"), "the folder nowhere holds no .npy file"),
        (("data", "convert", "nowhere", "..", "--force"), ".. exists: give another name"),
        (("data", "make", "galaxies", "--out", f"{__file__}/a.h5"), "cannot be written to"),
    ],
)
def test_an_error_is_one_line_and_ends_with_1(here, words, message, capsys):
    assert run(*words) == 1
    shown = capsys.readouterr().err
    last = shown.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in shown
    assert list(here.iterdir()) == []


def test_debug_shows_the_traceback_and_what_is_no_users_error_always_does(monkeypatch):
    with pytest.raises(ValueError, match="no paper for notebook '77'"):
        cli.main(["table", "77", "--debug"])
    monkeypatch.setattr(reproduction, "claims", lambda *_: {}["a bug"])
    with pytest.raises(KeyError):
        cli.main(["table"])


def test_bands_prints_what_was_made(monkeypatch, capsys):
    band = reproduction.bands.Band(1.0, 2.0, null=3.0)
    monkeypatch.setattr(reproduction.bands, "make_bands", lambda name, **_: {name: band})
    assert run("bands", "01") == 0
    assert capsys.readouterr().out.startswith("01   [1, 2]   null 3.0\n1 bands written")


def test_student_writes_the_lessons_and_replaces_none(here, capsys):
    assert run("student", "class") == 0
    assert len(list((here / "class").glob("0?_*.ipynb"))) == 5
    assert "6 cells to fill in" in capsys.readouterr().out
    assert run("student", "class") == 1
    assert run("student", "class", "--force") == 0


def test_slides_stand_beside_reveal_and_hold_no_solution(here, monkeypatch, capsys):
    with tarfile.open("reveal.tgz", "w:gz") as packed:
        for name in ("dist/reveal.js", "dist/reset.css", "plugin/notes.js", "LICENSE"):
            packed.addfile(tarfile.TarInfo(f"package/{name}"))
    assert run("slides", "00", "out", "--reveal", "reveal.tgz") == 1
    assert "is not reveal.js 5.2.1" in capsys.readouterr().err
    monkeypatch.setattr(teaching, "REVEAL_SHA256", files.sha256(here / "reveal.tgz"))
    assert run("slides", "00", "out", "--reveal", "reveal.tgz") == 0
    assert sorted(path.name for path in (here / "out/reveal").iterdir()) == [
        "LICENSE",
        "reset.css",
        "reveal.js",
    ]
    page = (here / "out/00.html").read_text(encoding="utf-8")
    assert page.count("<section>") > 20
    assert "class Coupling" in re.sub("<[^>]+>", "", page)
    assert "SOLUTION" not in page
    assert not re.search(r"(src|href)=.?https?:[^>]*(js|css)", page)


def test_classroom_gathers_wheels_lessons_and_solutions(here, monkeypatch, capsys):
    said: list[list[str]] = []
    monkeypatch.setattr(teaching, "_run", lambda *words: said.append([*map(str, words)]))
    assert run("classroom", "stick", "--platform", "windows", "--python", "3.13") == 0
    made, solved, fetched = said
    assert made[-2:] == ["nflows==0.14", str(files.share("notebooks").parent)]
    assert solved[solved.index("--python-platform") + 1] == "windows"
    assert fetched[fetched.index("--platform") + 1] == "win_amd64"
    for folder in ("lessons", "solved"):
        assert len(list((here / "stick" / folder).glob("0?_*.ipynb"))) == 5
    assert "Python 3.13" in (here / "stick/READ_ME.txt").read_text()
    assert run("classroom", "stick", "--platform", "amiga") == 1
    assert "the platform" in capsys.readouterr().err


def test_classroom_says_what_is_missing():
    with pytest.raises(ValueError, match="found no no-such-tool, expected it here"):
        teaching._run("no-such-tool")
    with pytest.raises(ValueError, match=r"cannot be had \(no wheel\)"):
        teaching._run(sys.executable, "-c", "import sys; sys.exit('no wheel')")


# ---- check ------------------------------------------------------------------------------------


def test_check_finds_missing_and_old_packages(monkeypatch):
    wanted = ["numpy>=999", "no-such-package-here>=1", "zuko; extra == 'test'"]
    monkeypatch.setattr(environment.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(environment.metadata, "metadata", lambda name: {"Requires-Python": ">3"})
    found = {f.what: f.ok for f in environment._packages()}
    assert found == {"python": True, "numpy": False, "no-such-package-here": False}


def test_check_offline_runs_a_notebook_to_which_no_network_is_open():
    found = environment._without_network()
    assert (found.ok, found.what) == (True, "without a network"), found.found


def test_check_finds_a_damaged_data_file(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"stars").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  a.h5\n{digest}  b.h5\n{digest}  c.h5\n")
    (tmp_path / "a.h5").write_bytes(b"stars")
    (tmp_path / "b.h5").write_bytes(b"start")
    monkeypatch.setattr(files, "share", lambda name: tmp_path)
    found = {f.what: f.ok for f in environment._files()}
    assert [found[name] for name in ("a.h5", "b.h5", "c.h5")] == [True, False, False]
    for name in ("SHA256SUMS", "bands.toml", "paper_numbers.toml"):
        for damage in (lambda path: path.write_text(""), lambda path: path.unlink()):
            damage(tmp_path / name)
            assert {f.what: f.ok for f in environment._files()}[name] is False
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  a.h5\n\n<html>\n")
    with pytest.raises(ValueError, match="holds '<html>', expected a sum and a file"):
        files.checksums()


def test_shipped_data_are_listed_with_their_checksums_and_small():
    data = files.share("data")
    listed = files.checksums()
    binary = {path for path in data.rglob("*") if path.suffix in (".h5", ".safetensors")}
    assert binary == set(listed)
    assert listed == {path: files.sha256(path) for path in listed}
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < 14_000_000


def test_faults_that_are_not_listed_are_an_error(capsys):
    assert run("faults", "01", "--only", "typo") == 1
    assert "found no fault 'typo' for notebook 01" in capsys.readouterr().err


# ---- reproduce --------------------------------------------------------------------------------


def number(name, scale):
    found = reproduction.stored(name, scale=scale)
    return found and found.mean


def test_reproduce_heeds_the_variables_of_scale_and_seed(here, pair, monkeypatch, capsys):
    monkeypatch.setenv("GALFLOW_SEED", "7")
    assert run("reproduce", "01") == 0
    book = nbformat.read(here / "runs/01_tiny.ipynb", as_version=4)
    assert book.cells[1].outputs[0].text == "lite 7\n"
    monkeypatch.setenv("GALFLOW_SCALE", "huge")
    assert run("reproduce", "01") == 2
    assert "'huge' is not one of 'lite', 'paper'" in capsys.readouterr().err


def test_reproduce_store_runs_lesson_and_audit_and_keeps_outputs_and_numbers(here, pair, capsys):
    assert run("reproduce", "01", "--store") == 0
    shown = capsys.readouterr().out
    said = "1 numbers as stored for its seed, 2 not stored, 0 moved"
    for text in ("GalacticFlow", said, "\n01_tiny: ", "audit_01_tiny: ", "2 numbers in runs.csv"):
        assert text in "\n" + shown
    names = {f"{name}01_tiny.{end}" for name in ("", "audit_") for end in ("html", "ipynb")}
    assert {path.name for path in (here / "runs").iterdir()} == names | {"report_01.html"}
    page = (here / "runs/report_01.html").read_text()
    assert "90 galaxies" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    book = nbformat.read(pair[0], as_version=4)
    assert book.cells[1].outputs[0].text == "lite default\n"
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3]
    assert number("a.new.number", "lite") == 0.5
    assert number("a.paper.time", "paper") == 3.25
    # Without --store nothing is kept; with it, numbers that were not measured stay.
    tiny(pair[1], RECORD.format("a.new.number", 0.75, "lite", ""), "os.environ['GALFLOW_SEED']")
    before = pair[1].read_bytes()
    assert run("reproduce", str(pair[1]), "--seed", "5") == 0
    assert pair[1].read_bytes() == before
    seeded = nbformat.read(here / "runs" / "audit_01_tiny.ipynb", as_version=4)
    assert seeded.cells[1].outputs[0].data["text/plain"] == "'5'"
    assert number("a.new.number", "lite") == 0.5
    assert run("reproduce", str(pair[1]), "--store") == 0
    assert number("a.new.number", "lite") == 0.75
    assert number("a.paper.time", "paper") == 3.25


def test_reproduce_ends_with_1_when_a_cell_fails_and_stores_nothing(here, pair, capsys):
    tiny(pair[0], "1", "raise ValueError('a cell fails')")
    before = pair[0].read_bytes()
    assert run("reproduce", "01", "--store") == 1
    shown = capsys.readouterr().err
    assert "error: 01_tiny, cell 2 of 2 (): ValueError: a cell fails\n" in shown
    assert (here / "runs" / "01_tiny.ipynb").is_file()
    assert (here / "runs" / "audit_01_tiny.html").is_file()
    assert pair[0].read_bytes() == before
    assert number("a.new.number", "lite") is None


def test_reproduce_runs_on_and_ends_with_1_when_a_number_lies_outside(here, pair, capsys):
    tiny(pair[0], RECORD.format("a.number", 9.0, "lite", "⚠"))
    assert run("reproduce", "01") == 1
    assert "⚠ a.number: far\n" in capsys.readouterr().err
    assert (here / "runs" / "audit_01_tiny.html").is_file()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "04 · Denoising Fisher training"),
        (("01",), "90 galaxies are enough"),
        (("01", "--format", "csv"), "One conditional flow learns"),
        (("01", "--format", "html"), "<table"),
        (("01", "--rows"), "~18 (one RTX 2080 Ti)"),
        (("02", "--rows", "--format", "markdown"), "| -0.0540 ± 0.0090 |"),
        (("04", "--all", "--format", "csv"), "samplers.plane.energy_distance (ring8/dft)"),
        (("01", "--rows", "--format", "html"), "<table"),
    ],
)
def test_table_prints_claims_and_the_rows_behind_them(words, part, capsys):
    assert run("table", *words) == 0
    assert part in capsys.readouterr().out


# ---- data -------------------------------------------------------------------------------------


def test_data_make_keeps_an_existing_file_unless_forced(here, capsys):
    from galflow_lite import galaxies, synthetic

    (here / "a.h5").write_bytes(b"mine")
    words = ("data", "make", "galaxies", "--n", "3", "--stars", "600", "--seed", "1")
    assert run(*words, "--out", "a.h5") == 1
    assert "--force" in capsys.readouterr().err
    assert (here / "a.h5").read_bytes() == b"mine"
    assert run(*words, "--out", "a.h5", "--force") == 0
    assert f"sha256 {files.sha256(here / 'a.h5')}" in capsys.readouterr().out
    catalogue = galaxies.Catalogue.open(here / "a.h5")
    again = synthetic.galaxy_family(3, 600, seed=1)
    assert np.allclose(catalogue[2]["vx"], again[2]["vx"], rtol=1e-3)
