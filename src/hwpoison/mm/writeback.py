"""Writing dirty pages of files to the disk (mm/page-writeback.c, the fsync part of fs/sync.c)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .dax import refuse_character
from .filemap import (
    file_check_and_advance_wb_err,
    filemap_check_errors,
    filemap_fdatawait,
    filemap_lock_folio,
    folio_attach_buffers,
    folio_mark_dirty,
)
from .inode import AddressSpace, File, SysError
from .locks import KernelBug
from .lost import lost_pages, ranges
from .page import Page, clear_flags, folio_start_writeback, folio_unlock, folio_wait_writeback, put_page
from .rmap import folio_mkclean


def folio_clear_dirty_for_io(page: Page) -> bool:
    """Clear PG_dirty before writing, page tables included; whether there is something to write.

    The page tables are write-protected first, so that a store after this makes the page dirty again.
    """
    mapping = page.mapping
    if not isinstance(mapping, AddressSpace):
        raise KernelBug(f"{page} belongs to no file")
    if mapping.can_writeback and folio_mkclean(page):
        folio_mark_dirty(page)
    if not page.flags & pg.DIRTY:
        return False
    with mapping.i_pages_lock:
        mapping.dirty.discard(page.index)
    clear_flags(page, pg.DIRTY)
    return True


def write_folio(page: Page) -> None:
    """Start writing one locked page, clean or dirty; unlocks it. The reference goes to the write."""
    mapping = page.mapping
    if not isinstance(mapping, AddressSpace):
        raise KernelBug(f"{page} belongs to no file")
    inode, index = mapping.host, page.index
    if inode.fs.state and page.order:
        folio_attach_buffers(page)  # iomap keeps account of what is under way

    def store(data: list[str] | None) -> None:
        if data is None:
            mapping.set_error(Errno.EIO)
        else:
            inode.blocks.update(enumerate(data, index))
            inode.disk_size = max(inode.disk_size, min(index + len(data), inode.size))

    folio_start_writeback(page)
    folio_unlock(page)
    mapping.vm.disk.submit_write(page, store)


def filemap_fdatawrite(mapping: AddressSpace, start: int = 0, end: int | None = None) -> None:
    """Start writing every dirty folio of the file, or those that have a page with start <= index < end."""
    if not mapping.can_writeback:
        return
    for index in sorted(i for i in mapping.dirty if end is None or i < end):
        if index < start and ((page := mapping.pages.get(index)) is None or index + page.nr_pages <= start):
            continue
        page = filemap_lock_folio(mapping, index)
        if page is None:
            continue
        folio_wait_writeback(page)
        if folio_clear_dirty_for_io(page):
            write_folio(page)
        else:
            folio_unlock(page)
            put_page(page)


def filemap_write_and_wait_range(mapping: AddressSpace, start: int = 0, end: int | None = None) -> None:
    """Write these pages; raises an error, of now or of before, that nobody has been told of yet."""
    filemap_fdatawrite(mapping, start, end)
    filemap_fdatawait(mapping)
    filemap_check_errors(mapping)


def fsync(file: File, start: int = 0, end: int | None = None) -> None:
    """fsync(2): everything written is on the disk, or SysError: once for each open file and error.

    vfs_fsync_range() writes the pages with start <= index < end only; an error is told wherever it was.
    """
    mapping = file.inode.mapping
    refuse_character(mapping.fs)
    if not mapping.can_writeback:
        return  # tmpfs: noop_fsync()
    filemap_fdatawrite(mapping, start, end)
    filemap_fdatawait(mapping)
    file_check_and_advance_wb_err(file)
    if mapping.lost and (pages := lost_pages(file)):
        raise SysError(Errno.EHWPOISON, f"{mapping.host} has lost {ranges(pages)}")
