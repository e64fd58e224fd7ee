"""Recipes for huge pages (hugetlb): free in their pool, memory of processes, or of a file.

The frame that is asked for is the head or the one after it. Huge pages are small here.
"""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.hugetlb import Hstate
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap, munmap
from hwpoison.mm.page import Page, set_flags
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Task

from .plant import NotReproduced, Planted, Wanted, add_mapping, new_machine
from .plant_memory import CONTENT

WHAT = "whole huge page"


def _pool(vm: Machine) -> Hstate:
    """A pool with one page in it."""
    h = vm.hugetlb.hstates["2M"]
    vm.hugetlb.set_max_huge_pages(h, 1)
    return h


def _offset(wanted: Wanted) -> int:
    return 1 if wanted.has(pg.COMPOUND_TAIL) else 0


def free_huge_page(wanted: Wanted) -> Planted:
    """In the pool; with the flags that its last owner left on it."""
    vm = new_machine(wanted)
    h = _pool(vm)
    head = h.free_list[0]
    set_flags(head, wanted.kind.flags & pg.UPTODATE)
    if wanted.situation.promised:
        do_mmap(vm.new_task("process0").alive_mm(), h.pages, hugetlb="2M")
    return Planted(vm, vm.zone.page(head.pfn + _offset(wanted)))


def huge_memory(wanted: Wanted) -> Planted:
    """A private huge page that a process has written to, shared with its children by fork."""
    vm = new_machine(wanted)
    owners = wanted.populated
    if not owners:
        raise NotReproduced("nobody maps it")
    h, offset = _pool(vm), _offset(wanted)
    planted = Planted(vm, None, content=CONTENT, what=WHAT)
    first = vm.new_task(f"process{owners[0].process}")
    vma = do_mmap(first.alive_mm(), h.pages, hugetlb="2M")
    store(first, vma.start + offset, CONTENT)
    planted.page = _frame(first, vma.start + offset)
    planted.users.append((first, vma.start + offset, owners[0]))
    for user in owners[1:]:
        planted.users.append((first.fork(f"process{user.process}"), vma.start + offset, user))
    return planted


def huge_file(wanted: Wanted) -> Planted:
    """A huge page of a file or of shared memory, mapped by some or by nobody any more."""
    if wanted.situation.file_system is not None or not wanted.situation.regular:
        raise NotReproduced("a huge page that is a file's belongs to hugetlbfs")
    vm = new_machine(wanted)
    h, offset = _pool(vm), _offset(wanted)
    inode = vm.create("shared", "hugetlbfs", h.pages)
    file = File(inode, "reader")
    planted = Planted(vm, None, inode=inode, files=[file], content=CONTENT, index=offset, what=WHAT)
    writer = vm.new_task("writer")
    vma = do_mmap(writer.alive_mm(), h.pages, file=file, shared=True)
    store(writer, vma.start + offset, CONTENT)
    planted.page = inode.mapping.frame(offset)
    for user in wanted.users:
        task, area = add_mapping(planted, user, file)
        planted.users[-1] = (task, area.start + offset, user)
        if user.populated:
            load(task, area.start + offset)
    munmap(writer.alive_mm(), vma)
    if not wanted.situation.opened:
        file.close()
        planted.files.clear()
    return planted


def _frame(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    if not isinstance(entry, Pte):
        raise NotReproduced("the huge page was not mapped")
    return entry.page
