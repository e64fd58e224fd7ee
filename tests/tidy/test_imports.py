"""Imports go one way: abi ← mm ← failure ← scenario ← explore, and the other parts beside them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

# What each part may import, itself aside. A part is a sub-package, or a module at the top of the package;
# "hwpoison" is the package's own __init__.
MODEL = {"abi", "mm", "failure", "scenario"}
PARTS = MODEL | {"explore", "host", "forecast", "lab", "report"}
MAY_IMPORT: dict[str, set[str]] = {
    "hwpoison": set(),
    "abi": set(),
    "mm": {"abi"},
    "failure": {"abi", "mm"},
    "scenario": {"abi", "mm", "failure"},
    "explore": MODEL,
    "host": {"abi"},
    "forecast": {"abi", "mm", "failure", "host"},
    "lab": {"abi", "scenario", "host"},
    "report": {"abi"},
    "docs": PARTS | {"hwpoison", "cli"},
    "cli": PARTS | {"hwpoison", "docs"},
    "__main__": {"cli"},
}
LOADS_BY_NAME = {"cli"}  # imports only the command that is asked for


def part_of(path: str) -> str:
    """The part a source file belongs to: src/hwpoison/mm/page.py is mm, src/hwpoison/docs.py is docs."""
    first = path.removeprefix("src/hwpoison/").split("/")[0].removesuffix(".py")
    return "hwpoison" if first == "__init__" else first


def imported(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, part) of each import of ours, wherever it stands in the file, and of each import by name."""
    package = path.removeprefix("src/").split("/")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "hwpoison" else [base]
        elif isinstance(node, ast.Name | ast.Attribute):
            used = node.id if isinstance(node, ast.Name) else node.attr
            if used in ("import_module", "__import__"):
                yield node.lineno, "by name"
        for name in names:
            top, *rest = name.split(".")
            if top == "hwpoison":
                yield node.lineno, rest[0] if rest and rest[0] in MAY_IMPORT else "hwpoison"


def forbidden(path: str, tree: ast.AST) -> list[str]:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {part} | ({"by name"} if part in LOADS_BY_NAME else set())
    return [
        f"{path}:{line}: {part} must not import {found}"
        for line, found in imported(path, tree)
        if found not in allowed
    ]


def test_every_part_is_in_the_table(sources: dict[str, ast.Module]) -> None:
    assert {part_of(path) for path in sources} - set(MAY_IMPORT) == set()


def test_the_table_has_no_circle_below_the_command_line() -> None:
    TopologicalSorter({part: may for part, may in MAY_IMPORT.items() if part != "docs"}).prepare()


def test_imports_go_one_way(sources: dict[str, ast.Module]) -> None:
    assert [line for path, tree in sources.items() for line in forbidden(path, tree)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import hwpoison.failure.handler",
        "from hwpoison.failure import handler",
        "from hwpoison import failure",
        "from hwpoison import __version__",
        "from ..failure.handler import memory_failure",
        "from .. import failure",
        "def late():\n    from ..failure import handler",
        "import importlib\nimportlib.import_module('hwpoison.failure')",
    ],
)
def test_an_import_the_wrong_way_is_found(statement: str) -> None:
    assert len(forbidden("src/hwpoison/mm/page.py", ast.parse(statement))) == 1


@pytest.mark.parametrize(
    "statement",
    ["from .locks import Lock", "from . import locks", "from ..abi import pageflags", "import failure"],
)
def test_an_import_the_right_way_is_let_through(statement: str) -> None:
    assert forbidden("src/hwpoison/mm/page.py", ast.parse(statement)) == []
