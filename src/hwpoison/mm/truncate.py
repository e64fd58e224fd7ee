"""Taking pages out of files: truncation, hole punching, invalidation, the handler's removal (mm/truncate.c).

All of them end in truncate_inode_folio() or remove_mapping(), so the checks that make a removal safe
against faults and writeback stand in one place. For the handler a removal is a temporary hole: no
block is freed and no size changes.
"""

from __future__ import annotations

from contextlib import suppress

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import Errno

from . import hugetlbfs
from .dax import dax_truncate, refuse_character
from .filemap import (
    filemap_get_folio,
    filemap_release_folio,
    filemap_remove_folio,
    fill_growth,
    folio_cancel_dirty,
    folio_drop_buffers,
    page_cache_delete,
)
from .inode import AddressSpace, File, Inode, SysError
from .lost import forget_lost, lost_error, mark_lost
from .page import (
    ZEROS,
    Page,
    folio_lock,
    folio_page,
    folio_ref_freeze,
    folio_ref_unfreeze,
    folio_try_get,
    folio_trylock,
    folio_unlock,
    folio_wait_writeback,
    put_page,
    set_flags,
)
from .response import Response, delete_from_lru_cache
from .rmap import TTU_IGNORE_MLOCK, try_to_unmap, unmap_mapping_folio, unmap_mapping_range
from .split import split_folio
from .writeback import filemap_write_and_wait_range


def truncate_inode_folio(mapping: AddressSpace, page: Page) -> int:
    """Remove one locked page, dirty or not, mapped or not; 0, or -EIO if it is in the file no more."""
    if page.mapping is not mapping:
        return -Errno.EIO
    if page.mapped:
        unmap_mapping_folio(page)
    folio_drop_buffers(page)
    folio_cancel_dirty(page)
    filemap_remove_folio(page)
    return 0


def generic_error_remove_folio(mapping: AddressSpace, page: Page) -> int:
    """The error_remove_folio operation of most disk file systems. Not for directories: the file system
    relies on finding their pages in the cache."""
    if not mapping.host.regular:
        return -Errno.EIO
    return truncate_inode_folio(mapping, page)


def remove_mapping(mapping: AddressSpace, page: Page) -> bool:
    """Remove a locked, clean, unmapped page if cache and caller are its only users.

    The count is frozen at zero while we look at the dirty bit, so nobody can find the page and
    dirty it in between (__remove_mapping(), mm/vmscan.c).
    """
    references = 1 + page.nr_pages
    if not folio_ref_freeze(page, references):
        return False
    if page.flags & pg.DIRTY:
        folio_ref_unfreeze(page, references)
        return False
    with mapping.i_pages_lock:
        page_cache_delete(mapping, page)
    folio_ref_unfreeze(page, 1)
    return True


def mapping_evict_folio(mapping: AddressSpace | None, page: Page) -> bool:
    """Remove a locked page if nothing is lost by it; whether it was removed."""
    if mapping is None or page.mapping is not mapping:
        return False
    if page.flags & (pg.DIRTY | pg.WRITEBACK):
        return False
    if page.refcount > 1 + page.nr_pages + bool(page.flags & pg.PRIVATE):
        return False
    if not filemap_release_folio(page):
        return False
    return remove_mapping(mapping, page)


