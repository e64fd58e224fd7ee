"""Migration entries: what page tables have while a folio is on its way (mm/rmap.c, mm/migrate.c).

Put in and taken out under the page table locks, by whoever has the folio lock; everybody else waits for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .filemap import folio_mark_dirty
from .hugetlb import add_huge_rmap
from .hugetlb_unmap import huge_start
from .page import ZEROS, Page, get_page, put_page
from .pte import Entry, MigrationPte, Pmd, PoisonPte, Pte
from .rmap import (
    StableNode,
    area_ranges,
    folio_add_rmap_pmd,
    folio_remove_rmap_pmd,
    for_each_place,
    page_add_rmap,
    page_remove_rmap,
    rmap_sem,
    rmap_walk,
    split_huge_pmd,
)

if TYPE_CHECKING:
    from .mmap import PageTable, Vma


def try_to_migrate(folio: Page, *, split: bool = False) -> None:
    """A migration entry in place of every entry that maps the folio. ``folio.mapped`` says whether it worked.

    A page known to be bad is not taken along: its entries become poison. One within a folio that is mapped
    whole is: that entry says nothing of single pages, even if it is ``split`` into entries for each
    (TTU_SPLIT_HUGE_PMD).
    """

    def replace(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> bool:
        page = entry.page
        if entry.dirty:
            folio_mark_dirty(folio)
        if page.anon and page.exclusive and page.maybe_dma_pinned:
            return False  # page_try_share_anon_rmap(): the device would write to what the process left
        if page.flags & pg.HWPOISON:
            note: Entry = PoisonPte(page.pfn, file=not page.anon)
        else:
            note = MigrationPte(page, entry.writable, page.anon and page.exclusive, entry.dirty)
        table.entries[vpn] = note
        page.exclusive = False
        page_remove_rmap(page, vma)
        if vma.locked:
            folio.vm.lru.add_drain(folio.paths.current.cpu)
        put_page(page)
        return True

    def replace_whole(vma: Vma, vpn: int, table: PageTable) -> None:
        """set_pmd_migration_entry()"""
        pmd = table.huge
        if not isinstance(pmd, Pmd) or (folio.anon and folio.exclusive and folio.maybe_dma_pinned):
            return
        if pmd.dirty:
            folio_mark_dirty(folio)
        table.huge = MigrationPte(folio, pmd.writable, folio.anon and folio.exclusive, pmd.dirty)
        folio.exclusive = False
        folio_remove_rmap_pmd(folio, vma)
        put_page(folio)
        if split:
            split_huge_pmd(vma, vpn, table)

    rmap_walk(folio, replace, replace_whole)


def remove_migration_ptes(old: Page, new: Page) -> None:
    """Let every migration entry for the old folio name the new one, or the old one again. Both are locked."""
    mapping = new.mapping
    if mapping is None:
        return
    if not new.order:
        for_each_place(
            mapping, new.index, lambda vma, vpn: _restore(vma, vpn, lambda page: new if page is old else None)
        )
        return

    def moved(page: Page) -> Page | None:
        return new.vm.zone.page(new.pfn + page.offset) if page.head is old else None

    _restore_range(new, new.nr_pages, moved)


def remap_parts(parts: list[Page]) -> None:
    """remap_page(): the same after a split, for the pages of all parts.

    An address whose page is single now and holds nothing but zeros gets the page of zeros instead.
    """
    pages = {page for part in parts for page in part.pages()}
    _restore_range(parts[0], len(pages), lambda page: page if page in pages else None, after_split=True)


Moved = Callable[[Page], Page | None]
"""The page that an entry for this one is to name; None: the entry is somebody else's."""


def _restore_range(first_folio: Page, count: int, moved: Moved, *, after_split: bool = False) -> None:
    mapping = first_folio.mapping
    if mapping is None or isinstance(mapping, StableNode):
        return
    with rmap_sem(mapping).read():
        for vma, first, end in list(area_ranges(mapping, first_folio.index, count)):
            for vpn in range(first, end):
                _restore(vma, vpn, moved, after_split=after_split)


def _restore(vma: Vma, vpn: int, moved: Moved, *, after_split: bool = False) -> bool:
    """remove_migration_pte() of one address; always True, to go on."""
    table = vma.mm.table(vpn)
    if table is None:
        return True
    with table.lock:
        if isinstance(table.huge, MigrationPte) and (whole := moved(table.huge.page)) is not None:
            _restore_whole(vma, table, table.huge, whole)
        entry = table.entries.get(vpn)
        page = moved(entry.page) if isinstance(entry, MigrationPte) else None
        if not isinstance(entry, MigrationPte) or page is None:
            return True
        if after_split and _is_unused(page, vma):
            table.entries[vpn] = Pte(page.vm.zero_page, writable=False)
            return True
        get_page(page)
        if page.anon:
            page.exclusive = entry.exclusive
        page_add_rmap(page, vma)
        dirty = entry.dirty and bool(page.head.flags & pg.DIRTY)
        table.entries[vpn] = Pte(page, writable=entry.writable, dirty=dirty)
    if vma.locked:
        page.vm.lru.add_drain(page.paths.current.cpu)
    return True


def _is_unused(page: Page, vma: Vma) -> bool:
    """try_to_map_unused_to_zeropage(): is a page of a folio that was split of no use to anybody?"""
    kept = page.head.order or vma.locked or page.flags & (pg.MLOCKED | pg.HWPOISON)
    return page.vm.traits.split_drops_zeros and not kept and page.content == ZEROS


def _restore_whole(vma: Vma, table: PageTable, note: MigrationPte, new: Page) -> None:
    """remove_migration_pmd()"""
    get_page(new)
    if new.anon:
        new.exclusive = note.exclusive
    folio_add_rmap_pmd(new, vma)
    table.huge = Pmd(new, writable=note.writable, dirty=note.dirty and bool(new.flags & pg.DIRTY))


def remove_huge_migration_entries(old: Page, new: Page) -> None:
    """remove_migration_ptes() of a hugetlb page."""
    mapping = new.mapping
    if mapping is None or isinstance(mapping, StableNode):
        return
    with rmap_sem(mapping).read():
        for vma, first, _end in list(area_ranges(mapping, new.index, 1)):
            start = huge_start(vma, first)
            with vma.mm.hugetlb_ptl:
                note = vma.mm.hugetlb.get(start)
                if not isinstance(note, MigrationPte) or note.page is not old:
                    continue
                get_page(new)
                if new.anon:
                    new.exclusive = note.exclusive
                add_huge_rmap(new)
                dirty = note.dirty and bool(new.flags & pg.DIRTY)
                vma.mm.hugetlb[start] = Pmd(new, writable=note.writable, dirty=dirty)


def migration_entry_wait(table: PageTable, vpn: int, entry: MigrationPte) -> None:
    """A fault met a folio on its way: sleep until its lock is free or the entry has changed."""
    folio = entry.page.head
    while (entry is table.huge or entry is table.entries.get(vpn)) and folio.flags & pg.LOCKED:
        folio.paths.wait(folio)
