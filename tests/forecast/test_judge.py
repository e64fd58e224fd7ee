"""What an error comes to is seen, not known: who is hit, what is lost, who is told."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.records import Verdict
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, SiCode, Signal
from hwpoison.failure import inject
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import NEWEST
from hwpoison.forecast.examples import EXAMPLES
from hwpoison.forecast.judge import judge, story
from hwpoison.forecast.kinds import SEVERAL, Kind
from hwpoison.forecast.plant import NotReproduced, Situation
from hwpoison.mm.memory import load
from hwpoison.mm.task import Signalled

from .conftest import Builder

USUAL = Situation()
LIST = pg.UPTODATE | pg.LRU
MEMORY = LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP
TMPFS = LIST | pg.SWAPBACKED


def verdict_of(build: Builder, kind: Kind, situation: Situation = USUAL) -> Verdict:
    return judge(build(kind, situation), NEWEST, situation.consumed)[0]


def hit_for_nothing(kind: Kind) -> bool:
    """Its users are hit though swap has the contents (split-poisons-swapped)."""
    return kind.has(pg.THP) and kind.has(pg.SWAPCACHE)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in EXAMPLES if kind.mappers and kind.has(pg.LRU) and not hit_for_nothing(kind)],
    ids=str,
)
def test_memory_is_called_lost_only_if_none_of_its_users_gets_it_back(build: Builder, kind: Kind) -> None:
    """Found out without the judge: the handler alone, and then the users."""
    page = build(kind)
    inject.deferred(MemoryFailure(page.vm, NEWEST), page.frame.pfn)
    got = set()
    for task, vpn, _user in page.users:
        try:
            got.add(load(task, vpn))
        except Signalled:
            got.add("a signal")
    counted_on = page.content is not None  # memory that may be thrown away is nobody's loss
    assert (verdict_of(build, kind).loss is not None) == (counted_on and page.content not in got)


def test_each_process_that_maps_a_memory_page_is_hit_when_it_touches_it(build: Builder) -> None:
    verdict, seen = judge(build(Kind(MEMORY, SEVERAL)), NEWEST)
    assert [(v.signal, v.code, v.when) for v in verdict.victims] == [
        (Signal.SIGBUS, SiCode.BUS_MCEERR_AR, "on access")
    ] * 2
    assert [user.process for user, _victim in seen.victims if user] == [0, 1]
    assert not verdict.durable


def test_who_wants_to_know_early_is_told_at_once_and_only_once(build: Builder) -> None:
    verdict = verdict_of(build, Kind(MEMORY, SEVERAL), Situation(early=True))
    assert [(v.code, v.when) for v in verdict.victims] == [(SiCode.BUS_MCEERR_AO, "at once")] * 2


def test_a_clean_page_of_a_file_costs_nobody_anything(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST | pg.MMAP, SEVERAL))
    assert (verdict.page_type, verdict.result) == (PageType.CLEAN_LRU, MfResult.RECOVERED)
    assert (verdict.victims, verdict.loss, verdict.told) == ((), None, ())


def test_a_dirty_page_of_a_file_is_lost_and_fsync_tells(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST | pg.DIRTY))
    assert verdict.durable
    assert verdict.loss is not None
    assert "read(2) gives older contents without an error" in verdict.loss
    assert verdict.told == ("EIO from fsync(2), once for each open file",)


def test_a_loss_in_a_file_that_nobody_has_open_waits_for_the_next_to_open_it(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST | pg.DIRTY), Situation(opened=False))
    assert verdict.told == ("EIO from fsync(2), once for the first to open the file later",)


def test_a_page_of_tmpfs_tells_its_readers(build: Builder) -> None:
    verdict = verdict_of(build, Kind(TMPFS | pg.DIRTY | pg.MMAP, 1))
    assert verdict.durable
    assert verdict.told == ("SIGBUS to each process that maps it, on access", "EIO from read(2)")


def test_a_dirty_page_of_the_swap_cache_hits_the_process_that_has_only_a_swap_entry(build: Builder) -> None:
    verdict = verdict_of(build, Kind(MEMORY & ~pg.MMAP | pg.SWAPCACHE | pg.DIRTY))
    assert (verdict.page_type, verdict.result) == (PageType.DIRTY_SWAPCACHE, MfResult.DELAYED)
    assert [victim.when for victim in verdict.victims] == ["on access"]


def test_a_page_whose_write_is_under_way_is_lost_without_anybody_being_told(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST | pg.WRITEBACK))
    assert verdict.exposed
    assert verdict.loss is not None
    assert "the write under way takes bad bytes to the disk" in verdict.loss
    assert verdict.told == ()


def test_a_device_that_holds_the_page_goes_on_reading_it(build: Builder) -> None:
    assert not verdict_of(build, Kind(MEMORY, 1)).exposed
    assert verdict_of(build, Kind(MEMORY, 1), Situation(held=True)).exposed


def test_a_process_that_reads_the_bad_bytes_first_is_hit_at_once(build: Builder) -> None:
    verdict = verdict_of(build, Kind(MEMORY, 1), Situation(consumed="load"))
    assert [(v.code, v.when) for v in verdict.victims] == [(SiCode.BUS_MCEERR_AR, "at once")]
    assert (verdict.result, verdict.returned) == (MfResult.RECOVERED, 0)


def test_the_machine_stops_if_the_kernel_reads_the_bad_bytes_first(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST), Situation(consumed="read"))
    assert verdict.stops is not None
    assert verdict.result is None


def test_a_page_that_nobody_can_read_is_not_read_first(build: Builder) -> None:
    for how in ("load", "read"):
        with pytest.raises(NotReproduced):
            judge(build(Kind(pg.SLAB)), NEWEST, how)


def test_nothing_is_called_lost_when_nothing_was_done(build: Builder) -> None:
    verdict = verdict_of(build, Kind(pg.RESERVED | pg.MMAP, 1))
    assert (verdict.result, verdict.returned, verdict.loss) == (MfResult.IGNORED, -Errno.EBUSY, None)
    assert len(verdict.victims) == 1  # it still meets the error


def test_the_row_that_decided_is_the_one_of_the_profile(build: Builder) -> None:
    verdict = verdict_of(build, Kind(LIST))
    assert verdict.row is not None
    assert NEWEST.states[verdict.row - 1].type is verdict.page_type


def test_the_story_ends_with_the_verdict(build: Builder) -> None:
    notes = story(build(Kind(LIST | pg.DIRTY)), NEWEST)
    assert notes[-1].text.startswith("verdict: dirty LRU page: Recovered")
