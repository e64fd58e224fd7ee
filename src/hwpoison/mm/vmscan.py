"""Reclaim of one page: out to swap, or out of the page cache (mm/vmscan.c)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg

from .filemap import filemap_release_folio
from .inode import AddressSpace
from .page import (
    Page,
    clear_flags,
    folio_mapcount,
    folio_ref_freeze,
    folio_try_get,
    folio_trylock,
    folio_unlock,
    put_page,
    set_flags,
)
from .rmap import try_to_unmap
from .shmem import shmem_writepage
from .split import split_for_part
from .swap import release_frozen
from .truncate import remove_mapping


def reclaim_folio(page: Page, *, drop: bool = True, whole: bool = False) -> bool:
    """shrink_folio_list() for one page; whether the frame became free. ``whole``: a large folio is not split.

    ``drop=False`` stops when the page is being written out: it stays in the swap cache, unmapped and clean,
    as it does when the write takes its time. A page that needs no write is freed all the same.
    """
    page.vm.lru.add_drain_all()
    if whole:
        page = page.head
    elif page.head.order and not split_for_part(page):
        return False
    if not folio_try_get(page):
        return False
    isolated = page.vm.lru.isolate(page)
    put_page(page)
    if not isolated:
        return False
    if page.flags & (pg.UNEVICTABLE | pg.MLOCKED) or not folio_trylock(page):
        page.vm.lru.move_back(page)
        return False
    if page.vm.traits.reclaim_unmaps_bad_pages and page.has_hwpoisoned:
        folio_unlock(page)  # a large folio cannot be unmapped for one bad page
        page.vm.lru.move_back(page)
        return False
    if page.flags & pg.HWPOISON and page.vm.traits.reclaim_unmaps_bad_pages and page.vm.handler is not None:
        page.vm.handler.unmap_poisoned(page)
        folio_unlock(page)
        put_page(page)
        return False
    unlocked = _write_out(page)
    if unlocked and (not drop or not folio_trylock(page)):
        page.vm.lru.move_back(page)
        return False
    if not page.mapped and not page.flags & (pg.DIRTY | pg.WRITEBACK) and _free(page):
        return True
    folio_unlock(page)
    page.vm.lru.move_back(page)
    return False


def _write_out(page: Page) -> bool:
    """Unmap the page and start writing it to swap if it needs that; True: the write unlocked it."""
    vm = page.vm
    if page.flags & pg.WRITEBACK:
        return False
    mapping = page.mapping
    if isinstance(mapping, AddressSpace):
        if not mapping.fs.swap_backed:
            if page.mapped:
                try_to_unmap(page, 0)
            if page.flags & pg.DIRTY and not page.mapped:
                set_flags(page, pg.RECLAIM)  # whoever writes it is to free it
            return False
        if page.mapped:
            try_to_unmap(page, 0)
        if page.mapped or not page.flags & pg.DIRTY or not _is_freeable(page):
            return False  # a clean page of tmpfs is one of zeros that nobody has written
        return shmem_writepage(mapping, page)
    if mapping is None and not page.flags & pg.SWAPCACHE:
        return False  # its file has let go of it, somebody still holds it
    if not page.flags & pg.SWAPCACHE and not page.flags & pg.SWAPBACKED:
        if page.mapped:
            try_to_unmap(page, 0)
        return False  # MADV_FREE: nothing to write
    if not page.flags & pg.SWAPCACHE and not _add_to_swap(page):
        return False
    if page.mapped:
        try_to_unmap(page, 0)
    if page.mapped or not page.flags & pg.DIRTY or not _is_freeable(page):
        return False
    clear_flags(page, pg.DIRTY)
    return vm.swap.writepage(page)


def _add_to_swap(folio: Page) -> bool:
    """folio_alloc_swap(), unless somebody works with the folio."""
    if folio.maybe_dma_pinned:
        return False  # the process would go on with a copy, the device with this page
    if folio.order and folio.refcount != folio_mapcount(folio) + 1:
        return False  # can_split_folio()
    slot = folio.vm.swap.alloc_slots(folio.nr_pages)
    if slot is None:
        return False
    folio.vm.swap.add_to_cache(folio, slot)
    set_flags(folio, pg.DIRTY)
    return True


def _is_freeable(page: Page) -> bool:
    """is_page_cache_freeable(): what somebody else has a reference to is not worth a write."""
    return page.refcount - bool(page.flags & pg.PRIVATE) == 1 + page.nr_pages


def _free(page: Page) -> bool:
    """Remove a locked, clean, unmapped page from its cache, if cache and we are its only users; free it."""
    mapping = page.mapping
    if isinstance(mapping, AddressSpace):
        if not filemap_release_folio(page) or not remove_mapping(mapping, page):
            return False
        folio_unlock(page)
        put_page(page)
        return True
    if page.anon and not page.flags & (pg.SWAPCACHE | pg.SWAPBACKED):
        if not folio_ref_freeze(page, 1):
            return False
    elif not page.flags & pg.SWAPCACHE or not page.vm.swap.remove_mapping(page):
        return False
    folio_unlock(page)
    release_frozen(page)
    return True
