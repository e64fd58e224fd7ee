"""Any two words of /proc get an answer: a verdict of the handler, or the reason why there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg
from hwpoison.abi.forecast import Consequence
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno
from hwpoison.failure.profiles import NEWEST, PROFILES
from hwpoison.forecast import oracle as oracle_module
from hwpoison.forecast.kinds import READ, SEVERAL, Kind, kind_of
from hwpoison.forecast.oracle import ENDS_DIFFERENTLY, MODEL_BROKE, Oracle, Policy
from hwpoison.forecast.plant import User
from hwpoison.mm.locks import KernelBug

LIST = pg.UPTODATE | pg.LRU
MEMORY = LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP
ALL = {name: Oracle(profile) for name, profile in PROFILES.items()}

single = st.sampled_from([flag.mask for flag in pg.PAGE_FLAGS])
words = st.lists(single, max_size=9).map(lambda masks: sum(set(masks))) | st.integers(0, (1 << 64) - 1)


@given(flags=words, count=st.none() | st.integers(0, 5), name=st.sampled_from(list(PROFILES)))
def test_every_word_has_an_answer(flags: int, count: int | None, name: str) -> None:
    kind = kind_of(flags, count)
    answer = ALL[name].of_kind(kind)
    assert (answer.verdict is None) == (answer.consequence is Consequence.UNKNOWN)
    if answer.verdict is None:
        assert answer.conditions[0]
        assert MODEL_BROKE not in answer.conditions[0]
    else:
        assert answer.verdict.page_type is not None or answer.verdict.returned == -Errno.EHWPOISON


@pytest.mark.parametrize(
    ("flags", "page_type", "result"),
    [
        (pg.BUDDY, PageType.BUDDY, MfResult.RECOVERED),
        (MEMORY, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (LIST, PageType.CLEAN_LRU, MfResult.RECOVERED),
        (LIST | pg.DIRTY, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (
            LIST | pg.DIRTY | pg.SWAPBACKED | pg.UNEVICTABLE,
            PageType.DIRTY_UNEVICTABLE_LRU,
            MfResult.RECOVERED,
        ),
        (MEMORY & ~pg.MMAP | pg.SWAPCACHE, PageType.CLEAN_SWAPCACHE, MfResult.RECOVERED),
        (MEMORY & ~pg.MMAP | pg.SWAPCACHE | pg.DIRTY, PageType.DIRTY_SWAPCACHE, MfResult.DELAYED),
    ],
)
def test_pages_of_users_end_alike_on_all_kernels(
    flags: int, page_type: PageType, result: MfResult, oracle: Oracle
) -> None:
    verdict = oracle.of_kind(kind_of(flags, 1)).verdict
    assert verdict is not None
    assert (verdict.page_type, verdict.result) == (page_type, result)


@pytest.mark.parametrize("flags", [pg.SLAB, pg.PGTABLE, pg.RESERVED, pg.SLAB | pg.COMPOUND_TAIL])
def test_pages_of_the_kernel_are_ignored_and_named_as_each_kernel_does(flags: int) -> None:
    def called(name: str) -> PageType | None:
        verdict = ALL[name].of_kind(Kind(flags)).verdict
        assert verdict is not None
        assert verdict.result is MfResult.IGNORED
        return verdict.page_type

    assert [called(name) for name in ("7.3", "6.12", "6.1")] == [
        PageType.KERNEL,
        PageType.GET_HWPOISON,
        PageType.UNKNOWN,
    ]


def test_a_page_that_was_bad_before_brings_nothing_new(oracle: Oracle) -> None:
    answer = oracle.of_kind(kind_of(pg.HWPOISON | pg.LRU | pg.DIRTY, 0))
    assert answer.consequence is Consequence.NOTHING
    assert answer.verdict is not None
    assert answer.verdict.result in (MfResult.FAILED, None)


def test_pages_that_show_nothing_cannot_be_told_and_all_their_ends_are_named(newest: Oracle) -> None:
    answer = newest.of_kind(Kind(0))
    assert answer.verdict is None
    assert answer.conditions[0] == ENDS_DIFFERENTLY
    assert any("Ignored" in end for end in answer.conditions)
    assert any("free buddy page: Recovered" in end for end in answer.conditions)


def test_pages_that_look_alike_and_end_alike_are_told(newest: Oracle) -> None:
    """In the swap cache without an owner to be seen: of tmpfs, or read ahead for a process."""
    verdict = newest.of_kind(Kind(LIST | pg.SWAPBACKED | pg.SWAPCACHE)).verdict
    assert verdict is not None
    assert (verdict.page_type, verdict.loss) == (PageType.CLEAN_SWAPCACHE, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (LIST | pg.SWAPBACKED | pg.THP | pg.COMPOUND_TAIL | pg.SWAPCACHE, "large folio in swap"),
        (LIST | pg.COMPOUND_HEAD, "compound page"),
        ((MEMORY | pg.KSM) & ~pg.MMAP, "KSM"),
        (MEMORY | pg.KSM | pg.SWAPCACHE, "KSM"),
        (MEMORY & ~(pg.SWAPBACKED | pg.MMAP), "MADV_FREE"),
        (pg.NOPAGE, "DAX"),
        (LIST | pg.UNEVICTABLE, "memfd_secret"),
        (LIST | 1 << 55, "BIT55"),
    ],
)
def test_what_is_not_in_the_model_is_not_guessed(flags: int, words: str, newest: Oracle) -> None:
    answer = newest.of_kind(kind_of(flags, 1))
    assert answer.verdict is None
    assert words in answer.conditions[0]


LARGE = LIST | pg.THP | pg.COMPOUND_TAIL
SWAPPED = LARGE | pg.ANON | pg.SWAPBACKED | pg.SWAPCACHE


@pytest.mark.parametrize(
    ("flags", "mappers", "page_type", "result"),
    [
        (SWAPPED, 0, PageType.UNSPLIT_THP, MfResult.FAILED),
        (SWAPPED | pg.MMAP, 1, PageType.CLEAN_SWAPCACHE, MfResult.RECOVERED),
    ],
)
def test_a_large_folio_in_the_swap_cache_is_split_only_if_somebody_maps_it(
    flags: int, mappers: int, page_type: PageType, result: MfResult, newest: Oracle
) -> None:
    verdict = newest.of_kind(kind_of(flags, mappers)).verdict
    assert verdict is not None
    assert (verdict.page_type, verdict.result) == (page_type, result)


@pytest.mark.parametrize("kernel", ["6.12", "7.2", "7.3"])
@pytest.mark.parametrize(
    ("flags", "page_type", "result"),
    [
        (MEMORY | pg.THP | pg.COMPOUND_TAIL, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (MEMORY | pg.THP | pg.COMPOUND_HEAD, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (LARGE | pg.SWAPBACKED | pg.DIRTY, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (LARGE, PageType.CLEAN_LRU, MfResult.RECOVERED),
        (LARGE | pg.PRIVATE, PageType.CLEAN_LRU, MfResult.RECOVERED),
        (LARGE | pg.DIRTY, PageType.DIRTY_LRU, MfResult.RECOVERED),
        (LARGE | pg.DIRTY | pg.PRIVATE, PageType.UNSPLIT_THP, MfResult.FAILED),
    ],
)
def test_parts_of_large_folios_end_by_whether_the_folio_can_be_split(
    flags: int, page_type: PageType, result: MfResult, kernel: str
) -> None:
    verdict = ALL[kernel].of_kind(kind_of(flags, 1)).verdict
    assert verdict is not None
    assert (verdict.page_type, verdict.result) == (page_type, result)


def test_a_pin_on_a_huge_page_is_a_condition_that_ends_it_otherwise(newest: Oracle) -> None:
    answer = newest.of_kind(kind_of(MEMORY | pg.THP | pg.COMPOUND_TAIL, 1))
    assert any('Failed as "unsplit thp"' in text and "reference" in text for text in answer.conditions)


def test_tails_of_older_kernels_show_too_little_to_tell_tmpfs_from_other_files() -> None:
    """Up to 6.11 a tail shows its own word: neither its list nor whether its folio is dirty."""
    tail = pg.THP | pg.COMPOUND_TAIL | pg.MMAP
    assert ALL["6.1"].of_kind(kind_of(tail, 1)).conditions[0] == ENDS_DIFFERENTLY
    memory = ALL["6.1"].of_kind(kind_of(tail | pg.ANON, 1))
    assert memory.consequence is Consequence.ONE_PROCESS


@pytest.mark.parametrize(
    ("kernel", "verdict"),
    [("7.3", "dirty LRU page: Recovered"), ("6.1", "unmapping failed page: Ignored")],
)
@pytest.mark.parametrize("mappers", [1, 2])
def test_a_merged_page_is_told_with_all_who_share_it(kernel: str, verdict: str, mappers: int) -> None:
    """6.1 does not handle it: the processes are hit by the hardware when they touch the page."""
    answer = Oracle(PROFILES[kernel]).of_kind(kind_of(MEMORY | pg.KSM | pg.DIRTY, mappers))
    assert answer.verdict is not None
    assert answer.verdict.text() == verdict
    assert len(answer.verdict.victims) == mappers


def test_a_page_that_may_be_thrown_away_loses_nothing_unless_it_was_written_to(newest: Oracle) -> None:
    answer = newest.of_kind(kind_of(MEMORY & ~pg.SWAPBACKED, 1))
    assert answer.verdict is not None
    assert (answer.verdict.text(), answer.verdict.loss) == ("clean LRU page: Recovered", None)
    assert any("dirty LRU page" in text and "lost" in text for text in answer.conditions)


def test_mappers_that_nobody_counted_are_a_condition(newest: Oracle) -> None:
    answer = newest.of_kind(kind_of(MEMORY, None))
    assert answer.consequence is Consequence.ONE_PROCESS
    assert any("two processes map it (nobody counted)" in text for text in answer.conditions)


def test_a_kernel_that_may_not_recover_stops() -> None:
    answer = Oracle(NEWEST, Policy(recovery=False)).of_kind(Kind(pg.BUDDY))
    assert answer.consequence is Consequence.MACHINE


def test_early_kill_of_the_host_is_the_usual_case_there() -> None:
    answer = Oracle(NEWEST, Policy(early_kill=True)).of_kind(Kind(MEMORY, 1))
    assert answer.verdict is not None
    assert [victim.when for victim in answer.verdict.victims] == ["at once"]
    assert not any("told early" in text for text in answer.conditions)


def test_a_page_with_a_thousand_users_names_each_of_them(newest: Oracle) -> None:
    users = [User(pid, address=pid << 12) for pid in range(1, 1001)]
    answer, hit = newest.of_page(Kind(MEMORY, SEVERAL), users)
    assert answer.consequence is Consequence.SEVERAL_PROCESSES
    assert sorted(user.process for user in hit if user) == list(range(1, 1001))


def test_each_kind_is_judged_once() -> None:
    oracle = Oracle(NEWEST)
    assert oracle.of_kind(Kind(LIST)) is oracle.of_kind(Kind(LIST))


def test_bits_that_are_read_and_not_read_are_all_bits() -> None:
    assert READ & pg.LOCKED == 0
    assert READ >> 63 == 1


def test_a_page_on_which_the_model_breaks_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_arguments: object) -> None:
        raise KernelBug("page 0x3 is held twice")

    monkeypatch.setattr(oracle_module, "judge", breaks)
    answer = Oracle(NEWEST).of_kind(Kind(pg.BUDDY))
    assert answer.verdict is None
    assert answer.conditions == (f"{MODEL_BROKE}: page 0x3 is held twice",)
