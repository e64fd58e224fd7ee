"""The page cache: finding, reading, writing and removing pages of files (mm/filemap.c).

A folio in the cache has one reference for each of its pages for that. Nobody may use one found here before
he has the folio lock and has seen that its ``mapping`` is still this file: it may have been removed since.
Readahead is off: a read brings in one page; a write brings in a folio as large as itself, where the file
system and the kernel do so.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .inode import AddressSpace, File, Inode, SysError
from .locks import KernelBug, Op, read_once, write_once
from .lost import forget_lost, read_lost, refuse_lost
from .page import (
    ZEROS,
    Page,
    clear_flags,
    folio_lock,
    folio_mapcount,
    folio_page,
    folio_put_refs,
    folio_ref_add,
    folio_try_get,
    folio_unlock,
    folio_wait_writeback,
    get_page,
    put_page,
    set_flags,
)
from .page_alloc import OutOfMemory


class Buffers:
    """Buffer heads on a page (PG_private). ``busy``: the journal still needs them, they cannot be freed."""

    __slots__ = ("busy",)

    def __init__(self) -> None:
        self.busy = False


def filemap_get_folio(mapping: AddressSpace, index: int) -> Page | None:
    """The folio at this index with a reference; not locked. None if it is not in the cache."""
    while True:
        if mapping.paths.chooser is not None:
            mapping.paths.point(Op.READ, mapping)
        page = mapping.pages.get(index)
        if page is None:
            return None
        folio = page.head
        if not folio_try_get(folio):
            if mapping.pages.get(index) is page and page.head is folio:
                mapping.paths.relax()  # it is frozen, by somebody who will soon be done
            continue
        if mapping.pages.get(index) is page and page.head is folio:
            return folio
        put_page(folio)


def filemap_lock_folio(mapping: AddressSpace, index: int) -> Page | None:
    """As filemap_get_folio(), locked and certain to be still in the file."""
    while (page := filemap_get_folio(mapping, index)) is not None:
        folio_lock(page)
        if mapping.pages.get(index, page).head is page and page.mapping is mapping:
            return page
        folio_unlock(page)
        put_page(page)
    return None


def filemap_add_folio(mapping: AddressSpace, folio: Page, index: int) -> bool:
    """Put a new folio into the cache, locked; False if there is something already, or was by now."""
    folio_lock(folio)
    with mapping.i_pages_lock:
        covered = range(index, index + folio.nr_pages)
        taken = any(i in mapping.pages or i in mapping.swap_entries for i in covered)
        if not taken:
            folio_ref_add(folio, folio.nr_pages)
            folio.mapping = mapping
            folio.index = index
            mapping.pages.update(zip(covered, folio.pages(), strict=True))
    if taken:
        folio_unlock(folio)
        return False
    if mapping.fs.swap_backed:
        set_flags(folio, pg.SWAPBACKED)
    mapping.vm.lru.add(folio)
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
        raise KernelBug(f"{page} is removed from {mapping.host} while {folio_mapcount(page)} entries map it")
    with mapping.i_pages_lock:
        page_cache_delete(mapping, page)
    folio_put_refs(page, page.nr_pages)


def page_cache_delete(mapping: AddressSpace, folio: Page) -> None:
    """Nothing of the folio is found in the file any more. Under i_pages_lock; the references stay."""
    for index in range(folio.index, folio.index + folio.nr_pages):
        del mapping.pages[index]
    mapping.dirty.discard(folio.index)
    folio.mapping = None


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
    """A page is written to through the page tables; reclaim that waits for its write to end waits no more."""
    if page.flags & pg.RECLAIM and isinstance(page.mapping, AddressSpace):
        clear_flags(page, pg.RECLAIM)
    filemap_dirty_folio(page)


def filemap_dirty_folio(page: Page) -> None:
    """Set PG_dirty and the mapping's tag, as write(2) does; no effect on the tag for anonymous pages."""
    mapping = page.mapping
    if isinstance(mapping, AddressSpace) and mapping.fs.dax:
        return  # noop_dirty_folio(): there is nothing to be written back
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


def filemap_grab_folio(mapping: AddressSpace, index: int, order: int = 0) -> Page:
    """The folio at this index, found or new, locked, with a reference. A new one is not up to date.

    ``order``: how large a new one may be; it begins at ``index``, so it is no larger than that is aligned.
    Where blocks are larger than a page, a folio has a whole one.
    """
    least = mapping.fs.min_order
    index = index >> least << least
    order = max(least, min(order, (index & -index).bit_length() - 1 if index else order))
    while True:
        folio = filemap_lock_folio(mapping, index)
        if folio is not None:
            return folio
        for size in range(order, least - 1, -1):
            folio = _new_folio(mapping, size)
            if folio is not None and filemap_add_folio(mapping, folio, index):
                return folio
            if folio is not None:
                put_page(folio)


