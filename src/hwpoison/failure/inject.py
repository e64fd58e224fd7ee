"""The ways in: how an error reaches the handler (mm/madvise.c, drivers/base/memory.c, mm/hwpoison-inject.c).

All but ``deferred`` are software: the frame's bytes are unharmed, and the kernel knows it (MF_SW_SIMULATED).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SHIFT, Errno
from hwpoison.mm.gup import get_user_page
from hwpoison.mm.machine import Machine
from hwpoison.mm.task import Task

from .flags import MF_ACTION_REQUIRED, MF_COUNT_INCREASED, MF_SW_SIMULATED
from .grab import shake_page
from .handler import MemoryFailure


@contextmanager
def running(vm: Machine, task: Task | None) -> Iterator[None]:
    """The current path acts for this task."""
    path = vm.paths.current
    before, path.task = path.task, task
    try:
        yield
    finally:
        path.task = before


def madvise(failure: MemoryFailure, task: Task, vpn: int) -> int:
    """madvise(MADV_HWPOISON) of one page by its user; raises SysError if the page cannot be reached."""
    vm = failure.vm
    with running(vm, task):
        page = get_user_page(task, vpn)
        address = vpn << PAGE_SHIFT
        vm.printk(f"Injecting memory failure for pfn {page.pfn:#x} at process virtual address {address:#x}")
        flags = MF_COUNT_INCREASED | MF_SW_SIMULATED
        if failure.profile.madvise_is_consumed:
            flags |= MF_ACTION_REQUIRED
        return _unless_filtered(failure, page.pfn, flags)


def simulated(failure: MemoryFailure, pfn: int) -> int:
    """memory_failure() by software; a page that the filter spared was never bad. -EOPNOTSUPP counts as 0."""
    return _unless_filtered(failure, pfn, MF_SW_SIMULATED)


def _unless_filtered(failure: MemoryFailure, pfn: int, flags: int) -> int:
    vm = failure.vm
    page = vm.zone.page(pfn) if vm.zone.online(pfn) or vm.pmem.has_page(pfn) else None
    before = page is not None and page.bad
    if page is not None:
        vm.strike(pfn, hardware=False)
    returned = failure.memory_failure(pfn, flags)
    if returned == -Errno.EOPNOTSUPP and page is not None:
        page.bad = before
        return 0
    return returned


def hard_offline_page(failure: MemoryFailure, pfn: int) -> int:
    """A write to /sys/devices/system/memory/hard_offline_page."""
    return simulated(failure, pfn)


def corrupt_pfn(failure: MemoryFailure, pfn: int) -> int:
    """A write to debugfs hwpoison/corrupt-pfn; with the filter on, other pages are passed over.

    -ENXIO for a frame without struct page: the handler is not asked.
    """
    vm = failure.vm
    on_device = vm.pmem.device(pfn) is not None
    if not on_device and not vm.zone.online(pfn):
        return -Errno.ENXIO
    if failure.filter.enabled and on_device:
        return 0  # neither on the reclaim lists nor free
    if failure.filter.enabled:
        page = vm.zone.page(pfn)
        shake_page(page)
        if not (page.head.flags & (pg.LRU | pg.HUGE) or vm.zone.is_free_buddy_page(pfn)):
            return 0
        if failure.filter.refuses(vm, page.head.pfn):
            return 0
    vm.printk(f"Injecting memory failure at pfn {pfn:#x}")
    return simulated(failure, pfn)


def deferred(failure: MemoryFailure, pfn: int) -> int:
    """The hardware found an error by itself (patrol scrub): nobody has consumed it yet."""
    if failure.vm.zone.online(pfn) or failure.vm.pmem.has_page(pfn):
        failure.vm.strike(pfn, hardware=True)
    return failure.memory_failure(pfn, 0)
