"""Page frames: struct page, its flags, its counts, the folio lock (include/linux/mm_types.h, mm/filemap.c).

A folio is its head page here; what the kernel calls folio takes the head, and variables of that name hold
one. All flags but the poison mark, the references, the lock, the mapping and its index are the folio's and
kept in its head; contents, the poison mark and the count of own mappings are each page's. Frames come into
being the first time somebody looks at them: a machine of a million frames costs no more than the part used.

What protects what:
* ``flags``, ``refcount``, ``mapcount`` and the other counts: atomic operations only;
* ``mapping``, ``index``: stable while the folio lock is held, without it good for a guess;
* ``private``: the owner's lock (page cache: folio lock; buddy: zone lock);
* ``content``: whoever may write to the frame; a label that stands for 4096 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from greenlet import GreenletExit

from hwpoison.abi import pageflags as pg

from .lockorder import LOCK_CLASSES
from .locks import (
    KernelBug,
    Op,
    Path,
    atomic_add,
    atomic_add_unless_zero,
    atomic_compare_set,
    check_order,
    hold,
    test_and_clear,
    test_and_set,
    unhold,
)

if TYPE_CHECKING:
    from .inode import AddressSpace
    from .machine import Machine
    from .rmap import AnonVma, StableNode

ZEROS = "zeros"
"""The content of a page nobody has written to."""

GUP_PIN_COUNTING_BIAS = 1024
"""What one long-term pin adds to the reference count (include/linux/mm.h)."""

PAGE_FLAGS_CHECK_AT_FREE = pg.LRU | pg.LOCKED | pg.WRITEBACK | pg.SLAB | pg.UNEVICTABLE | pg.ACTIVE
"""Must be clear when the last reference goes (include/linux/page-flags.h)."""


class Event:
    """Something a path can wait for, such as the end of writeback."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def describe(self) -> str:
        return self.text


class Page:
    """struct page of one 4 KiB frame."""

    __slots__ = (
        "bad",
        "content",
        "entire_mapcount",
        "exclusive",
        "flags",
        "has_hwpoisoned",
        "head",
        "index",
        "large_mapcount",
        "lock_owner",
        "mapcount",
        "mapping",
        "memcg",
        "mlock_count",
        "order",
        "paths",
        "pfn",
        "pincount",
        "private",
        "refcount",
        "vm",
        "written_back",
    )
    lock_class = LOCK_CLASSES["folio_lock"]

    def __init__(self, vm: Machine, pfn: int) -> None:
        self.vm = vm
        self.paths = vm.paths
        self.pfn = pfn
        self.flags = 0
        self.refcount = 0
        self.mapcount = 0  # page table entries that map this page; not those that map all of a folio
        self.entire_mapcount = 0  # of a large folio: entries that map all of it at once
        self.large_mapcount = 0  # of a large folio: all entries that map it or a part of it
        self.pincount = 0  # of a large folio: long-term pins; one page alone has them in its refcount
        self.mapping: AddressSpace | AnonVma | StableNode | None = None
        self.index = 0  # page offset in the mapping
        self.memcg = (
            ""  # in the head: the memory cgroup that pays for it, by its name; "": the root's, or none
        )
        self.mlock_count = 0  # locked mappings, kept while on the unevictable list; under lru_lock
        self.private: object | None = None  # swap entry, file system data, allocator's mark
        self.content: str = ZEROS
        self.head: Page = self  # of its compound page
        self.order = 0  # of the compound page, in the head
        self.has_hwpoisoned = False  # in the head: one of the pages is bad (PG_has_hwpoisoned)
        self.exclusive = False  # PG_anon_exclusive: one process only can have it; under ptl
        self.bad = False  # the memory itself cannot be read any more, whoever knows it
        self.lock_owner: Path | None = None
        self.written_back: Event | None = None  # while WRITEBACK is set

    def __repr__(self) -> str:
        return f"page {self.pfn:#x}"

    def describe(self) -> str:
        return f"folio_lock({self.pfn:#x})"

    @property
    def anon(self) -> bool:
        """folio_test_anon(): the mapping is an anonymous reverse map, not a file."""
        mapping = self.head.mapping
        return mapping is not None and mapping.is_anon

    @property
    def mapped(self) -> bool:
        """folio_mapped(); of a page within a folio: is it mapped by itself, or with all of the folio?"""
        if self.head is self:
            return self.mapcount > 0 or self.large_mapcount > 0
        return self.mapcount > 0 or self.head.entire_mapcount > 0

    @property
    def maybe_dma_pinned(self) -> bool:
        """folio_maybe_dma_pinned(): for a single page a guess from the count, as the kernel makes it."""
        folio = self.head
        return folio.pincount > 0 if folio.order else folio.refcount >= GUP_PIN_COUNTING_BIAS

    @property
    def nr_pages(self) -> int:
        """folio_nr_pages()."""
        return 1 << self.order

    @property
    def offset(self) -> int:
        """folio_page_idx(): which page of its folio it is."""
        return self.pfn - self.head.pfn

    @property
    def file_index(self) -> int:
        """page_pgoff(): where this page is in the mapping of its folio."""
        return self.head.index + self.offset

    def pages(self) -> Iterator[Page]:
        """The pages of this folio, itself first; of one of 1 GiB those that somebody looked at."""
        if not self.order:
            yield self
            return
        if self.pfn in self.vm.zone.sparse:
            yield from self.vm.zone.known(self)
            return
        page = self.vm.zone.page
        for pfn in range(self.pfn, self.pfn + (1 << self.order)):
            yield page(pfn)


