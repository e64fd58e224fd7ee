"""Each remark of the review: with the posting's way put back a promise is broken, and with ours none is."""

from __future__ import annotations

import re

import pytest

from .. import undone
from ..undone import Undone
from .page import shown
from .rows import ROWS

PLAIN = [row for row in ROWS if not row.races]
RACES = [row for row in ROWS if row.races]


@pytest.mark.parametrize("row", RACES, ids=repr)
def test_some_order_fails_with_the_postings_way(row: Undone) -> None:
    assert shown(row).word == "found"


@pytest.mark.parametrize("row", RACES, ids=repr)
def test_no_order_fails_with_ours(row: Undone) -> None:
    outcome = undone.explore(row, "dpor", ours=True)
    assert (outcome.word, outcome.failure) == ("exhausted", ""), f"repeat: {outcome.command}"


@pytest.mark.parametrize("row", PLAIN, ids=repr)
def test_a_plain_run_fails_with_the_postings_way_and_not_with_ours(row: Undone) -> None:
    assert undone.run(row, ours=True).wrong == (), f"repeat: {row.command('--ours')}"
    found = undone.run(row).wrong
    assert any(re.search(row.breaks, line) for line in found), f"{found}\nrepeat: {row.command()}"
