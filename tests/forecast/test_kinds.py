"""What is folded away decides nothing: seen by running the handler with it and without."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Verdict
from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.forecast.conditions import difference
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.judge import judge
from hwpoison.forecast.kinds import OWNED, READ, SEVERAL, UNREAD, Kind, fold, kind_of
from hwpoison.forecast.plant import NotReproduced, Situation, Wanted, plant, some_users
from hwpoison.forecast.recipes import recipes_for

WAITED_FOR = pg.LOCKED  # not a matter of the decision: the handler waits until it is clear


def verdict_with(kind: Kind, flags: int, profile: str = NEWEST.name) -> Verdict:
    """The verdict about such a page that has these raw flags as well."""
    for recipe in recipes_for(kind.flags):
        try:
            wanted = Wanted(kind, some_users(kind.mappers), Situation(), PROFILES[profile].traits)
            planted = plant(recipe, wanted)
        except NotReproduced:
            continue
        planted.frame.flags |= flags
        return judge(planted, PROFILES[profile])[0]
    raise AssertionError(f"no recipe for {kind}")


def name(kind: Kind) -> str:
    return f"{'+'.join(pg.names(kind.flags))}-{kind.mappers}"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", EXAMPLES, ids=name)
def test_a_bit_that_is_not_read_changes_nothing(kind: Kind, profile: str) -> None:
    plain = verdict_with(kind, 0, profile)
    for flag in pg.PAGE_FLAGS:
        if flag.mask & UNREAD & ~WAITED_FOR:
            assert difference(plain, verdict_with(kind, flag.mask, profile)) is None, flag.name


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
def test_what_an_owner_leaves_in_the_flags_changes_nothing(owner: int, left_over: int) -> None:
    assert fold(owner | left_over) == owner
    for profile in PROFILES:
        plain, other = verdict_with(Kind(owner), 0, profile), verdict_with(Kind(owner), left_over, profile)
        assert difference(plain, other) is None


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
