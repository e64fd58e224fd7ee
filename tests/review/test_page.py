"""docs/review.md is what the stories, the rows and their runs say today, and no remark is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import page

REMARKS = [f"R{number}" for number in range(1, 24)]


def test_the_page_is_current(root: Path) -> None:
    assert (root / page.DOCUMENT).read_text(encoding="utf-8") == page.render(), "run make docs"


def test_every_remark_has_its_story_in_order() -> None:
    assert list(page.sections()) == ["", *REMARKS]


@pytest.mark.parametrize("remark", REMARKS)
def test_every_remark_has_a_test(remark: str) -> None:
    assert "::" in page.tests_of(remark)


def test_a_race_is_told_in_the_same_words_each_time() -> None:
    (row,) = [row for row in page.ROWS if row.name == "R11"]
    page.shown.cache_clear()
    first = page.told(row)
    page.shown.cache_clear()
    assert page.told(row) == first
