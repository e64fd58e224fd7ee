"""Taking a bad page away from the processes that map it, and what each address is left with (facts 2.5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno, McePolicy, SiCode, Signal
from hwpoison.failure import user_mappings
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import hard_offline_page
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.user_mappings import hwpoison_user_mappings, unmap_poisoned_folio
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, get_page, locked, put_page
from hwpoison.mm.pte import PoisonPte, Pte, SwapPte
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite


def mapped(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def app(vm: Machine, fs: str | None, *, dirty: bool, shared: bool = True) -> tuple[Task, Vma, Page]:
    """A process with one page, on its list, marked as bad and held."""
    file = File(vm.create("data", fs, 1), "fd") if fs else None
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=shared and file is not None)
    store(task, vma.start, "x") if dirty else load(task, vma.start)
    page = mapped(task, vma.start)
    vm.lru.add_drain_all()
    get_page(page)
    page.flags |= pg.HWPOISON
    return task, vma, page


@pytest.mark.parametrize(
    ("fs", "dirty", "left"),
    [
        (None, True, PoisonPte),
        ("ext4", True, PoisonPte),
        ("ext4", False, type(None)),
        ("vfat", False, type(None)),
        ("tmpfs", True, PoisonPte),
        ("tmpfs", False, PoisonPte),
        ("ramfs", False, PoisonPte),
    ],
)
def test_each_address_is_left_with_what_it_deserves(
    newest: MemoryFailure, fs: str | None, dirty: bool, left: type
) -> None:
    """Nothing only for a clean page of a disk: it can be read again. tmpfs never writes back."""
    task, vma, page = app(newest.vm, fs, dirty=dirty)
    with locked(page):
        unmap_poisoned_folio(newest, page, must_kill=False)
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, left)
    if isinstance(entry, PoisonPte):
        assert entry == PoisonPte(page.pfn, file=fs is not None)
    assert not page.mapped


def test_a_page_of_the_swap_cache_leaves_swap_entries_and_will_speak_for_itself(
    newest: MemoryFailure,
) -> None:
    task, vma, page = app(newest.vm, None, dirty=True)
    page.flags &= ~pg.HWPOISON
    put_page(page)
    reclaim_folio(page, drop=False)
    load(task, vma.start)
    page.flags |= pg.HWPOISON
    newest.vm.lru.add_drain_all()
    with locked(page):
        unmap_poisoned_folio(newest, page, must_kill=False)
    assert isinstance(task.alive_mm().entry(vma.start), SwapPte)
    assert newest.vm.log == [f"Memory failure: {page.pfn:#x}: keeping poisoned page in swap cache"]


def test_if_the_task_must_die_a_clean_page_leaves_poison_too(newest: MemoryFailure) -> None:
    task, vma, page = app(newest.vm, "ext4", dirty=False)
    with locked(page):
        unmap_poisoned_folio(newest, page, must_kill=True)
    assert isinstance(task.alive_mm().entry(vma.start), PoisonPte)


def test_a_store_that_only_a_page_table_knows_of_makes_the_page_dirty(newest: MemoryFailure) -> None:
    """The page's own mark was cleared by writeback; the entries are asked before it counts as clean."""
    task, vma, page = app(newest.vm, "ext4", dirty=True)
    page.flags &= ~pg.DIRTY
    assert isinstance(page.mapping, object)
    next(iter(newest.vm.inodes)).mapping.dirty.clear()
    with locked(page):
        unmap_poisoned_folio(newest, page, must_kill=False)
    assert page.flags & pg.DIRTY
    assert isinstance(task.alive_mm().entry(vma.start), PoisonPte)


@pytest.mark.parametrize("flag", ["RESERVED", "SLAB", "PGTABLE", "OFFLINE"])
def test_pages_of_the_kernel_have_nothing_to_unmap(newest: MemoryFailure, flag: str) -> None:
    page = newest.vm.zone.alloc_pages()
    page.flags |= pg.BY_NAME[flag].mask | pg.LRU
    page.mapcount = 1
    with locked(page):
        assert hwpoison_user_mappings(newest, page, 0)
    page.flags, page.mapcount = 0, 0
    newest.vm.held.add(page.pfn)


def test_a_page_off_the_lists_is_not_unmapped(newest: MemoryFailure) -> None:
    """Facts 2.5 step 1; it comes here only when it is under writeback."""
    task, vma, page = app(newest.vm, None, dirty=True)
    newest.vm.lru.isolate(page)
    with locked(page):
        assert hwpoison_user_mappings(newest, page, 0)
    assert mapped(task, vma.start) is page