def truncate_inode_pages_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Remove all pages with start <= index < end, waiting for writeback of each."""
    for index in sorted(i for i in mapping.pages if start <= i < end):
        while (folio := filemap_get_folio(mapping, index)) is not None:
            folio_lock(folio)
            folio_wait_writeback(folio)
            if start <= folio.index and folio.index + folio.nr_pages <= end:
                truncate_inode_folio(mapping, folio)
                again = False
            else:
                folio, again = truncate_inode_partial_folio(mapping, folio, start, end)
            folio_unlock(folio)
            put_page(folio)
            if not again:
                break
    forget_lost(mapping, start, end)
    if mapping.fs.swap_backed:
        mapping.vm.swap.free_file_range(mapping, start, end)


def truncate_inode_partial_folio(
    mapping: AddressSpace, folio: Page, start: int, end: int
) -> tuple[Page, bool]:
    """A locked folio that reaches beyond the range: zeros inside, and it is split if it can be.

    Returns the folio that has lock and reference now, and whether there is more to remove.
    """
    if folio.mapping is not mapping:
        return folio, False
    first, last = max(start, folio.index), min(end, folio.index + folio.nr_pages)
    for index in range(first, last):
        folio_page(folio, index).content = ZEROS
    at = folio_page(folio, first) if mapping.vm.traits.splits_around else None
    after = folio_page(folio, last) if last < folio.index + folio.nr_pages else None
    if split_folio(folio, mapping.fs.min_order, at=at) == 0:
        if at is not None and after is not None and after.head.order:
            _split_once_more(after)
        return folio, True
    if folio.mapped and not mapping.fs.swap_backed:
        try_to_unmap(folio, TTU_IGNORE_MLOCK)  # what is beyond the end is to be a SIGBUS, not a huge page
    if not folio.flags & pg.DIRTY:
        truncate_inode_folio(mapping, folio)
    return folio, False


def _split_once_more(page: Page) -> None:
    """The other border of the range, as far as that works at once (try_folio_split())."""
    folio = page.head
    if not folio_try_get(folio):
        return
    if folio_trylock(folio):
        if folio.order:
            split_folio(folio, at=page)
        folio_unlock(folio)
    put_page(folio)


def truncate(inode: Inode, size: int) -> None:
    """ftruncate(2) to a number of pages; raises SysError."""
    refuse_character(inode.fs)
    if inode.fs.huge:
        hugetlbfs.truncate(inode, size)
        return
    with inode.i_rwsem.write(), inode.mapping.invalidate_lock.write():
        against = "shrink" if size < inode.size else "grow"
        if against in inode.seals and size != inode.size:
            raise SysError(Errno.EPERM, f"{inode} is sealed against {against}")
        if size <= inode.size and inode.fs.name in inode.vm.traits.truncate_writes:
            filemap_write_and_wait_range(inode.mapping, size, size + 1)
        fill_growth(inode, size)
        old, inode.size = inode.size, size
        _drop(inode, size, max(old, size, _end(inode)), even_cows=True)
        if inode.fs.grows_by_writing and old != inode.disk_size < size:  # it is longer all the same
            filemap_write_and_wait_range(inode.mapping, inode.disk_size, size)
        inode.disk_size = size


def punch_hole(inode: Inode, start: int, end: int) -> None:
    """fallocate(2) FALLOC_FL_PUNCH_HOLE over pages start .. end-1; raises SysError."""
    refuse_character(inode.fs, Errno.ENODEV)
    if inode.fs.huge:
        hugetlbfs.punch_hole(inode, start, end)
        return
    if not inode.fs.punch_hole:
        raise SysError(Errno.EOPNOTSUPP, f"{inode.fs.name} makes no holes")
    with inode.i_rwsem.write(), inode.mapping.invalidate_lock.write():
        if inode.seals & {"write", "future-write"}:
            raise SysError(Errno.EPERM, f"{inode} is sealed against writing")
        dirty = inode.mapping.dirty and inode.fs.name in inode.vm.traits.punch_writes_if_dirty
        if inode.fs.punch_writes or dirty:
            filemap_write_and_wait_range(inode.mapping, start, end)
        _drop(inode, start, end, even_cows=False)


def _end(inode: Inode) -> int:
    """Behind the last page in the cache: a folio that could not be split reaches beyond the file's end."""
    return max(inode.mapping.pages, default=-1) + 1


def fput(file: File) -> None:
    """close(2), by the last who has this file open."""
    file.close()
    flush_unused(file.inode)


def flush_unused(inode: Inode) -> None:
    """Whoever had a block device open or mapped last takes its pages along (blkdev_flush_mapping())."""
    if inode.fs.flushed_at_close and not inode.files and not inode.mapping.i_mmap:
        with suppress(SysError):  # nobody is left to be told
            filemap_write_and_wait_range(inode.mapping)
        truncate_inode_pages_range(inode.mapping, 0, _end(inode))


def evict_inode(inode: Inode) -> None:
    """Nobody can reach the file any more: its pages go, and with them its slots in swap (evict_inode())."""
    if inode.fs.huge:
        hugetlbfs.evict(inode)
    else:
        truncate_inode_pages_range(inode.mapping, 0, max(inode.size, _end(inode)))
    inode.vm.inodes.remove(inode)


