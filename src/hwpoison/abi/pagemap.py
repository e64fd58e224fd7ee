"""The 64-bit entries of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst)."""

from __future__ import annotations

PFN_MASK = (1 << 55) - 1
SWAP_TYPE_MASK = 0x1F
SWAP_OFFSET_SHIFT = 5

SOFT_DIRTY = 1 << 55
EXCLUSIVE = 1 << 56
UFFD_WP = 1 << 57
GUARD = 1 << 58
FILE = 1 << 61
"""File page or shared anonymous memory; also set on the poison entry of a file page."""
SWAPPED = 1 << 62
"""In swap, or one of the entries that look so: migration, poison."""
PRESENT = 1 << 63


def present(pfn: int, *, file: bool = False) -> int:
    """The entry of a mapped page."""
    return PRESENT | (FILE if file else 0) | (pfn & PFN_MASK)


def swapped(swap_type: int, offset: int, *, file: bool = False) -> int:
    """The entry of a swapped page, or of a bad one: a type beyond all real ones, and the pfn as offset."""
    return SWAPPED | (FILE if file else 0) | (offset << SWAP_OFFSET_SHIFT) | (swap_type & SWAP_TYPE_MASK)


def pfn_of(entry: int) -> int | None:
    """The frame of a present entry, None otherwise. 0 when the reader lacked CAP_SYS_ADMIN."""
    return entry & PFN_MASK if entry & PRESENT else None
