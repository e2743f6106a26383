"""The layout of the package: imports point one way, and every room and file has a name of its own.

All import statements are read from the files, those hidden in functions and TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import galflow_lite

ROOT = Path(galflow_lite.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
PAPERS = {"galaxies", "piecewise", "interpolants", "samplers"}
# Files inside a room that README and notebooks import by themselves.
ROOMS_IN_ROOMS = {"interpolants.shipped", "samplers.recipes"}


def imported(name: str) -> set[str]:
    """Names, from the package on, of the files that a file imports."""
    path, found = FILES[name], set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name.split(".") for alias in node.names]
            wanted = [parts[1:] for parts in wanted if parts[0] == "galflow_lite"]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + base
            elif base[:1] == ["galflow_lite"]:
                base = base[1:]
            else:
                continue
            wanted = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for parts in wanted:
            while parts and ".".join(parts) not in FILES:
                parts = parts[:-1]
            if parts:
                found.add(".".join(parts))
    return found - {name}


GRAPH = {name: imported(name) for name in FILES}


def test_no_file_imports_itself_by_a_detour():
    require_no_circle(GRAPH)


def test_no_room_imports_itself_by_a_detour():
    rooms: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        room = name.split(".")[0]
        rooms.setdefault(room, set()).update({other.split(".")[0] for other in others} - {room})
    require_no_circle(rooms)


def require_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import circle: " + " <- ".join(error.args[1]))


def test_papers_do_not_import_each_other():
    for name, others in GRAPH.items():
        room = name.split(".")[0]
        papers = {other.split(".")[0] for other in others} & PAPERS - {room}
        assert not papers or room not in PAPERS, f"{name} imports {papers}"


def test_only_flows_imports_nflows():
    users = {name.split(".")[0] for name in FILES if "nflows" in outside(name)}
    assert users == {"flows"}


def outside(name: str) -> set[str]:
    """Other packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_no_file_name_twice():
    names = Counter(path.name for path in FILES.values() if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]
    assert not {path.stem for path in FILES.values()} & {"utils", "helpers", "common", "misc"}


def test_public_names_exist_and_are_few():
    public = set()
    for name, path in FILES.items():
        if "__all__" not in path.read_text(encoding="utf-8"):
            continue
        # Inner files have none: what a room offers stands in one place.
        inside = "." in name and path.name != "__init__.py"
        assert not inside or name in ROOMS_IN_ROOMS, f"{name} has an __all__ inside a room"
        module = importlib.import_module(f"galflow_lite.{name}")
        assert len(module.__all__) == len(set(module.__all__)), name
        assert not [item for item in module.__all__ if not hasattr(module, item)], name
        public |= set(module.__all__)
    assert len(public) <= 220
