"""Exercises: a right answer passes, a stub does not, and the usual mistakes are told by name."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

from galflow_lite import exercises
from galflow_lite.reproduction.checks import INSIDE
from galflow_lite.teaching import write_student_version

ROOT = Path(__file__).parents[1]
LESSONS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))}
TASK = re.compile(r"> \*\*Your turn (\d\d\.\d)\*\* · [^·\n]+ · (\d+) minutes · (★{1,3})\n>\n> \*")


def answers_of(number: str) -> dict[str, list[tuple[tuple, str]]]:
    """Wrong answers that people give to the exercises of a lesson, with what they are told."""
    return importlib.import_module(f"exercise_answers.lesson_{number}").WRONG


def cells_to_fill_in(path: Path) -> dict[str, tuple]:
    """By number of the exercise: the cell with the solution, and the text before it."""
    cells, found = nbformat.read(path, as_version=4).cells, {}
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code" and "BEGIN SOLUTION" in cell.source:
            number = re.search(r'exercises\.check\("(\d\d\.\d)"', cell.source)
            assert number, f"a cell to fill in without a check: {cell.source}"
            found[number[1]] = cell, before.source
    return found


FILLED = {number: cells_to_fill_in(path) for number, path in LESSONS.items()}
WRONG = [
    pytest.param(number, answers, said, id=f"{number}-{index}")
    for lesson in LESSONS
    for number, cases in answers_of(lesson).items()
    for index, (answers, said) in enumerate(cases)
]


@pytest.mark.parametrize(("number", "answers", "said"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answers, said, capsys):
    assert not exercises.check(number, *answers)
    line = capsys.readouterr().out
    assert said in line, line
    assert "Error" not in line, line
    assert not exercises.check(number, *[unfilled(answer) for answer in answers])
    assert "not filled in yet" in capsys.readouterr().out


def unfilled(answer):
    """The answer of the student's version: a function that raises, or dots."""

    def stub(*_, **__):
        raise NotImplementedError("your turn")

    return stub if callable(answer) else ...


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_exercise_has_a_task_a_solution_hints_and_a_wrong_answer(lesson):
    found = FILLED[lesson]
    assert list(found) == [f"{lesson}.{i + 1}" for i in range(len(found))]
    assert set(answers_of(lesson)) == set(found)
    for number, (cell, task) in found.items():
        written = TASK.search(task)
        assert written, f"{number}: the text before it is no task: {task[:80]}"
        assert written[1] == number
        assert 1 <= len(exercises._all_hints()[number]) <= 3
        assert "nbval-check-output" in cell.metadata.tags
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert f"exercise {number}   {INSIDE}" in said
    for known in (exercises._judges, exercises._all_hints()):
        assert sorted(n for n in known if n.startswith(lesson)) == sorted(found)


@pytest.mark.parametrize("lesson", LESSONS)
def test_student_version_is_whole_python_without_solutions_that_later_cells_would_miss(
    lesson, tmp_path
):
    target = tmp_path / "lesson.ipynb"
    assert write_student_version(LESSONS[lesson], target) == len(FILLED[lesson])
    before, after = (nbformat.read(path, as_version=4) for path in (LESSONS[lesson], target))
    nbformat.validate(after)
    code = [cell for cell in after.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or "SOLUTION" in cell.source for cell in code)
    solved = [cell for cell in before.cells if cell.cell_type == "code"]
    for stub, solution in zip(code, solved, strict=True):
        ast.parse(stub.source)
        if "BEGIN SOLUTION" not in solution.source:
            continue
        assert "raise NotImplementedError(" in stub.source or "= ...\n" in stub.source
        there = set(re.findall(r"^(?:def )?(\w+)(?: = |\()", stub.source, flags=re.MULTILINE))
        answers = re.search(r'exercises\.check\("[\d.]+", (.+?)\)', stub.source)[1]
        assert set(answers.split(", ")) <= there, "the student's version would stop here"
        own = {node.id for node in names(solution.source) if isinstance(node.ctx, ast.Store)}
        own |= {n.name for n in ast.walk(ast.parse(solution.source)) if hasattr(n, "name")}
        later = solved[solved.index(solution) + 1 :]
        for cell in later:
            stored = {n.id for n in names(cell.source) if isinstance(n.ctx, ast.Store)}
            used = {n.id for n in names(cell.source)} - stored
            assert not used & own, f"{sorted(used & own)} of an exercise is used by a later cell"


