"""The generated documents say what the tables say: ``make docs`` would change nothing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest


def test_generated_documents_are_current(root: Path) -> None:
    if importlib.util.find_spec("hwpoison.docs") is None:
        pytest.fail("hwpoison.docs does not exist; its render() gives the text of each generated document")
    rendered: dict[str, str] = importlib.import_module("hwpoison.docs").render()
    assert rendered, "hwpoison.docs.render() names no document"
    for path, text in rendered.items():
        document = root / path
        assert document.is_file(), f"{path} is not in the checkout: run make docs"
        assert document.read_text(encoding="utf-8") == text, f"{path} is stale: run make docs"
