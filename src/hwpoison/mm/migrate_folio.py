"""The middle of a migration: contents, marks and the place in the cache pass to the new folio (mm/migrate.c).

Both folios are locked and unmapped. The cache's entry is replaced under ``i_pages_lock``, or the swap's, with
the count of the old folio frozen at zero.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import Buffers, filemap_release_folio
from .hugetlb import is_huge
from .inode import AddressSpace
from .locks import atomic_add, read_once
from .migrate_entries import remove_migration_ptes
from .page import (
    Page,
    clear_flags,
    folio_lock,
    folio_ref_add,
    folio_ref_freeze,
    folio_ref_unfreeze,
    get_page,
    page_pairs,
    put_page,
    set_flags,
)
from .rmap import StableNode
from .split import cache_references
from .writeback import folio_clear_dirty_for_io, write_folio

COPIED = pg.REFERENCED | pg.UPTODATE | pg.ACTIVE | pg.UNEVICTABLE | pg.SWAPBACKED | pg.ERROR
"""Marks that go with the contents (folio_migrate_flags())."""


def move_to_new_folio(new: Page, page: Page) -> int:
    """Move contents, cache entry and marks of a locked, unmapped page, as its file allows; 0 or -errno."""
    mapping = page.mapping
    if not isinstance(mapping, AddressSpace) or page.flags & pg.SWAPCACHE:
        return _migrate_folio(new, page)
    if mapping.fs.name not in page.vm.traits.moves_clean_pages_only:
        if isinstance(page.private, Buffers) and page.private.busy:
            return -Errno.EAGAIN  # buffer_migrate_folio_norefs(): the journal needs them where they are
    elif page.flags & pg.DIRTY:
        return _fallback_dirty(mapping, page)
    elif not filemap_release_folio(page):
        return -Errno.EAGAIN
    return _migrate_folio(new, page)


def _fallback_dirty(mapping: AddressSpace, page: Page) -> int:
    """fallback_migrate_folio(): a file system without an operation of its own moves clean pages only."""
    if not page.vm.traits.migration_writes_dirty_pages:
        return -Errno.EBUSY
    if not mapping.can_writeback:
        return -Errno.EINVAL
    if folio_clear_dirty_for_io(page):
        remove_migration_ptes(page, page)
        get_page(page)
        write_folio(page)  # unlocks it; the write has a reference of its own
        folio_lock(page, nested=True)
    return -Errno.EAGAIN


def _migrate_folio(new: Page, page: Page) -> int:
    """__migrate_folio(): -EAGAIN if anybody but its cache, its buffers and the caller has the page."""
    expected = folio_expected_refs(page)
    if read_once(page, "refcount") != expected:
        return -Errno.EAGAIN
    if page.vm.traits.migration_copies_first:
        for source, target in page_pairs(page, new):
            content = page.vm.copy_mc(source)
            if content is None:
                return -Errno.EFAULT
            target.content = content
    if not _replace_in_cache(new, page, expected):
        return -Errno.EAGAIN
    if not page.vm.traits.migration_copies_first:
        for source, target in page_pairs(page, new):
            target.content = page.vm.kernel_reads(source)
    _migrate_flags(new, page)
    return 0


def folio_expected_refs(page: Page) -> int:
    """How many references an unmapped folio has if nobody uses it: the caller's, its cache's, buffers'."""
    return 1 + _cache_references(page) + bool(page.flags & pg.PRIVATE)


def _cache_references(page: Page) -> int:
    """One for each page, but of a hugetlb page one for all."""
    return min(1, cache_references(page)) if is_huge(page) else cache_references(page)


def _replace_in_cache(new: Page, page: Page, expected: int) -> bool:
    """folio_migrate_mapping(): under a count frozen at zero, so that nobody finds the old page meanwhile."""
    mapping = page.mapping
    if page.flags & pg.SWAPCACHE:
        return _replace_in_swap_cache(new, page, expected)
    if not isinstance(mapping, AddressSpace):
        new.mapping, new.index = mapping, page.index
        if isinstance(mapping, StableNode):
            mapping.page = new  # folio_migrate_ksm()
        return True
    with mapping.i_pages_lock:
        if not folio_ref_freeze(page, expected):
            return False
        new.mapping, new.index = mapping, page.index
        cached = _cache_references(page)
        folio_ref_add(new, cached)
        pages = new.pages() if cached > 1 else (new,)
        mapping.pages.update(enumerate(pages, page.index))
        _move_dirty(new, page)
        folio_ref_unfreeze(page, expected - cached)
    page.mapping = None
    return True


def _replace_in_swap_cache(new: Page, page: Page, expected: int) -> bool:
    swap, slot = page.vm.swap, page.private
    if not isinstance(slot, int):
        return False
    with swap.lock:
        if not folio_ref_freeze(page, expected):
            return False
        new.mapping, new.index, new.private = page.mapping, page.index, slot
        folio_ref_add(new, new.nr_pages)
        swap.cache.update(enumerate(new.pages(), slot))
        set_flags(new, pg.SWAPCACHE)
        _move_dirty(new, page)
        folio_ref_unfreeze(page, expected - new.nr_pages)
    page.private = None
    clear_flags(page, pg.SWAPCACHE)
    return True


def _move_dirty(new: Page, page: Page) -> None:
    """The file's own tag stays: it belongs to the offset, not to the page."""
    if page.flags & pg.DIRTY:
        clear_flags(page, pg.DIRTY)
        set_flags(new, pg.DIRTY)


def _migrate_flags(new: Page, page: Page) -> None:
    """folio_migrate_flags(), and the buffers (buffer_migrate_folio())."""
    set_flags(new, page.flags & COPIED)
    clear_flags(page, pg.ACTIVE | pg.UNEVICTABLE)
    _move_dirty(new, page)
    if page.flags & pg.PRIVATE:
        new.private, page.private = page.private, None
        clear_flags(page, pg.PRIVATE)
        atomic_add(new, "refcount", 1)
        set_flags(new, pg.PRIVATE)
        put_page(page)
