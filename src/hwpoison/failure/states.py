"""The page state table: which response fits which page (error_states[], mm/memory-failure.c).

Rows are tried from the top, the first with ``flags & mask == want`` wins, and the last one matches
everything. The table is data, read by the handler, by the forecast of a host and by the documents;
what it costs a page's users is never written down a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.mm.hugetlb import give_up_huge_page
from hwpoison.mm.page import Page
from hwpoison.mm.response import Respond, Response
from hwpoison.mm.slab import give_up_kernel_page
from hwpoison.mm.swap import give_up_clean_swapcache, give_up_dirty_swapcache
from hwpoison.mm.truncate import give_up_clean_folio, give_up_dirty_folio


@dataclass(frozen=True, slots=True)
class PageState:
    """One row. ``mask`` 0 is the catch-all."""

    mask: int
    want: int
    type: PageType
    respond: Respond

    def matches(self, flags: int) -> bool:
        return flags & self.mask == self.want


def me_unknown(page: Page) -> Response:
    """No row knows the page: nothing is done."""
    page.vm.printk(f"Memory failure: {page.pfn:#x}: Unknown page state")
    source = "mm/memory-failure.c me_unknown()"
    return Response(MfResult.IGNORED, None, "no rule for a page in this state", source)


def me_unknown_failed(page: Page) -> Response:
    """The same as kernels up to 6.1 put it."""
    return replace(me_unknown(page), result=MfResult.FAILED)


SC = pg.SWAPCACHE | pg.SWAPBACKED
UNKNOWN = PageState(0, 0, PageType.UNKNOWN, me_unknown)
RESERVED = PageState(pg.RESERVED, pg.RESERVED, PageType.KERNEL, give_up_kernel_page)
HUGE = PageState(pg.COMPOUND_HEAD, pg.COMPOUND_HEAD, PageType.HUGE, give_up_huge_page)
SLAB = PageState(pg.SLAB, pg.SLAB, PageType.SLAB, give_up_kernel_page)

LRU_STATES: tuple[PageState, ...] = (
    PageState(SC | pg.DIRTY, SC | pg.DIRTY, PageType.DIRTY_SWAPCACHE, give_up_dirty_swapcache),
    PageState(SC | pg.DIRTY, SC, PageType.CLEAN_SWAPCACHE, give_up_clean_swapcache),
    PageState(pg.MLOCKED | pg.DIRTY, pg.MLOCKED | pg.DIRTY, PageType.DIRTY_MLOCKED_LRU, give_up_dirty_folio),
    PageState(pg.MLOCKED | pg.DIRTY, pg.MLOCKED, PageType.CLEAN_MLOCKED_LRU, give_up_clean_folio),
    PageState(
        pg.UNEVICTABLE | pg.DIRTY,
        pg.UNEVICTABLE | pg.DIRTY,
        PageType.DIRTY_UNEVICTABLE_LRU,
        give_up_dirty_folio,
    ),
    PageState(pg.UNEVICTABLE | pg.DIRTY, pg.UNEVICTABLE, PageType.CLEAN_UNEVICTABLE_LRU, give_up_clean_folio),
    PageState(pg.LRU | pg.DIRTY, pg.LRU | pg.DIRTY, PageType.DIRTY_LRU, give_up_dirty_folio),
    PageState(pg.LRU | pg.DIRTY, pg.LRU, PageType.CLEAN_LRU, give_up_clean_folio),
)
"""Pages on the reclaim lists: the same in every kernel from 6.1 to 7.3."""


def identify(states: tuple[PageState, ...], now: int, saved: int) -> tuple[int, PageState, bool]:
    """identify_page_state(): (row number from 1, row, whether it took the second pass).

    The flags as they are now decide; only if no row knows them, those saved under the folio lock before
    the page was unmapped, since unmapping clears marks such as mlocked. A page that turned dirty
    meanwhile counts as dirty, or lost data would pass for clean.
    """
    number = _first_match(states, now)
    if number < len(states):
        return number, states[number - 1], False
    number = _first_match(states, saved | now & pg.DIRTY)
    return number, states[number - 1], True


def _first_match(states: tuple[PageState, ...], flags: int) -> int:
    return next(number for number, row in enumerate(states, 1) if row.matches(flags))
