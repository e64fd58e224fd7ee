"""Huge pages in areas of memory: mmap with MAP_HUGETLB, faults, copy on write, fork (mm/hugetlb.c).

One entry maps a whole huge page; a process' huge entries are kept by the page number where each begins, under
a page table lock of their own. A note about bad memory stands for all of it: a touch of any part is told.

Lock order: fault mutex, the area's ``hugetlb_lock`` (hugetlb_vma_lock), folio lock, i_mmap_rwsem. The handler
has the folio lock already, so it may only try the others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .fault import Fault
from .filemap import filemap_lock_folio
from .hugetlb import add_huge_rmap, remove_huge_rmap, state_of
from .hugetlb_unmap import hstate_of, huge_start, zap_huge_entry
from .hugetlbfs import add_to_page_cache
from .inode import SysError
from .page import Page, folio_mapcount, folio_unlock, get_page, page_pairs, put_page, set_flags
from .pte import Entry, MigrationPte, Pmd, PoisonPte
from .rmap import AnonVma, anon_vma_prepare, areas

if TYPE_CHECKING:
    from .mmap import Mm, Vma


def reserve_pages(vma: Vma) -> None:
    """hugetlb_reserve_pages(): promise this mapping its pages, or the file's new ones; ENOMEM."""
    h, pools = hstate_of(vma), vma.mm.vm.hugetlb
    starts = range(vma.start, vma.end, h.pages)
    mapping = vma.mapping
    if vma.shared and mapping is not None:
        new = {index for start in starts if (index := vma.index_of(start)) not in mapping.reserve_map}
        pools.reserve(h, len(new))
        mapping.reserve_map |= new
    else:
        pools.reserve(h, len(starts))
        vma.reserved, vma.resv_owner = set(starts), True


def close(vma: Vma) -> None:
    """hugetlb_vm_op_close(): what was promised to a private mapping and not used goes back."""
    if vma.reserved:
        vma.mm.vm.hugetlb.unreserve(hstate_of(vma), len(vma.reserved))
        vma.reserved = set()


def _alloc(vma: Vma, start: int) -> Page | None:
    """A page for this place, from what was promised if anything was."""
    pools, mapping = vma.mm.vm.hugetlb, vma.mapping
    if vma.shared and mapping is not None:
        index = vma.index_of(start)
        promised = index in mapping.reserve_map and index not in mapping.pages
        mapping.reserve_map.add(index)
    else:
        promised = start in vma.reserved
    page = pools.alloc(hstate_of(vma), reserved=promised)
    if page is not None:
        vma.reserved.discard(start)
        set_flags(page, pg.UPTODATE)
    return page


def hugetlb_fault(vma: Vma, vpn: int, *, write: bool) -> Fault:
    """Make the huge entry usable, or say why not."""
    mm, start = vma.mm, huge_start(vma, vpn)
    owner: object = vma.mapping if vma.mapping is not None else vma
    with mm.vm.hugetlb.fault_mutex(owner, vma.index_of(start)), vma.hugetlb_lock.read():
        with mm.hugetlb_ptl:
            entry = mm.hugetlb.get(start)
        if entry is None:
            return _no_page(vma, start, write)
        if isinstance(entry, Pmd) and write and not entry.writable:
            return _wp(vma, start, entry)
        if isinstance(entry, PoisonPte):
            return Fault.HWPOISON_LARGE
    if isinstance(entry, MigrationPte):
        while mm.hugetlb.get(start) is entry and entry.page.flags & pg.LOCKED:
            mm.paths.wait(entry.page)
    return Fault.RETRY


def _no_page(vma: Vma, start: int, write: bool) -> Fault:
    """hugetlb_no_page(): the first touch: the file's page, or a new one."""
    mapping = vma.mapping
    page: Page | None = None
    if vma.resv_unmapped:
        return Fault.SIGBUS
    if mapping is not None:
        index = vma.index_of(start)
        if index >= mapping.host.size:
            return Fault.SIGBUS
        page = filemap_lock_folio(mapping, index)
        if page is not None and page.flags & pg.HWPOISON:
            folio_unlock(page)
            put_page(page)
            return Fault.HWPOISON_LARGE
    if page is None:
        page = _alloc(vma, start)
        if page is None:
            return Fault.SIGBUS
        if vma.shared and mapping is not None:
            add_to_page_cache(mapping, page, vma.index_of(start))
            state_of(page).migratable = True
        else:
            _make_anon(page, vma, start)
    else:
        add_huge_rmap(page)
    writable = vma.writable and vma.shared
    entry = Pmd(page, writable=writable, dirty=writable)
    with vma.mm.hugetlb_ptl:
        vma.mm.hugetlb[start] = entry
    if page.anon:
        state_of(page).migratable = True
    elif page.lock_owner is page.paths.current:
        folio_unlock(page)
    if write and not writable:
        return _wp(vma, start, entry)
    return Fault.DONE


def _make_anon(page: Page, vma: Vma, start: int) -> None:
    """hugetlb_add_new_anon_rmap()"""
    page.mapping = anon_vma_prepare(vma)
    page.index = vma.index_of(start)
    page.exclusive = True
    add_huge_rmap(page)


def _wp(vma: Vma, start: int, entry: Pmd) -> Fault:
    """hugetlb_wp(): a store to a private page: take it over if nobody else maps it, else copy it."""
    old, mm = entry.page, vma.mm
    with mm.hugetlb_ptl:
        if mm.hugetlb.get(start) is not entry:
            return Fault.RETRY
        if old.anon and (old.exclusive or folio_mapcount(old) == 1):
            entry.writable = entry.dirty = old.exclusive = True
            return Fault.DONE
        get_page(old)
    result = _copy(vma, start, entry)
    put_page(old)
    return result


