"""From the words of /proc/kpageflags and /proc/kpagecount to kinds of pages.

Two pages are of one kind if the handler cannot tell them apart by what /proc shows of them. Bits that
decide nothing are folded away: first those that no part of the handler reads, whatever the page; then,
by owner, bits that are only left over, such as ANON on slab pages (the kernel works that one out from a
word that slab uses for something else). tests/forecast/test_kinds.py runs the handler to see that they
really change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwpoison.abi import pageflags as pg

UNREAD = (
    pg.LOCKED  # somebody works on the page just now; the handler waits for it
    | pg.ERROR
    | pg.REFERENCED
    | pg.ACTIVE
    | pg.RECLAIM
    | pg.IDLE
    | pg.OWNER_2
    | pg.OWNER_PRIVATE  # the swap cache mark shares this bit, and has one of its own in /proc
    | pg.ARCH
    | pg.UNCACHED
    | pg.SOFTDIRTY
    | pg.ARCH_2
    | pg.ARCH_3
)
"""Bits that the handler, and what it calls, never look at."""

READ = ((1 << 64) - 1) & ~UNREAD
"""All others, unknown ones included: a page with a bit that has no name here is of a kind of its own."""

_COMPOUND = pg.COMPOUND_HEAD | pg.COMPOUND_TAIL

OWNED: tuple[tuple[int, int, int], ...] = (
    # mask, value: the first row that fits says who owns the page; keep: what still matters then.
    (pg.NOPAGE, pg.NOPAGE, pg.NOPAGE),
    (pg.HWPOISON, pg.HWPOISON, pg.HWPOISON),  # the handler's first test; it looks no further
    (pg.BUDDY, pg.BUDDY, pg.BUDDY),  # the rest is what the last owner left
    (pg.SLAB | pg.LRU, pg.SLAB, pg.SLAB | _COMPOUND),  # before ANON and KSM, which slab pages falsely show
    (pg.PGTABLE | pg.LRU, pg.PGTABLE, pg.PGTABLE | _COMPOUND),
    (pg.OFFLINE | pg.LRU, pg.OFFLINE, pg.OFFLINE),
    (pg.RESERVED | pg.LRU, pg.RESERVED, pg.RESERVED | pg.ZERO_PAGE | pg.MMAP | _COMPOUND),
)

SEVERAL = 2
"""Stands for any number of page table entries above one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``flags``: only the bits that matter. ``mappers``: 0, 1, SEVERAL, or None if mapped but not counted."""

    flags: int
    mappers: int | None = 0

    def has(self, mask: int) -> bool:
        """Are all these flags set?"""
        return self.flags & mask == mask


def fold(flags: int) -> int:
    """A word of /proc/kpageflags without the bits that decide nothing."""
    flags &= READ
    for mask, value, keep in OWNED:
        if flags & mask == value:
            return flags & keep
    return flags


def kind_of(flags: int, count: int | None) -> Kind:
    """The kind of a page from its two words; ``count`` None or negative if /proc/kpagecount says nothing.

    The two words are read one after the other, so they can contradict each other while a page is being
    mapped or unmapped. Whether it is mapped is taken from the flags, which are of one moment.
    """
    flags = fold(flags)
    if not flags & pg.MMAP:
        return Kind(flags, 0)
    if count is None or count < 0:
        return Kind(flags, None)
    return Kind(flags, min(max(count, 1), SEVERAL))
