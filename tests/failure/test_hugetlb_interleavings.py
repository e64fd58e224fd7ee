"""The handler against whatever else happens to a huge page, in random order: the books balance.

As tests/failure/test_interleavings.py, with huge pages of four frames. ``run(kind, others, seed)`` repeats
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.failure import inject
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.hugetlb import Hstate
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import punch_hole, truncate

from .test_interleavings import SCHEDULES, Random

PAGES = 4


@dataclass
class World:
    """A machine with one huge page of some kind, three of its users, and the file behind it."""

    vm: Machine
    failure: MemoryFailure
    others: list[Task]
    page: Page
    file: File | None = None

    @property
    def other(self) -> Task:
        task: Task = self.vm.paths.current.task
        return task

    def area(self) -> Vma:
        return self.other.alive_mm().vmas[0]

    @property
    def pool(self) -> Hstate:
        return self.vm.hugetlb.hstates["2M"]


def frame(task: Task) -> Page:
    start = task.alive_mm().vmas[0].start
    entry = task.alive_mm().entry(start + 1)
    assert isinstance(entry, Pte)
    return entry.page


def private(vm: Machine, failure: MemoryFailure) -> World:
    """Shared by a process and three children."""
    task = vm.new_task("app")
    store(task, do_mmap(task.alive_mm(), PAGES, hugetlb="2M").start, "precious")
    others = [task.fork("child") for _ in range(3)]
    return World(vm, failure, others, frame(task))


def of_file(vm: Machine, failure: MemoryFailure, *, shared: bool = True) -> World:
    file = File(vm.create("h", "hugetlbfs", PAGES), "fd")
    owner, *others = (vm.new_task(comm) for comm in ("app", "first", "second", "third"))
    store(owner, do_mmap(owner.alive_mm(), PAGES, file=file, shared=True).start, "precious")
    for other in others:
        load(other, do_mmap(other.alive_mm(), PAGES, file=file, shared=shared).start)
    return World(vm, failure, others, frame(owner), file)


def private_of_file(vm: Machine, failure: MemoryFailure) -> World:
    return of_file(vm, failure, shared=False)


def free(vm: Machine, failure: MemoryFailure) -> World:
    """In the pool; three processes have been promised pages and not touched them."""
    others = [vm.new_task("app") for _ in range(3)]
    for other in others:
        do_mmap(other.alive_mm(), PAGES, hugetlb="2M")
    return World(vm, failure, others, vm.zone.page(vm.hugetlb.hstates["2M"].free_list[0].pfn + 1))


def gigantic(vm: Machine, failure: MemoryFailure) -> World:
    world = free(vm, failure)
    big = vm.hugetlb.hstates["1G"]
    vm.hugetlb.set_max_huge_pages(big, 1)
    world.page = vm.zone.page(big.free_list[0].pfn + 6)
    return world


KINDS: dict[str, Callable[[Machine, MemoryFailure], World]] = {
    "private": private,
    "file": of_file,
    "private of a file": private_of_file,
    "free": free,
    "gigantic": gigantic,
}


def reads(world: World) -> None:
    load(world.other, world.area().start)


def writes(world: World) -> None:
    store(world.other, world.area().start, "mine")


def forks(world: World) -> None:
    world.other.fork("grandchild")


def exits(world: World) -> None:
    world.other.exit()


def unmaps(world: World) -> None:
    munmap(world.other.alive_mm(), world.area())


def maps_anew(world: World) -> None:
    vma = do_mmap(world.other.alive_mm(), PAGES, hugetlb="2M")
    store(world.other, vma.start, "new")


def pins(world: World) -> None:
    unpin_user_page(pin_user_page(world.other, world.area().start))


def is_hit_again(world: World) -> None:
    world.failure.memory_failure(world.page.pfn, 0)


def is_hit_beside(world: World) -> None:
    world.failure.memory_failure(world.page.pfn + 1, 0)


def is_offlined(world: World) -> None:
    soft_offline_page(world.failure, world.page.pfn)


def is_moved(world: World) -> None:
    move_page_of(world.other.alive_mm(), world.area().start)


def shrinks_the_pool(world: World) -> None:
    world.vm.hugetlb.set_max_huge_pages(world.pool, 1)


def grows_the_pool(world: World) -> None:
    world.vm.hugetlb.set_max_huge_pages(world.pool, world.pool.nr + 2)


def demotes(world: World) -> None:
    world.vm.hugetlb.demote(1)


def truncates(world: World) -> None:
    if world.file is not None:
        truncate(world.file.inode, 0)


def punches(world: World) -> None:
    if world.file is not None:
        punch_hole(world.file.inode, 0, PAGES)


def reads_the_file(world: World) -> None:
    if world.file is not None:
        assert world.vm.read(world.file, 0) in ("precious", "mine", "zeros", "")


ACTIONS = [
    reads, writes, forks, exits, unmaps, maps_anew, pins, is_hit_again, is_hit_beside, is_offlined, is_moved,
    shrinks_the_pool, grows_the_pool, demotes, truncates, punches, reads_the_file,
]  # fmt: skip


def attempt(world: World, action: Callable[[World], None]) -> None:
    with suppress(Signalled, SysError):
        action(world)


def run(kind: str, others: Sequence[Callable[[World], None]], seed: int) -> None:
    profile = PROFILES[sorted(PROFILES)[seed % len(PROFILES)]]
    vm = Machine(frames=256, huge_order=2, gigantic_order=4, traits=profile.traits)
    failure = MemoryFailure(vm, profile)
    vm.sysctls.memory_failure_early_kill = bool(seed & 8)
    vm.hugetlb.set_max_huge_pages(vm.hugetlb.hstates["2M"], 4)
    vm.hugetlb.hstates["2M"].overcommit = 2
    world = KINDS[kind](vm, failure)
    vm.paths.chooser = Random(seed)
    vm.paths.spawn("handler", inject.hard_offline_page, failure, world.page.pfn)
    for cpu, (action, task) in enumerate(zip(others, world.others, strict=False), 1):
        vm.paths.spawn(action.__name__, attempt, world, action, task=task, cpu=cpu)
    vm.paths.finish()
    vm.paths.chooser = None
    assert vm.check() == []
    _settled(world)
    vm.deliver_signals()
    for task in list(vm.tasks.values()):
        if not task.exited:
            task.exit()
    assert vm.check() == []


def _settled(world: World) -> None:
    """A frame that was recovered is reached by nobody; the pool's counters add up."""
    page, vm = world.page, world.vm
    last = [event for event in world.failure.events if event.pfn == page.pfn]
    if last and last[0].result is MfResult.RECOVERED:
        assert not page.head.mapped or not page.head.flags & pg.HWPOISON
        assert page.pfn not in set(vm.zone.free_pfns())
    for h in vm.hugetlb.hstates.values():
        assert h.reserved <= len(h.free_list) <= h.nr
        assert 0 <= h.surplus <= h.nr
        assert all(page.refcount == 0 for page in h.free_list)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ACTIONS, ids=lambda action: action.__name__)
def test_the_handler_and_one_other_path_in_any_order(kind: str, other: Callable[[World], None]) -> None:
    for seed in range(SCHEDULES):
        try:
            run(kind, [other], seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run({kind!r}, [{other.__name__}], {seed})")
            raise


def test_the_handler_and_three_other_paths_in_any_order() -> None:
    for seed in range(SCHEDULES * 10):
        draw = random.Random(seed)
        kind, others = draw.choice(list(KINDS)), draw.sample(ACTIONS, 3)
        try:
            run(kind, others, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run({kind!r}, [{', '.join(f.__name__ for f in others)}], {seed})")
            raise