def test_a_page_that_only_the_swap_cache_has_is_nobodys_yet(newest: MemoryFailure) -> None:
    """Those who name its slot are told when they come for it: never early."""
    vm = newest.vm
    vm.sysctls.memory_failure_early_kill = True
    task, _, page = app(vm, None, dirty=True)
    page.flags &= ~pg.HWPOISON
    put_page(page)
    reclaim_folio(page, drop=False)
    vm.lru.add_drain_all()
    with locked(page):
        assert hwpoison_user_mappings(newest, page, 0)
    assert not task.pending


def test_locked_memory_is_unmapped_like_any_other(failure: MemoryFailure) -> None:
    """mlock(2) protects against reclaim, not against the loss of the page."""
    vm = failure.vm
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    mlock(task.alive_mm(), vma)
    page = mapped(task, vma.start)
    store(task, vma.start, "x")
    assert hard_offline_page(failure, page.pfn) == 0
    assert isinstance(task.alive_mm().entry(vma.start), PoisonPte)
    assert not page.flags & pg.MLOCKED


def test_a_mlock_that_another_cpu_has_not_counted_yet_is_no_unexplained_reference(
    newest: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """The batches are drained once more after unmapping, or its reference would make it Failed."""
    vm = newest.vm
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    mlock(task.alive_mm(), vma)
    page = mapped(task, vma.start)

    def unmapping(running: Path, op: Op, on: object) -> bool:
        return op is Op.ACQUIRE_SHARED and on is file.inode.mapping.i_mmap_rwsem

    result = interrupted(
        vm, lambda: hard_offline_page(newest, page.pfn), lambda: vm.lru.mlock_folio(page), unmapping
    )
    assert result == 0
    assert newest.events[0].result is MfResult.RECOVERED


# When unmapping fails.


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cannot be taken away from anybody."""
    monkeypatch.setattr(user_mappings, "try_to_unmap", lambda page, flags: None)


@pytest.mark.parametrize("fs", [None, "ext4"])
def test_a_page_that_stays_mapped_counts_as_lost_even_if_it_is_clean(
    failure: MemoryFailure, stuck: None, fs: str | None
) -> None:
    """R6, B65: users are always collected; the verdict is honest about what may still reach it."""
    vm = failure.vm
    task, _, page = app(vm, fs, dirty=fs is None)
    page.flags &= ~pg.HWPOISON
    task.prctl_mce_kill(McePolicy.EARLY)
    assert hard_offline_page(failure, page.pfn) == -Errno.EBUSY
    old = failure.profile.name == "6.1"
    (event,) = failure.events
    assert (event.type, event.result) == (PageType.UNMAP_FAILED, MfResult.IGNORED if old else MfResult.FAILED)
    (info,) = task.pending
    assert (info.signal, info.code) == (
        (Signal.SIGKILL, SiCode.SI_KERNEL) if old else (Signal.SIGBUS, SiCode.BUS_MCEERR_AO)
    )
    assert f"Memory failure: {page.pfn:#x}: failed to unmap page (folio mapcount=1)" in [
        line.replace("(mapcount", "(folio mapcount") for line in vm.log
    ]
    assert page.flags & pg.HWPOISON
    assert not page.flags & pg.LOCKED


def test_the_line_about_a_page_that_stays_mapped_is_the_old_kernels_own(
    handlers: Callable[..., MemoryFailure], stuck: None
) -> None:
    failure = handlers(PROFILES["6.1"])
    _, _, page = app(failure.vm, None, dirty=True)
    page.flags &= ~pg.HWPOISON
    hard_offline_page(failure, page.pfn)
    assert f"Memory failure: {page.pfn:#x}: failed to unmap page (mapcount=1)" in failure.vm.log


def test_the_wait_for_writeback_comes_before_anything_is_taken_away(
    newest: MemoryFailure,
) -> None:
    """R11: with the page locked and no writeback under way, none can begin."""
    vm = newest.vm
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "x")
    page = mapped(task, vma.start)
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    assert page.flags & pg.WRITEBACK
    assert hard_offline_page(newest, page.pfn) == 0
    assert file.inode.blocks[0] == "x"
    assert newest.events[0].type is PageType.CLEAN_LRU
    assert load(task, vma.start) == "x"
