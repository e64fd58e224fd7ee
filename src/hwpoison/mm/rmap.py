"""Reverse maps: from a page to the page table entries that map it (mm/rmap.c).

An anonymous page points to an *anon_vma*: all areas of memory, in this process and in its forked
relatives, that can map it. A file page points to its address space, whose ``i_mmap`` lists the areas.
Both lists are walked under their semaphore; each entry is looked at under its page table lock, and
only there is it certain. Cost grows with the areas on the list that cover the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .filemap import folio_mark_dirty
from .inode import AddressSpace
from .locks import KernelBug, RwSem, atomic_add, atomic_add_each
from .page import Page, folio_mapcount, folio_ref_add, page_swap_entry, put_page, set_flags
from .pte import MigrationPte, Pmd, PoisonPte, Pte, SwapPte

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import Mm, PageTable, Vma

TTU_HWPOISON = 1
"""Leave poison entries behind, so that every later touch is stopped."""
TTU_IGNORE_MLOCK = 2
"""Unmap although an area is locked in memory."""


class AnonVma:
    """struct anon_vma. ``vmas`` under ``rwsem``."""

    is_anon = True

    def __init__(self, vm: Machine) -> None:
        self.rwsem = RwSem(vm.paths, "anon_vma")
        self.vmas: list[Vma] = []


class MergedItem:
    """struct ksm_rmap_item: an address whose page was merged, and the reverse map it is found by."""

    __slots__ = ("anon_vma", "mm", "vpn")

    def __init__(self, mm: Mm, vpn: int, anon_vma: AnonVma) -> None:
        self.mm = mm
        self.vpn = vpn
        self.anon_vma = anon_vma


class StableNode:
    """struct ksm_stable_node: the reverse map of a merged page (ksm.py). ``items`` under the folio lock."""

    is_anon = True

    def __init__(self, page: Page) -> None:
        self.page = page
        self.items: list[MergedItem] = []  # the last one merged first


def anon_vma_prepare(vma: Vma) -> AnonVma:
    """The anon_vma for new pages of this area, made on its first fault."""
    if vma.anon_vma is None:
        anon_vma = AnonVma(vma.mm.vm)
        with anon_vma.rwsem.write():
            anon_vma.vmas.append(vma)
        vma.anon_vma = anon_vma
        vma.anon_vma_chain.append(anon_vma)
    return vma.anon_vma


def anon_vma_fork(vma: Vma, parent: Vma) -> None:
    """A child's area joins every anon_vma its parent is in; its own new pages get one of their own."""
    if parent.anon_vma is None:
        return
    for anon_vma in parent.anon_vma_chain:
        with anon_vma.rwsem.write():
            anon_vma.vmas.append(vma)
        vma.anon_vma_chain.append(anon_vma)
    own = AnonVma(vma.mm.vm)
    own.vmas.append(vma)
    vma.anon_vma = own
    vma.anon_vma_chain.append(own)


def unlink_anon_vmas(vma: Vma) -> None:
    for anon_vma in vma.anon_vma_chain:
        with anon_vma.rwsem.write():
            anon_vma.vmas.remove(vma)
    vma.anon_vma_chain.clear()
    vma.anon_vma = None


def areas(mapping: AddressSpace | AnonVma, index: int) -> Iterator[tuple[Vma, int]]:
    """(area, page number in it) for every area on the list that covers this offset.

    The caller holds the semaphore of the list.
    """
    for vma, vpn, _end in area_ranges(mapping, index, 1):
        yield vma, vpn


def area_ranges(mapping: AddressSpace | AnonVma, index: int, count: int) -> Iterator[tuple[Vma, int, int]]:
    """(area, first and end page number in it) for every area that covers some of these offsets.

    In the order of the interval tree: of a file, by the offset at which an area begins.
    """
    vmas = mapping.vmas if isinstance(mapping, AnonVma) else sorted(mapping.i_mmap, key=lambda vma: vma.pgoff)
    for vma in vmas:
        vpn = vma.start + index - vma.pgoff
        first, end = max(vma.start, vpn), min(vma.end, vpn + count)
        if first < end:
            yield vma, first, end


