"""Each page state through the handler of each kernel: verdict, return code, log, counters, who is told.

One table. ``hard_offline_page`` injects, nobody asks to be told early, then every process looks at its
page. Facts 1.3 to 1.6, 2.2 to 2.8, 3.3; what differs between kernels stands in ``differs``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType, frame_text
from hwpoison.abi.signals import PAGE_SHIFT, Errno, SiCode, SigInfo, Signal
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import hard_offline_page
from hwpoison.failure.profiles import PROFILES
from hwpoison.mm.check import known_references
from hwpoison.mm.gup import pin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.pte import Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import truncate
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite, fsync


@dataclass
class Setting:
    """A page, who looks at it afterwards, and the file that may have lost it."""

    page: Page
    users: list[tuple[Task, int]] = field(default_factory=list)
    file: File | None = None


def mapped(task: Task, vma: Vma) -> Page:
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return entry.page


# Making the pages.


def anonymous(vm: Machine) -> Setting:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "precious")
    return Setting(mapped(task, vma), [(task, vma.start)])


def forked(vm: Machine) -> Setting:
    setting = anonymous(vm)
    ((task, vpn),) = setting.users
    return Setting(setting.page, [(task, vpn), (task.fork("child"), vpn)])


def orphan(vm: Machine) -> Setting:
    """Written by the parent, left to the child alone."""
    setting = forked(vm)
    (parent, _), (child, vpn) = setting.users
    parent.exit()
    return Setting(setting.page, [(child, vpn)])


def mlocked(vm: Machine) -> Setting:
    setting = anonymous(vm)
    ((task, _),) = setting.users
    mlock(task.alive_mm(), task.alive_mm().vmas[0])
    return setting


def pinned(vm: Machine) -> Setting:
    setting = anonymous(vm)
    ((task, vpn),) = setting.users
    pin_user_page(task, vpn)
    return setting


def given_up(vm: Machine) -> Setting:
    """An anonymous page that its process has unmapped, but the kernel still holds."""
    setting = anonymous(vm)
    ((task, _),) = setting.users
    get_page(setting.page)
    vm.held.add(setting.page.pfn)
    task.exit()
    return Setting(setting.page)


def zero_page(vm: Machine) -> Setting:
    return Setting(vm.zero_page)


def file_page(
    fs: str, *, dirty: bool = False, shared: bool = True, touch: bool = True
) -> Callable[[Machine], Setting]:
    def make(vm: Machine) -> Setting:
        file = File(vm.create("data", fs, 1), "fd")
        task = vm.new_task("app")
        vma = do_mmap(task.alive_mm(), 1, file=file, shared=shared)
        if dirty:
            vm.write(file, 0, "precious")
        else:
            vm.read(file, 0)
        if touch:
            load(task, vma.start)
        page = file.inode.mapping.pages.get(0)
        return Setting(page or mapped(task, vma), [(task, vma.start)], file)

    return make


def stored_to(fs: str) -> Callable[[Machine], Setting]:
    """Dirty by a page table; on tmpfs only the processor knows."""

    def make(vm: Machine) -> Setting:
        setting = file_page(fs)(vm) if fs != "tmpfs" else tmpfs_hole(vm)
        ((task, vpn),) = setting.users
        store(task, vpn, "precious")
        return setting

    return make


def tmpfs_hole(vm: Machine) -> Setting:
    file = File(vm.create("data", "tmpfs", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    load(task, vma.start)
    return Setting(mapped(task, vma), [(task, vma.start)], file)


def private_copy(vm: Machine) -> Setting:
    setting = file_page("ext4", shared=False)(vm)
    ((task, vpn),) = setting.users
    store(task, vpn, "precious")
    return Setting(mapped(task, task.alive_mm().vmas[0]), setting.users, setting.file)


def under_writeback(vm: Machine) -> Setting:
    """R11: the handler waits; then the disk has the contents, and the page is clean."""
    setting = file_page("ext4", dirty=True)(vm)
    assert setting.file is not None
    vm.disk.held = True
    filemap_fdatawrite(setting.file.inode.mapping)
    return setting


def held_file_page(vm: Machine) -> Setting:
    """Somebody reads it just now, or has it pinned (R9)."""
    setting = file_page("ext4", touch=False)(vm)
    get_page(setting.page)
    vm.held.add(setting.page.pfn)
    return setting


def held_tmpfs_page(vm: Machine) -> Setting:
    setting = file_page("tmpfs", dirty=True)(vm)
    get_page(setting.page)
    vm.held.add(setting.page.pfn)
    return setting


def busy_buffers(vm: Machine) -> Setting:
    setting = file_page("ext4", dirty=True)(vm)
    setting.page.private.busy = True  # type: ignore[union-attr]
    return setting


def directory(vm: Machine) -> Setting:
    file = File(vm.create("dir", "ext4", 1, regular=False), "fd")
    vm.read(file, 0)
    return Setting(file.inode.mapping.pages[0])


def truncated(vm: Machine) -> Setting:
    """Gone from its file, while somebody still holds it and it is on a reclaim list."""
    setting = file_page("ext4", touch=False)(vm)
    assert setting.file is not None
    vm.lru.add_drain_all()
    get_page(setting.page)
    vm.held.add(setting.page.pfn)
    truncate(setting.file.inode, 0)
    return Setting(setting.page)


def swap_cache(*, dirty: bool, map_again: bool = False) -> Callable[[Machine], Setting]:
    def make(vm: Machine) -> Setting:
        setting = anonymous(vm)
        ((task, vpn),) = setting.users
        vm.disk.failing = dirty
        reclaim_folio(setting.page, drop=False)
        vm.disk.failing = False
        if map_again:
            load(task, vpn)
        return setting

    return make


def stale_slot(vm: Machine) -> Setting:
    """In the swap cache, clean by its flags, but stored to since: only its entry knows."""
    setting = swap_cache(dirty=False, map_again=True)(vm)
    ((task, vpn),) = setting.users
    store(task, vpn, "precious")
    return setting


def tmpfs_in_swap_cache(*, dirty: bool) -> Callable[[Machine], Setting]:
    def make(vm: Machine) -> Setting:
        setting = file_page("tmpfs", dirty=True)(vm)
        vm.disk.failing = dirty
        reclaim_folio(setting.page, drop=False)
        vm.disk.failing = False
        return setting

    return make


def isolated(vm: Machine) -> Setting:
    """Off its list for longer: compaction has it."""
    setting = anonymous(vm)
    vm.lru.add_drain_all()
    vm.lru.isolate(setting.page)
    vm.held.add(setting.page.pfn)
    return setting


def kernel(kind: str) -> Callable[[Machine], Setting]:
    return lambda vm: Setting(kernel_page(vm, kind))


def page_table(vm: Machine) -> Setting:
    setting = anonymous(vm)
    ((task, vpn),) = setting.users
    return Setting(task.alive_mm().pte_alloc(vpn).page)


def firmware(vm: Machine) -> Setting:
    return Setting(vm.zone.page(1))


def free(vm: Machine) -> Setting:
    return Setting(vm.zone.page(200))


def on_a_cpu_list(vm: Machine) -> Setting:
    page = vm.zone.alloc_pages()
    put_page(page)
    return Setting(page)


def in_a_batch(vm: Machine) -> Setting:
    """Not on a list yet: the handler drains the batches (shake_page)."""
    setting = anonymous(vm)
    assert not setting.page.flags & pg.LRU
    return setting


# What comes of them.

MCE, BUS, FINE, OLD, ZEROS = "MCE", "BUS", "precious", "data:0:old", "zeros"
RECOVERED, DELAYED, FAILED, IGNORED = MfResult.RECOVERED, MfResult.DELAYED, MfResult.FAILED, MfResult.IGNORED
NOT_OURS = {"6.1": (PageType.UNKNOWN, IGNORED)}
OWNED = {"7.3": (PageType.KERNEL, IGNORED)} | NOT_OURS


@dataclass
class Case:
    """``then``: what each user's next load gives: contents, MCE (SIGBUS/MCEERR_AR) or BUS (plain SIGBUS)."""

    make: Callable[[Machine], Setting]
    type: PageType
    result: MfResult
    then: tuple[str, ...] = ()
    differs: dict[str, tuple[PageType, MfResult]] = field(default_factory=dict)
    fsync: bool = False  # every open file is told of a loss
    lines: tuple[str, ...] = ()  # of the log, before the verdict