def hugetlb_unshare(vma: Vma, vpn: int) -> Fault:
    """hugetlb_wp() with FAULT_FLAG_UNSHARE: a private page that nobody shares, and nothing is written."""
    start = huge_start(vma, vpn)
    entry = vma.mm.hugetlb.get(start)
    if not isinstance(entry, Pmd):
        return Fault.RETRY
    page = entry.page
    if page.exclusive or folio_mapcount(page) == 1:
        page.exclusive = True
        return Fault.DONE
    get_page(page)
    result = _copy(vma, start, entry, written=False)
    put_page(page)
    return result


def _copy(vma: Vma, start: int, entry: Pmd, *, written: bool = True) -> Fault:
    """A page of one's own with the same bytes; the old one is held by the caller."""
    mm, old = vma.mm, entry.page
    new = _alloc(vma, start)
    if new is None:
        if not (vma.resv_owner and old.anon):
            return Fault.SIGBUS
        _unmap_ref_private(vma, start, old)
        return Fault.RETRY  # it is its own by now
    for source, frame in page_pairs(old, new):
        content = mm.vm.copy_mc(source)
        if content is None:
            put_page(new)
            return Fault.HWPOISON_LARGE
        frame.content = content
    anon_vma_prepare(vma)
    with mm.hugetlb_ptl:
        if mm.hugetlb.get(start) is not entry:
            put_page(new)
            return Fault.RETRY
        _make_anon(new, vma, start)
        mm.hugetlb[start] = Pmd(new, writable=written, dirty=written)
        remove_huge_rmap(old)
    state_of(new).migratable = True
    put_page(old)
    return Fault.DONE


def _unmap_ref_private(vma: Vma, start: int, page: Page) -> None:
    """unmap_ref_private(): without memory for a copy, the owner of the promise takes it from its children.

    They may not go on as if it had never been written to: whatever is missing in their areas is an error.
    A note there goes too, whatever page it is about: nobody looks before it is cleared, so one who had lost a
    page of his own is not told of bad memory any more (__unmap_hugepage_range(); seen on 6.1 to 7.3).
    """
    anon_vma = page.mapping
    if not isinstance(anon_vma, AnonVma):
        return
    with anon_vma.rwsem.read():
        others = [(other, vpn) for other, vpn in areas(anon_vma, page.index) if not other.resv_owner]
    for other, vpn in others:
        mm = other.mm
        with mm.hugetlb_ptl:
            entry = mm.hugetlb.get(huge_start(other, vpn))
            shared = isinstance(entry, Pmd) and entry.page is page
            other.resv_unmapped |= shared
            if isinstance(entry, PoisonPte):
                other.notes_taken.add(huge_start(other, vpn))
            if shared or isinstance(entry, PoisonPte | MigrationPte):
                zap_huge_entry(other, huge_start(other, vpn))


def copy_huge_range(vma: Vma, copy: Vma) -> None:
    """copy_hugetlb_page_range() at fork. A mapping of a file's own pages is not copied: the child faults."""
    if vma.anon_vma is None:
        return
    for start in sorted(start for start in vma.mm.hugetlb if vma.start <= start < vma.end):
        while (own := _copy_entry(vma, copy, start)) is not None and not _copy_pinned(vma, copy, start, own):
            pass


def _copy_entry(vma: Vma, copy: Vma, start: int) -> Pmd | None:
    """One entry for the child; returned, with a reference, if the child must get a page of its own."""
    parent, child = vma.mm, copy.mm
    with parent.hugetlb_ptl, child.hugetlb_ptl.nested():
        entry = parent.hugetlb.get(start)
        if isinstance(entry, Pmd):
            page = entry.page
            get_page(page)
            if page.anon and page.exclusive and page.maybe_dma_pinned:
                return entry
            if page.anon:
                entry.writable = page.exclusive = False
            add_huge_rmap(page)
            child.hugetlb[start] = Pmd(page, writable=False, dirty=entry.dirty)
        elif isinstance(entry, MigrationPte):  # shared from now on
            parent.hugetlb[start] = child.hugetlb[start] = replace(entry, writable=False, exclusive=False)
        elif entry is not None:
            child.hugetlb[start] = entry
    return None


def _copy_pinned(vma: Vma, copy: Vma, start: int, entry: Pmd) -> bool:
    """A device works on the parent's page: the child gets a copy. False: the entry has changed meanwhile."""
    parent, child = vma.mm, copy.mm
    own = child.vm.hugetlb.alloc(hstate_of(vma), reserved=False)
    if own is not None:
        for source, frame in page_pairs(entry.page, own):
            frame.content = child.vm.kernel_reads(source)
        set_flags(own, pg.UPTODATE)
    put_page(entry.page)
    if own is None:
        raise SysError(Errno.ENOMEM, "no huge page for the copy of a pinned one")
    with parent.hugetlb_ptl, child.hugetlb_ptl.nested():
        same = parent.hugetlb.get(start) is entry
        if same:
            _make_anon(own, copy, start)
            child.hugetlb[start] = Pmd(own, writable=copy.writable, dirty=True)
    if same:
        state_of(own).migratable = True
    else:
        put_page(own)
    return same


def entry_of(mm: Mm, vpn: int) -> Entry | None:
    """What maps an address in an area of huge pages, in the form of an entry of its own."""
    vma = mm.find_vma(vpn)
    if vma is None or vma.hstate is None:
        return None
    start = huge_start(vma, vpn)
    entry = mm.hugetlb.get(start)
    return entry.pte(vpn - start) if isinstance(entry, Pmd) else entry