def page_swap_entry(page: Page) -> int | None:
    """The slot of a page in the swap cache, whose folio knows its first one; None if it is not there."""
    folio = page.head
    if not folio.flags & pg.SWAPCACHE or not isinstance(folio.private, int):
        return None
    return folio.private + page.offset


def page_pairs(old: Page, new: Page) -> Iterator[tuple[Page, Page]]:
    """The pages of two folios of one size that are at the same place; if not all exist, those that matter."""
    zone = old.vm.zone
    offsets = {page.offset for folio in (old, new) for page in folio.pages()}
    return ((zone.page(old.pfn + offset), zone.page(new.pfn + offset)) for offset in sorted(offsets))


def folio_page(folio: Page, index: int) -> Page:
    """folio_file_page(): the page of a folio for this offset in its mapping."""
    return folio if not folio.order else folio.vm.zone.page(folio.pfn + index - folio.index)


def folio_mapcount(folio: Page) -> int:
    """How many page table entries map the folio or a part of it."""
    return folio.large_mapcount if folio.order else folio.mapcount


def set_flags(page: Page, mask: int) -> None:
    test_and_set(page, mask)


def clear_flags(page: Page, mask: int) -> None:
    test_and_clear(page, mask)


def get_page(page: Page) -> None:
    """Take one more reference; the caller has one already."""
    folio_ref_add(page.head, 1)


def folio_ref_add(folio: Page, count: int) -> None:
    """Take so many references; the caller has one already."""
    if atomic_add(folio, "refcount", count) == count:
        raise KernelBug(f"get_page() of the free {folio}")


def folio_try_get(page: Page) -> bool:
    """Take a reference unless the page is free; whether it was taken."""
    return atomic_add_unless_zero(page, "refcount")


def put_page(page: Page) -> None:
    """Give a reference back; the last one frees the page."""
    folio_put_refs(page.head, 1)


def folio_put_refs(folio: Page, count: int) -> None:
    """Give so many references back."""
    if atomic_add(folio, "refcount", -count) == 0:
        folio_put_last(folio)


def folio_put_last(page: Page) -> None:
    """__folio_put() (mm/swap.c): off the LRU and back to the allocator."""
    if page.flags & pg.LRU:
        page.vm.lru.remove_last(page)
    if page.flags & pg.HUGE:
        page.vm.hugetlb.free_huge_folio(page)
    else:
        page.vm.zone.free_pages(page, page.order)


def folio_ref_freeze(page: Page, expected: int) -> bool:
    """Make the count zero if it is just what is expected, so that nobody can take a reference."""
    return atomic_compare_set(page, "refcount", expected, 0)


def folio_ref_unfreeze(page: Page, count: int) -> None:
    atomic_add(page, "refcount", count)


def folio_lock(page: Page, *, nested: bool = False) -> None:
    """Take the folio lock (PG_locked), waiting for it. Sleeps; the caller holds a reference."""
    page = page.head
    paths = page.paths
    if paths.chooser is not None:
        paths.point(Op.ACQUIRE, page)
    path = paths.current
    if page.lock_owner is path:
        raise KernelBug(f"{path} takes {page.describe()} twice")
    if page.flags & pg.LOCKED and not nested:
        check_order(path, page.lock_class, page.describe)  # before waiting, or it would look like a deadlock
    while page.flags & pg.LOCKED:
        paths.wait(page)
    hold(path, page, nested=nested)
    page.flags |= pg.LOCKED
    page.lock_owner = path


def folio_trylock(page: Page) -> bool:
    page = page.head
    paths = page.paths
    if paths.chooser is not None:
        paths.point(Op.TRYLOCK, page)
    if page.flags & pg.LOCKED:
        return False
    hold(paths.current, page, nested=True)
    page.flags |= pg.LOCKED
    page.lock_owner = paths.current
    return True


def folio_unlock(page: Page) -> None:
    page = page.head
    paths = page.paths
    if paths.chooser is not None:
        paths.point(Op.RELEASE, page)
    if page.lock_owner is not paths.current:
        raise KernelBug(f"{paths.current} unlocks {page}, whose lock {page.lock_owner} holds")
    unhold(paths.current, page)
    page.flags &= ~pg.LOCKED
    page.lock_owner = None
    if paths.waiting:
        paths.wake(page)


class locked:
    """Hold the folio lock for a block."""

    __slots__ = ("page",)

    def __init__(self, page: Page) -> None:
        self.page = page

    def __enter__(self) -> Self:
        folio_lock(self.page)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GreenletExit:
            folio_unlock(self.page)


def folio_start_writeback(page: Page) -> None:
    """Set PG_writeback; the caller holds the folio lock."""
    if page.lock_owner is not page.paths.current:
        raise KernelBug(f"writeback of {page} begins without its lock")
    page.written_back = Event(f"writeback of {page.pfn:#x}")
    if test_and_set(page, pg.WRITEBACK):
        raise KernelBug(f"{page} is under writeback already")


def folio_end_writeback(page: Page) -> None:
    """Clear PG_writeback and wake whoever waits; from the device's completion."""
    done = page.written_back
    if not test_and_clear(page, pg.WRITEBACK) or done is None:
        raise KernelBug(f"{page} is not under writeback")
    page.written_back = None
    if page.flags & pg.RECLAIM:
        clear_flags(page, pg.RECLAIM)
        page.vm.lru.rotate_reclaimable(page)
    if page.paths.waiting:
        page.paths.wake(done)


def folio_wait_writeback(page: Page) -> None:
    """Sleep until no writeback of the page is under way. With the folio lock held none can begin."""
    while (done := page.written_back) is not None and page.flags & pg.WRITEBACK:
        page.paths.wait(done)