def rmap_sem(mapping: AddressSpace | AnonVma) -> RwSem:
    """The semaphore that protects the list of areas."""
    return mapping.rwsem if isinstance(mapping, AnonVma) else mapping.i_mmap_rwsem


def page_mapped_in_vma(page: Page, vma: Vma, vpn: int) -> bool:
    """Does the entry for this page number really map the page?"""
    table = vma.mm.table(vpn)
    if table is None:
        return False
    with table.lock:
        entry = table.entry(vpn)
        return isinstance(entry, Pte) and entry.page is page


def for_each_place(
    mapping: AddressSpace | AnonVma | StableNode, index: int, visit: Callable[[Vma, int], bool]
) -> None:
    """Every address that can map the page, under the semaphore of its list; False stops.

    For a merged page: each address that was merged, and then the same address in forked relatives
    (rmap_walk_ksm()).
    """
    if not isinstance(mapping, StableNode):
        with rmap_sem(mapping).read():
            for vma, vpn in list(areas(mapping, index)):
                if not visit(vma, vpn):
                    return
        return
    for forks in (False, True):
        for item in list(mapping.items):
            with item.anon_vma.rwsem.read():
                for vma in list(item.anon_vma.vmas):
                    covered = vma.start <= item.vpn < vma.end
                    if covered and (vma.mm is item.mm) is not forks and not visit(vma, item.vpn):
                        return


Visit = Callable[["Vma", int, "PageTable", Pte], bool]
VisitHuge = Callable[["Vma", int, "PageTable"], None]


def rmap_walk(folio: Page, visit: Visit, huge: VisitHuge | None = None) -> None:
    """Call ``visit`` under the page table lock for each entry that maps a page of the folio; False stops it.

    An entry that maps all of it goes to ``huge`` first, which may split it or take it away; without one
    it is split. The caller holds the folio lock, so ``folio.mapping`` is stable.
    """
    mapping = folio.mapping
    if mapping is None:
        return
    if isinstance(mapping, StableNode):
        _rmap_walk_ksm(folio, mapping, visit)
        return
    with rmap_sem(mapping).read():
        for vma, first, end in list(area_ranges(mapping, folio.index, folio.nr_pages)):
            for table, covered in vma.mm.tables_between(first, end):
                with table.lock:
                    if isinstance(table.huge, Pmd) and table.huge.page is folio:
                        (huge or split_huge_pmd)(vma, covered[0], table)
                    for vpn in table.present(covered):
                        entry = table.entries.get(vpn)
                        if not isinstance(entry, Pte) or entry.page.head is not folio:
                            continue
                        if not visit(vma, vpn, table, entry):
                            return
                if not folio.mapped:
                    return


def _rmap_walk_ksm(page: Page, node: StableNode, visit: Visit) -> None:
    """rmap_walk() for a merged page, which is always alone."""

    def look(vma: Vma, vpn: int) -> bool:
        table = vma.mm.table(vpn)
        if table is None:
            return True
        with table.lock:
            entry = table.entries.get(vpn)
            if isinstance(entry, Pte) and entry.page is page and not visit(vma, vpn, table, entry):
                return False
        return page.mapped

    for_each_place(node, 0, look)


def page_add_rmap(page: Page, vma: Vma) -> None:
    """One more entry maps the page; under the page table lock, with a reference of the entry's own."""
    atomic_add(page, "mapcount", 1)
    if page.head.order:
        atomic_add(page.head, "large_mapcount", 1)
    elif vma.locked:
        page.vm.lru.mlock_folio(page)


def folio_add_rmap_pmd(folio: Page, vma: Vma) -> None:
    """One more entry maps all of a large folio; under the page table lock, with a reference of its own."""
    atomic_add(folio, "entire_mapcount", 1)
    atomic_add(folio, "large_mapcount", 1)
    if vma.locked:
        folio.vm.lru.mlock_folio(folio)


