"""The handler against the rest of the VM, in random order: no bug, no deadlock, and the books balance.

Each test takes one page and what else happens to it, and runs them under seeds 0 .. SCHEDULES-1. A seed
fixes the schedule, so ``run(kind, other, seed)`` repeats a failure. HWPOISON_SCHEDULES=2000 looks further.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.failure import inject
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, Inode, SysError
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import ZEROS, Page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import invalidate_mapping_pages, punch_hole, truncate
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import fsync

SCHEDULES = int(os.environ.get("HWPOISON_SCHEDULES", "40"))


KNOWN = {
    PageType.CLEAN_MLOCKED_LRU,
    PageType.DIRTY_MLOCKED_LRU,
    PageType.CLEAN_UNEVICTABLE_LRU,
    PageType.DIRTY_UNEVICTABLE_LRU,
}
"""A weakness of real kernels, see test_a_locked_page_off_its_list_passes_for_recovered."""
FILE_CONTENTS = ("precious", "mine", "data:0:old", "zeros")


class Random:
    """Anybody who is ready may be next; some seeds switch at every point, others seldom."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.patience = self.random.choice((0.0, 0.5, 0.9))

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        if running in ready and self.random.random() < self.patience:
            return running
        return self.random.choice(ready)


@dataclass
class World:
    """A machine with one page of some kind: its owner, a relative of his, the file behind it."""

    vm: Machine
    failure: MemoryFailure
    task: Task
    others: list[Task]  # one for each path: a process that ends takes nobody else along
    vma: Vma
    page: Page
    file: File | None = None
    contents: tuple[str, ...] = ("precious",)  # what a reader may find; private memory is nobody else's

    @property
    def other(self) -> Task:
        """The process that the current path acts for."""
        task: Task = self.vm.paths.current.task
        return task

    @property
    def inode(self) -> Inode:
        assert self.file is not None
        return self.file.inode

    def area(self, task: Task) -> Vma:
        return task.alive_mm().vmas[0]


