"""Schedules are text: written from a run, read by people, run again, and honest when they fit no longer."""

from __future__ import annotations

import pytest

from hwpoison.abi.problems import WrongUse
from hwpoison.explore.explorer import Explorer
from hwpoison.explore.minimise import Minimiser
from hwpoison.explore.schedule import Part, follow, read, write
from hwpoison.explore.search import Search
from hwpoison.explore.toy_handler import BUGS, ToyHandler


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug])
@pytest.mark.parametrize("strategy", ["dpor", "pos", "random"])
def test_the_shortest_schedule_of_a_bug_fails_in_a_new_explorer(bug: str, strategy: str) -> None:
    explorer = Explorer(ToyHandler(bug))
    with explorer.open():
        (found,) = Search(explorer).run(strategy).failures
        shortest = Minimiser(explorer, found.failure.sort).shortest(found.schedule)
    assert shortest is not None
    text = write(shortest.parts)
    other = Explorer(ToyHandler(bug))
    with other.open():
        follower = follow(other, read(text))
    assert follower.misfit is None
    assert [failure.sort for failure in other.failures] == [shortest.failure.sort]


@pytest.mark.parametrize("bug", ["atom", "lost"])
def test_one_preemption_is_enough_for_an_update_in_two_steps(bug: str) -> None:
    explorer = Explorer(ToyHandler(bug))
    with explorer.open():
        (found,) = Search(explorer).run("random").failures
        shortest = Minimiser(explorer, found.failure.sort).shortest(found.schedule)
    assert shortest is not None
    assert shortest.preemptions == 1 < shortest.before


def test_a_schedule_reads_as_it_is_written() -> None:
    text = "mce > take folio_lock(0x3) #2; rival > set DIRTY|LRU of page 0x3; mce > end"
    parts = read(text)
    assert parts == [
        Part("mce", "take folio_lock(0x3)", 2),
        Part("rival", "set DIRTY|LRU of page 0x3"),
        Part("mce", "end"),
    ]
    assert write(parts) == text


@pytest.mark.parametrize("text", ["", ";", "mce", "mce >", "> end", "mce end"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(WrongUse):
        read(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nobody > end", "there is no path 'nobody' here; there are fault, mce, trunc"),
        ("mce > take the train; fault > end", "mce ended and never came to 'take the train'"),
        ("trunc > write value of mapping; mce > end", "mce cannot go on: it waits at 'take folio_lock(P)'"),
    ],
)
def test_a_schedule_that_does_not_fit_says_where(text: str, says: str) -> None:
    explorer = Explorer(ToyHandler())
    with explorer.open():
        follower = follow(explorer, read(text))
    assert follower.misfit is not None
    assert says in follower.misfit
    assert explorer.failures == []
