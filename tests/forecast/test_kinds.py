"""What is folded away decides nothing: seen by running the handler with it and without."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Verdict
from hwpoison.failure.profiles import PROFILES, Profile
from hwpoison.forecast.conditions import difference
from hwpoison.forecast.examples import can_be
from hwpoison.forecast.judge import judge
from hwpoison.forecast.kinds import OWNED, READ, SEVERAL, UNREAD, Kind, fold, kind_of

from .conftest import Builder

WAITED_FOR = pg.LOCKED  # not a matter of the decision: the handler waits until it is clear


@pytest.fixture(params=list(PROFILES.values()), ids=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> Profile:
    found: Profile = request.param
    return found


def verdict_with(build: Builder, kind: Kind, flags: int, profile: Profile) -> Verdict:
    """The verdict about such a page that has these raw flags as well."""
    planted = build(kind, traits=profile.traits)
    planted.frame.head.flags |= flags
    return judge(planted, profile)[0]


def test_a_bit_that_is_not_read_changes_nothing(build: Builder, example: Kind, profile: Profile) -> None:
    if not can_be(example, profile.traits):
        return
    plain = verdict_with(build, example, 0, profile)
    for flag in pg.PAGE_FLAGS:
        if flag.mask & UNREAD & ~WAITED_FOR:
            assert difference(plain, verdict_with(build, example, flag.mask, profile)) is None, flag.name


@pytest.mark.parametrize(
    ("owner", "left_over"),
    [
        (pg.BUDDY, pg.UPTODATE | pg.DIRTY | pg.PRIVATE | pg.SWAPBACKED),
        (pg.SLAB, pg.ANON | pg.KSM | pg.MMAP | pg.PRIVATE | pg.DIRTY),
        (pg.PGTABLE, pg.UPTODATE | pg.MMAP),
        (pg.OFFLINE, pg.UPTODATE | pg.PRIVATE),
        (pg.RESERVED, pg.DIRTY | pg.UPTODATE | pg.SWAPBACKED),
        (pg.HWPOISON, pg.DIRTY | pg.SWAPBACKED | pg.UPTODATE),
    ],
)
def test_what_an_owner_leaves_in_the_flags_changes_nothing(
    build: Builder, owner: int, left_over: int, profile: Profile
) -> None:
    assert fold(owner | left_over) == owner
    plain = verdict_with(build, Kind(owner), 0, profile)
    assert difference(plain, verdict_with(build, Kind(owner), left_over, profile)) is None


def test_slab_pages_that_show_anon_are_slab() -> None:
    assert kind_of(pg.SLAB | pg.ANON | pg.KSM | pg.COMPOUND_TAIL, 0) == Kind(pg.SLAB | pg.COMPOUND_TAIL)


def test_slab_on_a_reclaim_list_contradicts_itself_and_is_not_taken_for_slab() -> None:
    assert fold(pg.SLAB | pg.LRU) == pg.SLAB | pg.LRU


def test_folding_twice_changes_nothing_more() -> None:
    for mask, value, _keep in OWNED:
        for extra in (0, READ, pg.KNOWN, mask):
            word = fold(value | extra)
            assert fold(word) == word


def test_a_bit_without_a_name_is_kept() -> None:
    assert kind_of(pg.LRU | 1 << 50, 0).flags == pg.LRU | 1 << 50


@pytest.mark.parametrize(
    ("flags", "count", "mappers"),
    [
        (pg.LRU, 0, 0),
        (pg.LRU, 3, 0),  # being mapped just then: the flags are of one moment, and say it is not
        (pg.LRU | pg.MMAP, 1, 1),
        (pg.LRU | pg.MMAP, 2, SEVERAL),
        (pg.LRU | pg.MMAP, 5000, SEVERAL),
        (pg.LRU | pg.MMAP, 0, 1),
        (pg.LRU | pg.MMAP, None, None),
        (pg.LRU | pg.MMAP, -1, None),
        (pg.BUDDY | pg.MMAP, 1, 0),
    ],
)
def test_mappers_are_counted_as_none_one_several_or_unknown(
    flags: int, count: int | None, mappers: int | None
) -> None:
    assert kind_of(flags, count).mappers == mappers
