"""The command line: exit codes, one-line errors, and what each command leaves behind."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from galflow_lite import cli, environment_check, files, reproduction
from galflow_lite.reproduction import bands, paper, results


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
    source = paper.share("data") / "paper_numbers.toml"
    (data / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for module in (paper, bands, results):
        monkeypatch.setattr(module, "share", lambda name: data)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("SCALE", "SEED", "RECORD", "RECORD_ONLY", "QUIET"):
        monkeypatch.delenv(f"GALFLOW_{name}", raising=False)
    return work


def tiny(folder, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(text) for text in cells]
    path = folder / "01_tiny.ipynb"
    nbformat.write(book, path)
    return path


RECORDS = (
    "from galflow_lite import reproduction as r\nconfig = r.settings('01')",
    "print(config.scale, config.seed)",
    "r.check('galaxies.parameters', 2937788)",
    "r.record('galaxies.sampling.seconds', 3.25, scale='paper')",
)


# ---- help, errors and exit codes --------------------------------------------------------------


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom galflow_lite import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'h5py', 'matplotlib', 'nbclient'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("check", "reproduce", "table", "bands", "data"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("reproduce", "--help"),
        ("bands", "--help"),
        ("data", "make", "--help"),
        ("data", "convert", "--help"),
        ("data", "fetch", "--help"),
        ("--version",),
    ],
)
def test_help_and_version_end_well(words, capsys):
    assert run(*words) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", [("frobnicate",), ("reproduce", "--frob"), ("data", "make")])
def test_a_command_that_is_not_understood_ends_with_2(words, capsys):
    assert run(*words) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "Error" in shown or "Usage" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reproduce", "77"), "notebook"),
        (("reproduce", "--scale", "huge"), "scale 'huge' is not known"),
        (("reproduce", "--store", "--seed", "3"), "leave out one of them"),
        (("table", "77"), "no row for notebook '77'"),
        (("table", "--format", "latex"), "format 'latex' is not known"),
        (("bands", "01", "--seeds", "2"), "5 or more seeds and got 2"),
        (("data", "make", "stars"), "choose galaxies"),
        (("data", "convert", "nowhere", "a.h5"), "nowhere"),
        (("data", "fetch", "nothing"), "the set is 'nothing', expected one of 'nihao'"),
    ],
)
def test_an_error_is_one_line_and_ends_with_1(here, words, message, capsys):
    assert run(*words) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback_wherever_it_stands(here, place):
    words = ["table", "77"]
    words.insert(place, "--debug")
    with pytest.raises(ValueError, match="no row for notebook '77'"):
        cli.main(words)


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(reproduction, "table", broken)
    with pytest.raises(KeyError):
        cli.main(["table"])


# ---- check ------------------------------------------------------------------------------------


def test_check_has_one_line_for_each_thing(capsys):
    code = run("check")
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("OK   ", "FAIL ")) for line in lines)
    names = [line.split()[1] for line in lines]
    for name in ("python", "torch", "nflows", "cpu", "cuda", "jupyter", "disk", "notebooks"):
        assert name in names, name
    assert code == int(any(line.startswith("FAIL") for line in lines))


def test_check_fails_when_one_thing_fails(monkeypatch, capsys):
    found = [environment_check.Finding(True, "a", "1"), environment_check.Finding(False, "b", "2")]
    monkeypatch.setattr(environment_check, "findings", lambda: iter(found))
    assert run("check") == 1
    assert capsys.readouterr().out.splitlines() == [str(finding) for finding in found]
    monkeypatch.setattr(environment_check, "findings", lambda: iter(found[:1]))
    assert run("check") == 0


def test_check_finds_missing_and_old_packages(monkeypatch):
    wanted = ["numpy>=999", "no-such-package-here>=1", "zuko; extra == 'test'"]
    monkeypatch.setattr(environment_check.metadata, "requires", lambda name: wanted)
    found = {f.what: f for f in environment_check._packages()}
    assert not found["numpy"].ok
    assert "expected >=999" in found["numpy"].found
    assert not found["no-such-package-here"].ok
    assert "missing" in found["no-such-package-here"].found
    assert "zuko" not in found


def test_check_finds_a_damaged_data_file(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"stars").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  a.h5\n{digest}  b.h5\n{digest}  c.h5\n")
    (tmp_path / "a.h5").write_bytes(b"stars")
    (tmp_path / "b.h5").write_bytes(b"start")
    monkeypatch.setattr(environment_check, "share", lambda name: tmp_path)
    found = {f.what: f for f in environment_check._files()}
    assert [found[name].ok for name in ("a.h5", "b.h5", "c.h5")] == [True, False, False]
    assert not found["notebooks"].ok


def test_shipped_data_are_listed_with_their_checksums_and_small():
    data = paper.share("data")
    listed = environment_check.checksums(data)
    binary = {path for path in data.rglob("*") if path.suffix in (".h5", ".safetensors")}
    assert binary == set(listed)
    for path, digest in listed.items():
        assert files.sha256(path) == digest
        assert path.stat().st_size < 6_000_000


def test_check_finds_a_full_disk(monkeypatch):
    usage = environment_check.shutil.disk_usage(".")._replace(free=10_000_000)
    monkeypatch.setattr(environment_check.shutil, "disk_usage", lambda _: usage)
    found = {f.what: f for f in environment_check.findings()}
    assert not found["disk"].ok
    assert "free some space" in found["disk"].found


# ---- reproduce --------------------------------------------------------------------------------


def test_reproduce_runs_prints_the_table_and_leaves_the_notebook_alone(here, capsys):
    source = tiny(here, *RECORDS)
    before = source.read_bytes()
    assert run("reproduce", str(source), "--seed", "5") == 0
    shown = capsys.readouterr().out
    assert "Quantity" in shown
    assert "2,937,788" in shown
    assert "reproduced only" in shown
    assert "01_tiny: " in shown
    assert sorted(path.name for path in (here / "runs").iterdir()) == [
        "01_tiny.html",
        "01_tiny.ipynb",
    ]
    assert "lite 5" in (here / "runs" / "01_tiny.ipynb").read_text()
    assert source.read_bytes() == before


def test_reproduce_store_writes_outputs_and_numbers(here, capsys):
    source = tiny(here, *RECORDS)
    assert run("reproduce", str(source), "--store") == 0
    book = nbformat.read(source, as_version=4)
    assert book.cells[1].outputs[0].text == "lite 0\n"
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3, 4]
    lite = results.Results.stored("01", "lite")
    reference = results.Results.stored("01", "paper")
    assert lite.values() == {"galaxies.parameters": 2937788}
    assert reference.values() == {"galaxies.sampling.seconds": 3.25}
    assert "stored the numbers in lite_01.json" in capsys.readouterr().out


def test_reproduce_ends_with_1_when_a_check_fails_and_stores_nothing(here, capsys):
    source = tiny(here, *RECORDS[:2], "r.check('galaxies.parameters', 2937789)")
    before = source.read_bytes()
    assert run("reproduce", str(source), "--store") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == [
        "error: 01_tiny, cell 3 of 3 (): OutOfBand: galaxies.parameters is 2,937,789 where exactly "
        "2,937,788 was expected: it does not depend on training, so look for a change in the code "
        "or the data"
    ]
    assert (here / "runs" / "01_tiny.ipynb").is_file()
    assert source.read_bytes() == before
    assert results.Results.stored("01", "lite") is None


def test_ctrl_c_ends_the_kernel_and_keeps_what_was_executed(here):
    source = tiny(here, "print('first')", "import time; time.sleep(120)")
    command = [sys.executable, "-c", "from galflow_lite.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "reproduce", str(source)], stderr=subprocess.PIPE, text=True, cwd=here
    )
    shown = ""
    while "1/2" not in shown:
        character = process.stderr.read(1)
        assert character, shown
        shown += character
    process.send_signal(signal.SIGINT)
    shown += process.communicate(timeout=30)[1]
    assert process.returncode not in (0, None)
    assert "Traceback" not in shown
    assert "first" in (here / "runs" / "01_tiny.ipynb").read_text()


def test_table_prints_rows(capsys):
    assert run("table", "01", "--format", "markdown") == 0
    assert capsys.readouterr().out.startswith("| Quantity |")


# ---- data -------------------------------------------------------------------------------------


def test_data_make_galaxies(here, capsys):
    from galflow_lite import galaxies, synthetic

    words = ("data", "make", "galaxies", "--n", "3", "--stars", "600", "--seed", "1")
    assert run(*words, "--out", "a.h5") == 0
    digest = hashlib.sha256((here / "a.h5").read_bytes()).hexdigest()
    assert f"sha256 {digest}" in capsys.readouterr().out
    catalogue = galaxies.Catalogue.open(here / "a.h5")
    assert len(catalogue) == 3
    again = synthetic.galaxy_family(3, 600, seed=1)
    assert np.allclose(catalogue[2]["vx"], again[2]["vx"], rtol=1e-3)
    assert set(catalogue[0].conditions) == set(galaxies.CONDITIONS)


def test_data_make_keeps_an_existing_file_unless_forced(here, capsys):
    (here / "a.h5").write_bytes(b"mine")
    words = ("data", "make", "galaxies", "--n", "2", "--stars", "600", "--out", "a.h5")
    assert run(*words) == 1
    assert "--force" in capsys.readouterr().err
    assert (here / "a.h5").read_bytes() == b"mine"
    assert run(*words, "--force") == 0
    assert (here / "a.h5").stat().st_size > 1000


def test_data_convert_cuts_and_counts(here, capsys):
    from galflow_lite import galaxies, synthetic

    (here / "all_sims").mkdir()
    family = synthetic.galaxy_family(2, 1000, seed=2)
    for galaxy in family:
        masses = np.broadcast_to(galaxy.masses, len(galaxy))
        _published_layout(here / "all_sims" / f"{galaxy.id}_1e11.npy", galaxy, masses)
    _published_layout(here / "all_sims" / "tiny_1e9.npy", family[0].take(slice(100)), masses[:100])
    assert run("data", "convert", "all_sims", "all.h5") == 0
    shown = capsys.readouterr().out
    total = sum(map(len, family)) + 100
    assert f"read 3 galaxies with {total:,} stars" in shown
    assert "wrote 2 galaxies with" in shown
    assert "dropped" in shown
    assert len(galaxies.Catalogue.open(here / "all.h5")) == 2
    assert run("data", "convert", "all_sims", "raw.h5", "--raw") == 0
    assert f"wrote 3 galaxies with {total:,} stars" in capsys.readouterr().out


def _published_layout(path, galaxy, masses):
    names = ("x", "y", "z", "vx", "vy", "vz", None, "Z", "feh", "ofe", "age")
    np.save(path, np.stack([masses if name is None else galaxy[name] for name in names]))


def test_data_list_names_what_ships_and_what_can_be_fetched(capsys):
    assert run("data", "list") == 0
    shown = capsys.readouterr().out
    assert "galflow-lite data fetch nihao" in shown
