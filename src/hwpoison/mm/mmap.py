"""Memory of processes: areas, page tables, mmap, munmap, the copy at fork (mm/mmap.c).

All addresses here are page numbers (vpn = byte address >> 12). ``mmap_lock`` protects the list of
areas; each page table has its own lock for its 512 entries (or what ``Machine.pmd_order`` says).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from . import hugetlb_memory
from .dax import check_device_area
from .hugetlb_unmap import unmap_huge_range
from .inode import HUGETLBFS, AddressSpace, File, Inode, SysError
from .locks import KernelBug, Lock, RwSem
from .page import Page, get_page, put_page
from .pte import Entry, MigrationPte, Pmd, PoisonPte, Pte, SwapPte
from .rmap import (
    AnonVma,
    anon_vma_fork,
    folio_add_rmap_pmd,
    new_anon_page,
    page_add_rmap,
    split_huge_pmd,
    unlink_anon_vmas,
    zap_entry,
    zap_huge_pmd,
)
from .truncate import evict_inode, flush_unused
from .writeback import fsync

if TYPE_CHECKING:
    from .hugetlb import Hstate
    from .machine import Machine
    from .task import Task

FIRST_VPN = 0x7F0000000
"""Where the first area of a process is put; the next ones follow with a hole between them."""


class PageTable:
    """One page of 512 entries: a frame that the kernel owns, its lock, and the entries that are not empty.

    With ``huge`` the entry above maps a large folio instead, or names one that is on its way to another
    frame, and the table waits for the day it is split.
    """

    __slots__ = ("deposited", "entries", "huge", "lock", "page", "ptrs")

    def __init__(self, page: Page, lock: Lock, ptrs: int) -> None:
        self.page = page
        self.ptrs = ptrs
        self.lock = lock
        self.entries: dict[int, Entry] = {}
        self.huge: Pmd | MigrationPte | None = None
        self.deposited = False  # it waits behind a huge entry, or behind none: it is not in use

    def entry(self, vpn: int) -> Entry | None:
        """What maps this address, at either level."""
        if self.huge is None:
            return self.entries.get(vpn)
        return self.huge.pte(vpn % self.ptrs) if isinstance(self.huge, Pmd) else self.huge

    def present(self, covered: range) -> list[int]:
        """The addresses in this range that have an entry of their own, in order."""
        return sorted(vpn for vpn in self.entries if vpn in covered)


class Vma:
    """struct vm_area_struct: pages start .. end-1 of a process, backed by a file or anonymous."""

    def __init__(
        self, mm: Mm, start: int, end: int, *, shared: bool, inode: Inode | None, pgoff: int, writable: bool
    ) -> None:
        self.mm = mm
        self.start = start
        self.end = end
        self.shared = shared
        self.inode = inode
        self.pgoff = pgoff  # page offset of ``start`` in the file; for anonymous memory its own address
        self.writable = writable
        self.file: File | None = None  # vm_file: it stays open as long as it is mapped
        self.locked = False  # VM_LOCKED
        self.driver: Page | None = None  # VM_MIXEDMAP: a driver has put this page of its own there
        self.pfnmap: int | None = None  # VM_PFNMAP: the frame that is mapped by its number (pfnmap.py)
        self.huge = False  # VM_HUGEPAGE
        self.anon_order = 0  # of folios that its first touch makes where no huge page fits (mthp.py)
        self.mergeable = False  # VM_MERGEABLE
        self.anon_vma: AnonVma | None = None
        self.anon_vma_chain: list[AnonVma] = []
        self.hstate: Hstate | None = None  # of an area of huge pages
        self.hugetlb_lock = RwSem(mm.paths, "hugetlb_vma_lock")
        self.reserved: set[int] = set()  # starts of huge pages promised to this private area and not used yet
        self.resv_owner = False  # HPAGE_RESV_OWNER: what was promised to a private area is still its own
        self.notes_taken: set[int] = set()  # starts of huge pages that were lost, and the note of it too
        self.resv_unmapped = False  # HPAGE_RESV_UNMAPPED: the owner of the promises has taken a page from it

    @property
    def mapping(self) -> AddressSpace | None:
        return self.inode.mapping if self.inode is not None else None

    def index_of(self, vpn: int) -> int:
        """linear_page_index(): the page offset that this address maps."""
        return vpn - self.start + self.pgoff

    def __repr__(self) -> str:
        return f"area {self.start:#x}-{self.end:#x}"


class Mm:
    """struct mm_struct: the memory of a process.

    ``users`` are the processes that share it, ``inside`` the threads that are in the kernel with it just now.
    """

    def __init__(self, vm: Machine, name: str) -> None:
        self.vm = vm
        self.paths = vm.paths
        self.name = name
        self.table_shift = vm.pmd_order
        self.ptrs_per_pte = 1 << vm.pmd_order
        self.mmap_lock = RwSem(vm.paths, "mmap_lock", name)
        self.vmas: list[Vma] = []
        self.tables: dict[int, PageTable] = {}
        # Entries of areas of huge pages, by where each begins.
        self.hugetlb: dict[int, Pmd | PoisonPte | MigrationPte] = {}
        self.hugetlb_ptl = Lock(vm.paths, "ptl", f"{name}:huge")
        self.users: list[Task] = []
        self.inside: set[Task] = set()
        self.group = ""  # the memory cgroup of its owner, by name; "": the root's
        self.next_vpn = FIRST_VPN

    def table(self, vpn: int) -> PageTable | None:
        return self.tables.get(vpn >> self.table_shift)

    def pte_alloc(self, vpn: int) -> PageTable:
        """The page table for an address, made if it is missing."""
        table = self.pmd_alloc(vpn)
        if table.deposited and table.huge is None:
            with table.lock:
                table.deposited = table.huge is not None
        return table

    def pmd_alloc(self, vpn: int) -> PageTable:
        """The entry above it, with a table that is not in use yet if there was none."""
        table = self.tables.get(vpn >> self.table_shift)
        if table is None:
            page = self.vm.zone.alloc_zeroed()
            page.flags |= pg.PGTABLE
            lock = Lock(self.paths, "ptl", f"{self.name}:{vpn >> self.table_shift:x}")
            table = PageTable(page, lock, self.ptrs_per_pte)
            table.deposited = True
            self.tables[vpn >> self.table_shift] = table
        return table

    def pmd_none(self, vpn: int) -> bool:
        """Is there neither a page table for this address nor a huge entry?"""
        table = self.tables.get(vpn >> self.table_shift)
        return table is None or (table.deposited and table.huge is None)

    def entry(self, vpn: int) -> Entry | None:
        table = self.tables.get(vpn >> self.table_shift)
        entry = None if table is None else table.entry(vpn)
        return entry if entry is not None or not self.hugetlb else hugetlb_memory.entry_of(self, vpn)

    def huge_tables(self, start: int, end: int) -> Iterator[tuple[int, PageTable]]:
        """(first address, table) of every large folio that is mapped whole and touches start .. end-1."""
        for number in sorted(self.tables):
            table = self.tables[number]
            first = number << self.table_shift
            if table.huge is not None and first < end and first + self.ptrs_per_pte > start:
                yield first, table

    def tables_between(self, start: int, end: int) -> Iterator[tuple[PageTable, range]]:
        """(table, what it covers of start .. end-1), in order. It is worked through under its lock."""
        for number in sorted(self.tables):
            first = number << self.table_shift
            covered = range(max(start, first), min(end, first + self.ptrs_per_pte))
            if covered:
                yield self.tables[number], covered

    def populated(self, start: int, end: int) -> Iterator[tuple[int, PageTable]]:
        """Every address in start .. end-1 with an entry of its own, in order. Entries may go meanwhile."""
        for number in sorted(self.tables):
            table = self.tables[number]
            if (number + 1) << self.table_shift > start and number << self.table_shift < end:
                for vpn in sorted(vpn for vpn in table.entries if start <= vpn < end):
                    yield vpn, table

    def find_vma(self, vpn: int) -> Vma | None:
        for vma in self.vmas:
            if vma.start <= vpn < vma.end:
                return vma
        return None


def do_mmap(
    mm: Mm,
    pages: int,
    *,
    file: File | None = None,
    pgoff: int = 0,
    shared: bool = False,
    writable: bool = True,
    huge: bool = False,
    hugetlb: str | None = None,
) -> Vma:
    """mmap(2): a new area. Shared anonymous memory is a tmpfs file that nobody else can open.

    ``hugetlb`` is the size of the huge pages of anonymous memory; a hugetlbfs file has its own.
    ``huge``: where huge pages fit, and marked for them (MADV_HUGEPAGE).
    """
    if not pages:
        raise SysError(Errno.EINVAL, "an area of no pages")
    if file is not None and file.inode.fs.huge:
        hugetlb = file.inode.fs.huge
    h = mm.vm.hugetlb.hstates[hugetlb] if hugetlb is not None else None
    if h is not None and file is not None and pgoff % h.pages:
        raise SysError(Errno.EINVAL, f"page {pgoff} is in the middle of a huge page")
    if file is not None and file.inode.fs.character:
        check_device_area(file.inode, pages, shared=shared)
    if file is not None and shared and writable and file.inode.seals & {"write", "future-write"}:
        raise SysError(Errno.EPERM, f"{file.inode} is sealed against writing")
    with mm.mmap_lock.write():
        if h is not None:
            mm.next_vpn = -(-mm.next_vpn // h.pages) * h.pages
            pages = -(-pages // h.pages) * h.pages
        start = mm.next_vpn
        if huge or (file is not None and file.inode.fs.character):
            start = -(-start // mm.ptrs_per_pte) * mm.ptrs_per_pte
        mm.next_vpn = start + pages + 16
        inode = file.inode if file is not None else None
        if inode is None and shared:
            inode = mm.vm.shmem_kernel_file(pages, "tmpfs" if h is None else HUGETLBFS[h.size])
        offset = pgoff if inode is not None else start
        vma = Vma(mm, start, start + pages, shared=shared, inode=inode, pgoff=offset, writable=writable)
        vma.huge = huge
        vma.file = file
        if h is not None:
            vma.hstate = h
            hugetlb_memory.reserve_pages(vma)
            if inode is not None and writable:  # hugetlbfs_file_mmap() makes the file long enough
                inode.size = max(inode.size, pgoff + pages)
        mm.vmas.append(vma)
        link_file(vma)
        return vma


def link_file(vma: Vma) -> None:
    """Enter the area into the list of its file."""
    if vma.mapping is not None:
        with vma.mapping.i_mmap_rwsem.write():
            vma.mapping.i_mmap.append(vma)


def map_driver(vma: Vma, page: Page) -> None:
    """A driver maps a page of its own into a process, which shares it with its children."""
    vma.driver, vma.shared = page, True
    if not driver_answers_faults(vma):
        insert_page(vma, vma.start, page)


def driver_answers_faults(vma: Vma) -> bool:
    """Does its page come when it is touched, and again when it was thrown away?"""
    vm = vma.mm.vm
    return vma.driver is not None and vma.driver.pfn in vm.vmalloc and vm.traits.vmalloc_by_fault


def insert_page(vma: Vma, vpn: int, page: Page) -> None:
    """vm_insert_page()."""
    table = vma.mm.pte_alloc(vpn)
    with table.lock:
        get_page(page)
        page_add_rmap(page, vma)
        table.entries[vpn] = Pte(page, writable=vma.writable)


def munmap(mm: Mm, vma: Vma, pages: int | None = None) -> None:
    """munmap(2) of one whole area; ``pages``: as somebody calls it who has asked for so many."""
    if pages is not None and vma.hstate is not None and pages % vma.hstate.pages:
        raise SysError(Errno.EINVAL, f"{pages} pages are no whole number of huge pages")
    with mm.mmap_lock.write():
        if vma in mm.vmas:  # another thread may have been faster
            unmap_vma(mm, vma)


def unmap_vma(mm: Mm, vma: Vma) -> None:
    """Zap the entries of an area, unlink it from its reverse maps, forget it. Under mmap_lock."""
    zap_page_range(vma, vma.start, vma.end)
    if vma.hstate is not None:
        unmap_huge_range(vma, vma.start, vma.end)
        hugetlb_memory.close(vma)
    unlink_anon_vmas(vma)
    if vma.mapping is not None:
        with vma.mapping.i_mmap_rwsem.write():
            vma.mapping.i_mmap.remove(vma)
        if vma.mapping.host.unnamed and not vma.mapping.i_mmap:
            evict_inode(vma.mapping.host)
        flush_unused(vma.mapping.host)
    mm.vmas.remove(vma)


def msync(vma: Vma) -> None:
    """msync(2) MS_SYNC of a whole area: fsync(2) of its part of the file, by the open file that it maps.

    Raises SysError as that does. A private area has nothing to be written, a driver's file has no fsync.
    """
    if vma.driver is not None or vma.pfnmap is not None:
        raise SysError(Errno.EINVAL, f"{vma} is a driver's")
    if vma.shared and vma.file is not None:
        fsync(vma.file, vma.pgoff, vma.pgoff + vma.end - vma.start)


def zap_page_range(vma: Vma, start: int, end: int, *, reclaim_pt: bool = False) -> None:
    """Everything that is mapped in start .. end-1 of an area goes; a huge entry across a border is split.

    ``reclaim_pt``: so do page tables of which nothing is left, for a huge page to come (mm/pt_reclaim.c).
    """
    mm = vma.mm
    drain = mm.vm.traits.unmapping_drains
    if drain:
        mm.vm.lru.add_drain(mm.paths.current.cpu)
    for first, table in list(mm.huge_tables(start, end)):
        with table.lock:
            if table.huge is None:
                continue
            if first < start or end < first + mm.ptrs_per_pte:
                split_huge_pmd(vma, first, table)
                continue
            zap_huge_pmd(vma, table)
    for table, covered in mm.tables_between(start, end):
        with table.lock:
            for vpn in table.present(covered):
                zap_entry(vma, vpn, table)
            if reclaim_pt and len(covered) == mm.ptrs_per_pte:
                table.deposited = True
    if drain:
        mm.vm.lru.add_drain(mm.paths.current.cpu)


def discard(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """madvise(2) MADV_DONTNEED: the contents go, the area stays. EINVAL for locked memory."""
    if vma.hstate is not None:
        if (start - vma.start) % vma.hstate.pages:
            raise SysError(Errno.EINVAL, f"{start:#x} is in the middle of a huge page")
        end = start + (end - start) // vma.hstate.pages * vma.hstate.pages
    elif vma.locked:
        raise SysError(Errno.EINVAL, f"{vma} is locked")
    with mm.mmap_lock.read():
        if vma.hstate is not None:
            unmap_huge_range(vma, start, end)
        else:
            zap_page_range(vma, start, end, reclaim_pt=mm.vm.traits.reclaims_page_tables)


def exit_mmap(mm: Mm) -> None:
    """The last user is gone: everything goes, page tables too."""
    with mm.mmap_lock.write():
        for vma in list(mm.vmas):
            unmap_vma(mm, vma)
        for table in mm.tables.values():
            if table.entries or table.huge:
                raise KernelBug(f"page table of {mm.name} has entries outside every area")
            table.page.flags &= ~pg.PGTABLE
            put_page(table.page)
        if mm.hugetlb:
            raise KernelBug(f"{mm.name} has huge entries outside every area")
        mm.tables.clear()


def dup_mmap(parent: Mm, child: Mm) -> None:
    """fork(2): the child's areas and entries. Private pages are shared read-only until one side writes."""
    with parent.mmap_lock.write(), child.mmap_lock.write(nested=True):
        child.next_vpn = parent.next_vpn
        child.group = parent.group
        for vma in parent.vmas:
            _copy_vma(vma, parent, child)