def _new_folio(mapping: AddressSpace, order: int) -> Page | None:
    """A new folio; None if there is no memory for a large one."""
    try:
        return mapping.vm.zone.alloc_zeroed(order)
    except OutOfMemory:
        if not order:
            raise
        return None


def read_mapping_folio(mapping: AddressSpace, index: int) -> Page:
    """The page with valid contents, locked, with a reference; read from the disk if it must be."""
    refuse_lost(mapping, index)
    folio = filemap_grab_folio(mapping, index)
    if not folio.flags & pg.UPTODATE:
        _read_folio(folio, mapping.host)
    return folio


def _read_folio(folio: Page, inode: Inode) -> None:
    for page in folio.pages():
        page.content = inode.blocks.get(page.file_index, ZEROS)
    set_flags(folio, pg.UPTODATE)


def filemap_read(file: File, index: int) -> str:
    """read(2) of one page of a file that lives on a disk; '' past the end."""
    mapping = file.inode.mapping
    if index >= file.inode.size:
        return ""
    if (known := read_lost(file, index)) is not None:
        return known
    page = filemap_get_folio(mapping, index)
    if page is None or not page.flags & pg.UPTODATE:
        if page is not None:
            put_page(page)
        with mapping.invalidate_lock.read():
            page = read_mapping_folio(mapping, index)
            folio_unlock(page)
    data = mapping.vm.kernel_reads(folio_page(page, index))
    set_flags(page, pg.REFERENCED)
    put_page(page)
    return data


def generic_perform_write(file: File, index: int, data: str, pages: int = 1) -> None:
    """write(2) of whole pages of a file that lives on a disk."""
    inode = file.inode
    with inode.i_rwsem.write():
        fill_growth(inode, index)
        _write_folios(inode, index, index + pages, data)


def begin_write(file: File, index: int) -> None:
    """simple_write_begin() and simple_write_end() of a file without a disk, with nothing to write between."""
    inode = file.inode
    folio = filemap_grab_folio(inode.mapping, index, 0)
    set_flags(folio, pg.UPTODATE)
    inode.size = max(inode.size, index)
    filemap_dirty_folio(folio)
    folio_unlock(folio)
    put_page(folio)


def fill_growth(inode: Inode, size: int) -> None:
    """A file system that cannot keep holes writes the zeros of a file that grows (cont_write_begin())."""
    if not inode.fs.sparse:
        _write_folios(inode, inode.size, size, ZEROS)


def _write_folios(inode: Inode, index: int, end: int, data: str) -> None:
    """Fill pages index .. end-1 in the page cache, folio by folio. Under i_rwsem."""
    large = inode.fs.name in inode.vm.traits.large_folios
    while index < end:
        order = (end - index).bit_length() - 1 if large else 0
        folio = filemap_grab_folio(inode.mapping, index, order)
        if index in inode.mapping.lost and folio_page(folio, index).flags & pg.HWPOISON:
            folio_unlock(folio)  # it could not be removed
            put_page(folio)
            refuse_lost(inode.mapping, index)
        upto = min(end, folio.index + folio.nr_pages)
        if inode.fs.buffers or (inode.fs.state and upto - index < folio.nr_pages):
            folio_attach_buffers(folio)
        if not folio.flags & pg.UPTODATE and upto - index < folio.nr_pages:
            _read_folio(folio, inode)  # a block is written whole
        for written in range(index, upto):
            inode.vm.kernel_writes(folio_page(folio, written), data)
        set_flags(folio, pg.UPTODATE)
        inode.size = max(inode.size, upto)
        filemap_dirty_folio(folio)
        forget_lost(inode.mapping, index, upto)
        folio_unlock(folio)
        put_page(folio)
        index = upto


def file_check_and_advance_wb_err(file: File) -> None:
    """Raise the error that this open file has not been told yet, once."""
    mapping = file.inode.mapping
    error, file.wb_err = mapping.wb_err.check_and_advance(file.wb_err)
    write_once(mapping, "eio", False)
    if error:
        raise SysError(Errno(error), f"reported for {file}")


def filemap_check_errors(mapping: AddressSpace) -> None:
    """Raise an error of the file once, whoever asks first: the way before each open file had its cursor."""
    if read_once(mapping, "eio"):
        write_once(mapping, "eio", False)
        raise SysError(Errno.EIO, f"an earlier error of {mapping.host}")


def filemap_fdatawait(mapping: AddressSpace) -> None:
    """Wait until no page of the file is under writeback."""
    for index in sorted(mapping.pages):
        page = filemap_get_folio(mapping, index)
        if page is not None:
            folio_wait_writeback(page)
            put_page(page)
