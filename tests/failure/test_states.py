"""The page state table: order, completeness, and what the two passes are for (facts 1.3 to 1.6)."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.failure.profiles import NEWEST, PROFILES, Profile
from hwpoison.failure.states import LRU_STATES, PageState, identify
from hwpoison.mm.machine import Machine
from hwpoison.mm.swap import give_up_clean_swapcache, give_up_dirty_swapcache
from hwpoison.mm.truncate import give_up_clean_folio, give_up_dirty_folio

TESTED = (
    *(pg.RESERVED, pg.SLAB, pg.SWAPCACHE, pg.SWAPBACKED, pg.MLOCKED, pg.UNEVICTABLE, pg.LRU, pg.DIRTY),
    *(pg.UPTODATE, pg.HWPOISON, pg.LOCKED, pg.PRIVATE),
)
WORDS = st.sets(st.sampled_from(TESTED)).map(sum)
BEFORE_THE_LISTS = {"7.3": [], "7.2": ["KERNEL"], "6.12": ["KERNEL"], "6.1": ["KERNEL", "SLAB"]}
"""Rows above those of users' pages."""
OF_USERS = [
    "HUGE",
    *("DIRTY_SWAPCACHE", "CLEAN_SWAPCACHE", "DIRTY_MLOCKED_LRU", "CLEAN_MLOCKED_LRU"),
    *("DIRTY_UNEVICTABLE_LRU", "CLEAN_UNEVICTABLE_LRU", "DIRTY_LRU", "CLEAN_LRU"),
]


def test_the_rows_stand_in_the_kernels_order(profile: Profile) -> None:
    names = [row.type.name for row in profile.states]
    assert names == BEFORE_THE_LISTS[profile.name] + OF_USERS + ["UNKNOWN"]


def test_a_row_wants_only_what_it_looks_at(profile: Profile) -> None:
    assert all(row.want & ~row.mask == 0 for row in profile.states)


def test_the_last_row_matches_everything_and_no_other_does(profile: Profile) -> None:
    *rows, last = profile.states
    assert (last.mask, last.want) == (0, 0)
    assert all(row.mask for row in rows)


def test_every_row_can_be_reached(profile: Profile) -> None:
    """Each has a word of flags that it is the first to match."""
    for number, row in enumerate(profile.states, 1):
        assert identify(profile.states, row.want, row.want)[:2] == (number, row)


def test_rows_differ_in_what_they_match(profile: Profile) -> None:
    for one, two in combinations(profile.states, 2):
        assert (one.mask, one.want) != (two.mask, two.want)


def test_dirty_and_clean_rows_come_in_pairs_and_dirty_first() -> None:
    for dirty, clean in zip(LRU_STATES[::2], LRU_STATES[1::2], strict=True):
        assert dirty.mask == clean.mask
        assert dirty.want == clean.want | pg.DIRTY
        assert dirty.type.log.replace("dirty", "clean") == clean.type.log


def test_each_subsystem_answers_for_its_own_pages() -> None:
    """R18."""
    answers = [row.respond for row in LRU_STATES]
    assert answers[:2] == [give_up_dirty_swapcache, give_up_clean_swapcache]
    assert answers[2:] == [give_up_dirty_folio, give_up_clean_folio] * 3


@given(WORDS)
@example(pg.OWNER_PRIVATE | pg.LRU)
def test_a_swap_cache_mark_counts_only_with_swapbacked(word: int) -> None:
    """Since 4.19 the bit is the owner's own: a page of a file system may carry it."""
    _, row, _ = identify(NEWEST.states, word, word)
    both = pg.SWAPCACHE | pg.SWAPBACKED
    assert ("SWAPCACHE" in row.type.name) == (word & both == both)


@pytest.mark.parametrize("name", PROFILES)
@given(now=WORDS, saved=WORDS)
@example(now=pg.LRU, saved=pg.LRU | pg.MLOCKED)
@example(now=pg.DIRTY, saved=pg.MLOCKED)
def test_identification_follows_the_two_passes(name: str, now: int, saved: int) -> None:
    """Against the rule said another way."""
    states = PROFILES[name].states
    first = next(row for row in states if now & row.mask == row.want)
    if first is states[-1]:
        word = saved | now & pg.DIRTY
        expected = next(row for row in states if word & row.mask == row.want), True
    else:
        expected = first, False
    number, row, second_pass = identify(states, now, saved)
    assert (row, second_pass) == expected
    assert states[number - 1] is row


def found(now: int, saved: int, states: tuple[PageState, ...] = NEWEST.states) -> PageType:
    return identify(states, now, saved)[1].type


def test_a_page_that_unmapping_took_off_the_lists_is_known_by_what_it_was() -> None:
    """B22: unmapping clears the mlocked mark; without a second pass the page is of an unknown kind."""
    assert found(0, pg.MLOCKED | pg.LRU) is PageType.CLEAN_MLOCKED_LRU
    assert found(0, pg.LRU) is PageType.CLEAN_LRU


def test_dirt_that_came_from_the_page_tables_is_not_forgotten_in_the_second_pass() -> None:
    """B22, the follow-up: or lost data passes for clean, and no error is recorded."""
    assert found(pg.DIRTY, pg.MLOCKED | pg.LRU) is PageType.DIRTY_MLOCKED_LRU


def test_what_is_true_now_comes_before_what_was_true() -> None:
    assert found(pg.LRU, pg.LRU | pg.MLOCKED | pg.DIRTY) is PageType.CLEAN_LRU


def test_nothing_known_then_or_now_is_unknown() -> None:
    assert found(pg.UPTODATE, pg.UPTODATE) is PageType.UNKNOWN


@pytest.mark.parametrize("name", PROFILES)
def test_a_page_of_no_known_state_is_ignored_and_6_1_says_failed(name: str) -> None:
    page = Machine().zone.page(9)
    response = PROFILES[name].states[-1].respond(page)
    assert response.result is (MfResult.FAILED if name == "6.1" else MfResult.IGNORED)
    assert response.kept is None
    assert page.vm.log == ["Memory failure: 0x9: Unknown page state"]


def test_a_table_may_be_asked_with_a_row_changed() -> None:
    """It is data: a profile is another table, not another function."""
    states = (*LRU_STATES, replace(NEWEST.states[-1], type=PageType.KERNEL))
    assert found(0, 0, states) is PageType.KERNEL
