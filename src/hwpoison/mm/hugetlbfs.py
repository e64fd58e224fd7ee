"""Files of huge pages (fs/hugetlbfs/inode.c): there is no disk, so a bad page is kept to say so.

Page offsets are those of base pages, as everywhere; a huge page is in the cache under that of its head.
write(2) does not exist here: files are filled through mappings.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import filemap_get_folio, filemap_lock_folio, folio_cancel_dirty
from .hugetlb import Hstate, add_huge_rmap, is_raw_hwpoison
from .hugetlb_unmap import try_unmap_huge_range, unmap_file_folio
from .inode import AddressSpace, File, Inode, SysError
from .locks import KernelBug, atomic_add
from .page import ZEROS, Page, folio_lock, folio_unlock, put_page, set_flags


def hstate_of(mapping: AddressSpace) -> Hstate:
    return mapping.vm.hugetlb.hstates[mapping.fs.huge]


def add_to_page_cache(mapping: AddressSpace, page: Page, index: int) -> None:
    """hugetlb_add_to_page_cache(): the page ends up locked and, so that nobody drops it as clean, dirty."""
    folio_lock(page)
    with mapping.i_pages_lock:
        if index in mapping.pages:
            raise KernelBug(
                f"{mapping.host} has a huge page at {index} already: the fault mutex was not held"
            )
        atomic_add(page, "refcount", 1)
        page.mapping, page.index = mapping, index
        mapping.pages[index] = page
        mapping.dirty.add(index)
    add_huge_rmap(page)
    set_flags(page, pg.DIRTY)


def hugetlbfs_read(file: File, index: int) -> str:
    """read(2) of one 4 KiB page; a hole reads as zeros."""
    inode, mapping = file.inode, file.inode.mapping
    if index >= inode.size:
        return ""
    start = index & -hstate_of(mapping).pages
    head = filemap_get_folio(mapping, start)
    if head is None:
        return ZEROS
    frame = mapping.vm.zone.page(head.pfn + index - start)
    if head.flags & pg.HWPOISON and (mapping.vm.traits.hugetlb_read_refuses_all or is_raw_hwpoison(frame)):
        put_page(head)
        raise SysError(Errno.EIO, f"page {index} of {inode.name} is bad memory")
    data = mapping.vm.kernel_reads(frame)
    put_page(head)
    return data


def truncate(inode: Inode, size: int) -> None:
    """ftruncate(2) to a number of pages, which must be whole huge ones."""
    h = hstate_of(inode.mapping)
    if size % h.pages:
        raise SysError(Errno.EINVAL, f"{size} pages are no whole number of huge pages")
    with inode.i_rwsem.write():
        old, inode.size = inode.size, size
        _vmdelete(inode.mapping, size, max(old, size))
        _remove(inode, size, max(old, size))


def punch_hole(inode: Inode, start: int, end: int) -> None:
    """fallocate(2) FALLOC_FL_PUNCH_HOLE: whole huge pages go, of others the part is filled with zeros."""
    pages = hstate_of(inode.mapping).pages
    first, last = -(-start // pages) * pages, end // pages * pages
    with inode.i_rwsem.write():
        if first < last:
            _vmdelete(inode.mapping, first, last)
            _remove(inode, first, last)
        for index in range(start, end):
            if not first <= index < last:
                _zero(inode, index, pages)


def _zero(inode: Inode, index: int, pages: int) -> None:
    head = filemap_lock_folio(inode.mapping, index & -pages)
    if head is not None:
        inode.vm.kernel_writes(inode.vm.zone.page(head.pfn + index % pages), ZEROS)
        folio_unlock(head)
        put_page(head)


def _vmdelete(mapping: AddressSpace, start: int, end: int) -> None:
    """hugetlb_vmdelete_list(): take the range away from everybody who maps it."""
    with mapping.i_mmap_rwsem.write():
        for vma in list(mapping.i_mmap):
            first = max(vma.start, vma.start + start - vma.pgoff)
            last = min(vma.end, vma.start + end - vma.pgoff)
            try_unmap_huge_range(vma, first, last)


def _remove(inode: Inode, start: int, end: int) -> None:
    """remove_inode_hugepages(): out of the cache, and nothing is promised there any more."""
    mapping, h = inode.mapping, hstate_of(inode.mapping)
    unused = 0
    for index in sorted(set(mapping.pages) | mapping.reserve_map):
        if not start <= index < end:
            continue
        with mapping.vm.hugetlb.fault_mutex(mapping, index):
            head = filemap_lock_folio(mapping, index)
            if head is not None:
                if head.mapped:
                    unmap_file_folio(head)
                _delete_from_page_cache(mapping, head)
            elif index in mapping.reserve_map:
                unused += 1
            mapping.reserve_map.discard(index)
    if unused:
        mapping.vm.hugetlb.unreserve(h, unused)


def _delete_from_page_cache(mapping: AddressSpace, head: Page) -> None:
    """hugetlb_delete_from_page_cache(); ends the caller's lock and reference."""
    folio_cancel_dirty(head)
    with mapping.i_pages_lock:
        del mapping.pages[head.index]
        head.mapping = None
    put_page(head)
    folio_unlock(head)
    put_page(head)


def evict(inode: Inode) -> None:
    """The file is gone, and everything with it."""
    _remove(inode, 0, max([inode.size, *(index + 1 for index in inode.mapping.pages)]))
