"""Words for what /proc shows of a page, and for amounts of memory: what is there, never what will happen."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SIZE

_OWNERS: tuple[tuple[int, int, str], ...] = (
    # mask, value, what it is: the first that fits. Slab first, it can show flags of others.
    (pg.NOPAGE, pg.NOPAGE, "no memory here"),
    (pg.HWPOISON, pg.HWPOISON, "known bad memory"),
    (pg.BUDDY, pg.BUDDY, "free"),
    (pg.SLAB, pg.SLAB, "kernel objects (slab)"),
    (pg.PGTABLE, pg.PGTABLE, "page table"),
    (pg.OFFLINE, pg.OFFLINE, "given to the hypervisor"),
    (pg.ZERO_PAGE, pg.ZERO_PAGE, "the page of zeros"),
    (pg.RESERVED, pg.RESERVED, "reserved"),
    (pg.HUGE, pg.HUGE, "huge page (hugetlb)"),
    (pg.KSM, pg.KSM, "merged memory (KSM)"),
    (pg.ANON, pg.ANON, "memory of processes"),
    (pg.SWAPBACKED | pg.SWAPCACHE, pg.SWAPBACKED | pg.SWAPCACHE, "tmpfs or memory"),
    (pg.SWAPBACKED, pg.SWAPBACKED, "tmpfs, shared memory"),
    (pg.LRU, pg.LRU, "file"),
    (pg.COMPOUND_HEAD, pg.COMPOUND_HEAD, "kernel, allocated in blocks"),
    (pg.COMPOUND_TAIL, pg.COMPOUND_TAIL, "kernel, allocated in blocks"),
    (pg.MMAP, pg.MMAP, "mapped, of no known owner"),
    (0, 0, "no owner to be seen"),
)
_MARKS: tuple[tuple[int, str], ...] = (
    (pg.THP, "in a large folio"),
    (pg.SWAPCACHE, "also in swap"),
    (pg.WRITEBACK, "being written"),
    (pg.DIRTY, "dirty"),
    (pg.MLOCKED, "mlocked"),
)
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def describe(flags: int, mappers: int | None) -> str:
    """A page in a few words; ``mappers`` 2 stands for several."""
    parts = [next(text for mask, value, text in _OWNERS if flags & mask == value)]
    parts += [text for mask, text in _MARKS if flags & mask]
    if flags & (pg.ANON | pg.SWAPBACKED) and not flags & (pg.LRU | pg.SLAB):
        parts.append("not yet on a list")
    if flags & pg.MMAP and not flags & pg.SLAB:
        parts.append({None: "mapped", 0: "mapped", 1: "mapped once"}.get(mappers, "mapped by several"))
    return ", ".join(parts)


def letters(flags: int) -> str:
    """The letters of the kernel's page-types tool, without a place for the flags that are not set."""
    return pg.letters(flags).replace("_", "") or "-"


def memory(pages: int) -> str:
    """So many pages in the largest unit that fits."""
    size = pages * PAGE_SIZE
    return next((f"{size / unit:.1f} {name}" for unit, name in _SIZES if size >= unit), "0")


def share(part: int, whole: int) -> str:
    """Percent; a little is never shown as nothing."""
    percent = 100 * part / whole if whole else 0.0
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"
