"""Migration: contents, entries, caches and marks go to the new frame; who holds on keeps the old one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.filemap import Buffers, filemap_get_folio
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, FileSystem
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine, Panic, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import (
    Reason,
    isolate_folio,
    migrate_pages,
    move_page_of,
    putback_movable_pages,
)
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import get_page, put_page
from hwpoison.mm.pte import MigrationPte, PoisonPte
from hwpoison.mm.rmap import folio_mkclean
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import fsync

from .conftest import mapped


def anonymous(task: Task) -> Vma:
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "x")
    return vma


def of_file(vm: Machine, task: Task, fs: str | FileSystem = "ext4") -> tuple[File, Vma]:
    file = File(vm.create("data", fs, 1), "fd")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    return file, vma


def move(task: Task, vma: Vma) -> int:
    return move_page_of(task.alive_mm(), vma.start)


# What moves.


def test_the_owner_finds_the_same_contents_in_another_frame_and_the_old_one_is_free(
    vm: Machine, task: Task
) -> None:
    vma = anonymous(task)
    old = mapped(task, vma.start)
    assert move(task, vma) == 0
    new = mapped(task, vma.start)
    assert new is not old
    assert load(task, vma.start) == "x"
    assert (old.refcount, old.mapcount, old.flags) == (0, 0, 0)
    assert new.exclusive
    store(task, vma.start, "y")
    assert mapped(task, vma.start) is new


def test_the_marks_of_a_page_go_with_it(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    vm.lru.add_drain_all()
    old = mapped(task, vma.start)
    old.flags |= pg.ACTIVE | pg.REFERENCED
    assert move(task, vma) == 0
    vm.lru.add_drain_all()
    marks = pg.ACTIVE | pg.REFERENCED | pg.SWAPBACKED | pg.UPTODATE | pg.DIRTY | pg.LRU
    assert mapped(task, vma.start).flags == marks


def test_everybody_who_maps_the_page_gets_the_new_one(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    child = task.fork()
    assert move(task, vma) == 0
    assert mapped(task, vma.start) is mapped(child, vma.start)
    assert not mapped(task, vma.start).exclusive
    store(child, vma.start, "y")
    assert load(task, vma.start) == "x"


def test_a_locked_page_stays_locked(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    mlock(task.alive_mm(), vma)
    old = mapped(task, vma.start)
    assert move(task, vma) == 0
    vm.lru.add_drain_all()
    new = mapped(task, vma.start)
    assert new.flags & pg.MLOCKED
    assert new.flags & pg.UNEVICTABLE
    assert not old.flags & (pg.MLOCKED | pg.UNEVICTABLE)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "tmpfs"])
def test_a_dirty_page_of_a_file_stays_dirty_and_in_its_place(vm: Machine, task: Task, fs: str) -> None:
    file, vma = of_file(vm, task, fs)
    store(task, vma.start, "new")
    old = mapped(task, vma.start)
    assert move(task, vma) == 0
    new = mapped(task, vma.start)
    assert file.inode.mapping.pages == {0: new}
    assert new.flags & pg.DIRTY
    assert file.inode.mapping.dirty == {0}
    assert old.mapping is None
    fsync(file)
    assert vm.read(file, 0) == "new"
    assert file.inode.blocks.get(0) == (None if fs == "tmpfs" else "new")


def test_buffers_go_to_the_new_page_unless_the_journal_needs_them(vm: Machine, task: Task) -> None:
    file, vma = of_file(vm, task)
    vm.write(file, 0, "new")
    load(task, vma.start)
    old = mapped(task, vma.start)
    buffers = old.private
    assert isinstance(buffers, Buffers)
    buffers.busy = True
    assert move(task, vma) == 1
    assert mapped(task, vma.start) is old
    buffers.busy = False
    assert move(task, vma) == 0
    assert mapped(task, vma.start).private is buffers
    assert not old.flags & pg.PRIVATE


@pytest.mark.parametrize("mapped_again", [True, False])
def test_a_page_of_the_swap_cache_takes_its_slot_along(vm: Machine, task: Task, mapped_again: bool) -> None:
    vma = anonymous(task)
    old = mapped(task, vma.start)
    reclaim_folio(old, drop=False)
    slot = old.private
    if mapped_again:
        load(task, vma.start)
    vm.lru.add_drain_all()
    get_page(old)
    assert isolate_folio(old)
    put_page(old)
    assert migrate_pages([old], Reason.SYSCALL) == 0
    (new,) = vm.swap.cache.values()
    assert new is not old
    assert new.private == slot
    assert new.flags & pg.SWAPCACHE
    assert not old.flags & pg.SWAPCACHE
    assert load(task, vma.start) == "x"


def test_the_caller_may_keep_the_frame(vm: Machine, task: Task) -> None:
    """Soft offline: the isolating reference stays, so that nobody gets the frame."""
    vma = anonymous(task)
    vm.lru.add_drain_all()
    old = mapped(task, vma.start)
    assert isolate_folio(old)
    assert migrate_pages([old], Reason.MEMORY_FAILURE) == 0
    assert old.refcount == 1
    assert old.pfn not in set(vm.zone.free_pfns())
    put_page(old)
    assert load(task, vma.start) == "x"


def test_a_page_that_everybody_let_go_of_meanwhile_needs_no_moving(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    vm.lru.add_drain_all()
    old = mapped(task, vma.start)
    assert isolate_folio(old)
    munmap(task.alive_mm(), vma)
    assert migrate_pages([old], Reason.MEMORY_HOTPLUG) == 0
    assert old.refcount == 0


# What stays.


def test_a_pinned_page_that_was_to_be_moved_is_dirty_by_its_entry(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = pin_user_page(task, vma.start)
    assert not page.flags & pg.DIRTY
    move(task, vma)
    assert page.flags & pg.DIRTY
    unpin_user_page(page)


def test_a_pinned_page_stays_where_the_device_has_it(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = pin_user_page(task, vma.start)
    assert move(task, vma) == 1
    assert mapped(task, vma.start) is page
    store(task, vma.start, "y")
    assert vm.device_reads(page) == "y"
    unpin_user_page(page)
    assert move(task, vma) == 0


def test_a_reference_in_flight_is_enough(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = mapped(task, vma.start)
    get_page(page)
    assert move(task, vma) == 1
    assert mapped(task, vma.start) is page
    assert page.exclusive
    put_page(page)
    vm.lru.add_drain_all()
    assert page.flags & pg.LRU
    assert load(task, vma.start) == "x"


def test_a_held_page_of_a_file_stays_in_its_file(vm: Machine, task: Task) -> None:
    file, vma = of_file(vm, task)
    load(task, vma.start)
    page = filemap_get_folio(file.inode.mapping, 0)
    assert page is not None
    assert move(task, vma) == 1
    assert file.inode.mapping.pages == {0: page}
    put_page(page)
    assert move(task, vma) == 0


def test_without_a_free_frame_nothing_moves(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=8)
    task = vm.new_task("app")
    vma = anonymous(task)
    vm.lru.add_drain_all()
    page = mapped(task, vma.start)
    taken = [vm.zone.alloc_pages() for _ in range(len(list(vm.zone.free_pfns())))]
    pages = [page]
    assert isolate_folio(page)
    assert migrate_pages(pages, Reason.SYSCALL) == -Errno.ENOMEM
    assert pages == [page]
    putback_movable_pages(pages)
    for other in taken:
        put_page(other)
    assert load(task, vma.start) == "x"


OLDER = Traits(migration_writes_dirty_pages=True, moves_clean_pages_only=("ramfs", "vfat"))
NEWER = Traits(moves_clean_pages_only=("ramfs", "vfat"))
OLD_FASHIONED = FileSystem("vfat", None, True)


@pytest.mark.parametrize("traits", [NEWER, OLDER], ids=["newer", "older"])
def test_ramfs_keeps_its_dirty_pages_where_they_are(machine: Callable[..., Machine], traits: Traits) -> None:
    vm = machine(traits=traits)
    task = vm.new_task("app")
    _file, vma = of_file(vm, task, "ramfs")
    load(task, vma.start)
    assert move(task, vma) == 0
    store(task, vma.start, "new")
    page = mapped(task, vma.start)
    assert move(task, vma) == 1
    assert mapped(task, vma.start) is page
    assert load(task, vma.start) == "new"


@pytest.mark.parametrize("traits", [NEWER, OLDER], ids=["newer", "older"])
def test_older_kernels_write_a_dirty_page_out_to_be_able_to_move_it(
    machine: Callable[..., Machine], traits: Traits
) -> None:
    vm = machine(traits=traits)
    task = vm.new_task("app")
    file, vma = of_file(vm, task, OLD_FASHIONED)
    store(task, vma.start, "new")
    page = mapped(task, vma.start)
    moved = move(task, vma) == 0
    assert moved == traits.migration_writes_dirty_pages == (file.inode.blocks[0] == "new")
    assert (mapped(task, vma.start) is not page) == moved
    assert folio_mkclean(mapped(task, vma.start)) == bool(file.inode.blocks[0] == "new" or not moved)
    assert load(task, vma.start) == "new"
    fsync(file)
    assert file.inode.blocks[0] == "new"


def test_what_is_not_there_cannot_be_moved(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    assert move_page_of(task.alive_mm(), vma.start + 1) == -Errno.ENOENT
    load(task, vma.start + 1)
    assert move_page_of(task.alive_mm(), vma.start + 1) == -Errno.EFAULT  # the page of zeros


def test_a_page_that_somebody_else_has_isolated_is_busy(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    vm.lru.add_drain_all()
    page = mapped(task, vma.start)
    assert isolate_folio(page)
    assert move(task, vma) == -Errno.EBUSY
    vm.lru.putback(page)


# Bad pages.


def test_a_bad_page_is_not_taken_along_its_entries_become_poison(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = mapped(task, vma.start)
    page.flags |= pg.HWPOISON
    assert move(task, vma) == 0
    assert task.alive_mm().entry(vma.start) == PoisonPte(page.pfn)
    assert page.pfn not in set(vm.zone.free_pfns())


def test_memory_that_fails_while_it_is_copied_stays(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = mapped(task, vma.start)
    vm.strike(page.pfn, hardware=True)
    assert move(task, vma) == 1
    assert mapped(task, vma.start) is page


def test_older_kernels_have_replaced_it_by_then_and_cannot_go_on() -> None:
    vm = Machine(traits=Traits(migration_copies_first=False))
    task = vm.new_task("app")
    vma = anonymous(task)
    vm.strike(mapped(task, vma.start).pfn, hardware=True)
    with pytest.raises(Panic):
        move(task, vma)


# While it is on its way.


class Between:
    """Runs one path when a page's entries have become migration entries."""

    def __init__(self, path: Path, task: Task, vpn: int) -> None:
        self.path, self.task, self.vpn = path, task, vpn
        self.met = False

    def choose(self, ready: list[Path], running: Path, op: Op, on: object) -> Path:
        if self.task.mm is not None and isinstance(self.task.mm.entry(self.vpn), MigrationPte):
            self.met = True
            if self.path in ready:
                return self.path
        others = [path for path in ready if path is not self.path]
        return running if running in others else (others or ready)[0]


