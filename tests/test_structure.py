"""The rules of CONTRIBUTING.md that a program can check: sizes, rooms, faces, dependencies."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "benchmark").rglob("*.py"))
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
FACES = sorted(path.relative_to(ROOT).parent for path in (ROOT / "benchmark").rglob("*.pyi"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MOST_ROOMS, MOST_MODULE_LINES, MOST_FUNCTION_LINES = 21, 400, 45
# Modules of extras that are looked for when needed, so that no environment need have them.
OPTIONAL = {"mlperf_loadgen", "peft", "pynvml"}


def imports(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield (module, names taken from it) of every import statement, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module), [alias.name for alias in node.names]


def test_functions_and_modules_stay_short() -> None:
    long = [
        f"{path}: {lines} lines"
        for path in TREES
        if (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines()))
        > MOST_MODULE_LINES
    ]
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = int(node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    long.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_the_top_level_is_seen_at_a_glance() -> None:
    rooms = [
        path.name
        for path in (ROOT / "benchmark").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    ]
    assert len(rooms) <= MOST_ROOMS


@pytest.mark.parametrize("face", FACES, ids=str)
def test_every_name_of_a_face_is_there(face: Path) -> None:
    package = importlib.import_module(".".join(face.parts))
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert package.__all__
    assert missing == []


def test_packages_meet_through_their_faces_only() -> None:
    faces = {".".join(face.parts): importlib.import_module(".".join(face.parts)) for face in FACES}
    trespasses = []
    for path, tree in TREES.items():
        for module, names in imports(tree):
            package = ".".join(module.split(".")[:2])
            if package not in faces or Path(*package.split(".")) in path.parents:
                continue
            if module != package or not set(names) <= set(faces[package].__all__):
                trespasses.append(f"{path}: {module}: {', '.join(names)}")
    assert trespasses == []


def test_runtime_dependencies_are_what_is_imported() -> None:
    distributions = packages_distributions()
    modules = {module for tree in TREES.values() for module, _ in imports(tree)}
    imported = {module.partition(".")[0] for module in modules}
    foreign = imported - sys.stdlib_module_names - OPTIONAL - {"benchmark"}
    needed = {normal(name) for module in foreign for name in distributions[module]}
    assert needed == {normal(requirement) for requirement in PROJECT["dependencies"]}


def normal(requirement: str) -> str:
    """Return a requirement's distribution name in the one spelling that indexes compare."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()
