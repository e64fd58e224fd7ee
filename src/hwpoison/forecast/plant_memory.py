"""Recipes for anonymous memory of processes, in the swap cache or not."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.ksm import madvise_mergeable
from hwpoison.mm.madvise import madvise_free
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import do_mmap, munmap
from hwpoison.mm.page import Page, put_page
from hwpoison.mm.pte import Pte
from hwpoison.mm.vmscan import reclaim_folio

from .plant import NotReproduced, Planted, User, Wanted, hold, new_machine, task_of

CONTENT = "private data"
_NOBODY = User(-1)  # the process that gives its page up in the end


def anonymous(wanted: Wanted) -> Planted:
    """A page that a process has written to, shared with its children by fork."""
    owners = wanted.populated or [_NOBODY]
    vm = new_machine(wanted, swap_slots=4)
    planted = Planted(vm, None, content=CONTENT)
    first = vm.new_task(f"process{owners[0].process}")
    vma = do_mmap(first.alive_mm(), 1)
    store(first, vma.start, CONTENT)
    planted.page = page = _page(planted, vma.start, first.pid)
    planted.users.append((first, vma.start, owners[0]))
    if wanted.has(pg.DIRTY) and not wanted.has(pg.SWAPCACHE):
        # The page itself is marked dirty when it gives back the slot that it had in swap.
        reclaim_folio(page, drop=False)
        vm.swap.swapoff()
    _fork(planted, owners[1:], vma.start)
    if wanted.has(pg.SWAPCACHE):
        _swap_out(wanted, planted, page, vma.start)
    elif not wanted.populated:
        hold(planted)  # as the batch of a process that is giving up its memory does for a moment
        munmap(first.alive_mm(), vma)
        planted.users.clear()
        planted.content = None
    if wanted.has(pg.MLOCKED):
        mlock(first.alive_mm(), vma)
    if wanted.has(pg.LRU):
        vm.lru.add_drain_all()
    return planted


def _page(planted: Planted, vpn: int, pid: int) -> Page:
    entry = planted.vm.tasks[pid].alive_mm().entry(vpn)
    if not isinstance(entry, Pte):
        raise NotReproduced("the page left memory while it was being set up")
    return entry.page


def _fork(planted: Planted, others: list[User], vpn: int) -> None:
    first = planted.users[0][0]
    for user in others:
        planted.users.append((first.fork(f"process{user.process}"), vpn, user))


def _swap_out(wanted: Wanted, planted: Planted, page: Page, vpn: int) -> None:
    """Out to swap, which takes the page from everybody; then back to those who have it mapped.

    Without anybody left to map it, the page's owner still has it by his swap entry.
    """
    vm = planted.vm
    if wanted.situation.also_in_swap:
        _fork(planted, [User(len(wanted.users), populated=False)], vpn)
    swap_out(wanted, planted, page)
    for task, _vpn, user in planted.users if wanted.populated else []:
        if user.populated:
            load(task, vpn)
    vm.lru.add_drain_all()


def swap_out(wanted: Wanted, planted: Planted, page: Page) -> None:
    """Into the swap cache: written and clean, being written, or dirty because the write failed."""
    disk = planted.vm.disk
    disk.failing = wanted.has(pg.DIRTY)
    disk.held = wanted.has(pg.WRITEBACK)
    reclaim_folio(page, drop=False, whole=page.head.order > 0)
    disk.failing = False


def merged(wanted: Wanted) -> Planted:
    """A page of equal contents of several processes, merged by ksmd; the last but one may be gone again."""
    if not wanted.populated:
        raise NotReproduced("nobody maps it any more")
    vm = new_machine(wanted)
    planted = Planted(vm, None, content=CONTENT)
    owners = [*wanted.populated, _NOBODY][: max(2, len(wanted.populated))]
    areas = []
    for user in owners:
        task = task_of(planted, user)
        vma = do_mmap(task.alive_mm(), 1)
        store(task, vma.start, CONTENT)
        madvise_mergeable(vma, on=True)
        areas.append((task, vma))
        planted.users.append((task, vma.start, user))
    vm.ksm.run()
    planted.page = _page(planted, areas[0][1].start, areas[0][0].pid)
    if owners[-1] is _NOBODY:
        munmap(areas[-1][0].alive_mm(), areas[-1][1])
        planted.users.pop()
    vm.lru.add_drain_all()
    return planted


def lazily_freed(wanted: Wanted) -> Planted:
    """A page that its one process has said it does not need (MADV_FREE)."""
    if len(wanted.populated) != 1:
        raise NotReproduced("only a page that one process maps may be thrown away")
    vm = new_machine(wanted)
    planted = Planted(vm, None)
    task = task_of(planted, wanted.populated[0])
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, CONTENT)
    planted.page = _page(planted, vma.start, task.pid)
    madvise_free(task.alive_mm(), vma.start)
    task.vm.lru.add_drain_all()
    if wanted.situation.written:
        store(task, vma.start, CONTENT)
        planted.content = CONTENT
    planted.users.append((task, vma.start, wanted.populated[0]))
    return planted


def read_ahead_from_swap(wanted: Wanted) -> Planted:
    """In the swap cache before anybody has asked for it: without a reverse map, so not marked ANON."""
    vm = new_machine(wanted, swap_slots=4)
    planted = Planted(vm, None, content=CONTENT)
    task = vm.new_task("process0")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, CONTENT)
    reclaim_folio(_page(planted, vma.start, task.pid))
    planted.page = vm.swap.swapin(next(iter(vm.swap.count)))
    put_page(planted.frame)  # whoever reads ahead keeps nothing
    planted.users.append((task, vma.start, User(0, populated=False)))
    if wanted.has(pg.LRU):
        vm.lru.add_drain_all()
    return planted