def folio_remove_rmap_pmd(folio: Page, vma: Vma) -> None:
    """One such entry less; under the page table lock."""
    atomic_add(folio, "entire_mapcount", -1)
    atomic_add(folio, "large_mapcount", -1)
    if vma.locked:
        folio.vm.lru.munlock_folio(folio)


def new_anon_page(vma: Vma, vpn: int, content: str) -> Page:
    """A new anonymous page for this address, with its reverse map, one mapping and one reference."""
    vm = vma.mm.vm
    anon_vma = anon_vma_prepare(vma)
    page = vm.zone.alloc_pages()
    page.memcg = vma.mm.group
    page.content = content
    page.mapping = anon_vma
    page.index = vma.index_of(vpn)
    page.exclusive = True
    page.flags |= pg.SWAPBACKED | pg.UPTODATE
    page_add_rmap(page, vma)
    vm.lru.add(page)
    return page


def page_remove_rmap(page: Page, vma: Vma) -> None:
    """One entry less; under the page table lock."""
    atomic_add(page, "mapcount", -1)
    if page.head.order:
        atomic_add(page.head, "large_mapcount", -1)
    elif vma.locked:
        page.vm.lru.munlock_folio(page)


def split_huge_pmd(vma: Vma, vpn: int, table: PageTable) -> None:
    """__split_huge_pmd(): entries of their own in place of the one for all; under the page table lock.

    A file's are not filled in: the next fault finds the page in the file.
    """
    pmd, table.huge = table.huge, None
    if pmd is None:
        return
    folio = pmd.page
    first = vpn & -vma.mm.ptrs_per_pte
    if isinstance(pmd, MigrationPte):
        table.deposited = vma.mapping is not None
        if vma.mapping is None:
            table.entries.update(
                (first + page.offset, replace(pmd, page=page)) for page in list(folio.pages())
            )
        return
    table.deposited = not (folio.anon or folio is vma.mm.vm.huge_zero_folio)
    if folio is vma.mm.vm.huge_zero_folio:
        zero = vma.mm.vm.zero_page
        table.entries.update((first + n, Pte(zero, writable=False)) for n in range(table.ptrs))
        return
    if pmd.dirty:
        folio_mark_dirty(folio)
    if not folio.anon:
        folio_remove_rmap_pmd(folio, vma)
        put_page(folio)
        return
    pages = list(folio.pages())
    folio_ref_add(folio, len(pages) - 1)
    atomic_add_each(folio, pages, "mapcount", 1)
    atomic_add(folio, "large_mapcount", len(pages))
    folio_remove_rmap_pmd(folio, vma)
    for number, page in enumerate(pages):
        page.exclusive = folio.exclusive
        table.entries[first + number] = Pte(page, writable=pmd.writable, dirty=pmd.dirty)


def zap_huge_pmd(vma: Vma, table: PageTable) -> None:
    """An entry that maps a whole folio goes, with what it holds; under the page table lock."""
    pmd, table.huge = table.huge, None
    if not isinstance(pmd, Pmd) or pmd.page is vma.mm.vm.huge_zero_folio:
        return
    folio = pmd.page
    if pmd.dirty and not folio.anon:
        folio_mark_dirty(folio)
    folio_remove_rmap_pmd(folio, vma)
    put_page(folio)


def folio_mkclean(page: Page) -> bool:
    """Write-protect and clean every entry of a file page; whether one of them was dirty, or could become so.

    A migration that has written the page leaves entries that are clean and writable (seen on 6.1).
    """
    found = False

    def clean(vma: Vma, _vpn: int, _table: PageTable, entry: Pte) -> bool:
        nonlocal found
        if vma.shared:
            found = found or entry.dirty or entry.writable
            entry.dirty = entry.writable = False
        return True

    def clean_all(_vma: Vma, _vpn: int, table: PageTable) -> None:
        nonlocal found
        if isinstance(table.huge, Pmd):
            found = found or table.huge.dirty or table.huge.writable
            table.huge.dirty = table.huge.writable = False

    if page.mapped:
        rmap_walk(page, clean, clean_all)
    return found


