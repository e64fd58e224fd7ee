"""Files stay below 600 lines, and a function fits a screen of 70."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 600
FUNCTION_LINES = 70

# What is longer, and the reason why it is better in one piece.
LONG_FILES: dict[str, str] = {}  # path: reason
LONG_FUNCTIONS: dict[str, str] = {}  # path:function: reason


def python_files(root: Path) -> Iterator[tuple[str, str]]:
    for folder in ("src", "tests", "bench"):
        for path in sorted((root / folder).rglob("*.py")):
            yield str(path.relative_to(root)), path.read_text(encoding="utf-8")


def long_functions(path: str, text: str) -> dict[str, int]:
    """The functions above the limit, with their length from def to the last line."""
    lengths = {
        f"{path}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(text, filename=path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}


def check(found: dict[str, int], allowed: dict[str, str], limit: int) -> None:
    too_long = {name: lines for name, lines in found.items() if name not in allowed}
    assert too_long == {}, f"longer than {limit} lines"
    assert set(allowed) - set(found) == set(), f"no longer above {limit} lines: take it off the list"


def test_files_are_not_longer_than_the_limit(root: Path) -> None:
    lengths = {path: len(text.splitlines()) for path, text in python_files(root)}
    long = {path: lines for path, lines in lengths.items() if lines > FILE_LINES}
    check(long, LONG_FILES, FILE_LINES)


def test_functions_fit_a_screen(root: Path) -> None:
    long = {
        name: lines for path, text in python_files(root) for name, lines in long_functions(path, text).items()
    }
    check(long, LONG_FUNCTIONS, FUNCTION_LINES)


def test_a_function_is_long_from_the_line_after_the_limit() -> None:
    body = "    pass\n" * FUNCTION_LINES
    assert long_functions("a.py", f"def f():\n{body}") == {"a.py:f": FUNCTION_LINES + 1}
    assert long_functions("a.py", f"@d\ndef f():\n{body.removesuffix('    pass' + chr(10))}") == {}
