"""What tests share: the checkout, its parsed sources, how random tests search, how to repeat a failure."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = Path(__file__).parent.parent

# Each run searches anew; what failed is kept and tried first, and printed for other machines. No test is
# timed. All of it is stated, because hypothesis has other defaults where CI is set.
settings.register_profile(
    "hwpoison",
    derandomize=False,
    print_blob=True,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hwpoison")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> dict[str, ast.Module]:
    """Every module under src/hwpoison, parsed, by its path in the checkout."""
    paths = sorted((ROOT / "src" / "hwpoison").rglob("*.py"))
    names = {str(path.relative_to(ROOT)): path for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8"), filename=name) for name, path in names.items()}


def repeat(test: str) -> str:
    """The command that runs one test again, given its pytest name, whatever its parameters contain."""
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", test):
        return f"make test ARGS='{test}'"
    # Make expands $ first; then one shell reads the argument of make, and another the recipe.
    return f"make test ARGS={shlex.quote(shlex.quote(test).replace('$', '$$'))}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End the report of each failing test with the command that repeats it."""
    report = yield
    if report.failed:
        report.sections.append(("repeat", f"repeat: {repeat(item.nodeid)}"))
    return report