def try_to_unmap(page: Page, flags: int) -> None:
    """Take away every entry that maps the page. Look at ``page.mapped`` for whether it worked.

    Dirty bits of the entries move to the page. What is left behind: a poison entry if asked for; for
    an anonymous page its swap entry; for a file page nothing, the next fault finds the file again.
    """

    def unmap(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> bool:
        if vma.locked and not flags & TTU_IGNORE_MLOCK:
            page.vm.lru.mlock_folio(page)
            return False
        if entry.dirty:
            folio_mark_dirty(page)
        part = entry.page
        if flags & TTU_HWPOISON and part.flags & pg.HWPOISON:
            table.entries[vpn] = PoisonPte(part.pfn, file=not page.anon)
        elif page.anon and not page.flags & pg.SWAPBACKED:
            if page.flags & pg.DIRTY or page.refcount != page.mapcount + 1:
                set_flags(page, pg.SWAPBACKED)  # written to since, or held: its contents count again
                return False
            del table.entries[vpn]
        elif page.anon:
            if (slot := page_swap_entry(part)) is None:
                return False  # nowhere to go: no slot in swap
            if part.exclusive and page.maybe_dma_pinned:
                return False  # folio_try_share_anon_rmap_pte(): the device's page stays the owner's
            page.vm.swap.duplicate(slot)
            table.entries[vpn] = SwapPte(slot, part.exclusive)
            part.exclusive = False
        else:
            del table.entries[vpn]
        page_remove_rmap(part, vma)
        if vma.locked:
            page.vm.lru.add_drain(page.paths.current.cpu)
        put_page(page)
        return True

    if page.mapped:
        rmap_walk(page, unmap)


def unmap_mapping_folio(page: Page) -> None:
    """Take away all entries of a locked file page, private copies of it excepted (mm/memory.c)."""

    def zap(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> bool:
        zap_entry(vma, vpn, table)
        return True

    def zap_all(vma: Vma, _vpn: int, table: PageTable) -> None:
        zap_huge_pmd(vma, table)

    rmap_walk(page, zap, zap_all)
    if page.mapped:
        left = folio_mapcount(page)
        raise KernelBug(f"{page} is still mapped {left} times after unmap_mapping_folio()")


def unmap_mapping_range(mapping: AddressSpace, start: int, end: int, *, even_cows: bool) -> None:
    """Take away all entries of a range of a file, with private copies if ``even_cows``.

    Without, notes (swap, poison) stay too: they stand for a private copy, or for somebody to be told.
    """
    with mapping.i_mmap_rwsem.read():
        for vma in list(mapping.i_mmap):
            first = max(vma.start, vma.start + start - vma.pgoff)
            last = min(vma.end, vma.start + end - vma.pgoff)
            for there, table in list(vma.mm.huge_tables(first, last)):
                with table.lock:
                    if table.huge is None or (table.huge.page.anon and not even_cows):
                        continue
                    if first <= there and there + table.ptrs <= last:
                        zap_huge_pmd(vma, table)
                    else:
                        split_huge_pmd(vma, there, table)
            for table, covered in vma.mm.tables_between(first, last):
                with table.lock:
                    for vpn in table.present(covered):
                        entry = table.entries[vpn]
                        of_file = isinstance(entry, Pte | MigrationPte) and not entry.page.anon
                        if even_cows or of_file:
                            zap_entry(vma, vpn, table)


def zap_entry(vma: Vma, vpn: int, table: PageTable) -> None:
    """Remove one entry, whatever it is, with what it holds; under the page table lock."""
    entry = table.entries.pop(vpn)
    if isinstance(entry, SwapPte):
        vma.mm.vm.swap.free_entry_and_cache(entry.entry)
    elif isinstance(entry, Pte):
        page = entry.page
        if page is vma.mm.vm.zero_page:
            return
        if entry.dirty and not page.anon:
            folio_mark_dirty(page.head)
        if entry.young and not page.anon:
            set_flags(page.head, pg.REFERENCED)
        page_remove_rmap(page, vma)
        if page.head.flags & pg.SWAPCACHE and not page.head.mapped:
            page.vm.swap.free_swap_cache(page.head)
        put_page(page)