def anonymous(vm: Machine, failure: MemoryFailure) -> World:
    """One page of anonymous memory, shared by a process, two children and a grandchild."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "precious")
    children = [task.fork("child")]
    children += [task.fork("child"), children[0].fork("grandchild")]
    return World(vm, failure, task, children, vma, mapped(task, vma))


def swap_cache(vm: Machine, failure: MemoryFailure) -> World:
    """The same, in the swap cache, clean, and mapped again by the parent."""
    world = anonymous(vm, failure)
    reclaim_folio(world.page, drop=False)
    load(world.task, world.vma.start)
    return world


def swapped(vm: Machine, failure: MemoryFailure) -> World:
    """The same, in the swap cache, mapped by nobody."""
    world = anonymous(vm, failure)
    reclaim_folio(world.page, drop=False)
    return world


def of_file(fs: str, *, dirty: bool, shared: bool = True) -> Callable[[Machine, MemoryFailure], World]:
    def make(vm: Machine, failure: MemoryFailure) -> World:
        file = File(vm.create("data", fs, 2), "fd")
        task, *others = (vm.new_task(comm) for comm in ("app", "first", "second", "third"))
        vma = do_mmap(task.alive_mm(), 2, file=file, shared=shared)
        if dirty:
            store(task, vma.start, "precious")
        load(task, vma.start)
        for other in others:
            load(other, do_mmap(other.alive_mm(), 2, file=file, shared=shared).start)
        return World(vm, failure, task, others, vma, mapped(task, vma), file, FILE_CONTENTS)

    return make


def mapped(task: Task, vma: Vma) -> Page:
    entry = task.alive_mm().entry(vma.start)
    return entry.page  # type: ignore[union-attr]


KINDS: dict[str, Callable[[Machine, MemoryFailure], World]] = {
    "anonymous": anonymous,
    "swap cache": swap_cache,
    "swapped": swapped,
    "clean ext4": of_file("ext4", dirty=False),
    "dirty ext4": of_file("ext4", dirty=True),
    "private ext4": of_file("ext4", dirty=False, shared=False),
    "dirty vfat": of_file("vfat", dirty=True),
    "clean tmpfs": of_file("tmpfs", dirty=False),
    "dirty tmpfs": of_file("tmpfs", dirty=True),
}


def reads(world: World) -> None:
    assert load(world.other, world.area(world.other).start) in world.contents


def writes(world: World) -> None:
    store(world.other, world.area(world.other).start, "mine")


def forks(world: World) -> None:
    world.other.fork("grandchild")


def exits(world: World) -> None:
    world.other.exit()


def unmaps(world: World) -> None:
    munmap(world.other.alive_mm(), world.area(world.other))


def locks_in_memory(world: World) -> None:
    mlock(world.other.alive_mm(), world.area(world.other))
    mlock(world.other.alive_mm(), world.area(world.other), on=False)


def reclaims(world: World) -> None:
    reclaim_folio(world.page)


def pins(world: World) -> None:
    unpin_user_page(pin_user_page(world.other, world.area(world.other).start))


def is_offlined(world: World) -> None:
    soft_offline_page(world.failure, world.page.pfn)


def is_moved(world: World) -> None:
    move_page_of(world.other.alive_mm(), world.area(world.other).start)


def is_hit_again(world: World) -> None:
    world.failure.memory_failure(world.page.pfn, 0)


def switches_swap_off(world: World) -> None:
    world.vm.swap.swapoff()


def truncates(world: World) -> None:
    truncate(world.inode, 0)


def punches(world: World) -> None:
    punch_hole(world.inode, 0, 1)


def syncs(world: World) -> None:
    assert world.file is not None
    fsync(world.file)


def drops_caches(world: World) -> None:
    invalidate_mapping_pages(world.inode.mapping)


def reads_the_file(world: World) -> None:
    assert world.file is not None
    assert world.vm.read(world.file, 0) in (*world.contents, "")


def writes_the_file(world: World) -> None:
    assert world.file is not None
    world.vm.write(world.file, 0, "precious")


MEMORY = [
    reads,
    writes,
    forks,
    exits,
    unmaps,
    locks_in_memory,
    reclaims,
    pins,
    is_offlined,
    is_moved,
    is_hit_again,
    switches_swap_off,
]
FILES = [truncates, punches, syncs, drops_caches, reads_the_file, writes_the_file]


def attempt(world: World, action: Callable[[World], None]) -> None:
    """What a process does; being signalled or refused is an outcome."""
    with suppress(Signalled, SysError):
        action(world)


FIRST: dict[str, Callable[[MemoryFailure, int], int]] = {
    "handler": inject.hard_offline_page,
    "soft offline": soft_offline_page,
}


def run(kind: str, others: Sequence[Callable[[World], None]], seed: int, first: str = "handler") -> None:
    names = sorted(PROFILES)
    profile = PROFILES[names[seed % len(names)]]
    vm = Machine(frames=128, swap_slots=4, traits=profile.traits)
    failure = MemoryFailure(vm, profile)
    vm.sysctls.memory_failure_early_kill = bool(seed & 8)
    world = KINDS[kind](vm, failure)
    page = world.page
    vm.paths.chooser = Random(seed)
    vm.paths.spawn(first, FIRST[first], failure, page.pfn)
    for cpu, (action, task) in enumerate(zip(others, world.others, strict=False), 1):
        vm.paths.spawn(action.__name__, attempt, world, action, task=task, cpu=cpu)
    vm.paths.finish()
    vm.paths.chooser = None
    vm.lru.add_drain_all()
    assert vm.check() == []
    for inode in vm.inodes:
        for late in (cached for index, cached in inode.mapping.pages.items() if index >= inode.size):
            # A read that was too late for a truncation may leave a page behind; nobody can see it.
            assert (late.mapcount, late.flags & pg.DIRTY, late.content) == (0, 0, ZEROS)
    last = [event for event in failure.events if event.pfn == page.pfn and event.row is not None]
    if last and last[-1].result in (MfResult.RECOVERED, MfResult.DELAYED) and last[-1].type not in KNOWN:
        assert not page.mapped
    vm.deliver_signals()
    for task in list(vm.tasks.values()):
        if not task.exited:
            task.exit()
    assert vm.check() == []
    if page.flags & pg.HWPOISON and (
        last or page.pfn in failure.out_of_use or profile.traits.checks_new_pages
    ):
        assert page.pfn not in everything_that_can_be_had(vm)


def everything_that_can_be_had(vm: Machine) -> set[int]:
    """All frames that the allocator gives, until it has no more."""
    had: set[int] = set()
    with suppress(OutOfMemory):
        while True:
            had.add(vm.zone.alloc_pages().pfn)
    return had


PAIRS = [
    pytest.param(kind, other, id=f"{kind}-{other.__name__}")
    for kind in KINDS
    for other in MEMORY + (FILES if kind.split()[-1] in ("ext4", "vfat", "tmpfs") else [])
]


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_the_handler_and_one_other_path_in_any_order(kind: str, other: Callable[[World], None]) -> None:
    for seed in range(SCHEDULES):
        try:
            run(kind, [other], seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run({kind!r}, [{other.__name__}], {seed})")
            raise


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_soft_offline_and_one_other_path_in_any_order(kind: str, other: Callable[[World], None]) -> None:
    for seed in range(SCHEDULES):
        try:
            run(kind, [other], seed, "soft offline")
        except BaseException as error:
            error.add_note(f"seed {seed}: run({kind!r}, [{other.__name__}], {seed}, 'soft offline')")
            raise


def test_the_handler_and_three_other_paths_in_any_order() -> None:
    """Kinds and paths are drawn from the seed as well."""
    for seed in range(SCHEDULES * 10):
        draw = random.Random(seed)
        kind = draw.choice(list(KINDS))
        others = draw.sample(MEMORY + (FILES if kind.split()[-1] in ("ext4", "vfat", "tmpfs") else []), 3)
        try:
            run(kind, others, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run({kind!r}, [{', '.join(f.__name__ for f in others)}], {seed})")
            raise