def _copy_vma(vma: Vma, parent: Mm, child: Mm) -> None:
    """One area with its entries; a lock in memory is not inherited."""
    copy = Vma(  # MADV_HUGEPAGE is inherited
        child,
        vma.start,
        vma.end,
        shared=vma.shared,
        inode=vma.inode,
        pgoff=vma.pgoff,
        writable=vma.writable,
    )
    copy.huge, copy.anon_order = vma.huge, vma.anon_order
    copy.driver = vma.driver
    copy.pfnmap = vma.pfnmap
    copy.file = vma.file
    copy.mergeable = vma.mergeable
    copy.hstate = vma.hstate
    anon_vma_fork(copy, vma)
    child.vmas.append(copy)
    link_file(copy)
    if vma.hstate is not None:
        hugetlb_memory.copy_huge_range(vma, copy)
    if vma_needs_copy(vma):
        huge = list(parent.huge_tables(vma.start, vma.end))
        whole = [table for first, table in huge if _copy_huge_pmd(vma, copy, first, table)]
        for vpn, table in parent.populated(vma.start, vma.end):
            if table not in whole:  # it may have been split since
                _copy_entry(vma, copy, vpn, table)


def vma_needs_copy(vma: Vma) -> bool:
    """A child finds pages of a file, and the page of zeros, by its own faults: only the rest is copied."""
    return vma.anon_vma is not None or vma.driver is not None or vma.pfnmap is not None