def meanwhile(vm: Machine, task: Task, vma: Vma, what: Callable[[], object]) -> None:
    path = vm.paths.spawn("other", what, cpu=1)
    vm.paths.chooser = chooser = Between(path, task, vma.start)  # type: ignore[assignment]
    assert move(task, vma) in (0, 1)
    vm.paths.chooser = None
    vm.paths.finish()
    assert chooser.met


def test_a_fault_waits_until_the_page_has_arrived(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    seen: list[str] = []
    meanwhile(vm, task, vma, lambda: seen.append(load(task, vma.start)))
    assert seen == ["x"]


def test_a_store_meanwhile_is_not_lost(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    meanwhile(vm, task, vma, lambda: store(task, vma.start, "y"))
    assert load(task, vma.start) == "y"


def test_a_fork_meanwhile_copies_the_note_and_both_get_the_page(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    children: list[Task] = []
    meanwhile(vm, task, vma, lambda: children.append(task.fork()))
    (child,) = children
    assert mapped(child, vma.start) is mapped(task, vma.start)
    assert not mapped(task, vma.start).exclusive
    store(child, vma.start, "y")
    assert load(task, vma.start) == "x"


def test_an_exit_meanwhile_leaves_nothing_behind(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    meanwhile(vm, task, vma, task.exit)
    assert all(not page.mapcount for page in vm.zone.pages.values())
