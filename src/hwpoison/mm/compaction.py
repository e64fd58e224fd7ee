"""Compaction: pages in use move to the end of memory, so that what is free is in one piece (mm/compaction.c).

Two scanners go towards each other, one for pages to move from below, one for free frames from above.
Neither looks at PG_hwpoison. A bad page that its handler had to leave in its cache stays, as it is off its
list; one within a folio that could not be split moves with it.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg

from .hugetlb import is_huge
from .machine import Machine
from .migrate import Reason, isolate_folio, migrate_pages, putback_movable_pages
from .page import Page, folio_mapcount, folio_try_get, put_page
from .page_alloc import OutOfMemory, Zone


def compact_memory(vm: Machine) -> None:
    """All of it, as /proc/sys/vm/compact_memory asks for. May sleep."""
    vm.lru.add_drain_all()
    vm.zone.drain_all_pages()
    for pfn in range(vm.zone.reserved, vm.zone.frames):
        folio = vm.zone.pages.get(pfn)
        if folio is not None and _isolate(folio):
            folios = [folio]
            migrate_pages(folios, Reason.COMPACTION, _free_frame_above)
            putback_movable_pages(folios)
    vm.lru.add_drain_all()


def _isolate(page: Page) -> bool:
    """isolate_migratepages_block() of one page: off its list, unless somebody would keep it where it is.

    Of anonymous memory one reference too many is enough. What is as large as a block of pages stays.
    """
    folio = page.head
    if page is not folio or is_huge(folio) or not folio.flags & pg.LRU or not folio_try_get(folio):
        return False
    large = folio.order >= folio.vm.pmd_order or (folio.order and not folio.vm.traits.compacts_large_folios)
    held = folio.mapping is not None and folio.anon and not folio.flags & pg.SWAPCACHE
    held = held and folio.refcount - 1 > folio_mapcount(folio)
    isolated = not large and not held and isolate_folio(folio)
    put_page(folio)
    return isolated


def _free_frame_above(folio: Page) -> Page:
    """compaction_alloc(): a free block nearer to the end. OutOfMemory: the scanners have met."""
    zone: Zone = folio.vm.zone
    page = zone.take_last_free(folio.order, folio.pfn)
    if page is None:
        raise OutOfMemory(f"nothing is free above {folio.pfn:#x}")
    return page