CLEAN_DROPPED = "corrupted page was clean: dropped without side effects"
KEPT = "keeping poisoned page in swap cache"
UNHANDLABLE = "unhandlable page."
T = PageType

CASES = {
    "anonymous": Case(anonymous, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "anonymous, forked": Case(forked, T.DIRTY_LRU, RECOVERED, (MCE, MCE)),
    "anonymous, parent gone": Case(orphan, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "anonymous, mlocked": Case(mlocked, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "anonymous, pinned": Case(pinned, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "anonymous, in a batch": Case(in_a_batch, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "anonymous, unmapped and held": Case(given_up, T.CLEAN_LRU, RECOVERED),
    "private copy of a file": Case(private_copy, T.DIRTY_LRU, RECOVERED, (MCE,)),
    "page of zeros": Case(zero_page, T.GET_HWPOISON, IGNORED, differs=OWNED, lines=(UNHANDLABLE,)),
    "ext4, clean": Case(file_page("ext4"), T.CLEAN_LRU, RECOVERED, (OLD,), lines=(CLEAN_DROPPED,)),
    "ext4, clean, unmapped": Case(file_page("ext4", touch=False), T.CLEAN_LRU, RECOVERED, (OLD,)),
    "ext4, clean, private": Case(
        file_page("ext4", shared=False), T.CLEAN_LRU, RECOVERED, (OLD,), lines=(CLEAN_DROPPED,)
    ),
    "ext4, written": Case(file_page("ext4", dirty=True), T.DIRTY_LRU, RECOVERED, (MCE,), fsync=True),
    "ext4, written, unmapped": Case(
        file_page("ext4", dirty=True, touch=False), T.DIRTY_LRU, RECOVERED, (OLD,), fsync=True
    ),
    "ext4, stored to": Case(stored_to("ext4"), T.DIRTY_LRU, RECOVERED, (MCE,), fsync=True),
    "ext4, under writeback": Case(under_writeback, T.CLEAN_LRU, RECOVERED, (FINE,), lines=(CLEAN_DROPPED,)),
    "ext4, held": Case(
        held_file_page, T.CLEAN_LRU, FAILED, (OLD,), lines=("clean LRU page still referenced by 1 users",)
    ),
    "ext4, busy buffers": Case(
        busy_buffers,
        T.DIRTY_LRU,
        FAILED,
        (MCE,),
        fsync=True,
        lines=("failed to release buffers", "dirty LRU page still referenced by 1 users"),
    ),
    "ext4, directory": Case(
        directory,
        T.CLEAN_LRU,
        FAILED,
        lines=("Failed to punch page: -5", "clean LRU page still referenced by 1 users"),
    ),
    "ext4, truncated": Case(truncated, T.TRUNCATED_LRU, IGNORED),
    "vfat, clean": Case(file_page("vfat"), T.CLEAN_LRU, RECOVERED, (OLD,), lines=(CLEAN_DROPPED,)),
    "vfat, written": Case(
        file_page("vfat", dirty=True),
        T.DIRTY_LRU,
        FAILED,
        (MCE,),
        fsync=True,
        lines=("Failed to invalidate", "dirty LRU page still referenced by 2 users"),
    ),
    "tmpfs, hole": Case(tmpfs_hole, T.CLEAN_LRU, RECOVERED, (MCE,)),
    "tmpfs, written": Case(file_page("tmpfs", dirty=True), T.DIRTY_LRU, RECOVERED, (MCE,)),
    "tmpfs, stored to": Case(stored_to("tmpfs"), T.DIRTY_LRU, RECOVERED, (MCE,)),
    "tmpfs, unmapped": Case(file_page("tmpfs", dirty=True, touch=False), T.DIRTY_LRU, RECOVERED, (MCE,)),
    "tmpfs, held": Case(
        held_tmpfs_page, T.DIRTY_LRU, FAILED, (MCE,), lines=("dirty LRU page still referenced by 1 users",)
    ),
    "tmpfs, clean in the swap cache": Case(
        tmpfs_in_swap_cache(dirty=False), T.CLEAN_SWAPCACHE, RECOVERED, (FINE,)
    ),
    "tmpfs, dirty in the swap cache": Case(
        tmpfs_in_swap_cache(dirty=True), T.DIRTY_SWAPCACHE, DELAYED, (BUS,)
    ),
    "swap cache, clean": Case(swap_cache(dirty=False), T.CLEAN_SWAPCACHE, RECOVERED, (FINE,)),
    "swap cache, clean, mapped": Case(
        swap_cache(dirty=False, map_again=True), T.CLEAN_SWAPCACHE, RECOVERED, (FINE,), lines=(KEPT,)
    ),
    "swap cache, dirty": Case(swap_cache(dirty=True), T.DIRTY_SWAPCACHE, DELAYED, (MCE,)),
    "swap cache, dirty, mapped": Case(
        swap_cache(dirty=True, map_again=True), T.DIRTY_SWAPCACHE, DELAYED, (MCE,), lines=(KEPT,)
    ),
    "swap cache, stored to": Case(stale_slot, T.DIRTY_SWAPCACHE, DELAYED, (MCE,), lines=(KEPT,)),
    "isolated": Case(isolated, T.GET_HWPOISON, IGNORED, (FINE,), NOT_OURS, lines=(UNHANDLABLE,)),
    "slab": Case(kernel("slab"), T.GET_HWPOISON, IGNORED, differs=OWNED, lines=(UNHANDLABLE,)),
    "reserved": Case(kernel("reserved"), T.GET_HWPOISON, IGNORED, differs=OWNED, lines=(UNHANDLABLE,)),
    "firmware": Case(firmware, T.GET_HWPOISON, IGNORED, differs=OWNED, lines=(UNHANDLABLE,)),
    "page table": Case(page_table, T.GET_HWPOISON, IGNORED, differs=OWNED, lines=(UNHANDLABLE,)),
    "balloon": Case(kernel("balloon"), T.GET_HWPOISON, IGNORED, differs=NOT_OURS, lines=(UNHANDLABLE,)),
    "vmalloc": Case(kernel("vmalloc"), T.GET_HWPOISON, IGNORED, differs=NOT_OURS, lines=(UNHANDLABLE,)),
    "free": Case(free, T.BUDDY, RECOVERED),
    "free, on a CPU's list": Case(on_a_cpu_list, T.BUDDY, RECOVERED),
}


def next_load(task: Task, vpn: int) -> str:
    try:
        return load(task, vpn)
    except Signalled as hit:
        assert hit.info.signal is Signal.SIGBUS
        assert hit.info.address == vpn << PAGE_SHIFT
        assert hit.info.lsb == (PAGE_SHIFT if hit.info.code is SiCode.BUS_MCEERR_AR else 0)
        return MCE if hit.info.code is SiCode.BUS_MCEERR_AR else BUS


@pytest.mark.parametrize("name", CASES)
def test_a_page_in_this_state(failure: MemoryFailure, name: str) -> None:
    case, vm = CASES[name], failure.vm
    setting = case.make(vm)
    page_type, result = case.differs.get(failure.profile.name, (case.type, case.result))
    good = result in (RECOVERED, DELAYED)
    vm.log.clear()
    poisoned = vm.counters.poisoned
    prefix = f"Memory failure: {frame_text(setting.page.pfn)}: "

    assert hard_offline_page(failure, setting.page.pfn) == (0 if good else -Errno.EBUSY)

    expected = [prefix + line for line in case.lines]
    assert vm.log == [*expected, f"{prefix}recovery action for {page_type.log}: {result.text}"]
    assert [(event.pfn, event.type, event.result) for event in failure.events] == [
        (setting.page.pfn, page_type, result)
    ]
    assert vm.counters.poisoned == poisoned + 1
    assert vm.counters.results[result] == (1 if failure.profile.node_counters else 0)
    assert setting.page.flags & pg.HWPOISON, "the mark stays on every outcome"
    if good:
        assert not setting.page.mapped, "Recovered and Delayed: nobody reaches it unstopped (promise 4)"
    assert not any(task.received or task.pending for task in vm.tasks.values()), "nobody asked to hear early"
    if setting.file is not None and setting.file.inode.fs.can_writeback:
        files = [setting.file, File(setting.file.inode, "opened after the loss, before anybody heard")]
        assert [told(file) for file in files] == [case.fsync] * 2, "R13, R15"
        assert not any(told(file) for file in files), "once each"
    assert tuple(next_load(task, vpn) for task, vpn in setting.users) == case.then


def told(file: File) -> bool:
    try:
        fsync(file)
    except SysError as error:
        assert error.errno is Errno.EIO
        return True
    return False


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.then])
def test_whoever_asked_early_is_told_of_a_loss_and_of_nothing_else(failure: MemoryFailure, name: str) -> None:
    """Facts 3.1, 3.2, 2.5: SIGBUS/MCEERR_AO to each process that maps a page whose contents are gone.

    A page that nobody maps tells nobody now, whatever becomes of it (pages only in the swap cache).
    """
    case, vm = CASES[name], failure.vm
    setting = case.make(vm)
    vm.sysctls.memory_failure_early_kill = True
    was_mapped = setting.page.mapped
    hard_offline_page(failure, setting.page.pfn)
    result = failure.events[0].result
    lost = was_mapped and result is not IGNORED and "DIRTY" in failure.events[0].type.name
    for task, vpn in setting.users:
        info = SigInfo(Signal.SIGBUS, SiCode.BUS_MCEERR_AO, vpn << PAGE_SHIFT, PAGE_SHIFT)
        assert task.pending == ([info] if lost else [])
        line = f"{setting.page.pfn:#x}: Sending SIGBUS to {task} due to hardware memory corruption"
        assert (f"Memory failure: {line}" in vm.log) == lost


@pytest.mark.parametrize("name", CASES)
def test_a_second_error_on_the_page_changes_nothing(failure: MemoryFailure, name: str) -> None:
    """Facts 2.2 step 5, 2.3, B57: no counter moves; 6.1 has no verdict line for it."""
    setting = CASES[name].make(failure.vm)
    hard_offline_page(failure, setting.page.pfn)
    vm, events = failure.vm, len(failure.events)
    before = vm.counters.poisoned, dict(vm.counters.results), setting.page.refcount, setting.page.flags
    vm.log.clear()
    assert hard_offline_page(failure, setting.page.pfn) == -Errno.EHWPOISON
    assert before == (vm.counters.poisoned, vm.counters.results, setting.page.refcount, setting.page.flags)
    prefix = f"Memory failure: {frame_text(setting.page.pfn)}: "
    if failure.profile.name == "6.1":
        assert vm.log == [prefix + "already hardware poisoned"]
        assert len(failure.events) == events
    else:
        assert vm.log == [prefix + "recovery action for already poisoned page: Failed"]
        assert failure.events[-1].type is PageType.ALREADY_POISONED


@pytest.mark.parametrize("name", CASES)
def test_the_reference_of_the_handler_stays_exactly_where_it_should(
    failure: MemoryFailure, name: str
) -> None:
    """Facts 2.10: kept for ever after a verdict of the table, truncated or free; not taken when refused."""
    setting = CASES[name].make(failure.vm)
    vm, page = failure.vm, setting.page
    vm.lru.add_drain_all()
    extra = page.refcount - known_references(vm)[page.pfn]
    hard_offline_page(failure, page.pfn)
    vm.lru.add_drain_all()
    taken = failure.events[0].row is not None or failure.events[0].type in (
        PageType.TRUNCATED_LRU,
        PageType.BUDDY,
    )
    assert page.refcount - known_references(vm)[page.pfn] == extra + taken


def test_every_type_that_is_modelled_is_met() -> None:
    """But for those of races, of frames without struct page, of huge pages, and of failed unmapping."""
    met = {case.type for case in CASES.values()} | {
        t for case in CASES.values() for t, _ in case.differs.values()
    }
    elsewhere = {T.UNMAP_FAILED, T.KERNEL_HIGH_ORDER, T.ALREADY_POISONED, T.PFN_MAP, T.HUGE}
    rows = {row.type for profile in PROFILES.values() for row in profile.states}
    by_saved_flags_only = {row for row in rows if "MLOCKED" in row.name or "UNEVICTABLE" in row.name}
    assert rows - met - elsewhere - by_saved_flags_only == {T.SLAB}, (
        "refused before the table unless it is counted"
    )
