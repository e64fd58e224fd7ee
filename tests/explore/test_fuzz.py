"""The search that exhausts sees just what plain depth-first search sees."""

from __future__ import annotations

import os

import pytest

from hwpoison.explore.fuzz import compare

PROGRAMS = int(os.environ.get("HWPOISON_PROGRAMS", "300"))
BATCH = 30


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_every_outcome_and_every_failure_of_a_random_program_is_found(first: int) -> None:
    tally = compare(range(first, first + BATCH), limit=250)
    assert tally.different == {}
    assert tally.reduced < tally.plain
    assert tally.skipped < tally.programs
