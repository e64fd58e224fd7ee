"""Every exception that is raised says something, and every module says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

# Exceptions that only steer, and are caught by ours or by a library: class, and the reason.
STEERING: dict[str, str] = {}


def silent(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, class) of each ``raise`` of an exception class without a message, or with an empty one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue  # a bare raise hands on what was caught
        call = node.exc if isinstance(node.exc, ast.Call) else None
        name = ast.unparse(call.func if call else node.exc)
        if not name.split(".")[-1].lstrip("_")[:1].isupper():
            continue  # a variable, or a function that makes the exception
        values = [*call.args, *(keyword.value for keyword in call.keywords)] if call else []
        if all(isinstance(value, ast.Constant) and value.value in ("", None) for value in values):
            yield node.lineno, name


def test_every_raise_has_a_message(sources: dict[str, ast.Module]) -> None:
    found = [(path, line, name) for path, tree in sources.items() for line, name in silent(tree)]
    assert [f"{path}:{line}: {name}" for path, line, name in found if name not in STEERING] == []
    assert set(STEERING) - {name for _, _, name in found} == set(), "take it off the list"


def test_every_module_has_a_docstring(sources: dict[str, ast.Module]) -> None:
    assert [path for path, tree in sources.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    "statement", ["raise ValueError", "raise ValueError()", "raise problems.Problem", "raise Problem('')"]
)
def test_a_silent_raise_is_found(statement: str) -> None:
    assert len(list(silent(ast.parse(statement)))) == 1


@pytest.mark.parametrize(
    "statement",
    ["raise ValueError('x')", "raise", "raise error", "raise typer.Exit(0)", "raise self.problem()"],
)
def test_a_raise_that_speaks_is_let_through(statement: str) -> None:
    assert list(silent(ast.parse(statement))) == []
