"""Transparent huge pages: faults that map a whole folio at once (mm/huge_memory.c).

An entry that maps all of a folio (pte.py, ``Pmd``) is protected by the lock of the page table that waits
behind it.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg

from .fault import Fault
from .mmap import PageTable, Vma
from .page import Page, folio_trylock, folio_unlock, get_page, put_page
from .page_alloc import OutOfMemory
from .pte import Pmd
from .rmap import anon_vma_prepare, folio_add_rmap_pmd, split_huge_pmd
from .split import cache_references


def huge_fits(vma: Vma, vpn: int) -> bool:
    """Is the area marked for huge pages, and does one fit around this address? (thp_vma_suitable_order())"""
    pages = vma.mm.ptrs_per_pte
    first = vpn & -pages
    aligned = vma.mapping is None or (first - vma.start + vma.pgoff) % pages == 0
    return vma.huge and aligned and vma.start <= first and first + pages <= vma.end


def do_huge_pmd_anonymous_page(vma: Vma, vpn: int, write: bool) -> Fault | None:
    """First touch of memory marked for huge pages: a huge page of zeros, the shared one for a load.

    None: there is no memory for one, or none fits here.
    """
    if not huge_fits(vma, vpn) or not vma.mm.pmd_none(vpn):
        return None
    vm = vma.mm.vm
    anon_vma_prepare(vma)  # also for the page of zeros, so a child gets it by fork
    try:
        folio = new_anon_huge_folio(vma, vpn) if write else vm.get_huge_zero_folio()
    except OutOfMemory:
        return None
    table = vma.mm.pmd_alloc(vpn)
    with table.lock:
        if vma.mm.pmd_none(vpn):
            if write:
                folio_add_rmap_pmd(folio, vma)
            table.huge = Pmd(folio, writable=write, dirty=write)
            return Fault.DONE
    if write:
        put_page(folio)
    return Fault.RETRY


def new_anon_huge_folio(vma: Vma, vpn: int) -> Page:
    """A new anonymous folio for the huge page around this address, with its reverse map and one reference."""
    anon_vma_prepare(vma)
    folio = vma.mm.vm.zone.alloc_zeroed(vma.mm.vm.pmd_order)
    folio.memcg = vma.mm.group
    make_anon_huge(vma, vpn, folio)
    return folio


def make_anon_huge(vma: Vma, vpn: int, folio: Page) -> None:
    """Give a fresh folio its reverse map, as the huge page around this address."""
    folio.mapping = anon_vma_prepare(vma)
    folio.index = vma.index_of(vpn & -vma.mm.ptrs_per_pte)
    folio.exclusive = True
    folio.flags |= pg.SWAPBACKED | pg.UPTODATE
    vma.mm.vm.lru.add(folio)


def do_huge_pmd_wp_page(vma: Vma, vpn: int, table: PageTable) -> Fault | None:
    """A store to a huge page that may only be read. None: it is mapped page by page now, look again."""
    if vma.mapping is None:
        anon_vma_prepare(vma)
    with table.lock:
        pmd = table.huge
        if not isinstance(pmd, Pmd):
            return Fault.RETRY
        folio = pmd.page
        if folio is vma.mm.vm.huge_zero_folio:
            return _write_to_huge_zero(vma, vpn, table)
        if vma.shared or (folio.anon and (folio.exclusive or _only_user(folio))):
            pmd.writable = True
            folio.exclusive = folio.anon
            return Fault.DONE
        split_huge_pmd(vma, vpn, table)
    return None


def do_huge_pmd_unshare(vma: Vma, vpn: int, table: PageTable) -> Fault:
    """The same for somebody who only wants to be the only one: nothing is written."""
    with table.lock:
        pmd = table.huge
        if pmd is not None and (pmd.page.exclusive or _only_user(pmd.page)):
            pmd.page.exclusive = True
            return Fault.DONE
        if pmd is not None:
            split_huge_pmd(vma, vpn, table)
    return Fault.RETRY


def _write_to_huge_zero(vma: Vma, vpn: int, table: PageTable) -> Fault | None:
    """do_huge_zero_wp_pmd(): a huge page of one's own, or the small page of zeros 512 times. Under ptl."""
    if vma.mm.vm.traits.huge_zero_becomes_huge:
        try:
            folio = new_anon_huge_folio(vma, vpn)
        except OutOfMemory:
            pass
        else:
            folio_add_rmap_pmd(folio, vma)
            table.huge = Pmd(folio, writable=True, dirty=True)
            return Fault.DONE
    split_huge_pmd(vma, vpn, table)
    return None


def _only_user(folio: Page) -> bool:
    """Is the one entry that maps all of the folio its only user?"""
    if not folio_trylock(folio):
        return False
    alone = folio.refcount == 1 + cache_references(folio)
    folio_unlock(folio)
    return alone


def map_huge_file(vma: Vma, vpn: int, folio: Page, write: bool) -> Fault | None:
    """do_set_pmd(): map all of a locked file folio at once; None: page by page instead.

    Never one with a bad page in it: that page could not be told from the others at a fault.
    """
    fits = folio.order == vma.mm.vm.pmd_order and huge_fits(vma, vpn) and vma.shared
    if not fits or folio.has_hwpoisoned or not vma.mm.pmd_none(vpn):
        return None
    table = vma.mm.pmd_alloc(vpn)
    with table.lock:
        if not vma.mm.pmd_none(vpn):
            return Fault.RETRY
        get_page(folio)
        folio_add_rmap_pmd(folio, vma)
        silent = vma.mapping is not None and not vma.mapping.can_writeback
        table.huge = Pmd(folio, writable=vma.writable and (write or silent), dirty=write)
    return Fault.DONE
