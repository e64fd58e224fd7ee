"""One machine: wires the parts of the VM together, and checks them all.

Everything that a run can change hangs from a Machine; building one costs about as much as a dozen
objects, so each scenario, and each explored schedule, starts from a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from hwpoison.abi.records import Note
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import Errno

from .check import imbalances
from .dax import Pmem, dax_create, dax_read, dax_write
from .disk import Disk
from .errseq import Errseq
from .filemap import filemap_read, generic_perform_write
from .hugetlb import GIGANTIC_ORDER, HUGE_ORDER, Hugetlb
from .hugetlbfs import hugetlbfs_read
from .inode import FILE_SYSTEMS, File, FileSystem, Inode, SysError
from .ksm import Ksm
from .locks import Chooser, Paths
from .lru import Lru
from .mmap import Mm, Vma
from .page import Page
from .page_alloc import Zone
from .rmap import anon_vma_prepare
from .shmem import shmem_read, shmem_write
from .swap import SwapArea
from .task import Task


class Panic(Exception):
    """The machine stops: an outcome, and the end of every path."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Differences between kernels outside the handler; each profile of failure/profiles.py has one."""

    swapoff_leaves_poison_entry: bool = True
    """mm/swapfile.c unuse_pte(): 6.1 leaves a plain error entry instead, since 6.2 a poison entry."""
    checks_new_pages: bool = False
    """mm/page_alloc.c check_new_pages() looks at every page that is handed out; since 6.3 only in kernels
    that were built or booted to check pages (is_check_pages_enabled())."""
    migration_copies_first: bool = True
    """mm/migrate.c __migrate_folio() copies before the page is replaced in its cache, so that bad memory can
    stop it; S 6.12. Before, it copies afterwards, and has to succeed."""
    moves_clean_pages_only: tuple[str, ...] = ("ramfs",)
    """File systems without an operation that moves a page (migrate_folio); on 6.1 vfat has none either."""
    migration_splits_partly_mapped: bool = True
    """mm/migrate.c migrate_pages_batch(): an anonymous huge page with a page that nobody maps any more is
    split first, and its pages move one by one; seen from 6.12 on. 6.1 moves it as it is."""
    moves_huge_page_by_its_head: bool = False
    """mm/migrate.c add_page_for_migration(): move_pages(2) of a hugetlb page by another address than its
    first is EACCES; seen on 6.1."""
    no_page_table_is_efault: bool = False
    """mm/gup.c no_page_table(): move_pages(2) of memory without even a page table; seen on 6.1."""
    compacts_large_folios: bool = True
    """mm/compaction.c skip_isolation_on_order(): folios smaller than a block of pages move, too; S 6.12. On
    6.1 all large ones stay."""
    migration_writes_dirty_pages: bool = False
    """mm/migrate.c fallback_migrate_folio(): a dirty page of a file system without an operation to move it is
    written to the disk, to be moved then; S 6.1, 6.12. Later it stays where it is."""
    blocks_count_bad_frames: bool = True
    """drivers/base/memory.c memory_block_online() refuses a block with bad frames (nr_hwpoison, since 6.2).
    Before, its frames come back as new, the bad ones too, as nobody remembers them."""
    reclaim_unmaps_bad_pages: bool = True
    """mm/vmscan.c shrink_folio_list() takes a page known to be bad away from whoever maps it, and off the
    lists for good (since 6.15, and in stable kernels of then). Before, it was written out as any other."""
    huge_zero_becomes_huge: bool = True
    """A store to the huge page of zeros gives a huge page of one's own: since 6.13; seen on 6.12 and 7.3."""
    split_drops_zeros: bool = True
    """mm/migrate.c try_to_map_unused_to_zeropage(): after an anonymous huge page was split its pages of zeros
    are given up for the shared one, unless they are locked; since 6.12. Seen on 6.1 to 7.3."""
    collapses_read_only: bool = True
    """mm/khugepaged.c: memory of which no page may be written to, as after a fork, becomes a huge page as
    well; seen on 7.2 and 7.3. Before, it is EINVAL."""
    collapse_survives_errors: bool = True
    """mm/khugepaged.c __collapse_huge_page_copy() can be stopped by bad memory; since 6.4. 6.1 was seen to
    panic."""
    maps_whole_folio: tuple[str, ...] = ("ext4", "xfs", "xfs-16k", "tmpfs")
    """A fault on a page of these files maps all of its folio (finish_fault()): tmpfs since 6.10, all others
    since 6.18; seen on 6.12, 7.2 and 7.3."""
    splits_to_any_order: bool = True
    """A large folio can be split to folios that are still large: since 6.9; seen on 6.1 and 6.12."""
    splits_around: bool = True
    """Truncation splits a folio only as far as it must (folio_split()): since 6.15."""
    large_folios: tuple[str, ...] = ("ext4", "xfs", "xfs-16k", "bdev")
    """The file systems whose writes make large folios (mapping_set_large_folios(), and a buffered write that
    asks for them): xfs since 6.6, block devices and ext4 since 6.16; seen on 6.12, 7.2 and 7.3."""
    tails_show_folio: bool = True
    """/proc/kpageflags gives the word of the folio for each of its pages (stable_page_flags()): since 6.10.
    Before, a tail's own, which is almost empty."""
    shmem_write_refuses_folio: bool = True
    """write(2) to any page of a tmpfs folio with a bad page is EIO (shmem_write_begin()); 6.1 looks only at
    the one page. Seen on 6.1 and 6.12."""
    store_gives_slot_back: Literal["alone", "owner", "never"] = "owner"
    """mm/memory.c do_swap_page(): a store that brings a page back from swap gives up its slot if nobody has a
    reference to it (6.1, 6.12), or also if the page was its owner's alone before (7.3). On 7.2 the page
    stays, dirty, in the swap cache. Seen on all four."""
    truncate_writes: tuple[str, ...] = ()
    """File systems that write before they make a file shorter, and may be told of an earlier error instead
    (xfs_setattr_size()): seen on 6.1, and not on 6.12, 7.2 and 7.3."""
    punch_writes_if_dirty: tuple[str, ...] = ()
    """File systems that write before they make a hole in a file with dirty pages (ext4_punch_hole()): seen on
    6.1, and not on 6.12, 7.2 and 7.3."""
    skips_changed_pages: bool = True
    """mm/ksm.c cmp_and_merge_page() looks for changes before it searches the stable tree, since 6.11."""
    direct_write_falls_back: bool = True
    """fs/iomap/direct-io.c: an old error of the file sends a direct write through the cache; S 6.12. In 6.1
    the write fails."""
    unshares_merged_pages: bool = True
    """mm/ksm.c break_ksm() takes a merged page apart without a write fault, since 6.2: the copy is clean."""
    knows_poison_markers: bool = True
    """fs/userfaultfd.c UFFDIO_POISON, since 6.6."""
    unmapping_drains: bool = False
    """mm/memory.c, mm/swap_state.c: whoever unmaps memory puts this CPU's batches onto the lists, before and
    after (lru_add_drain()); up to 6.13. Seen on 6.1 and 6.12, and no more on 7.2 and 7.3."""
    write_looks_first: bool = False
    """mm/filemap.c generic_perform_write() looks whether the bytes can be had before it begins; since 6.15
    it begins, and a page of tmpfs that was made for it stays."""
    touch_activates: bool = False
    """mm/gup.c FOLL_TOUCH: a page of a file that is used again goes into a batch, whose reference keeps it
    from being moved; seen on 6.1 (MADV_SOFT_OFFLINE), and not on 6.12, 7.2 and 7.3."""
    swap_skips_zeros: bool = True
    """mm/page_io.c swap_writeout(): a page of zeros is only noted, and needs no disk, since 6.12; seen on
    6.12 and later."""
    writes_in_chunks: bool = True
    """mm/filemap.c generic_perform_write() asks for as much at once as a large folio holds, so a seal of
    tmpfs refuses all of a write; since 6.10. Before, it goes page by page."""
    free_needs_first_page: bool = False
    """mm/madvise.c madvise_free_pte_range(): a huge page is not split for a part of it if its first page is
    mapped no more; seen on 6.1, and not on 6.12."""
    anon_folios: bool = True
    """mm/memory.c alloc_anon_folio(): anonymous folios smaller than a huge page, where they are switched on
    (hugepages-64kB); since 6.8."""
    vmalloc_by_fault: bool = True
    """kernel/bpf/arraymap.c: a process that maps an array gets its pages by faults; since 7.3. Before, they
    are put there once, and do not come back."""
    reclaims_page_tables: bool = True
    """mm/memory.c zap_pte_range(): MADV_DONTNEED of all that a page table covers gives the table up, so that
    a huge page can come there again; since 6.14. Seen on 7.2 and 7.3, and not on 6.12."""
    unmapping_promises_anew: bool = True
    """mm/hugetlb.c __unmap_hugepage_range(): a private huge page that its owner gives up, and nobody else
    maps, is promised to him anew when it is free, if the pool has no surplus pages; since 6.9. Seen on 6.12
    and 7.3, and not on 6.1."""
    frees_gigantic_whole: bool = True
    """mm/hugetlb.c free_gigantic_folio(): a page of 1 GiB goes back as one folio; seen on 6.12 and later. On
    6.1 frame by frame, of which a bad one gets on no list and so cannot be taken off one."""
    overcommits_gigantic: bool = True
    """mm/hugetlb.c: pages of 1 GiB can be surplus; seen on 7.2, and not on 6.12."""
    copies_swapped_tails: bool = False
    """mm/ksm.c ksm_might_need_to_copy(): a page of a large folio in the swap cache, but the first, comes back
    as a copy, without a look whether it is bad; seen on 6.1, and not on 6.12."""
    maps_swapped_folio: bool = True
    """mm/memory.c do_swap_page() maps all of a large folio that it finds in the swap cache; seen on 6.12 and
    later."""
    remembers_lost_data: bool = False
    """Lost pages of files are remembered (lost.py); in no kernel, see docs/proposed.md."""
    marks_page_error: bool = False
    """mm/memory-failure.c me_pagecache_dirty(): up to 6.11 the page's own error flag is set as well."""
    hugetlb_read_refuses_all: bool = False
    """fs/hugetlbfs/inode.c hugetlbfs_read_iter(): 6.1 fails for every part of a huge page with a bad frame;
    since 6.6 only from that frame on."""