def names(source: str) -> list[ast.Name]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]


def test_stub_of_a_function_and_of_values_and_the_picture_to_expect(tmp_path):
    cell = nbformat.v4.new_code_cell(
        "def f(x):\n    # BEGIN SOLUTION: square it\n    return x * x\n    # END SOLUTION\n\n"
        "# BEGIN SOLUTION: numbers\na = 1\nb, c = a + 1, 2\n"
        "def g():\n    return 1\n# END SOLUTION\nprint(c, b, g)"
    )
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": "aGk="})]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    assert write_student_version(tmp_path / "a.ipynb", tmp_path / "b.ipynb") == 1
    stub, picture = nbformat.read(tmp_path / "b.ipynb", as_version=4).cells
    assert stub.source == (
        "def f(x):\n    # YOUR TURN: square it\n    raise NotImplementedError('square it')\n\n"
        "# YOUR TURN: numbers\nc = ...\nb = ...\ng = ...\nprint(c, b, g)"
    )
    assert picture.attachments == {"expected.png": {"image/png": "aGk="}}


def test_nbgrader_takes_what_is_written_for_it(tmp_path):
    target = tmp_path / "lesson.ipynb"
    write_student_version(LESSONS["00"], target, nbgrader=True)
    book = nbformat.read(target, as_version=4)
    nbformat.validate(book)
    marked = [cell for cell in book.cells if "nbgrader" in cell.metadata]
    assert len(marked) == 2 * len(FILLED["00"])
    for answer, check in zip(marked[::2], marked[1::2], strict=True):
        assert re.search(r"### BEGIN SOLUTION\n(.*\n)+ *### END SOLUTION$", answer.source)
        assert re.fullmatch(r'assert exercises\.check\("00\.\d", .*\)', check.source)
        assert answer.metadata.nbgrader.solution
        assert check.metadata.nbgrader.points in (1, 2, 3)
    ids = [cell.metadata.nbgrader.grade_id for cell in marked]
    assert all(re.fullmatch(r"[\w-]+", found) for found in ids), "nbgrader refuses other names"
    assert len(set(ids)) == len(ids)


def test_a_lesson_opens_in_colab_and_installs_nothing_where_the_package_is(tmp_path, monkeypatch):
    target = tmp_path / "course" / LESSONS["00"].name
    with pytest.raises(ValueError, match="expected owner/repository@tag"):
        write_student_version(LESSONS["00"], target, colab="somewhere")
    write_student_version(LESSONS["00"], target, colab="me/flows@v1")
    title, install = nbformat.read(target, as_version=4).cells[:2]
    assert f"/github/me/flows/blob/v1/course/{target.name})" in title.source
    calls = []
    monkeypatch.setattr("subprocess.run", lambda *call, **options: calls.append(call[0]))
    monkeypatch.chdir(tmp_path)
    exec(install.source, {})
    assert calls == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(install.source, {})
    assert calls[0][-1] == "galflow-lite @ git+https://github.com/me/flows@v1"
    kept = (tmp_path / "kept.txt").read_text().split()
    assert [line.split("==")[0] for line in kept] == ["torch", "numpy"]


@exercises.exercise("99.1")
def _double(answer):
    if answer(2) == 2:
        raise exercises.Wrong("that is the number itself")
    assert answer(2) == 4, "found something else"
    return "doubled"


def test_nothing_that_an_answer_does_stops_the_notebook(monkeypatch, capsys):
    monkeypatch.setattr(exercises.importlib, "import_module", lambda *names: None)
    monkeypatch.setattr(exercises, "_all_hints", lambda: {"99.1": ["look", "look again"]})
    said = []
    for answer in (lambda x: 2 * x, lambda x: x, lambda x: x.no, lambda x: 5, ..., "text"):
        said.append((bool(exercises.check("99.1", answer)), capsys.readouterr().out))
    assert [right for right, _ in said] == [True, False, False, False, False, False]
    assert said[0][1] == f"exercise 99.1   {INSIDE} doubled\n"
    assert "the number itself" in said[1][1]
    assert "AttributeError" in said[2][1]
    assert "exercises.hint" not in said[2][1]
    assert "exercises.hint" in said[3][1]
    assert "not filled in" in said[4][1]
    for each in ("look", "look again", "look"):
        exercises.hint("99.1")
        assert capsys.readouterr().out.endswith(f": {each}\n")


def test_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match=r"found no exercise '98\.1', expected"):
        exercises.check("98.1", 1)
