"""Page types and results in the kernel's two spellings."""

from __future__ import annotations

import pytest

from hwpoison.abi.results import MfResult, PageType, verdict_line

# include/trace/events/memory-failure.h (7.3) and the older types of include/ras/ras_event.h (6.1).
TRACE = {
    "KERNEL": "reserved kernel page",
    "KERNEL_HIGH_ORDER": "high-order kernel page",
    "SLAB": "kernel slab page",
    "DIFFERENT_COMPOUND": "different compound page after locking",
    "HUGE": "huge page",
    "FREE_HUGE": "free huge page",
    "GET_HWPOISON": "get hwpoison page",
    "UNMAP_FAILED": "unmapping failed page",
    "DIRTY_SWAPCACHE": "dirty swapcache page",
    "CLEAN_SWAPCACHE": "clean swapcache page",
    "DIRTY_MLOCKED_LRU": "dirty mlocked LRU page",
    "CLEAN_MLOCKED_LRU": "clean mlocked LRU page",
    "DIRTY_UNEVICTABLE_LRU": "dirty unevictable LRU page",
    "CLEAN_UNEVICTABLE_LRU": "clean unevictable LRU page",
    "DIRTY_LRU": "dirty LRU page",
    "CLEAN_LRU": "clean LRU page",
    "TRUNCATED_LRU": "already truncated LRU page",
    "BUDDY": "free buddy page",
    "DAX": "dax page",
    "UNSPLIT_THP": "unsplit thp",
    "ALREADY_POISONED": "already poisoned",
    "PFN_MAP": "non struct page pfn",
    "UNKNOWN": "unknown page",
}


def test_every_type_has_the_spelling_of_the_trace_event() -> None:
    assert {page_type.name: page_type.trace for page_type in PageType} == TRACE


def test_the_log_spells_one_type_differently() -> None:
    differing = {page_type: page_type.log for page_type in PageType if page_type.log != page_type.trace}
    assert differing == {PageType.ALREADY_POISONED: "already poisoned page"}


def test_no_two_types_read_the_same() -> None:
    assert len({page_type.log for page_type in PageType}) == len(PageType)


def test_the_results_have_the_numbers_of_the_trace_event() -> None:
    assert [(result.value, result.text) for result in MfResult] == [
        (0, "Ignored"),
        (1, "Failed"),
        (2, "Delayed"),
        (3, "Recovered"),
    ]


@pytest.mark.parametrize(("pfn", "text"), [(0x1A2B, "0x1a2b"), (1, "0x1"), (0, "0")])
def test_a_verdict_reads_as_the_kernel_prints_it(pfn: int, text: str) -> None:
    """%#lx prints frame 0 without its prefix."""
    line = verdict_line(pfn, PageType.DIRTY_LRU, MfResult.RECOVERED)
    assert line == f"{text}: recovery action for dirty LRU page: Recovered"