@dataclass(slots=True)
class Sysctls:
    """/proc/sys/vm, as far as the handler asks."""

    memory_failure_early_kill: bool = False
    memory_failure_recovery: bool = True
    panic_on_unrecoverable_memory_failure: bool = False
    enable_soft_offline: bool = True


class Handler(Protocol):
    """What the VM calls when it meets bad memory; failure/handler.py offers it."""

    def machine_check(self, task: Task, pfn: int) -> None:
        """A task in user mode consumed an error in this frame."""

    def unmap_poisoned(self, page: Page) -> None:
        """Reclaim met a page that is known to be bad: take it away from whoever maps it; it is locked."""

    def queue(self, pfn: int) -> None:
        """The kernel met an error while copying and went on; to be handled later."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """The bytes of a bad frame reached somebody who was not stopped."""

    text: str
    device: bool
    hardware: bool
    """The error was real: a processor would have been stopped."""


@dataclass(slots=True)
class Counters:
    """/proc/meminfo HardwareCorrupted, in pages, and /sys/devices/system/node/node0/memory_failure/*."""

    poisoned: int = 0
    results: dict[MfResult, int] = field(default_factory=lambda: dict.fromkeys(MfResult, 0))


class Machine:
    """``frames`` page frames of which ``reserved`` belong to the firmware, ``swap_slots`` pages of swap."""

    def __init__(
        self,
        *,
        frames: int = 256,
        reserved: int = 2,
        swap_slots: int = 0,
        huge_order: int = HUGE_ORDER,
        gigantic_order: int = GIGANTIC_ORDER,
        traits: Traits = Traits(),
        chooser: Chooser | None = None,
        paths: Paths | None = None,
    ) -> None:
        self.traits = traits
        self.pmd_order = huge_order  # of what one entry above the page tables maps (HPAGE_PMD_ORDER)
        self.paths = paths or Paths(chooser)
        self.zone = Zone(self, frames, reserved)
        self.pmem = Pmem(self)
        self.lru = Lru(self)
        self.swap = SwapArea(self, swap_slots)
        self.ksm = Ksm(self)
        self.hugetlb = Hugetlb(self, huge_order, gigantic_order)
        self.disk = Disk(self)
        self.paths.idle = self.disk.answer
        self.sysctls = Sysctls()
        self.counters = Counters()
        self.tasks: dict[int, Task] = {}  # leaders, by pid, in order of creation
        self.inodes: list[Inode] = []
        self.log: list[str] = []
        self.story: list[Note] | None = None
        self.exposures: list[Exposure] = []
        self.registered: set[int] = set()  # frames that a driver maps by number, and has told the handler of
        self.vmalloc: set[int] = set()  # frames of vmalloc memory, which nothing marks
        self.held: set[int] = set()  # frames with a plain reference of somebody who is not modelled
        self.uncontained: set[int] = set()  # frames whose error takes the processor's state along
        self.hardware = False  # errors are real: a bad frame cannot be read. Else injected by software
        self.handler: Handler | None = None
        self._superblocks: dict[str, Errseq] = {}
        self._last_pid = 100
        self.zero_page = self.zone.page(0)
        self.huge_zero_folio: Page | None = None

    # Making things.

    def next_pid(self) -> int:
        self._last_pid += 1
        return self._last_pid

    def new_task(self, comm: str, *, mm: Mm | None = None) -> Task:
        """A process with one thread and empty memory, or in the memory given."""
        task = Task(self, self.next_pid(), comm)
        task.mm = mm or Mm(self, f"{comm}:{task.pid}")
        task.mm.users.append(task)
        self.tasks[task.pid] = task
        return task

    def create(self, name: str, fs: str | FileSystem, pages: int, *, regular: bool = True) -> Inode:
        """A file of that many pages; on a disk, with old data in each block."""
        row = FILE_SYSTEMS[fs] if isinstance(fs, str) else fs
        inode = Inode(self, name, row, pages, regular=regular)
        if row.can_writeback:
            inode.blocks = {index: f"{name}:{index}:old" for index in range(pages)}
        if row.dax:
            dax_create(inode, pages)
        self.inodes.append(inode)
        return inode

    def get_huge_zero_folio(self) -> Page:
        """mm_get_huge_zero_folio(): made when first wanted, and kept. May raise OutOfMemory."""
        if self.huge_zero_folio is None:
            self.huge_zero_folio = self.zone.alloc_zeroed(self.pmd_order)
        return self.huge_zero_folio

    def shmem_kernel_file(self, pages: int, fs: str = "tmpfs") -> Inode:
        """The file behind shared anonymous memory."""
        inode = self.create(f"shmem{len(self.inodes)}", fs, pages)
        inode.unnamed = True
        return inode

    def superblock_err(self, fs: str) -> Errseq:
        return self._superblocks.setdefault(fs, Errseq(self.paths))

    def make_anon(self, page: Page, vma: Vma, vpn: int) -> None:
        """Give a page from swap its reverse map back: the oldest, which all who may have the slot are in."""
        anon_vma_prepare(vma)
        page.mapping = vma.anon_vma_chain[0]
        page.index = vma.index_of(vpn)

    # System calls that depend on the file system.

    def read(self, file: File, index: int) -> str:
        """read(2) of one page: its content, '' past the end; raises SysError."""
        fs = file.inode.fs
        if fs.dax:
            return dax_read(file, index)
        return (shmem_read if fs.swap_backed else hugetlbfs_read if fs.huge else filemap_read)(file, index)

    def write(self, file: File, index: int, data: str, pages: int = 1) -> int:
        """write(2) of whole pages, filled with the same: how many were written; raises SysError."""
        if file.inode.fs.huge:
            raise SysError(Errno.EINVAL, "hugetlbfs has no write(2)")
        if file.inode.fs.dax:
            return dax_write(file, index, data, pages)
        if file.inode.fs.swap_backed:
            return shmem_write(file, index, data, pages)
        generic_perform_write(file, index, data, pages)
        return pages

    # The only ways to bytes in a frame, other than a task's load and store.

    def kernel_reads(self, page: Page) -> str:
        """The kernel copies from a frame. With a real error that cannot be survived."""
        if page.bad:
            if self.hardware:
                raise Panic(f"uncorrected error at {page.pfn:#x} consumed by the kernel")
            self.expose(page, "the kernel")
        return page.content

    def copy_mc(self, page: Page) -> str | None:
        """copy_mc_user_highpage(): None if the source turned out bad, which is then queued for handling."""
        if page.bad and self.hardware:
            if self.handler is not None:
                self.handler.queue(page.pfn)
            return None
        return self.kernel_reads(page)

    def kernel_writes(self, page: Page, data: str) -> None:
        """The kernel fills a frame."""
        page.content = data

    def device_reads(self, page: Page) -> str:
        """A device takes the bytes of a frame; it would send on what the bad memory gives."""
        if page.bad:
            self.expose(page, "a device", device=True)
        return page.content

    def expose(self, page: Page, who: str, *, device: bool = False) -> None:
        """Note that somebody was not stopped."""
        self.exposures.append(Exposure(f"{who} read the bad {page}", device, self.hardware))

    # Errors.

    def strike(self, pfn: int, *, hardware: bool, contained: bool = True) -> None:
        """A frame goes bad, and nobody knows yet. Not ``contained``: who consumes the error cannot go on."""
        self.hardware = self.hardware or hardware
        if not contained:
            self.uncontained.add(pfn)
        self.zone.page(pfn).bad = True

    def machine_check(self, task: Task, page: Page) -> None:
        """The processor refuses a load of this task. If it lost its own state with it (PCC), the kernel stops
        before any handler is asked (mce_severity(), arch/x86/kernel/cpu/mce/severity.c).
        """
        if page.pfn in self.uncontained:
            raise Panic("Fatal machine check: processor context corrupt")
        if self.handler is None:
            raise Panic(f"machine check at {page.pfn:#x} and no handler")
        self.handler.machine_check(task, page.pfn)

    # What people are told.

    def printk(self, line: str) -> None:
        self.log.append(line)

    def tell(self, who: str, text: str, source: str = "") -> None:
        """One line of the story, if somebody listens."""
        if self.story is not None:
            self.story.append(Note(who, text, source))

    def deliver_signals(self) -> None:
        """Every task gets to user mode once."""
        for leader in list(self.tasks.values()):
            for thread in list(leader.threads):
                if not thread.exited:
                    thread.deliver()

    def check(self) -> list[str]:
        """Everything that does not balance, in words; empty when all is well."""
        return imbalances(self)
