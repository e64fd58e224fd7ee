"""Taking huge pages away from who maps them: munmap, truncation, the handler (mm/hugetlb.c, mm/rmap.c).

A huge entry is changed under its process' ``huge_lock``; of a file's page also the area's ``hugetlb_lock`` is
held, which page table sharing needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .filemap import folio_mark_dirty
from .hugetlb import Hstate, remove_huge_rmap, state_of
from .inode import AddressSpace
from .locks import KernelBug
from .page import Page, put_page
from .pte import MigrationPte, Pmd, PoisonPte
from .rmap import AnonVma, areas

if TYPE_CHECKING:
    from .mmap import Vma


def hstate_of(vma: Vma) -> Hstate:
    if vma.hstate is None:
        raise KernelBug(f"{vma} has no huge pages")
    return vma.hstate


def huge_start(vma: Vma, vpn: int) -> int:
    """The first page number of the huge page that covers an address."""
    return vpn & -hstate_of(vma).pages


def zap_huge_entry(vma: Vma, start: int) -> None:
    """Remove one entry, page or note; under the page table lock."""
    entry = vma.mm.hugetlb.pop(start)
    if isinstance(entry, Pmd):
        if entry.dirty:
            folio_mark_dirty(entry.page)
        remove_huge_rmap(entry.page)
        anew = vma.mm.vm.traits.unmapping_promises_anew and vma.resv_owner and entry.page.anon
        if anew and not entry.page.mapped and not hstate_of(vma).surplus:
            state_of(entry.page).restores_promise = True
            vma.reserved.add(start)
        put_page(entry.page)


def unmap_huge_range(vma: Vma, first: int, end: int) -> None:
    """__unmap_hugepage_range() by the owner of the memory, who may wait for the area's lock."""
    with vma.hugetlb_lock.write():
        _zap_range(vma, first, end)


def try_unmap_huge_range(vma: Vma, first: int, end: int) -> None:
    """The same for a truncation, which has the lock of the file's areas already and may not wait."""
    if vma.hugetlb_lock.down_write_trylock():
        _zap_range(vma, first, end)
        vma.hugetlb_lock.up_write()


def unmap_file_folio(head: Page) -> None:
    """hugetlb_unmap_file_folio(): what a truncation left over.

    The folio lock is held already, yet no fault holds an area's lock and waits for it: the caller has the
    page's fault mutex.
    """
    mapping = head.mapping
    for vma, vpn in list(areas(mapping, head.index)) if isinstance(mapping, AddressSpace) else ():
        with vma.hugetlb_lock.write(nested=True):
            _zap_range(vma, vpn, vpn + 1)


def _zap_range(vma: Vma, first: int, end: int) -> None:
    mm = vma.mm
    for start in sorted(start for start in mm.hugetlb if first <= start < end):
        with mm.hugetlb_ptl:
            if start in mm.hugetlb:
                zap_huge_entry(vma, start)


def mapped_at(vma: Vma, vpn: int, head: Page) -> bool:
    """Does the area really map this huge page at the address?"""
    with vma.mm.hugetlb_ptl:
        entry = vma.mm.hugetlb.get(huge_start(vma, vpn))
        return isinstance(entry, Pmd) and entry.page is head


def try_to_unmap_huge(head: Page) -> None:
    """try_to_unmap() with poison entries. An area of a file whose own lock is taken keeps its entry.

    The caller holds the folio lock and, of a file's page, has i_mmap_rwsem for writing (TTU_RMAP_LOCKED).
    """
    _unmap_all(head, lambda pmd: PoisonPte(head.pfn, file=not head.anon))


def try_to_migrate_huge(head: Page) -> None:
    """try_to_migrate(): the same with migration entries; who is alone with a pinned page keeps it.

    Of a page that has a mark, as one that the filter spared, nobody gets the new one: notes stay behind.
    """

    def note(pmd: Pmd) -> PoisonPte | MigrationPte | None:
        if head.flags & pg.HWPOISON:
            return PoisonPte(head.pfn, file=not head.anon)
        if head.anon and head.exclusive and head.maybe_dma_pinned:
            return None
        alone, head.exclusive = head.exclusive, False
        return MigrationPte(head, pmd.writable, alone, pmd.dirty)

    _unmap_all(head, note)


Note = Callable[[Pmd], PoisonPte | MigrationPte | None]
"""What is left in place of an entry; None: it stays."""


def _unmap_all(head: Page, note: Note) -> None:
    mapping = head.mapping
    if isinstance(mapping, AddressSpace):
        _unmap_areas(head, mapping, note)
    elif isinstance(mapping, AnonVma):
        with mapping.rwsem.read():
            _unmap_areas(head, mapping, note)


def _unmap_areas(head: Page, mapping: AddressSpace | AnonVma, note: Note) -> None:
    of_file = isinstance(mapping, AddressSpace)
    for vma, vpn in list(areas(mapping, head.index)):
        if of_file and not vma.hugetlb_lock.down_write_trylock():
            continue
        with vma.mm.hugetlb_ptl:
            entry = vma.mm.hugetlb.get(huge_start(vma, vpn)) if vma.hstate is not None else None
            if isinstance(entry, Pmd) and entry.page is head and (left := note(entry)) is not None:
                if entry.dirty:
                    folio_mark_dirty(head)
                vma.mm.hugetlb[huge_start(vma, vpn)] = left
                remove_huge_rmap(head)
                put_page(head)
        if of_file:
            vma.hugetlb_lock.up_write()