def _drop(inode: Inode, start: int, end: int, *, even_cows: bool) -> None:
    """Truncation takes private copies away as well; a hole punch leaves them to their owners."""
    unmap_mapping_range(inode.mapping, start, end, even_cows=even_cows)
    truncate_inode_pages_range(inode.mapping, start, end)
    if even_cows:  # once more: private copies may have been made since
        unmap_mapping_range(inode.mapping, start, end, even_cows=True)
    dax_truncate(inode, start, end)
    for index in [i for i in inode.blocks if start <= i < end]:
        del inode.blocks[index]


def invalidate_mapping_pages(mapping: AddressSpace) -> None:
    """drop_caches, posix_fadvise(DONTNEED): every page that nobody needs (mapping_try_invalidate())."""
    mapping.vm.lru.add_drain_all()
    for index in sorted(mapping.pages) if not mapping.fs.huge else ():  # dirty, and on no list
        page = filemap_get_folio(mapping, index)
        if page is None:
            continue
        folio_lock(page)
        if not page.mapped:
            mapping_evict_folio(mapping, page)
        folio_unlock(page)
        put_page(page)


def invalidate_range(mapping: AddressSpace, start: int, end: int) -> None:
    """invalidate_inode_pages2_range(): clean pages go, mapped or not: somebody writes past the cache."""
    for index in sorted(i for i in mapping.pages if start <= i < end):
        page = filemap_get_folio(mapping, index)
        if page is None:
            continue
        folio_lock(page)
        folio_wait_writeback(page)
        if page.mapping is mapping:
            if page.mapped:
                unmap_mapping_folio(page)
            if not page.flags & pg.DIRTY and filemap_release_folio(page):
                filemap_remove_folio(page)
        folio_unlock(page)
        put_page(page)


def error_remove_folio(mapping: AddressSpace, page: Page) -> int:
    """The file system's own way to drop a bad page; 0 or -errno. tmpfs keeps it, to tell readers."""
    if mapping.fs.error_remove == "keep":
        return 0
    return generic_error_remove_folio(mapping, page)


def give_up_clean_folio(page: Page) -> Response:
    """me_pagecache_clean(): a page whose contents nobody needs, or that is the last to hold them.

    Anonymous pages are let go by everybody who mapped them; nobody counts what references remain, so a
    pin is not noticed. A file page leaves its file, except in tmpfs, whose cache keeps its reference.
    """
    source = "mm/memory-failure.c me_pagecache_clean()"
    delete_from_lru_cache(page)
    mapping = page.mapping
    if mapping is None:
        return Response(MfResult.FAILED, None, "the file let go of the page meanwhile", source)
    if not isinstance(mapping, AddressSpace):
        return Response(MfResult.RECOVERED, None, "anonymous: everybody who mapped it let go of it", source)
    kept = page.nr_pages if mapping.fs.swap_backed else 0
    if mapping.fs.error_remove is None:
        if mapping_evict_folio(mapping, page):
            return Response(MfResult.RECOVERED, kept, "dropped from the page cache", source)
        page.vm.printk(f"Memory failure: {page.pfn:#x}: Failed to invalidate")
        reason = f"{mapping.fs.name} has no way to drop a bad page that is dirty or in use"
        return Response(MfResult.FAILED, kept, reason, source)
    error = error_remove_folio(mapping, page)
    if error:
        page.vm.printk(f"Memory failure: {page.pfn:#x}: Failed to punch page: {error}")
        reason = "only pages of regular files may be dropped, this is a directory's"
        return Response(MfResult.FAILED, kept, reason, source)
    if not filemap_release_folio(page):
        page.vm.printk(f"Memory failure: {page.pfn:#x}: failed to release buffers")
        return Response(MfResult.FAILED, kept, "the file system still needs its buffers on the page", source)
    if mapping.fs.error_remove == "keep":
        return Response(MfResult.RECOVERED, kept, "kept in the file, to tell whoever reads it", source)
    return Response(MfResult.RECOVERED, kept, "removed from the page cache, as a truncation would", source)


def give_up_dirty_folio(page: Page) -> Response:
    """me_pagecache_dirty(): newer than the disk, so data is lost: every open file is told once."""
    mapping = page.mapping
    if isinstance(mapping, AddressSpace):
        mapping.set_error(lost_error(mapping))
        mark_lost(mapping, page.index)
    if page.vm.traits.marks_page_error:
        set_flags(page, pg.ERROR)
    return give_up_clean_folio(page)
