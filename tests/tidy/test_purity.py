"""mm/ and failure/ never print, open files, look at a clock or draw random numbers: a run is repeatable."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

PURE = ("src/hwpoison/mm/", "src/hwpoison/failure/")
MODULES = {
    *("io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "logging"),
    *("time", "datetime", "random", "secrets", "uuid", "numpy.random"),
}
NAMES = {"print", "open", "input"}
ATTRIBUTES = {"sys.stdout", "sys.stderr", "sys.stdin", "np.random", "numpy.random"}


def impure(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for each forbidden module, builtin or attribute that is imported or named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Name) and node.id in NAMES:
            used = [node.id]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ATTRIBUTES:
            used = [ast.unparse(node)]
        else:
            continue
        for name in used:
            if name in NAMES | ATTRIBUTES | MODULES or name.split(".")[0] in MODULES:
                yield node.lineno, name
                break


def test_the_model_depends_on_nothing_but_its_input(sources: dict[str, ast.Module]) -> None:
    pure = {path: tree for path, tree in sources.items() if path.startswith(PURE)}
    assert [f"{path}:{line}: {what}" for path, tree in pure.items() for line, what in impure(tree)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "print(1)",
        "write = print",
        "open('x')",
        "import os.path",
        "from os import path",
        "from time import monotonic",
        "import datetime as clock",
        "from numpy import random",
        "from numpy.random import default_rng",
        "np.random.default_rng()",
        "sys.stdout.write('x')",
    ],
)
def test_each_way_out_is_found(statement: str) -> None:
    assert len(list(impure(ast.parse(statement)))) == 1


@pytest.mark.parametrize(
    "statement", ["task.open('x')", "from .time import tick", "page.random", "import numpy"]
)
def test_names_that_only_look_alike_are_let_through(statement: str) -> None:
    assert list(impure(ast.parse(statement))) == []
