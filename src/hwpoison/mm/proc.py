"""What /proc would show of the model: page flags, map counts, pagemap entries (fs/proc/)."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.abi import pagemap

from .hugetlb import is_huge
from .machine import Machine
from .mmap import Mm
from .page import Page
from .pte import MarkerPte, MigrationPte, PoisonPte, Pte, SwapErrorPte, SwapPte
from .rmap import StableNode

POISON_SWAP_TYPE = 23
"""First type number that is no real swap area; differs between kernels, fixed in the model."""


def stable_page_flags(vm: Machine, pfn: int) -> int:
    """The /proc/kpageflags word of a frame: raw bits, and those worked out from elsewhere."""
    if not vm.zone.online(pfn):
        return pg.NOPAGE
    if vm.zone.is_free_buddy_page(pfn):
        page = vm.zone.pages.get(pfn)
        return pg.BUDDY | ((page.flags & pg.HWPOISON) if page is not None else 0)
    page = vm.zone.page(pfn)
    word = int(page.flags)
    if page.head is not page:  # the flags are the head's, the poison mark is the page's own
        own = pg.COMPOUND_HEAD | pg.HWPOISON
        of_folio = page.head.flags & (~own if vm.traits.tails_show_folio else pg.SLAB | pg.HUGE)
        marked = page.head if is_huge(page) and vm.traits.tails_show_folio else page
        word = of_folio | marked.flags & pg.HWPOISON | pg.COMPOUND_TAIL
    if page.head.order and not is_huge(page) and (page.head.flags & pg.LRU or page.anon):
        word |= pg.THP
    if page.mapped:
        word |= pg.MMAP
    if page.anon:
        word |= pg.ANON
    if isinstance(page.mapping, StableNode):
        word |= pg.KSM
    if page is vm.zero_page or page.head is vm.huge_zero_folio:
        word |= pg.ZERO_PAGE
    return word


def page_count(page: Page) -> int:
    """The /proc/kpagecount word: page table entries that map it, not references."""
    return page.mapcount + page.head.entire_mapcount


def pagemap_entry(mm: Mm, vpn: int) -> int:
    """The /proc/PID/pagemap word of an address, as a privileged reader sees it."""
    entry = mm.entry(vpn)
    if isinstance(entry, Pte):
        return pagemap.present(entry.page.pfn, file=not entry.page.anon)
    if isinstance(entry, SwapPte):
        return pagemap.swapped(0, entry.entry)
    if isinstance(entry, MigrationPte):
        return pagemap.swapped(POISON_SWAP_TYPE + 1, entry.page.pfn, file=not entry.page.anon)
    if isinstance(entry, PoisonPte):
        return pagemap.swapped(POISON_SWAP_TYPE, entry.pfn, file=entry.file)
    if isinstance(entry, SwapErrorPte | MarkerPte):
        return pagemap.swapped(POISON_SWAP_TYPE, 0)
    return 0
