"""Taking a bad page away from the processes that map it (hwpoison_user_mappings())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.mm.filemap import folio_mark_dirty
from hwpoison.mm.hugetlb_unmap import try_to_unmap_huge
from hwpoison.mm.inode import AddressSpace
from hwpoison.mm.page import Page, folio_mapcount
from hwpoison.mm.rmap import TTU_HWPOISON, TTU_IGNORE_MLOCK, StableNode, folio_mkclean, try_to_unmap

from .flags import MF_MUST_KILL
from .grab import shake_page
from .kill import collect_procs, kill_procs

if TYPE_CHECKING:
    from .handler import MemoryFailure

SOURCE = "mm/memory-failure.c hwpoison_user_mappings()"


def hwpoison_user_mappings(failure: MemoryFailure, page: Page, flags: int) -> bool:
    """Collect the users, unmap the page, tell them if data was lost; whether nothing maps it any more.

    Nobody is told about a clean page: its contents exist elsewhere (R23). A page that could not be
    unmapped counts as lost, so that nobody who can still reach it gets the chance to (R6).
    """
    folio = page.head
    if page.flags & (pg.RESERVED | pg.SLAB | pg.PGTABLE | pg.OFFLINE):
        return True
    if not folio.flags & (pg.LRU | pg.HUGE):
        return True
    if not folio.mapped:
        failure.tell("nobody maps the page", SOURCE)
        return True
    if isinstance(page.mapping, StableNode) and not failure.profile.handles_merged_pages:
        failure.printk(f"{page.pfn:#x}: can't handle KSM pages.")
        return False
    mlocked = folio.flags & pg.MLOCKED
    users = folio_mapcount(folio)
    victims = collect_procs(failure, page, flags)
    unmap_poisoned_folio(failure, page, must_kill=bool(flags & MF_MUST_KILL))
    unmapped = not folio.mapped
    if unmapped:
        failure.tell(f"taken away from {users} page table {'entry' if users == 1 else 'entries'}", SOURCE)
    else:
        counted = failure.profile.mapcount_word
        failure.printk(f"{page.pfn:#x}: failed to unmap page ({counted}={folio_mapcount(folio)})")
    if mlocked:
        shake_page(page)  # unmapping may have moved it to a per-CPU batch
    if folio.flags & pg.DIRTY or flags & MF_MUST_KILL or not unmapped:
        kill_procs(failure, victims, page.pfn, flags, unmapped=unmapped)
    return unmapped


def unmap_poisoned_folio(failure: MemoryFailure, page: Page, *, must_kill: bool) -> None:
    """Unmap, leaving behind what each address deserves.

    In the swap cache: swap entries, the page itself will stop whoever comes back. A file page that is
    clean, dirty bits of all page tables included: nothing, the next fault reads the file again. All
    others: poison entries.
    """
    if page.head.flags & pg.HUGE:
        _unmap_huge(failure, page)
        return
    unmap = TTU_IGNORE_MLOCK | TTU_HWPOISON
    if page.flags & pg.SWAPCACHE:
        failure.printk(f"{page.pfn:#x}: keeping poisoned page in swap cache")
        unmap &= ~TTU_HWPOISON
    mapping = page.mapping
    disk_file = isinstance(mapping, AddressSpace) and mapping.can_writeback
    if not must_kill and not page.flags & pg.DIRTY and disk_file:
        if folio_mkclean(page):
            folio_mark_dirty(page)
        else:
            unmap &= ~TTU_HWPOISON
            failure.printk(f"{page.pfn:#x}: corrupted page was clean: dropped without side effects")
    try_to_unmap(page, unmap)


def _unmap_huge(failure: MemoryFailure, page: Page) -> None:
    """A huge page of a file needs the lock of its list of areas, which precedes the folio's: only tried."""
    head = page.head
    mapping = head.mapping
    if not isinstance(mapping, AddressSpace):
        try_to_unmap_huge(head)
    elif mapping.i_mmap_rwsem.down_write_trylock():
        try_to_unmap_huge(head)
        mapping.i_mmap_rwsem.up_write()
    else:
        failure.printk(
            f"{page.pfn:#x}: could not lock mapping for mapped hugetlb {failure.profile.folio_word}"
        )
