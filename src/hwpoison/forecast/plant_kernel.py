"""Recipes for pages that no process owns: free, the kernel's own, given to the hypervisor, known bad."""

from __future__ import annotations

from hwpoison.abi import pageflags as pg
from hwpoison.mm.memory import load
from hwpoison.mm.mmap import do_mmap, map_driver
from hwpoison.mm.page import put_page, set_flags
from hwpoison.mm.slab import kernel_page

from .plant import Planted, Wanted, new_machine, task_of

_ORDER = 2  # of compound pages: enough for a head and more than one tail


def free_page(wanted: Wanted) -> Planted:
    """In the buddy lists."""
    vm = new_machine(wanted)
    pfn = next(vm.zone.free_pfns())
    return Planted(vm, vm.zone.page(pfn))


def free_on_a_cpu_list(wanted: Wanted) -> Planted:
    """Freed a moment ago: on the list of a CPU, which /proc does not look at."""
    vm = new_machine(wanted)
    page = vm.zone.alloc_pages()
    put_page(page)
    return Planted(vm, page)


def known_bad(wanted: Wanted) -> Planted:
    """A frame that an earlier error has taken out of use."""
    vm = new_machine(wanted)
    page = vm.zone.alloc_zeroed()
    set_flags(page, pg.HWPOISON)
    return Planted(vm, page)


def marked(name: str, wanted: Wanted) -> Planted:
    """A page with one of the marks of mm.slab.MARKS, mapped by processes if a driver did that."""
    vm = new_machine(wanted)
    planted = Planted(vm, kernel_page(vm, name))
    if wanted.populated:
        vm.held.add(planted.frame.pfn)  # the driver's own reference
    for user in wanted.populated:
        task = task_of(planted, user)
        vma = do_mmap(task.alive_mm(), 1)
        map_driver(vma, planted.frame)
        load(task, vma.start)
        planted.users.append((task, vma.start, user))
    return planted


def slab(wanted: Wanted) -> Planted:
    return _compound(wanted, pg.SLAB) if _is_compound(wanted) else marked("slab", wanted)


def reserved(wanted: Wanted) -> Planted:
    return marked("reserved", wanted)


def balloon(wanted: Wanted) -> Planted:
    return marked("balloon", wanted)


def unmarked(wanted: Wanted) -> Planted:
    """The kernel's own, with whatever raw flags it uses for itself."""
    if _is_compound(wanted):
        return _compound(wanted, 0)
    planted = marked("vmalloc", wanted)
    set_flags(planted.frame, wanted.kind.flags & pg.RAW)
    return planted


def page_table(wanted: Wanted) -> Planted:
    """The page table of a process."""
    vm = new_machine(wanted)
    task = vm.new_task("process0")
    vma = do_mmap(task.alive_mm(), 1)
    load(task, vma.start)
    return Planted(vm, task.alive_mm().pte_alloc(vma.start).page)


def zero_page(wanted: Wanted) -> Planted:
    """The page of zeros, with those who have only read from fresh memory."""
    vm = new_machine(wanted)
    planted = Planted(vm, vm.zero_page)
    for user in wanted.populated:
        task = task_of(planted, user)
        vma = do_mmap(task.alive_mm(), 1)
        load(task, vma.start)
        planted.users.append((task, vma.start, user))
    return planted


def _is_compound(wanted: Wanted) -> bool:
    return bool(wanted.kind.flags & (pg.COMPOUND_HEAD | pg.COMPOUND_TAIL))


def _compound(wanted: Wanted, mark: int) -> Planted:
    """A block of pages allocated as one; the page is its head or one of the others."""
    vm = new_machine(wanted)
    head = vm.zone.alloc_pages(_ORDER)
    set_flags(head, mark)
    return Planted(vm, vm.zone.page(head.pfn + wanted.has(pg.COMPOUND_TAIL)))
