"""Words and amounts."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.report.words import describe, letters, memory, share

LIST = pg.UPTODATE | pg.LRU


@pytest.mark.parametrize(
    ("flags", "mappers", "text"),
    [
        (pg.BUDDY, 0, "free"),
        (pg.SLAB | pg.ANON | pg.MMAP, 0, "kernel objects (slab)"),
        (LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP, 1, "memory of processes, mapped once"),
        (LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP, 2, "memory of processes, mapped by several"),
        (LIST | pg.ANON | pg.SWAPBACKED | pg.MMAP, None, "memory of processes, mapped"),
        (pg.UPTODATE | pg.ANON | pg.SWAPBACKED, 0, "memory of processes, not yet on a list"),
        (LIST | pg.DIRTY, 0, "file, dirty"),
        (LIST | pg.WRITEBACK, 0, "file, being written"),
        (LIST | pg.SWAPBACKED | pg.DIRTY, 0, "tmpfs, shared memory, dirty"),
        (LIST | pg.SWAPBACKED | pg.SWAPCACHE, 0, "tmpfs or memory, also in swap"),
        (LIST | pg.THP | pg.COMPOUND_HEAD, 0, "file, in a large folio"),
        (pg.COMPOUND_TAIL, 0, "kernel, allocated in blocks"),
        (0, 0, "no owner to be seen"),
        (1 << 60, 0, "no owner to be seen"),
    ],
)
def test_a_page_is_described_by_what_is_seen_of_it(flags: int, mappers: int | None, text: str) -> None:
    assert describe(flags, mappers) == text


def test_letters_are_those_of_page_types_without_the_gaps() -> None:
    assert letters(LIST | pg.MMAP | pg.ANON | pg.SWAPBACKED) == "UlMab"
    assert letters(0) == "-"


@pytest.mark.parametrize(
    ("pages", "text"),
    [(0, "0"), (1, "4.0 KiB"), (256, "1.0 MiB"), (6_553_600, "25.0 GiB"), (1 << 28, "1.0 TiB")],
)
def test_memory_comes_in_the_largest_unit_that_fits(pages: int, text: str) -> None:
    assert memory(pages) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 9, "0.0 %"), (1, 3, "33.3 %"), (1, 10**6, "<0.1 %"), (9, 9, "100.0 %"), (0, 0, "0.0 %")],
)
def test_a_little_is_never_shown_as_nothing(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text
