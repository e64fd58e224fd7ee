"""Page flags with the bit numbers of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).

The model of the VM uses the same bits for its own page flags, so a word read from a live host and a
word of the model can be compared directly, and the page state table serves both.

*Raw* bits are copied by the kernel from the page's flag word; *synthetic* ones are worked out by
``stable_page_flags()`` (fs/proc/page.c) from something else: the page type, the mapping, the map count.
The letters are those of the kernel's page-types tool (tools/mm/page-types.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageFlag:
    """One bit of a /proc/kpageflags word."""

    bit: int
    name: str
    letter: str
    synthetic: bool
    meaning: str

    @property
    def mask(self) -> int:
        return 1 << self.bit


_table: list[PageFlag] = []


def _raw(bit: int, name: str, letter: str, meaning: str) -> int:
    _table.append(PageFlag(bit, name, letter, False, meaning))
    return 1 << bit


def _synthetic(bit: int, name: str, letter: str, meaning: str) -> int:
    _table.append(PageFlag(bit, name, letter, True, meaning))
    return 1 << bit


LOCKED = _raw(0, "LOCKED", "L", "the folio lock is held")
ERROR = _raw(1, "ERROR", "E", "an I/O error happened; never set by kernels after 6.11")
REFERENCED = _raw(2, "REFERENCED", "R", "used since reclaim last looked")
UPTODATE = _raw(3, "UPTODATE", "U", "the contents are valid")
DIRTY = _raw(4, "DIRTY", "D", "newer than its copy on disk (page table dirty bits not included)")
LRU = _raw(5, "LRU", "l", "on one of the reclaim lists")
ACTIVE = _raw(6, "ACTIVE", "A", "on the active list")
SLAB = _synthetic(7, "SLAB", "S", "owned by the kernel's object allocator (a raw bit up to 6.9)")
WRITEBACK = _raw(8, "WRITEBACK", "W", "being written to disk now")
RECLAIM = _raw(9, "RECLAIM", "I", "to be reclaimed soon (or readahead mark)")
BUDDY = _synthetic(10, "BUDDY", "B", "free, in the buddy allocator")
MMAP = _synthetic(11, "MMAP", "M", "mapped by a page table")
ANON = _synthetic(12, "ANON", "a", "anonymous memory; can be falsely set on slab pages")
SWAPCACHE = _synthetic(13, "SWAPCACHE", "s", "has a slot in a swap area as well")
SWAPBACKED = _raw(14, "SWAPBACKED", "b", "written to swap when reclaimed: anonymous or tmpfs")
COMPOUND_HEAD = _raw(15, "COMPOUND_HEAD", "H", "first page of a compound page")
COMPOUND_TAIL = _synthetic(16, "COMPOUND_TAIL", "T", "later page of a compound page")
HUGE = _synthetic(17, "HUGE", "G", "hugetlb page")
UNEVICTABLE = _raw(18, "UNEVICTABLE", "u", "on the unevictable list")
HWPOISON = _raw(19, "HWPOISON", "X", "known bad memory")
NOPAGE = _synthetic(20, "NOPAGE", "n", "no struct page behind this frame")
KSM = _synthetic(21, "KSM", "x", "merged by the same-page merger; can be falsely set on slab pages")
THP = _synthetic(22, "THP", "t", "part of a large folio (6.12: of any order)")
OFFLINE = _synthetic(23, "OFFLINE", "o", "logically offline: a balloon holds it")
ZERO_PAGE = _synthetic(24, "ZERO_PAGE", "z", "the shared page of zeros")
IDLE = _synthetic(25, "IDLE", "i", "not used since idle tracking last looked")
PGTABLE = _synthetic(26, "PGTABLE", "g", "a page table")
RESERVED = _raw(32, "RESERVED", "r", "reserved by the kernel or the firmware")
MLOCKED = _raw(33, "MLOCKED", "m", "held in memory by mlock(2)")
OWNER_2 = _raw(34, "OWNER_2", "d", "owner's second bit (MAPPEDTODISK up to 6.6)")
PRIVATE = _raw(35, "PRIVATE", "P", "has data of the file system attached, such as buffers")
PRIVATE_2 = _raw(36, "PRIVATE_2", "p", "more data of the file system")
OWNER_PRIVATE = _raw(37, "OWNER_PRIVATE", "O", "the owner's own bit; the same bit as the swap cache mark")
ARCH = _raw(38, "ARCH", "h", "architecture's own bit")
UNCACHED = _raw(39, "UNCACHED", "c", "mapped uncached; gone after 6.6")
SOFTDIRTY = _synthetic(40, "SOFTDIRTY", "f", "never set by the kernel here; page-types takes it from pagemap")
ARCH_2 = _raw(41, "ARCH_2", "H", "architecture's second bit")
ARCH_3 = _raw(42, "ARCH_3", "J", "architecture's third bit")

PAGE_FLAGS: tuple[PageFlag, ...] = tuple(_table)
"""Every flag known, in bit order."""

BY_NAME: dict[str, PageFlag] = {flag.name: flag for flag in PAGE_FLAGS}
KNOWN: int = sum(flag.mask for flag in PAGE_FLAGS)
RAW: int = sum(flag.mask for flag in PAGE_FLAGS if not flag.synthetic)


def names(word: int) -> list[str]:
    """The names of the flags in a word, in bit order; a bit without a name is called ``BIT<n>``."""
    found = [flag.name for flag in PAGE_FLAGS if word & flag.mask]
    unknown = word & ~KNOWN
    while unknown:
        low = unknown & -unknown
        found.append(f"BIT{low.bit_length() - 1}")
        unknown ^= low
    return found


def parse(flag_names: Iterable[str]) -> int:
    """The word with these flags. Raises KeyError with the name that is not a flag."""
    word = 0
    for name in flag_names:
        word |= BY_NAME[name].mask
    return word


def letters(word: int) -> str:
    """The word as page-types prints it: one letter a flag, ``_`` where it is not set."""
    return "".join(flag.letter if word & flag.mask else "_" for flag in PAGE_FLAGS)
