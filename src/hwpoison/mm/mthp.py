"""Anonymous folios between one page and a huge page, mapped page by page (mm/memory.c alloc_anon_folio()).

Only memory that is marked for huge pages gets them, at the first store, where a whole one fits and nothing is
mapped yet. A copy of one of its pages is always a single page.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg

from .fault import Fault
from .mmap import PageTable, Vma
from .page import Page, folio_put_refs, folio_ref_add
from .page_alloc import OutOfMemory
from .pte import Pte
from .rmap import anon_vma_prepare, page_add_rmap


def do_anonymous_folio(vma: Vma, vpn: int, table: PageTable) -> Fault | None:
    """A folio of zeros for all addresses around this one; None: a single page has to do."""
    size = 1 << vma.anon_order
    first = vpn & -size
    fits = vma.start <= first and first + size <= vma.end and vma.mm.vm.traits.anon_folios
    if size == 1 or not fits or any(there in table.entries for there in range(first, first + size)):
        return None
    try:
        folio = _new_folio(vma, first)
    except OutOfMemory:
        return None
    with table.lock:
        if not any(there in table.entries for there in range(first, first + size)):
            folio_ref_add(folio, size - 1)
            for page in folio.pages():
                page_add_rmap(page, vma)
                table.entries[first + page.offset] = Pte(page, writable=True, dirty=True)
            return Fault.DONE
    folio_put_refs(folio, 1)
    return Fault.RETRY


def _new_folio(vma: Vma, first: int) -> Page:
    """A new folio with its reverse map and one reference."""
    anon_vma = anon_vma_prepare(vma)
    folio = vma.mm.vm.zone.alloc_zeroed(vma.anon_order)
    folio.memcg = vma.mm.group
    folio.mapping, folio.index = anon_vma, vma.index_of(first)
    for page in folio.pages():
        page.exclusive = True
    folio.flags |= pg.SWAPBACKED | pg.UPTODATE
    vma.mm.vm.lru.add(folio)
    return folio
