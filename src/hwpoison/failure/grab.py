"""Taking the page: a reference that keeps it as it is while the handler works (get_hwpoison_page()).

A reference is taken only of pages that can be handled: on the reclaim lists, or free. Taking one of
anything else would disturb its owner, who may rely on being alone.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import frame_text
from hwpoison.mm.hugetlb import is_huge, state_of
from hwpoison.mm.page import Page, folio_try_get, put_page

if TYPE_CHECKING:
    from .handler import MemoryFailure

RETRIES = 3


class Grab(Enum):
    """How it went. FREE: no reference, nobody uses the page. The last three: no reference, hands off."""

    TAKEN = "a reference is held"
    FREE = "nobody uses the page"
    BUSY = "it was being allocated at the same time"
    UNHANDLABLE = "it belongs to nobody the handler could ask"
    KERNEL = "the kernel itself uses it"


def shake_page(page: Page) -> None:
    """Drain the per-CPU batches, so that a page on its way to a reclaim list gets there."""
    if not page.head.flags & (pg.SLAB | pg.HUGE):
        page.vm.lru.add_drain_all()


def is_kernel_owned(page: Page) -> bool:
    """Positively the kernel's own: reserved, or slab or page table by its type."""
    return bool(page.flags & pg.RESERVED or page.head.flags & (pg.SLAB | pg.PGTABLE))


def handlable(failure: MemoryFailure, page: Page) -> bool:
    """HWPoisonHandlable(): on the reclaim lists or free."""
    if failure.profile.refuses_slab and page.head.flags & pg.SLAB:
        return False
    return bool(page.head.flags & pg.LRU) or page.vm.zone.is_free_buddy_page(page.pfn)


def get_hwpoison_page(failure: MemoryFailure, page: Page, *, counted: bool) -> Grab:
    """Take the page, with the per-CPU lists of free pages off; ``counted``: the caller brings a reference.

    Without one returned, the caller's is gone as well.
    """
    with page.vm.zone.pcp_lists_disabled():
        return get_any_page(failure, page, counted=counted)


def get_any_page(failure: MemoryFailure, page: Page, *, counted: bool) -> Grab:
    """Up to three more tries for pages that are on their way from one state to another."""
    if failure.profile.refuses_kernel_pages and is_kernel_owned(page):
        if counted:
            put_page(page)
        _complain(page)
        return Grab.KERNEL
    result = Grab.BUSY
    for attempt in range(RETRIES + 1):
        result, counted = _try(failure, page, counted)
        if result in (Grab.TAKEN, Grab.FREE):
            return result
        if result is Grab.UNHANDLABLE and attempt < RETRIES:
            shake_page(page)
    if result is Grab.UNHANDLABLE:
        _complain(page)
    return result


def _complain(page: Page) -> None:
    page.vm.printk(f"Memory failure: {frame_text(page.pfn)}: unhandlable page.")


def _try(failure: MemoryFailure, page: Page, counted: bool) -> tuple[Grab, bool]:
    """One try: (how it went, whether a reference is held). BUSY and UNHANDLABLE may be tried again."""
    if not counted:
        if is_huge(page) and (found := _try_huge(page)) is not None:
            return found, found is Grab.TAKEN
        if not handlable(failure, page):
            return Grab.UNHANDLABLE, False
        folio = page.head
        if not folio_try_get(folio):
            return _nobody_has_it(page), False
        if page.head is not folio:  # "cannot catch tail": it was split or freed before we had it
            put_page(folio)
            return Grab.BUSY, False
    if is_huge(page) or handlable(failure, page):
        return Grab.TAKEN, True
    put_page(page)
    return Grab.UNHANDLABLE, False


def _try_huge(page: Page) -> Grab | None:
    """get_hwpoison_hugetlb_folio(): None if it is no hugetlb page any more."""
    with page.vm.hugetlb.lock:
        if not is_huge(page):
            return None
        state = state_of(page)
        if not state.freed and not state.migratable:
            return Grab.UNHANDLABLE
        return Grab.TAKEN if not state.freed and folio_try_get(page.head) else Grab.FREE


def _nobody_has_it(page: Page) -> Grab:
    """No reference to be had: free, unless it is just being allocated or freed."""
    if page.refcount:
        return Grab.BUSY
    return Grab.FREE if page.vm.zone.is_free_buddy_page(page.pfn) else Grab.UNHANDLABLE
