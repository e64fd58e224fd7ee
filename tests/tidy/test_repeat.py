"""The command printed under a failing test runs that test again, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAILING = """
import pytest

@pytest.mark.parametrize("text", [{text!r}, "passes"])
def test_it(text):
    assert text == "passes"
"""


@pytest.mark.parametrize("text", ["plain", "two words", "it's $HOME; `id`", 'a "quoted" [part]'])
def test_the_printed_command_repeats_the_failure(root: Path, tmp_path: Path, text: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tests/conftest.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "tests" / "test_it.py").write_text(FAILING.format(text=text), encoding="utf-8")

    first = run([sys.executable, "-m", "pytest"], tmp_path)
    (command,) = [line for line in first.splitlines() if line.startswith("repeat: ")]
    assert "1 failed, 1 passed" in first

    # The recipe of make test as it is, with the environment we run in instead of a new one.
    ours = f"make VENV={sys.prefix} --assume-old={sys.prefix}/.installed "
    again = run(["sh", "-c", command.removeprefix("repeat: ").replace("make ", ours, 1)], tmp_path)
    assert "1 failed" in again
    assert "passed" not in again.splitlines()[-1]


def run(command: list[str], folder: Path) -> str:
    """What a failing command printed on stdout."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST_"))
    }
    result = subprocess.run(command, cwd=folder, env=inherited, capture_output=True, text=True, check=False)
    assert result.returncode != 0, result.stdout
    return result.stdout
