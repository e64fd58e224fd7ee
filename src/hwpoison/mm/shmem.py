"""tmpfs and shared anonymous memory: a page cache whose disk is swap (mm/shmem.c).

A page that went bad stays in the file, so that whoever reads it is told: its contents exist nowhere
else, and a hole would read as zeros. Truncation and hole punching get rid of it.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import filemap_add_folio, filemap_lock_folio, folio_mark_dirty
from .inode import AddressSpace, File, SysError
from .locks import KernelBug
from .page import ZEROS, Page, clear_flags, folio_unlock, put_page, set_flags
from .rmap import TTU_IGNORE_MLOCK, try_to_unmap
from .swap import shmem_swapin_folio


def shmem_get_folio(mapping: AddressSpace, index: int) -> Page:
    """The page, locked, with a reference: from the cache, from swap, or new and full of zeros."""
    page = _find_or_make(mapping, index, make=True)
    if page is None:
        raise KernelBug(f"page {index} of {mapping.host} was neither found nor made")
    return page


def _find_or_make(mapping: AddressSpace, index: int, *, make: bool) -> Page | None:
    """As shmem_get_folio(); None for a hole unless a page is to be made (SGP_READ)."""
    while True:
        page = filemap_lock_folio(mapping, index)
        if page is None:
            page = shmem_swapin_folio(mapping, index)
        if page is None and index not in mapping.swap_entries:
            if not make:
                return None
            page = mapping.vm.zone.alloc_zeroed()
            if not filemap_add_folio(mapping, page, index):
                put_page(page)
                page = None
            else:
                set_flags(page, pg.UPTODATE)
        if page is not None:
            return page


def _refuse_bad(mapping: AddressSpace, page: Page) -> None:
    """A bad page is kept in the file only to say so."""
    if page.flags & pg.HWPOISON:
        folio_unlock(page)
        put_page(page)
        raise SysError(Errno.EIO, f"page {page.index} of {mapping.host.name} is bad memory")


def shmem_read(file: File, index: int) -> str:
    """read(2) of one page. A hole reads as zeros without getting a page."""
    mapping = file.inode.mapping
    if index >= file.inode.size:
        return ""
    page = _find_or_make(mapping, index, make=False)
    if page is None:
        return ZEROS
    _refuse_bad(mapping, page)
    folio_unlock(page)
    data = mapping.vm.kernel_reads(page)
    put_page(page)
    return data


def shmem_write(file: File, index: int, data: str) -> None:
    """write(2) of one whole page."""
    inode = file.inode
    with inode.i_rwsem.write():
        page = shmem_get_folio(inode.mapping, index)
        _refuse_bad(inode.mapping, page)
        inode.vm.kernel_writes(page, data)
        inode.size = max(inode.size, index + 1)
        folio_mark_dirty(page)
        folio_unlock(page)
        put_page(page)


def shmem_writepage(mapping: AddressSpace, page: Page) -> bool:
    """Move a locked page from the file to the swap cache and start writing it; unlocks it if it worked."""
    swap = mapping.vm.swap
    slot = swap.alloc_slot()
    if slot is None:
        return False
    try_to_unmap(page, TTU_IGNORE_MLOCK)
    if page.mapped:
        swap.drop_slot(slot)
        return False
    index = page.index
    swap.add_to_cache(page, slot)
    swap.duplicate(slot)  # the file names it
    with mapping.i_pages_lock:
        del mapping.pages[index]
        mapping.dirty.discard(index)
        mapping.swap_entries[index] = slot
        page.mapping = None
    put_page(page)
    clear_flags(page, pg.DIRTY)
    swap.writepage(page)
    return True
