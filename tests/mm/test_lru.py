"""Reclaim lists and the batches before them; counting of pages locked in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.lru import BATCH
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, put_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio

from .conftest import mapped


def locked_state(page: Page) -> tuple[bool, bool, int]:
    page.vm.lru.add_drain_all()
    return bool(page.flags & pg.MLOCKED), bool(page.flags & pg.UNEVICTABLE), page.mlock_count


LOCKED_ONCE, LOCKED_TWICE, FREE_TO_GO = (True, True, 1), (True, True, 2), (False, False, 0)


@pytest.fixture
def page(vm: Machine) -> Page:
    return vm.zone.alloc_pages()


# Batches and isolation.


def test_a_new_page_waits_in_a_batch_with_a_reference_and_off_the_list(vm: Machine, page: Page) -> None:
    vm.lru.add(page)
    assert page.refcount == 2
    assert not page.flags & pg.LRU
    assert not vm.lru.isolate(page)
    vm.lru.add_drain_all()
    assert page.refcount == 1
    assert page.flags & pg.LRU
    put_page(page)


def test_a_full_batch_goes_to_the_list_by_itself(vm: Machine) -> None:
    pages = [vm.zone.alloc_pages() for _ in range(BATCH)]
    for page in pages[:-1]:
        vm.lru.add(page)
    assert not vm.lru.pages
    vm.lru.add(pages[-1])
    assert list(vm.lru.pages.values()) == pages, "oldest first"
    for page in pages:
        put_page(page)


def test_draining_all_reaches_the_batches_of_every_cpu(vm: Machine) -> None:
    pages = []
    for cpu in range(3):
        vm.paths.current.cpu = cpu
        pages.append(vm.zone.alloc_pages())
        vm.lru.add(pages[-1])
    vm.lru.add_drain(1)
    assert [bool(page.flags & pg.LRU) for page in pages] == [False, True, False]
    vm.lru.add_drain_all()
    assert all(page.flags & pg.LRU for page in pages)
    for page in pages:
        put_page(page)


def test_one_isolates_a_page_and_owns_it(vm: Machine, page: Page) -> None:
    vm.lru.add(page)
    vm.lru.add_drain_all()
    assert vm.lru.isolate(page)
    assert not vm.lru.isolate(page)
    assert page.refcount == 2
    assert page.pfn not in vm.lru.pages
    vm.lru.putback(page)
    vm.lru.add_drain_all()
    assert page.flags & pg.LRU
    assert page.refcount == 1
    put_page(page)


def test_a_page_that_is_freed_leaves_its_list(vm: Machine, page: Page) -> None:
    vm.lru.add(page)
    vm.lru.add_drain_all()
    put_page(page)
    assert not vm.lru.pages
    assert not page.flags


def test_draining_waits_for_a_page_that_another_path_is_draining(vm: Machine, page: Page) -> None:
    """lru_add_drain_all() runs on each CPU in turn: afterwards every page of a batch is on its list."""
    vm.lru.add(page)
    other = vm.paths.spawn("other", vm.lru.add_drain, 0)

    class HalfWay:
        """The other path runs until it holds the lock of the lists; then we do, as far as we can."""

        turns = iter([other, vm.paths.main])

        def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
            if op in (Op.START, Op.RMW):
                return next(self.turns, running)
            return running if running in ready else ready[0]

    vm.paths.chooser = HalfWay()
    vm.paths.point(Op.START, page)
    assert vm.lru.lock.owner is other
    assert not page.flags & pg.LRU
    vm.lru.add_drain_all()
    assert page.flags & pg.LRU
    vm.paths.finish()
    put_page(page)


def test_the_own_check_of_the_lists_finds_a_page_without_its_mark(vm: Machine, page: Page) -> None:
    vm.lru.add(page)
    vm.lru.add_drain_all()
    page.flags &= ~pg.LRU
    assert vm.check() == [f"{page} lacks PG_lru but is listed"]
    page.flags |= pg.LRU
    put_page(page)


# Pages locked in memory. Whoever locks first, and whether the page was there before, must not matter.


def shared_file(vm: Machine) -> File:
    return File(vm.create("data", "ext4", 4), "fd")


def area(vm: Machine, file: File | None, comm: str) -> tuple[Task, Vma]:
    task = vm.new_task(comm)
    return task, do_mmap(task.alive_mm(), 2, file=file, shared=file is not None)


@pytest.mark.parametrize("touch_first", [True, False], ids=["touched, then locked", "locked, then touched"])
@pytest.mark.parametrize("of_file", [True, False], ids=["file", "anonymous"])
def test_a_page_locked_in_memory_counts_once_and_is_let_go(
    vm: Machine, touch_first: bool, of_file: bool
) -> None:
    task, vma = area(vm, shared_file(vm) if of_file else None, "app")
    if touch_first:
        store(task, vma.start, "x")
        mlock(task.alive_mm(), vma)
    else:
        mlock(task.alive_mm(), vma)
        store(task, vma.start, "x")
    page = mapped(task, vma.start)
    assert locked_state(page) == LOCKED_ONCE
    mlock(task.alive_mm(), vma)
    assert locked_state(page) == LOCKED_ONCE, "an area is locked or not"
    mlock(task.alive_mm(), vma, on=False)
    assert locked_state(page) == FREE_TO_GO


@pytest.mark.parametrize("second_touches_first", [True, False])
def test_two_lockers_both_count_and_the_last_one_lets_go(vm: Machine, second_touches_first: bool) -> None:
    file = shared_file(vm)
    (one, first), (two, second) = area(vm, file, "one"), area(vm, file, "two")
    load(one, first.start)
    vm.lru.add_drain_all()
    mlock(one.alive_mm(), first)
    if second_touches_first:
        load(two, second.start)
    mlock(two.alive_mm(), second)
    load(two, second.start)
    page = mapped(one, first.start)
    assert locked_state(page) == LOCKED_TWICE
    munmap(one.alive_mm(), first)
    assert locked_state(page) == LOCKED_ONCE
    two.exit()
    assert locked_state(page) == FREE_TO_GO


def test_a_lock_in_memory_is_not_inherited(vm: Machine) -> None:
    task, vma = area(vm, None, "app")
    mlock(task.alive_mm(), vma)
    store(task, vma.start, "x")
    child = task.fork()
    page = mapped(task, vma.start)
    assert locked_state(page) == LOCKED_ONCE
    task.exit()
    assert locked_state(page) == FREE_TO_GO
    assert mapped(child, vma.start) is page


def test_the_mark_comes_at_once_and_the_move_with_the_next_drain(vm: Machine, page: Page) -> None:
    vm.lru.add(page)
    vm.lru.add_drain_all()
    vm.lru.mlock_folio(page)
    assert page.flags & (pg.MLOCKED | pg.UNEVICTABLE) == pg.MLOCKED
    assert page.refcount == 2
    vm.lru.add_drain_all()
    assert page.flags & pg.UNEVICTABLE
    vm.lru.munlock_folio(page)
    assert page.flags & pg.MLOCKED
    vm.lru.add_drain_all()
    assert not page.flags & (pg.MLOCKED | pg.UNEVICTABLE)
    put_page(page)


def test_a_page_off_its_list_is_not_moved_but_still_unlocked(vm: Machine, page: Page) -> None:
    """__munlock_folio(): without the list nobody can count, so the mark goes; reclaim mends what is wrong."""
    vm.lru.add(page)
    vm.lru.add_drain_all()
    vm.lru.isolate(page)
    vm.lru.mlock_folio(page)
    vm.lru.add_drain_all()
    assert page.flags & (pg.MLOCKED | pg.UNEVICTABLE) == pg.MLOCKED
    vm.lru.munlock_folio(page)
    vm.lru.add_drain_all()
    assert not page.flags & pg.MLOCKED
    vm.lru.putback(page)
    put_page(page)
    vm.lru.add_drain_all()


@pytest.mark.parametrize("of_file", [True, False], ids=["file", "anonymous"])
def test_reclaim_leaves_a_locked_page_alone_and_takes_it_when_it_is_let_go(
    vm: Machine, of_file: bool
) -> None:
    task, vma = area(vm, shared_file(vm) if of_file else None, "app")
    mlock(task.alive_mm(), vma)
    load(task, vma.start) if of_file else store(task, vma.start, "x")
    page = mapped(task, vma.start)
    assert not reclaim_folio(page)
    assert mapped(task, vma.start) is page
    mlock(task.alive_mm(), vma, on=False)
    assert reclaim_folio(page)
    assert load(task, vma.start) == ("data:0:old" if of_file else "x")


def test_pages_of_a_file_system_that_never_lets_go_are_unevictable(machine: Callable[..., Machine]) -> None:
    vm = machine()
    file = File(vm.create("data", "ramfs", 1), "fd")
    vm.write(file, 0, "x")
    page = file.inode.mapping.pages[0]
    assert locked_state(page) == (False, True, 0)
    assert not reclaim_folio(page)
