"""Moving a page to another frame under the hands of its users (mm/migrate.c, mm/rmap.c try_to_migrate()).

The page, isolated from the reclaim lists, is locked; its entries become migration entries, at which a
fault waits for the lock; then nobody but its cache and the caller may hold it, or it stays; the cache
gets the new page, contents and flags are copied, and the entries name the new page. What is moved is
freed by its last user, or kept for the caller who wants the frame itself (MR_MEMORY_FAILURE).

Locks: the folio locks of both pages throughout, the new one nested; below them those of the reverse map.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.problems import NotPossible
from hwpoison.abi.signals import Errno

from .filemap import Buffers, filemap_release_folio, folio_mark_dirty
from .inode import AddressSpace
from .locks import atomic_add, read_once
from .page import (
    Page,
    clear_flags,
    folio_lock,
    folio_ref_freeze,
    folio_ref_unfreeze,
    folio_try_get,
    folio_unlock,
    folio_wait_writeback,
    get_page,
    put_page,
    set_flags,
)
from .page_alloc import OutOfMemory
from .pte import Entry, MigrationPte, PoisonPte, Pte
from .rmap import StableNode, for_each_place, page_add_rmap, page_remove_rmap, rmap_walk
from .writeback import folio_clear_dirty_for_io, write_folio

if TYPE_CHECKING:
    from .mmap import Mm, PageTable, Vma

MAX_TRIES = 10
"""NR_MAX_MIGRATE_PAGES_RETRY: so often a page that is in use for a moment is tried."""
COPIED = pg.REFERENCED | pg.UPTODATE | pg.ACTIVE | pg.UNEVICTABLE | pg.SWAPBACKED | pg.ERROR
"""Marks that go with the contents (folio_migrate_flags())."""


class Reason(Enum):
    """enum migrate_reason. MEMORY_FAILURE: the caller keeps the isolating reference, and so the frame."""

    MEMORY_FAILURE = "memory_failure"
    SYSCALL = "syscall_or_cpuset"
    MEMORY_HOTPLUG = "memory_hotplug"


def isolate_folio(page: Page) -> bool:
    """Off the reclaim lists, with a reference of the isolation's own; the caller's stays the caller's."""
    return page.vm.lru.isolate(page)


def putback_movable_pages(pages: list[Page]) -> None:
    """Those that could not be moved go back to the reclaim lists."""
    for page in pages:
        page.vm.lru.putback(page)
    pages.clear()


def migrate_pages(pages: list[Page], reason: Reason) -> int:
    """Move isolated pages, waiting where that helps (MIGRATE_SYNC). Those that are not remain in the list.

    0: all were moved; above: how many were not; -ENOMEM: no frame to move to.
    """
    failed = 0
    for page in list(pages):
        for _attempt in range(MAX_TRIES):
            result = unmap_and_move(page, reason)
            if result != -Errno.EAGAIN:
                break
        if result == -Errno.ENOMEM:
            return result
        if result:
            failed += 1
        else:
            pages.remove(page)
    return failed


def unmap_and_move(page: Page, reason: Reason) -> int:
    """One try for one page: 0, -EAGAIN (somebody holds it now), -ENOMEM, or -errno for good."""
    if read_once(page, "refcount") == 1:  # freed by everybody else since it was isolated
        clear_flags(page, pg.ACTIVE | pg.UNEVICTABLE)
        _done(page, reason)
        return 0
    try:
        new = page.vm.zone.alloc_pages()
    except OutOfMemory:
        return -Errno.ENOMEM
    folio_lock(page)
    folio_wait_writeback(page)
    folio_lock(new, nested=True)
    mlocked = bool(page.flags & pg.MLOCKED)
    mapped = page.mapped
    if mapped:
        try_to_migrate(page)
    result = -Errno.EAGAIN if page.mapped else move_to_new_folio(new, page)
    if result:
        if mapped:
            remove_migration_ptes(page, page)
        folio_unlock(new)
        folio_unlock(page)
        put_page(new)
        return result
    page.vm.lru.add(new)
    if mlocked:
        page.vm.lru.add_drain(page.paths.current.cpu)
    if mapped:
        remove_migration_ptes(page, new)
    folio_unlock(new)
    put_page(new)
    folio_unlock(page)
    _done(page, reason)
    return 0


