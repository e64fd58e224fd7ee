"""Taking a range of frames out of the machine, as far as bad pages meet it (mm/memory_hotplug.c).

Free frames of the range are isolated first, so that nothing moves into it; then every page in use is
migrated out. A bad page is neither moved nor waited for: it is taken away from whoever still maps it,
and counts as out of the way. What cannot be moved ends the attempt, and all is put back.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .machine import Machine
from .migrate import Reason, isolate_folio, migrate_pages, putback_movable_pages
from .page import Page, folio_lock, folio_try_get, folio_unlock, put_page
from .page_alloc import Zone

MAX_ROUNDS = 5
"""The kernel goes on until a signal ends it; the model, when nothing changes any more."""


def offline_pages(vm: Machine, start: int, end: int) -> int:
    """offline_pages() of frames start .. end-1: 0, or -EBUSY when a page cannot be moved. May sleep."""
    zone = vm.zone
    _isolate(zone, start, end)
    for _round in range(MAX_ROUNDS):
        vm.lru.add_drain_all()
        _do_migrate_range(vm, start, end)
        vm.lru.add_drain_all()
        _isolate(zone, start, end)
        if all(pfn in zone.isolated or _is_bad(zone, pfn) for pfn in range(start, end)):
            zone.offline |= set(range(start, end))
            zone.isolated -= zone.offline
            return 0
    zone.unisolate(start, end)
    return -Errno.EBUSY


def online_pages(vm: Machine, start: int, end: int) -> int:
    """Bring offline frames back: 0, or -EHWPOISON for a range with a bad frame (memory_block_online())."""
    zone = vm.zone
    if vm.traits.blocks_count_bad_frames and any(_is_bad(zone, pfn) for pfn in range(start, end)):
        return -Errno.EHWPOISON
    for pfn in range(start, end):
        zone.pages.pop(pfn, None)  # memmap_init_range(): a new struct page
    zone.offline -= set(range(start, end))
    zone.add_memory(start, end)
    return 0


def _isolate(zone: Zone, start: int, end: int) -> None:
    """start_isolate_page_range(): every free frame of the range stays free, and nobody gets it."""
    with zone.pcp_lists_disabled():
        zone.isolate(start, end)


def _is_bad(zone: Zone, pfn: int) -> bool:
    page = zone.pages.get(pfn)
    return page is not None and bool(page.flags & pg.HWPOISON)


def _do_migrate_range(vm: Machine, start: int, end: int) -> None:
    """do_migrate_range(): every page of the range that can be moved, out of it."""
    pages: list[Page] = []
    for pfn in range(start, end):
        page = vm.zone.pages.get(pfn)
        if page is None or not page.flags & pg.LRU or not folio_try_get(page):
            continue
        if page.flags & pg.HWPOISON:
            _take_away(vm, page)
        elif isolate_folio(page):
            pages.append(page)
        put_page(page)
    migrate_pages(pages, Reason.MEMORY_HOTPLUG)
    putback_movable_pages(pages)


def _take_away(vm: Machine, page: Page) -> None:
    """A bad page that its handler could not deal with: off the lists for good, and away from its users."""
    if not isolate_folio(page):
        return
    if page.mapped and vm.handler is not None:
        folio_lock(page)
        vm.handler.unmap_poisoned(page)
        folio_unlock(page)
    put_page(page)
