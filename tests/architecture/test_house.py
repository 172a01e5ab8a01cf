"""The house rules that can be counted: how long files are, who imports them, no circles, docstring examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import statistics
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sharegrpo_rl

PACKAGE = Path(sharegrpo_rl.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LINES = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
PROGRAMS = {"sharegrpo_rl.cli.__main__"}  # run, not imported


def imports_of(name: str) -> set[str]:
    """The package's modules that a module imports, at the top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= (inner & MODULES.keys()) or ({node.module} & MODULES.keys())
    return modules - {name}


IMPORTS = {name: imports_of(name) for name in MODULES}


def test_files_hold_one_idea_whole() -> None:
    importers = defaultdict(set)
    for name, modules in IMPORTS.items():
        for module in modules:
            importers[module].add(name)
    doors = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    thin = {n: lines for n, lines in LINES.items() if 0 < lines < 60 and len(importers[n]) < 3}
    assert {n: lines for n, lines in thin.items() if n not in doors | PROGRAMS} == {}
    assert {n: lines for n, lines in LINES.items() if lines > 600} == {}


def test_the_house_can_be_walked() -> None:
    lines = [n for n in LINES.values() if n]
    assert len(lines) <= 190
    assert 130 <= statistics.median(lines) <= 220


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")])
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.attempted > 0
    assert results.failed == 0


def test_code_in_docstrings_is_an_example_that_runs() -> None:
    """An indented assignment in a docstring looks like an example: it begins with >>>."""
    loose = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (doc := ast.get_docstring(node)):
                loose += [f"{name}: {line}" for line in doc.splitlines() if line.startswith("config = ")]
    assert loose == []
