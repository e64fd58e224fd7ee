"""Memory of processes: areas, page tables, mmap, munmap, the copy at fork (mm/mmap.c).

All addresses here are page numbers (vpn = byte address >> 12). ``mmap_lock`` protects the list of
areas; each page table has its own lock for its 512 entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hwpoison.abi import pageflags as pg

from .inode import AddressSpace, File, Inode
from .locks import KernelBug, Lock, RwSem
from .page import Page, get_page, put_page
from .pte import Entry, MigrationPte, Pte, SwapPte
from .rmap import AnonVma, anon_vma_fork, new_anon_page, page_add_rmap, unlink_anon_vmas, zap_entry
from .truncate import evict_inode

if TYPE_CHECKING:
    from .machine import Machine
    from .task import Task

FIRST_VPN = 0x7F0000000
"""Where the first area of a process is put; the next ones follow with a hole between them."""
TABLE_SHIFT = 9


class PageTable:
    """One page of 512 entries: a frame that the kernel owns, its lock, and the entries that are not empty."""

    __slots__ = ("entries", "lock", "page")

    def __init__(self, page: Page, lock: Lock) -> None:
        self.page = page
        self.lock = lock
        self.entries: dict[int, Entry] = {}


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
        self.locked = False  # VM_LOCKED
        self.drivers = False  # VM_MIXEDMAP: a driver has put pages of its own there
        self.anon_vma: AnonVma | None = None
        self.anon_vma_chain: list[AnonVma] = []

    @property
    def mapping(self) -> AddressSpace | None:
        return self.inode.mapping if self.inode is not None else None

    def index_of(self, vpn: int) -> int:
        """linear_page_index(): the page offset that this address maps."""
        return vpn - self.start + self.pgoff

    def __repr__(self) -> str:
        return f"area {self.start:#x}-{self.end:#x}"


class Mm:
    """struct mm_struct: the memory of a process. ``users`` are the processes that share it."""

    def __init__(self, vm: Machine, name: str) -> None:
        self.vm = vm
        self.paths = vm.paths
        self.name = name
        self.mmap_lock = RwSem(vm.paths, "mmap_lock", name)
        self.vmas: list[Vma] = []
        self.tables: dict[int, PageTable] = {}
        self.users: list[Task] = []
        self.next_vpn = FIRST_VPN

    def table(self, vpn: int) -> PageTable | None:
        return self.tables.get(vpn >> TABLE_SHIFT)

    def pte_alloc(self, vpn: int) -> PageTable:
        """The page table for an address, made if it is missing."""
        table = self.tables.get(vpn >> TABLE_SHIFT)
        if table is None:
            page = self.vm.zone.alloc_zeroed()
            page.flags |= pg.PGTABLE
            table = PageTable(page, Lock(self.paths, "ptl", f"{self.name}:{vpn >> TABLE_SHIFT:x}"))
            self.tables[vpn >> TABLE_SHIFT] = table
        return table

    def entry(self, vpn: int) -> Entry | None:
        table = self.tables.get(vpn >> TABLE_SHIFT)
        return None if table is None else table.entries.get(vpn)

    def populated(self, start: int, end: int) -> Iterator[tuple[int, PageTable]]:
        """Every address in start .. end-1 with an entry, in order. Entries may be removed meanwhile."""
        for number in sorted(self.tables):
            table = self.tables[number]
            if (number + 1) << TABLE_SHIFT > start and number << TABLE_SHIFT < end:
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
) -> Vma:
    """mmap(2): a new area. Shared anonymous memory is a tmpfs file that nobody else can open."""
    with mm.mmap_lock.write():
        start = mm.next_vpn
        mm.next_vpn += pages + 16
        inode = file.inode if file is not None else None
        if inode is None and shared:
            inode = mm.vm.shmem_kernel_file(pages)
        offset = pgoff if inode is not None else start
        vma = Vma(mm, start, start + pages, shared=shared, inode=inode, pgoff=offset, writable=writable)
        mm.vmas.append(vma)
        link_file(vma)
        return vma


def link_file(vma: Vma) -> None:
    """Enter the area into the list of its file."""
    if vma.mapping is not None:
        with vma.mapping.i_mmap_rwsem.write():
            vma.mapping.i_mmap.append(vma)


def insert_page(vma: Vma, vpn: int, page: Page) -> None:
    """vm_insert_page(): a driver maps a page of its own into a process."""
    table = vma.mm.pte_alloc(vpn)
    vma.drivers = True
    with table.lock:
        get_page(page)
        page_add_rmap(page, vma)
        table.entries[vpn] = Pte(page, writable=vma.writable)


def munmap(mm: Mm, vma: Vma) -> None:
    """munmap(2) of one whole area."""
    with mm.mmap_lock.write():
        unmap_vma(mm, vma)


def unmap_vma(mm: Mm, vma: Vma) -> None:
    """Zap the entries of an area, unlink it from its reverse maps, forget it. Under mmap_lock."""
    for vpn, table in mm.populated(vma.start, vma.end):
        with table.lock:
            if vpn in table.entries:
                zap_entry(vma, vpn, table)
    unlink_anon_vmas(vma)
    if vma.mapping is not None:
        with vma.mapping.i_mmap_rwsem.write():
            vma.mapping.i_mmap.remove(vma)
        if vma.mapping.host.unnamed and not vma.mapping.i_mmap:
            evict_inode(vma.mapping.host)
    mm.vmas.remove(vma)


def exit_mmap(mm: Mm) -> None:
    """The last user is gone: everything goes, page tables too."""
    with mm.mmap_lock.write():
        for vma in list(mm.vmas):
            unmap_vma(mm, vma)
        for table in mm.tables.values():
            if table.entries:
                raise KernelBug(f"page table of {mm.name} has entries outside every area")
            table.page.flags &= ~pg.PGTABLE
            put_page(table.page)
        mm.tables.clear()


def dup_mmap(parent: Mm, child: Mm) -> None:
    """fork(2): the child's areas and entries. Private pages are shared read-only until one side writes."""
    with parent.mmap_lock.write(), child.mmap_lock.write(nested=True):
        child.next_vpn = parent.next_vpn
        for vma in parent.vmas:
            _copy_vma(vma, parent, child)


def _copy_vma(vma: Vma, parent: Mm, child: Mm) -> None:
    """One area with its entries; a lock in memory is not inherited."""
    copy = Vma(
        child,
        vma.start,
        vma.end,
        shared=vma.shared,
        inode=vma.inode,
        pgoff=vma.pgoff,
        writable=vma.writable,
    )
    anon_vma_fork(copy, vma)
    child.vmas.append(copy)
    link_file(copy)
    if vma_needs_copy(vma):
        for vpn, table in parent.populated(vma.start, vma.end):
            _copy_entry(vma, copy, vpn, table)


def vma_needs_copy(vma: Vma) -> bool:
    """A child finds the pages of a file by its own faults: only what is nowhere else is copied."""
    return vma.mapping is None or vma.anon_vma is not None or vma.drivers


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
