"""Loads, stores and faults: what a process finds at its addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import SiCode, Signal
from hwpoison.mm.fault import Fault
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine, Panic
from hwpoison.mm.memory import handle_mm_fault, load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, put_page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.pte import PoisonPte, Pte, SwapErrorPte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import invalidate_mapping_pages
from hwpoison.mm.writeback import fsync


@pytest.fixture
def vma(task: Task) -> Vma:
    return do_mmap(task.alive_mm(), 2)


@pytest.fixture
def file(vm: Machine) -> File:
    return File(vm.create("data", "ext4", 2), "fd")


def entry(task: Task, vpn: int) -> Pte:
    found = task.alive_mm().entry(vpn)
    assert isinstance(found, Pte)
    return found


def page(task: Task, vpn: int) -> Page:
    return entry(task, vpn).page


def signal(task: Task, vpn: int, *, write: bool = False) -> tuple[Signal, SiCode, int | None, int]:
    with pytest.raises(Signalled) as hit:
        store(task, vpn, "x") if write else load(task, vpn)
    info = hit.value.info
    assert hit.value.task is task
    return info.signal, info.code, info.address, info.lsb


# Anonymous memory.


def test_memory_nobody_wrote_to_is_one_page_of_zeros(vm: Machine, task: Task, vma: Vma) -> None:
    count = vm.zero_page.refcount
    assert [load(task, vma.start), load(task, vma.start + 1)] == ["zeros", "zeros"]
    assert page(task, vma.start) is vm.zero_page
    assert not entry(task, vma.start).writable
    assert (vm.zero_page.mapcount, vm.zero_page.refcount) == (0, count), "it is not counted"


def test_the_first_store_gets_a_page_of_its_own(vm: Machine, task: Task, vma: Vma) -> None:
    load(task, vma.start)
    store(task, vma.start, "x")
    own = page(task, vma.start)
    assert own is not vm.zero_page
    assert own.anon
    assert own.mapcount == 1
    assert own.flags & pg.SWAPBACKED
    assert load(task, vma.start) == "x"
    assert load(task, vma.start + 1) == "zeros"
    assert vm.zero_page.content == "zeros"


def test_an_address_in_no_area_is_a_segmentation_fault(task: Task, vma: Vma) -> None:
    assert signal(task, vma.end)[:1] == (Signal.SIGSEGV,)
    assert task.died_of is Signal.SIGSEGV


def test_a_store_to_a_read_only_area_is_a_segmentation_fault(task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1, writable=False)
    assert load(task, vma.start) == "zeros"
    assert signal(task, vma.start, write=True)[:1] == (Signal.SIGSEGV,)


def test_after_a_fork_each_side_has_its_own_copy_as_soon_as_it_writes(task: Task, vma: Vma) -> None:
    store(task, vma.start, "common")
    child = task.fork()
    shared = page(task, vma.start)
    assert page(child, vma.start) is shared
    assert shared.mapcount == 2
    store(child, vma.start, "the child's")
    assert load(task, vma.start) == "common"
    assert load(child, vma.start) == "the child's"
    store(task, vma.start, "the parent's")
    assert page(task, vma.start) is shared, "the last one left takes the page over"
    assert load(child, vma.start) == "the child's"


def test_a_page_that_somebody_else_holds_is_copied_not_taken_over(task: Task, vma: Vma) -> None:
    store(task, vma.start, "common")
    child = task.fork()
    shared = page(task, vma.start)
    shared.refcount += 1
    child.exit()
    store(task, vma.start, "new")
    assert page(task, vma.start) is not shared
    assert shared.content == "common"
    put_page(shared)


def test_a_store_of_one_relative_is_never_seen_by_another(task: Task, vma: Vma) -> None:
    store(task, vma.start, "one")
    family = [task]
    for _ in range(3):
        family.append(family[-1].fork())
    for number, member in enumerate(family):
        store(member, vma.start, f"mine {number}")
    assert [load(member, vma.start) for member in family] == [f"mine {n}" for n in range(4)]


def test_the_child_of_a_fork_keeps_the_mark_that_its_page_was_written_to(task: Task, vma: Vma) -> None:
    """__copy_present_ptes(): dirty stays in private entries, or the loss of the page would pass for clean."""
    store(task, vma.start, "x")
    child = task.fork()
    assert entry(child, vma.start).dirty
    assert entry(task, vma.start).dirty


def test_the_child_of_a_fork_finds_shared_memory_by_itself(task: Task, file: File) -> None:
    """vma_needs_copy(): what the file has need not be copied, as seen on all four kernels."""
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "x")
    child = task.fork()
    assert child.alive_mm().entry(vma.start) is None  # vma_needs_copy(): the file has the page
    assert load(child, vma.start) == "x"
    assert not entry(child, vma.start).dirty
    assert entry(task, vma.start).dirty


# Files.


def test_a_shared_mapping_is_the_file(vm: Machine, task: Task, file: File) -> None:
    vma = do_mmap(task.alive_mm(), 2, file=file, shared=True)
    assert load(task, vma.start + 1) == "data:1:old"
    store(task, vma.start, "new")
    assert vm.read(file, 0) == "new"
    assert file.inode.mapping.dirty == {0}
    vm.write(file, 1, "written")
    assert load(task, vma.start + 1) == "written"


def test_the_first_store_to_a_clean_page_asks_the_file_system(vm: Machine, task: Task, file: File) -> None:
    """page_mkwrite: the page is dirty and has its buffers before the store happens."""
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    load(task, vma.start)
    assert not entry(task, vma.start).writable
    store(task, vma.start, "x")
    cached = file.inode.mapping.pages[0]
    assert cached.flags & (pg.DIRTY | pg.PRIVATE) == pg.DIRTY | pg.PRIVATE
    fsync(file)
    assert not entry(task, vma.start).writable


def test_a_store_as_the_first_touch_prepares_the_page_just_as_well(task: Task, file: File) -> None:
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "x")
    cached = file.inode.mapping.pages[0]
    assert cached.flags & (pg.DIRTY | pg.PRIVATE) == pg.DIRTY | pg.PRIVATE
    assert file.inode.mapping.dirty == {0}


def test_a_private_mapping_follows_the_file_until_it_is_written_to(
    vm: Machine, task: Task, file: File
) -> None:
    vma = do_mmap(task.alive_mm(), 2, file=file)
    assert load(task, vma.start) == "data:0:old"
    vm.write(file, 0, "newer")
    assert load(task, vma.start) == "newer"
    store(task, vma.start, "mine")
    vm.write(file, 0, "newest")
    assert load(task, vma.start) == "mine"
    assert vm.read(file, 0) == "newest"
    store(task, vma.start + 1, "mine at once")
    assert vm.read(file, 1) == "data:1:old"


def test_a_private_copy_sits_at_its_place_in_the_file(vm: Machine, task: Task, file: File) -> None:
    vma = do_mmap(task.alive_mm(), 1, file=file, pgoff=1)
    store(task, vma.start, "mine")
    assert page(task, vma.start).index == 1
    assert page(task, vma.start).anon


def test_past_the_end_of_the_file_is_a_bus_error(task: Task, file: File) -> None:
    vma = do_mmap(task.alive_mm(), 3, file=file, shared=True)
    assert signal(task, vma.start + 2) == (Signal.SIGBUS, SiCode.BUS_ADRERR, (vma.start + 2) << 12, 0)


# Bad memory.


def test_a_poison_entry_is_a_memory_error_at_its_address(task: Task, vma: Vma) -> None:
    table = task.alive_mm().pte_alloc(vma.start)
    table.entries[vma.start] = PoisonPte(9)
    expected = (Signal.SIGBUS, SiCode.BUS_MCEERR_AR, vma.start << 12, 12)
    task.sigbus = "handler"
    assert signal(task, vma.start) == expected
    assert signal(task, vma.start, write=True) == expected, "each time"


def test_a_page_lost_to_an_old_kernels_swapoff_is_a_plain_bus_error(task: Task, vma: Vma) -> None:
    task.alive_mm().pte_alloc(vma.start).entries[vma.start] = SwapErrorPte()
    assert signal(task, vma.start) == (Signal.SIGBUS, SiCode.BUS_ADRERR, vma.start << 12, 0)


@pytest.mark.parametrize("fs", ["ext4", "vfat"])
def test_a_fault_on_a_bad_page_of_a_file_drops_a_clean_one_and_reads_it_again(vm: Machine, fs: str) -> None:
    """__do_fault(): since 5.18, nobody is hurt. The page was left in the cache by a handler that failed."""
    file = File(vm.create("clean", fs, 1), "fd")
    vm.read(file, 0)
    bad = file.inode.mapping.pages[0]
    bad.flags |= pg.HWPOISON
    vm.lru.add_drain_all()
    task = vm.new_task("reader")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    assert load(task, vma.start) == "clean:0:old"
    assert file.inode.mapping.pages[0] is not bad


def test_a_fault_on_a_bad_page_that_cannot_be_dropped_is_a_memory_error(vm: Machine, file: File) -> None:
    vm.write(file, 0, "dirty")
    bad = file.inode.mapping.pages[0]
    bad.flags |= pg.HWPOISON
    task = vm.new_task("reader")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    assert signal(task, vma.start)[:2] == (Signal.SIGBUS, SiCode.BUS_MCEERR_AR)
    assert file.inode.mapping.pages[0] is bad


def test_a_load_from_real_bad_memory_never_gives_bytes(vm: Machine, task: Task, vma: Vma) -> None:
    """Without a handler the machine check stops the machine."""
    store(task, vma.start, "x")
    vm.strike(page(task, vma.start).pfn, hardware=True)
    with pytest.raises(Panic, match="machine check at"):
        load(task, vma.start)
    assert not vm.exposures


def test_software_injection_harms_no_bytes_but_reading_them_is_noted(
    vm: Machine, task: Task, vma: Vma
) -> None:
    store(task, vma.start, "x")
    vm.strike(page(task, vma.start).pfn, hardware=False)
    assert load(task, vma.start) == "x"
    assert [exposure.text for exposure in vm.exposures] == [
        f"a load of a task read the bad page {page(task, vma.start).pfn:#x}"
    ]


class Handler:
    """Stands for the handler: notes what it is asked."""

    def __init__(self, vm: Machine) -> None:
        self.queued: list[int] = []
        vm.handler = self

    def machine_check(self, task: Task, pfn: int) -> None:
        raise NotImplementedError("no load meets the bad page here")

    def queue(self, pfn: int) -> None:
        self.queued.append(pfn)


@pytest.mark.parametrize("of_file", [True, False], ids=["file", "anonymous"])
def test_copy_on_write_of_a_bad_page_ends_the_fault_and_queues_the_source(
    vm: Machine, task: Task, file: File, of_file: bool
) -> None:
    """wp_page_copy(), do_cow_fault(): the kernel survives the copy, the process is told."""
    handler = Handler(vm)
    vma = do_mmap(task.alive_mm(), 1, file=file if of_file else None)
    if of_file:
        vm.read(file, 0)
        source = file.inode.mapping.pages[0]
    else:
        store(task, vma.start, "x")
        task.fork("child")
        source = page(task, vma.start)
    vm.strike(source.pfn, hardware=True)
    assert signal(task, vma.start, write=True)[:2] == (Signal.SIGBUS, SiCode.BUS_MCEERR_AR)
    assert handler.queued == [source.pfn]
    assert task.exited


# Without memory.


def test_a_fault_without_memory_leaves_everything_as_it_was(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=6)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 4)
    store(task, vma.start, "x")
    child = task.fork()
    with pytest.raises(OutOfMemory):
        store(child, vma.start, "y")
        store(child, vma.start + 1, "y")
        store(child, vma.start + 2, "y")
    assert load(task, vma.start) == "x"
    assert vm.paths.current.held == []


def test_a_fault_that_has_nothing_to_do_says_so(task: Task, vma: Vma) -> None:
    store(task, vma.start, "x")
    assert handle_mm_fault(task, vma.start, write=True) is Fault.RETRY
    assert handle_mm_fault(task, vma.end, write=False) is Fault.SIGSEGV


def test_the_page_cache_may_be_dropped_under_a_private_copy(vm: Machine, task: Task, file: File) -> None:
    vma = do_mmap(task.alive_mm(), 1, file=file)
    store(task, vma.start, "mine")
    invalidate_mapping_pages(file.inode.mapping)
    assert not file.inode.mapping.pages
    assert load(task, vma.start) == "mine"
