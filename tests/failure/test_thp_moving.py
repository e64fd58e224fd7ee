"""A huge page on its way to another frame against whatever else happens to it, in random order.

``run(others, seed)`` repeats what a failure names.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import PROFILES
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import SysError
from hwpoison.mm.khugepaged import madvise_collapse
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, discard, do_mmap, munmap
from hwpoison.mm.pte import Pte
from hwpoison.mm.split import split_huge_page
from hwpoison.mm.task import Signalled, Task

from .test_interleavings import SCHEDULES, Random

PAGES = 512
Action = Callable[[MemoryFailure, Task, Vma], object]


def reads(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    assert load(task, vma.start + 5) in ("five", "mine", "zeros")


def writes(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    store(task, vma.start + 5, "mine")
    assert load(task, vma.start + 5) in ("mine", "zeros")  # zeros: given up by another path


def forks(_failure: MemoryFailure, task: Task, _vma: Vma) -> None:
    task.fork("grandchild")


def exits(_failure: MemoryFailure, task: Task, _vma: Vma) -> None:
    task.exit()


def unmaps(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    munmap(task.alive_mm(), vma)


def gives_a_page_up(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    discard(task.alive_mm(), vma, vma.start + 6, vma.start + 7)


def pins(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    unpin_user_page(pin_user_page(task, vma.start + 3))


def locks(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    mlock(task.alive_mm(), vma)


def moves_too(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    move_page_of(task.alive_mm(), vma.start + 7)


def is_split(failure: MemoryFailure, task: Task, vma: Vma) -> None:
    entry = task.alive_mm().entry(vma.start)
    if isinstance(entry, Pte):
        split_huge_page(failure.vm.zone.page(entry.page.pfn))


def collapses(_failure: MemoryFailure, task: Task, vma: Vma) -> None:
    madvise_collapse(task.alive_mm(), vma.start)


def is_hit(failure: MemoryFailure, task: Task, vma: Vma) -> None:
    entry = task.alive_mm().entry(vma.start + 5)
    if isinstance(entry, Pte):
        failure.memory_failure(entry.page.pfn, 0)


def is_offlined(failure: MemoryFailure, task: Task, vma: Vma) -> None:
    entry = task.alive_mm().entry(vma.start + 5)
    if isinstance(entry, Pte):
        soft_offline_page(failure, entry.page.pfn)


ACTIONS: list[Action] = [
    reads, writes, forks, exits, unmaps, gives_a_page_up, pins, locks, moves_too, is_split, collapses,
    is_hit, is_offlined,
]  # fmt: skip


def attempt(failure: MemoryFailure, task: Task, action: Action) -> None:
    areas = task.alive_mm().vmas
    with suppress(Signalled, SysError):
        if areas:  # not given up yet
            action(failure, task, areas[0])


def run(others: Sequence[Action], seed: int) -> None:
    profile = PROFILES[sorted(PROFILES)[seed % len(PROFILES)]]
    vm = Machine(frames=8192, traits=profile.traits)
    failure = MemoryFailure(vm, profile)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), PAGES, huge=True)
    store(task, vma.start + 5, "five")
    tasks = [task.fork("child") for _ in range(2)] if seed & 4 else [task.clone_vm("other") for _ in range(2)]
    vm.paths.chooser = Random(seed)
    vm.paths.spawn("mover", move_page_of, task.alive_mm(), vma.start + 5, task=task)
    for cpu, (action, other) in enumerate(zip(others, (*tasks, task), strict=False), 1):
        vm.paths.spawn(action.__name__, attempt, failure, other, action, task=other, cpu=cpu)
    vm.paths.finish()
    vm.paths.chooser = None
    assert vm.check() == []
    vm.deliver_signals()
    for each in list(vm.tasks.values()):
        if not each.exited:
            each.exit()
    assert vm.check() == []


@pytest.mark.parametrize("other", ACTIONS, ids=lambda action: action.__name__)
def test_a_huge_page_moves_while_one_other_path_is_under_way(other: Action) -> None:
    for seed in range(SCHEDULES):
        try:
            run([other], seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run([{other.__name__}], {seed})")
            raise


def test_a_huge_page_moves_while_two_other_paths_are_under_way() -> None:
    for seed in range(SCHEDULES * 4):
        others = random.Random(seed).sample(ACTIONS, 2)
        try:
            run(others, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}: run([{', '.join(f.__name__ for f in others)}], {seed})")
            raise