def _copy_huge_pmd(vma: Vma, copy: Vma, first: int, table: PageTable) -> bool:
    """copy_huge_pmd(): share the folio, read-only; a pinned one is split and copied page by page, a file's
    is left for the child to find. Whether the child has the entry now."""
    if vma.shared:
        return False
    child_table = copy.mm.pmd_alloc(first)
    with table.lock, child_table.lock.nested():
        pmd = table.huge
        if pmd is None:
            return False
        if isinstance(pmd, MigrationPte):  # shared from now on
            table.huge = child_table.huge = replace(pmd, writable=False, exclusive=False)
            return True
        folio = pmd.page
        if folio is vma.mm.vm.huge_zero_folio:
            child_table.huge = Pmd(folio, writable=False)
            return True
        if folio.exclusive and folio.maybe_dma_pinned:
            split_huge_pmd(vma, first, table)
            return False
        pmd.writable = folio.exclusive = False
        get_page(folio)
        folio_add_rmap_pmd(folio, copy)
        child_table.huge = Pmd(folio, writable=False, dirty=pmd.dirty)
        return True


def _copy_entry(vma: Vma, copy: Vma, vpn: int, table: PageTable) -> None:
    """copy_pte_range() for one entry."""
    vm = vma.mm.vm
    child_table = copy.mm.pte_alloc(vpn)
    with table.lock, child_table.lock.nested():
        entry = table.entries.get(vpn)
        if isinstance(entry, SwapPte):
            vm.swap.duplicate(entry.entry)
            table.entries[vpn] = child_table.entries[vpn] = SwapPte(entry.entry)
        elif isinstance(entry, MigrationPte):
            if not vma.shared:  # shared from now on: neither may write without asking
                entry = replace(entry, writable=False, exclusive=False)
            table.entries[vpn] = child_table.entries[vpn] = entry
        elif isinstance(entry, Pte):
            _copy_present(vma, copy, vpn, entry, child_table)
        elif entry is not None:
            child_table.entries[vpn] = entry


def _copy_present(vma: Vma, copy: Vma, vpn: int, entry: Pte, child_table: PageTable) -> None:
    """copy_present_pte(): share the page; a pinned private one is copied, its owner must keep it."""
    vm = vma.mm.vm
    page = entry.page
    if page is vm.zero_page:
        child_table.entries[vpn] = Pte(page, writable=False)
        return
    if page.anon and page.exclusive and page.maybe_dma_pinned:
        own = new_anon_page(copy, vpn, vm.kernel_reads(page))
        child_table.entries[vpn] = Pte(own, writable=copy.writable, dirty=True)
        return
    if not vma.shared:
        entry.writable = False
        page.exclusive = False
    get_page(page)
    page_add_rmap(page, copy)
    child_table.entries[vpn] = Pte(page, writable=entry.writable, dirty=entry.dirty and not vma.shared)
