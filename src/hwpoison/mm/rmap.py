"""Reverse maps: from a page to the page table entries that map it (mm/rmap.c).

An anonymous page points to an *anon_vma*: all areas of memory, in this process and in its forked
relatives, that can map it. A file page points to its address space, whose ``i_mmap`` lists the areas.
Both lists are walked under their semaphore; each entry is looked at under its page table lock, and
only there is it certain. Cost grows with the areas on the list that cover the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .filemap import folio_mark_dirty
from .inode import AddressSpace
from .locks import KernelBug, RwSem, atomic_add
from .page import Page, put_page
from .pte import MigrationPte, PoisonPte, Pte, SwapPte

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import PageTable, Vma

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
    vmas = mapping.vmas if isinstance(mapping, AnonVma) else mapping.i_mmap
    for vma in vmas:
        vpn = vma.start + index - vma.pgoff
        if vma.start <= vpn < vma.end:
            yield vma, vpn


def rmap_sem(mapping: AddressSpace | AnonVma) -> RwSem:
    """The semaphore that protects the list of areas."""
    return mapping.rwsem if isinstance(mapping, AnonVma) else mapping.i_mmap_rwsem


def page_mapped_in_vma(page: Page, vma: Vma, vpn: int) -> bool:
    """Does the entry for this page number really map the page?"""
    table = vma.mm.table(vpn)
    if table is None:
        return False
    with table.lock:
        entry = table.entries.get(vpn)
        return isinstance(entry, Pte) and entry.page is page


def rmap_walk(page: Page, visit: Callable[[Vma, int, PageTable, Pte], bool]) -> None:
    """Call ``visit`` under the page table lock for each entry that maps the page; False stops the walk.

    The caller holds the folio lock, so ``page.mapping`` is stable.
    """
    mapping = page.mapping
    if mapping is None:
        return
    with rmap_sem(mapping).read():
        for vma, vpn in list(areas(mapping, page.index)):
            table = vma.mm.table(vpn)
            if table is None:
                continue
            with table.lock:
                entry = table.entries.get(vpn)
                if isinstance(entry, Pte) and entry.page is page and not visit(vma, vpn, table, entry):
                    return
            if not page.mapped:
                return


def page_add_rmap(page: Page, vma: Vma) -> None:
    """One more entry maps the page; under the page table lock, with a reference of the entry's own."""
    atomic_add(page, "mapcount", 1)
    if vma.locked:
        page.vm.lru.mlock_folio(page)


def new_anon_page(vma: Vma, vpn: int, content: str) -> Page:
    """A new anonymous page for this address, with its reverse map, one mapping and one reference."""
    vm = vma.mm.vm
    anon_vma = anon_vma_prepare(vma)
    page = vm.zone.alloc_pages()
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
    if vma.locked:
        page.vm.lru.munlock_folio(page)


def folio_mkclean(page: Page) -> bool:
    """Write-protect and clean every entry of a file page; whether one of them was dirty."""
    found = False

    def clean(vma: Vma, _vpn: int, _table: PageTable, entry: Pte) -> bool:
        nonlocal found
        if vma.shared:
            found = found or entry.dirty
            entry.dirty = entry.writable = False
        return True

    if page.mapped:
        rmap_walk(page, clean)
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
        if flags & TTU_HWPOISON and page.flags & pg.HWPOISON:
            table.entries[vpn] = PoisonPte(page.pfn, file=not page.anon)
        elif page.anon:
            if not page.flags & pg.SWAPCACHE or not isinstance(page.private, int):
                return False  # nowhere to go: no slot in swap
            page.vm.swap.duplicate(page.private)
            table.entries[vpn] = SwapPte(page.private, page.exclusive)
            page.exclusive = False
        else:
            del table.entries[vpn]
        page_remove_rmap(page, vma)
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

    rmap_walk(page, zap)
    if page.mapped:
        raise KernelBug(f"{page} is still mapped {page.mapcount} times after unmap_mapping_folio()")


def unmap_mapping_range(mapping: AddressSpace, start: int, end: int, *, even_cows: bool) -> None:
    """Take away all entries of a range of a file, with private copies if ``even_cows``.

    Without, notes (swap, poison) stay too: they stand for a private copy, or for somebody to be told.
    """
    with mapping.i_mmap_rwsem.read():
        for vma in list(mapping.i_mmap):
            first = max(vma.start, vma.start + start - vma.pgoff)
            last = min(vma.end, vma.start + end - vma.pgoff)
            for vpn, table in vma.mm.populated(first, last):
                with table.lock:
                    entry = table.entries.get(vpn)
                    of_file = isinstance(entry, Pte | MigrationPte) and not entry.page.anon
                    if entry is not None and (even_cows or of_file):
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
            folio_mark_dirty(page)
        page_remove_rmap(page, vma)
        if page.flags & pg.SWAPCACHE and not page.mapped:
            page.vm.swap.free_swap_cache(page)
        put_page(page)
