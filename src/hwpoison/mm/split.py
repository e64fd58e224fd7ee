"""Splitting large folios (mm/huge_memory.c).

A folio is split with its lock held and its count frozen at zero, so that nobody can find it or add a
mapping meanwhile. Pages of files are unmapped before; those of anonymous memory get migration entries, which
whoever touches them waits for, and their own back afterwards.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import filemap_release_folio, page_cache_delete
from .inode import AddressSpace
from .locks import KernelBug, atomic_add_each
from .migrate_entries import remap_parts, remove_migration_ptes, try_to_migrate
from .page import (
    Page,
    folio_mapcount,
    folio_put_last,
    folio_ref_freeze,
    folio_try_get,
    folio_trylock,
    folio_unlock,
    put_page,
)
from .rmap import StableNode, rmap_sem, unmap_mapping_folio

COPIED = pg.REFERENCED | pg.SWAPBACKED | pg.SWAPCACHE | pg.MLOCKED | pg.UPTODATE | pg.ACTIVE
COPIED |= pg.UNEVICTABLE | pg.DIRTY | pg.LRU | pg.ERROR
"""Flags of a folio that its parts have as well after a split (__split_folio_to_order())."""


def cache_references(folio: Page) -> int:
    """How many references the page cache, or the swap cache, holds of a folio (folio_cache_ref_count())."""
    return folio.nr_pages if isinstance(folio.mapping, AddressSpace) or folio.flags & pg.SWAPCACHE else 0


def split_folio(page: Page, order: int = 0, *, at: Page | None = None, keep: bool = False) -> int:
    """split_huge_page_to_list_to_order(): make the locked folio of this page into folios of a smaller order.

    ``at``: only that page becomes a folio of this order, the others stay as large as can be (folio_split()).
    The caller holds a reference; afterwards the lock and the reference are those of the new folio that
    ``page`` is in; with ``keep`` he has a reference to each. 0, or -errno. -EBUSY: it is under writeback, the
    file system needs its data on it, or it is anonymous and nobody maps it; -EAGAIN: somebody else holds a
    reference; -EINVAL: its file wants larger folios than that.
    """
    folio = page.head
    if folio.lock_owner is not folio.paths.current:
        raise KernelBug(f"{folio} is split without its lock")
    mapping = folio.mapping
    if folio is folio.vm.huge_zero_folio or folio.flags & pg.WRITEBACK or mapping is None:
        return -Errno.EBUSY
    if isinstance(mapping, StableNode):
        raise KernelBug(f"{folio} is merged, and so alone: nothing to split")
    if isinstance(mapping, AddressSpace):
        if order < mapping.fs.min_order or order >= folio.order:
            return -Errno.EINVAL
        if not filemap_release_folio(folio):
            return -Errno.EBUSY
    elif not folio.mapped:
        return -Errno.EBUSY  # nothing keeps its reverse map (folio_get_anon_vma())
    with rmap_sem(mapping).read():
        pass  # whoever changes the list of areas is done with it
    if folio.refcount != _expected_references(folio):
        return -Errno.EAGAIN
    if isinstance(mapping, AddressSpace):
        if folio.mapped:
            unmap_mapping_folio(folio)
    elif folio.mapped:
        try_to_migrate(folio, split=True)
    if folio.mapped or not folio_ref_freeze(folio, _expected_references(folio)):
        if folio.anon:
            remove_migration_ptes(folio, folio)
        return -Errno.EAGAIN
    parts = _split(folio, _evenly(folio, order) if at is None else _around(folio, order, at.offset))
    _hand_out(parts, page, keep=keep)
    return 0


def split_for_part(page: Page) -> bool:
    """madvise(2) of a part of a large folio splits it first, if one process alone maps it.

    madvise_cold_or_pageout_pte_range(), madvise_free_huge_pmd().
    """
    folio = page.head
    if folio_mapcount(folio) != 1 and folio.entire_mapcount:
        return False  # mapped by several processes, or not only as a whole
    if not folio_try_get(folio):
        return False
    if page.head is not folio:
        put_page(folio)
        return False
    done = folio_trylock(folio)
    if done:
        done = split_folio(page) == 0
        folio_unlock(page if done else folio)
    put_page(page)
    return done


def _expected_references(folio: Page) -> int:
    """Those of its entries and of the cache it is in, and the caller's."""
    return folio_mapcount(folio) + cache_references(folio) + 1


