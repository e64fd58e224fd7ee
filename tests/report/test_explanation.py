"""What people see of an explanation."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Explanation, StateLine
from hwpoison.abi.records import Note
from hwpoison.report.explanation import print_explanation

from .conftest import DARK, FREE, LOST, Screen

EXPLAINED = Explanation(
    "dirty [LRU] page",
    ("Rule one.",),
    (
        StateLine(pg.BUDDY, 0, (("7.3", LOST), ("7.2", FREE), ("6.12", FREE))),
        StateLine(pg.THP, 0, (("7.3", DARK),)),
    ),
    (Note("handler", "looked", "mm/x.c"), Note("handler", "decided")),
)


def test_kernels_that_answer_alike_stand_together(screen: Screen) -> None:
    print_explanation(EXPLAINED, screen.console)
    rows = [" ".join(line.split()) for line in screen.lines]
    assert "7.3 dirty LRU page: Recovered data lost" in rows
    assert "7.2, 6.12 free buddy page: Recovered nothing noticed" in rows


def test_title_rules_losses_and_conditions_are_shown_as_they_are(screen: Screen) -> None:
    print_explanation(EXPLAINED, screen.console)
    assert screen.lines[:2] == ["dirty [LRU] page", "  Rule one."]
    assert "  lost: what was new; told by EIO from fsync(2)" in screen.lines
    assert "  but: Failed instead of Recovered if pinned" in screen.lines


def test_a_state_that_cannot_be_told_says_why_once(screen: Screen) -> None:
    print_explanation(EXPLAINED, screen.console)
    assert screen.text.count("large folios are not in the model yet") == 1


def test_the_steps_come_with_their_sources(screen: Screen) -> None:
    print_explanation(EXPLAINED, screen.console)
    assert screen.lines[-3:] == ["Step by step", "  looked   mm/x.c", "  decided"]
