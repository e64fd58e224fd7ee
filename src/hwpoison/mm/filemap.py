"""The page cache: finding, reading, writing and removing pages of files (mm/filemap.c).

A page in the cache has one reference for that. Nobody may use a page found here before he has the
folio lock and has seen that ``page.mapping`` is still this file: it may have been removed meanwhile.
Readahead is off: a read brings in one page.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .inode import AddressSpace, File, SysError
from .locks import KernelBug, Op
from .page import (
    ZEROS,
    Page,
    clear_flags,
    folio_lock,
    folio_try_get,
    folio_unlock,
    folio_wait_writeback,
    get_page,
    put_page,
    set_flags,
)


class Buffers:
    """Buffer heads on a page (PG_private). ``busy``: the journal still needs them, they cannot be freed."""

    __slots__ = ("busy",)

    def __init__(self) -> None:
        self.busy = False


def filemap_get_folio(mapping: AddressSpace, index: int) -> Page | None:
    """The page at this index with a reference; not locked. None if it is not in the cache."""
    while True:
        if mapping.paths.chooser is not None:
            mapping.paths.point(Op.READ, mapping)
        page = mapping.pages.get(index)
        if page is None:
            return None
        if folio_try_get(page):
            if mapping.pages.get(index) is page:
                return page
            put_page(page)


def filemap_lock_folio(mapping: AddressSpace, index: int) -> Page | None:
    """As filemap_get_folio(), locked and certain to be still in the file."""
    while (page := filemap_get_folio(mapping, index)) is not None:
        folio_lock(page)
        if page.mapping is mapping:
            return page
        folio_unlock(page)
        put_page(page)
    return None


def filemap_add_folio(mapping: AddressSpace, page: Page, index: int) -> bool:
    """Put a new page into the cache, locked; False if somebody was faster."""
    folio_lock(page)
    with mapping.i_pages_lock:
        if index in mapping.pages or index in mapping.swap_entries:
            taken = True
        else:
            taken = False
            get_page(page)
            page.mapping = mapping
            page.index = index
            mapping.pages[index] = page
    if taken:
        folio_unlock(page)
        return False
    if mapping.fs.swap_backed:
        set_flags(page, pg.SWAPBACKED)
    mapping.vm.lru.add(page)
    return True


def filemap_remove_folio(page: Page) -> None:
    """Take a page out of the cache; the caller holds its lock. The cache's reference goes.

    A page under writeback cannot be removed: the disk would write on, and a new page with the same
    index could be written at the same time. Whoever removes waits for writeback first.
    """
    mapping = page.mapping
    if not isinstance(mapping, AddressSpace):
        raise KernelBug(f"{page} is in no page cache, mapping {mapping}")
    if page.lock_owner is not page.paths.current:
        raise KernelBug(f"{page} is removed from {mapping.host} without its lock")
    if page.flags & pg.WRITEBACK:
        raise KernelBug(f"{page} is removed from {mapping.host} under writeback")
    if page.mapped:
        raise KernelBug(f"{page} is removed from {mapping.host} while {page.mapcount} entries map it")
    with mapping.i_pages_lock:
        del mapping.pages[page.index]
        mapping.dirty.discard(page.index)
        page.mapping = None
    put_page(page)


def folio_attach_buffers(page: Page) -> None:
    """Hang buffer heads on a page; they hold a reference (create_empty_buffers())."""
    if not page.flags & pg.PRIVATE:
        get_page(page)
        page.private = Buffers()
        set_flags(page, pg.PRIVATE)


def filemap_release_folio(page: Page) -> bool:
    """try_to_free_buffers(): whether the page is free of file system data now."""
    if not page.flags & pg.PRIVATE:
        return True
    if page.flags & (pg.WRITEBACK | pg.DIRTY):
        return False
    return folio_drop_buffers(page)


def folio_drop_buffers(page: Page) -> bool:
    """block_invalidate_folio(): throw the buffers away, dirty or not, unless the journal needs them."""
    if page.flags & pg.PRIVATE:
        if isinstance(page.private, Buffers) and page.private.busy:
            return False
        page.private = None
        clear_flags(page, pg.PRIVATE)
        put_page(page)
    return True


def folio_mark_dirty(page: Page) -> None:
    """Set PG_dirty and the mapping's tag; no effect on the tag for anonymous pages."""
    mapping = page.mapping
    if isinstance(mapping, AddressSpace) and page.index not in mapping.dirty:
        with mapping.i_pages_lock:
            mapping.dirty.add(page.index)
    set_flags(page, pg.DIRTY)


def folio_cancel_dirty(page: Page) -> None:
    """Forget that a page is dirty, because its contents are being thrown away."""
    mapping = page.mapping
    if isinstance(mapping, AddressSpace):
        with mapping.i_pages_lock:
            mapping.dirty.discard(page.index)
    clear_flags(page, pg.DIRTY)


def filemap_grab_folio(mapping: AddressSpace, index: int) -> Page:
    """The page at this index, found or new, locked, with a reference. A new one is not up to date."""
    while True:
        page = filemap_lock_folio(mapping, index)
        if page is not None:
            return page
        page = mapping.vm.zone.alloc_zeroed()
        if filemap_add_folio(mapping, page, index):
            return page
        put_page(page)


def read_mapping_folio(mapping: AddressSpace, index: int) -> Page:
    """The page with valid contents, locked, with a reference; read from the disk if it must be."""
    page = filemap_grab_folio(mapping, index)
    if not page.flags & pg.UPTODATE:
        page.content = mapping.host.blocks.get(index, ZEROS)
        set_flags(page, pg.UPTODATE)
    return page


def filemap_read(file: File, index: int) -> str:
    """read(2) of one page of a file that lives on a disk; '' past the end."""
    mapping = file.inode.mapping
    if index >= file.inode.size:
        return ""
    page = filemap_get_folio(mapping, index)
    if page is None or not page.flags & pg.UPTODATE:
        if page is not None:
            put_page(page)
        with mapping.invalidate_lock.read():
            page = read_mapping_folio(mapping, index)
            folio_unlock(page)
    data = mapping.vm.kernel_reads(page)
    set_flags(page, pg.REFERENCED)
    put_page(page)
    return data


def generic_perform_write(file: File, index: int, data: str) -> None:
    """write(2) of one whole page of a file that lives on a disk."""
    inode = file.inode
    with inode.i_rwsem.write():
        page = filemap_grab_folio(inode.mapping, index)
        if inode.fs.buffers:
            folio_attach_buffers(page)
        inode.vm.kernel_writes(page, data)
        set_flags(page, pg.UPTODATE)
        inode.size = max(inode.size, index + 1)
        folio_mark_dirty(page)
        folio_unlock(page)
        put_page(page)


def file_check_and_advance_wb_err(file: File) -> None:
    """Raise the error that this open file has not been told yet, once."""
    error, file.wb_err = file.inode.mapping.wb_err.check_and_advance(file.wb_err)
    if error:
        raise SysError(Errno(error), f"reported for {file}")


def filemap_fdatawait(mapping: AddressSpace) -> None:
    """Wait until no page of the file is under writeback."""
    for index in sorted(mapping.pages):
        page = filemap_get_folio(mapping, index)
        if page is not None:
            folio_wait_writeback(page)
            put_page(page)