def _done(page: Page, reason: Reason) -> None:
    """migrate_folio_done(): the isolating reference frees the frame, unless somebody wants just that one."""
    if reason is not Reason.MEMORY_FAILURE:
        put_page(page)


def try_to_migrate(page: Page) -> None:
    """A migration entry in place of every entry that maps the page. ``page.mapped`` says whether it worked.

    A page known to be bad is not taken along: its entries become poison.
    """

    def replace(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> bool:
        if page.anon and page.exclusive and page.maybe_dma_pinned:
            return False  # page_try_share_anon_rmap(): the device would write to what the process left
        if entry.dirty:
            folio_mark_dirty(page)
        if page.flags & pg.HWPOISON:
            note: Entry = PoisonPte(page.pfn, file=not page.anon)
        else:
            note = MigrationPte(page, entry.writable, page.anon and page.exclusive, entry.dirty)
        table.entries[vpn] = note
        page.exclusive = False
        page_remove_rmap(page, vma)
        if vma.locked:
            page.vm.lru.add_drain(page.paths.current.cpu)
        put_page(page)
        return True

    rmap_walk(page, replace)


def remove_migration_ptes(old: Page, new: Page) -> None:
    """Let every migration entry for the old page name the new one, or the old one again. Both are locked."""

    def restore(vma: Vma, vpn: int) -> bool:
        table = vma.mm.table(vpn)
        if table is None:
            return True
        with table.lock:
            entry = table.entries.get(vpn)
            if not isinstance(entry, MigrationPte) or entry.page is not old:
                return True
            get_page(new)
            if new.anon:
                new.exclusive = entry.exclusive
            page_add_rmap(new, vma)
            dirty = entry.dirty and bool(new.flags & pg.DIRTY)
            table.entries[vpn] = Pte(new, writable=entry.writable, dirty=dirty)
        if vma.locked:
            new.vm.lru.add_drain(new.paths.current.cpu)
        return True

    if new.mapping is not None:
        for_each_place(new.mapping, new.index, restore)


def migration_entry_wait(table: PageTable, vpn: int, entry: MigrationPte) -> None:
    """A fault met a page on its way: sleep until its lock is free or the entry has changed."""
    page = entry.page
    while table.entries.get(vpn) is entry and page.flags & pg.LOCKED:
        page.paths.wait(page)


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
        content = page.vm.copy_mc(page)
        if content is None:
            return -Errno.EFAULT
        new.content = content
    if not _replace_in_cache(new, page, expected):
        return -Errno.EAGAIN
    if not page.vm.traits.migration_copies_first:
        new.content = page.vm.kernel_reads(page)
    _migrate_flags(new, page)
    return 0


def folio_expected_refs(page: Page) -> int:
    """How many references an unmapped page has if nobody uses it: the caller's, its cache's, its buffers'."""
    cached = isinstance(page.mapping, AddressSpace) or bool(page.flags & pg.SWAPCACHE)
    return 1 + int(cached) + bool(page.flags & pg.PRIVATE)


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
        get_page(new)
        mapping.pages[page.index] = new
        _move_dirty(new, page)
        folio_ref_unfreeze(page, expected - 1)
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
        get_page(new)
        swap.cache[slot] = new
        set_flags(new, pg.SWAPCACHE)
        _move_dirty(new, page)
        folio_ref_unfreeze(page, expected - 1)
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


def move_page_of(mm: Mm, vpn: int) -> int:
    """move_pages(2) of one page to another node: 0, 1 if it could not be moved, or its status, -errno."""
    mm.vm.lru.add_drain_all()
    entry = mm.entry(vpn)
    if not isinstance(entry, Pte):
        vma = mm.find_vma(vpn)
        anonymous = vma is not None and vma.mapping is None and mm.table(vpn) is None
        return -Errno.EFAULT if anonymous and mm.vm.traits.no_page_table_is_efault else -Errno.ENOENT
    page = entry.page
    if page is mm.vm.zero_page:
        return -Errno.EFAULT
    if page.head.order:
        raise NotPossible(f"moving a large folio as one ({page.head}) is not modelled yet")
    if not folio_try_get(page):
        return -Errno.ENOENT
    isolated = isolate_folio(page)
    put_page(page)
    if not isolated:
        return -Errno.EBUSY
    pages = [page]
    left = migrate_pages(pages, Reason.SYSCALL)
    putback_movable_pages(pages)
    return left