def _evenly(folio: Page, order: int) -> list[tuple[int, int]]:
    """(first page, order) of each part, all of the same order."""
    return [(offset, order) for offset in range(0, folio.nr_pages, 1 << order)]


def _around(folio: Page, order: int, offset: int) -> list[tuple[int, int]]:
    """(first page, order) of each part: the one with this page is halved until it is small enough."""
    start, size, parts = 0, folio.order, []
    while size > order:
        size -= 1
        if offset < start + (1 << size):
            parts.append((start + (1 << size), size))
        else:
            parts.append((start, size))
            start += 1 << size
    return sorted([*parts, (start, size)])


def _split(folio: Page, shape: list[tuple[int, int]]) -> list[Page]:
    """__split_unmapped_folio(): heads of their own; no references yet. The folio is frozen: nobody looks."""
    pages, mapping = list(folio.pages()), folio.mapping
    flags, first_index, first_slot = folio.flags, folio.index, folio.private
    for page in pages:
        page.flags &= pg.HWPOISON
    for offset, order in shape:
        part = pages[offset]
        part.order = order
        for page in pages[offset : offset + (1 << order)]:
            page.memcg = folio.memcg
            page.head = part
        part.flags |= flags & COPIED | (pg.COMPOUND_HEAD if order else 0)
        part.mapping, part.index = mapping, first_index + offset
        part.private = first_slot + offset if isinstance(first_slot, int) else None
        part.large_mapcount = sum(page.mapcount for page in part.pages()) if order else 0
        part.has_hwpoisoned = bool(order) and any(page.flags & pg.HWPOISON for page in part.pages())
        if flags & pg.LRU:
            folio.vm.lru.pages[part.pfn] = part
        if isinstance(mapping, AddressSpace) and flags & pg.DIRTY:
            mapping.dirty.add(part.index)
    return [pages[offset] for offset, _order in shape]


def _hand_out(parts: list[Page], page: Page, *, keep: bool) -> None:
    """The references come back, the lock passes on to the part that the caller works on.

    Parts beyond the end of the file leave it; those that nobody uses are freed, unless the caller wants all.
    All are locked until the entries are back.
    """
    folio, held = parts[0], page.head
    owner = folio.lock_owner
    if owner is not None:
        owner.held[next(n for n, lock in enumerate(owner.held) if lock is folio)] = held
    for part in parts:
        part.flags |= pg.LOCKED
        part.lock_owner = owner
        mapping = part.mapping
        if isinstance(mapping, AddressSpace) and part.index >= mapping.host.size:
            page_cache_delete(mapping, part)
        part.refcount = _expected_references(part)  # frozen until now: all come back in one operation
    if folio.anon:
        remap_parts(parts)
    others = [part for part in parts if part is not held]
    for part in others:
        part.flags &= ~pg.LOCKED
        part.lock_owner = None
        if part.paths.waiting:
            part.paths.wake(part)
    if others and not keep:
        for part in others:
            if part.flags & pg.SWAPCACHE and not part.mapped:
                part.vm.swap.free_swap_cache(part)
        atomic_add_each(others[0], others, "refcount", -1)
        for part in [part for part in others if not part.refcount]:
            folio_put_last(part)


def split_huge_page(page: Page, order: int = 0) -> int:
    """Split the folio of a page for somebody who asks for it (debugfs split_huge_pages): 0 or -errno."""
    folio = page.head
    if not folio_try_get(folio):
        return -Errno.EBUSY
    error = -Errno.EBUSY
    if folio_trylock(folio):
        error = split_folio(folio, order) if order < folio.order else 0
        folio_unlock(folio)
    put_page(folio)
    return error
