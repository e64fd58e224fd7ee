"""tmpfs and shared anonymous memory: a page cache whose disk is swap (mm/shmem.c).

A page that went bad stays in the file, so that whoever reads it is told: its contents exist nowhere
else, and a hole would read as zeros. Truncation and hole punching get rid of it.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import filemap_add_folio, filemap_lock_folio, folio_mark_dirty
from .inode import AddressSpace, File, Inode, SysError
from .locks import KernelBug
from .lost import lost_error
from .page import ZEROS, Page, clear_flags, folio_page, folio_unlock, put_page, set_flags
from .page_alloc import OutOfMemory
from .rmap import TTU_IGNORE_MLOCK, try_to_unmap
from .swap import shmem_swapin_folio


def shmem_get_folio(mapping: AddressSpace, index: int, *, huge: bool = False) -> Page:
    """The folio, locked, with a reference: from the cache, from swap, or new and full of zeros.

    ``huge``: a new one may be as large as an entry can map, for an area that is marked for that.
    """
    page = _find_or_make(mapping, index, make=True, huge=huge)
    if page is None:
        raise KernelBug(f"page {index} of {mapping.host} was neither found nor made")
    return page


def _find_or_make(mapping: AddressSpace, index: int, *, make: bool, huge: bool = False) -> Page | None:
    """As shmem_get_folio(); None for a hole unless a page is to be made (SGP_READ)."""
    while True:
        page = filemap_lock_folio(mapping, index)
        if page is None:
            page = shmem_swapin_folio(mapping, index)
        if page is None and index not in mapping.swap_entries:
            if not make:
                return None
            page = new_huge_folio(mapping, index) if huge else None
            if page is None:
                page = mapping.vm.zone.alloc_zeroed()
                if not filemap_add_folio(mapping, page, index):
                    put_page(page)
                    page = None
            if page is not None:
                set_flags(page, pg.UPTODATE)
        if page is not None:
            return page


def new_huge_folio(mapping: AddressSpace, index: int) -> Page | None:
    """A folio as large as an entry can map, around this offset; None if there is no room or memory."""
    order = mapping.vm.pmd_order
    try:
        folio = mapping.vm.zone.alloc_zeroed(order)
    except OutOfMemory:
        return None
    if filemap_add_folio(mapping, folio, index >> order << order):
        return folio
    put_page(folio)
    return None


def _refuse_bad(mapping: AddressSpace, folio: Page, index: int, *, all_of_it: bool = False) -> None:
    """A bad page is kept in the file only to say so; ``all_of_it``: any page of the folio counts."""
    if folio_page(folio, index).flags & pg.HWPOISON or (all_of_it and folio.has_hwpoisoned):
        folio_unlock(folio)
        put_page(folio)
        raise SysError(lost_error(mapping), f"page {index} of {mapping.host.name} is bad memory")


def shmem_read(file: File, index: int) -> str:
    """read(2) of one page. A hole reads as zeros without getting a page."""
    mapping = file.inode.mapping
    if index >= file.inode.size:
        return ""
    page = _find_or_make(mapping, index, make=False)
    if page is None:
        return ZEROS
    _refuse_bad(mapping, page, index)
    folio_unlock(page)
    data = mapping.vm.kernel_reads(folio_page(page, index))
    set_flags(page.head, pg.REFERENCED)
    put_page(page)
    return data


def shmem_begin_write(file: File, index: int) -> None:
    """shmem_write_begin() and shmem_write_end(), with nothing to write between them."""
    inode = file.inode
    _refuse_sealed(inode, index)
    folio = shmem_get_folio(inode.mapping, index)
    _refuse_bad(inode.mapping, folio, index, all_of_it=inode.vm.traits.shmem_write_refuses_folio)
    folio_mark_dirty(folio)
    folio_unlock(folio)
    put_page(folio)


def _refuse_sealed(inode: Inode, index: int) -> None:
    """shmem_write_begin(): is this page sealed against being written?"""
    if inode.seals & {"write", "future-write"} or (index >= inode.size and "grow" in inode.seals):
        raise SysError(Errno.EPERM, f"{inode} is sealed against {', '.join(sorted(inode.seals))}")


def shmem_write(file: File, index: int, data: str, pages: int = 1) -> int:
    """write(2) of whole pages: how many; SysError if not even the first."""
    inode = file.inode
    with inode.i_rwsem.write():
        if inode.vm.traits.writes_in_chunks:
            _refuse_sealed(inode, index + pages - 1)
        for there in range(index, index + pages):
            try:
                _refuse_sealed(inode, there)
                folio = shmem_get_folio(inode.mapping, there)
                _refuse_bad(inode.mapping, folio, there, all_of_it=inode.vm.traits.shmem_write_refuses_folio)
            except SysError:
                if there == index:
                    raise
                return there - index
            inode.vm.kernel_writes(folio_page(folio, there), data)
            inode.size = max(inode.size, there + 1)
            folio_mark_dirty(folio)
            folio_unlock(folio)
            put_page(folio)
    return pages


def shmem_writepage(mapping: AddressSpace, page: Page) -> bool:
    """Move a locked page from the file to the swap cache and start writing it; unlocks it if it worked."""
    swap = mapping.vm.swap
    slot = swap.alloc_slots()
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
    return swap.writepage(page)


def shmem_lock(mapping: AddressSpace, *, on: bool) -> None:
    """shmctl(2) SHM_LOCK: pages stay in memory. Those that are in it are moved when reclaim meets them."""
    mapping.unevictable = on
    if not on:
        mapping.vm.lru.move_unevictable(mapping)


def add_seal(inode: Inode, against: str) -> None:
    """fcntl(2) F_ADD_SEALS; EBUSY while somebody maps the file shared and could write through that.

    Or while somebody holds a page (memfd_wait_for_pins()): the handler holds a bad one for ever.
    """
    if against == "write":
        inode.vm.lru.add_drain_all()
        if any(vma.shared and vma.writable for vma in inode.mapping.i_mmap):
            raise SysError(Errno.EBUSY, f"{inode} is mapped for writing")
        if any(page.refcount != page.mapcount + 1 for page in inode.mapping.pages.values()):
            raise SysError(Errno.EBUSY, f"somebody holds a page of {inode}")
    inode.seals.add(against)
