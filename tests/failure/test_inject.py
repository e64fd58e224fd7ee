"""The ways in: what each says, gives back, and leaves behind (facts 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SHIFT, Errno
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import corrupt_pfn, deferred, hard_offline_page, madvise, running
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Task


def anonymous(vm: Machine) -> tuple[Task, Vma, Page]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "x")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return task, vma, entry.page


def test_madvise_says_which_page_of_which_address(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure.vm)
    madvise(failure, task, vma.start)
    address = vma.start << PAGE_SHIFT
    assert failure.vm.log[0] == (
        f"Injecting memory failure for pfn {page.pfn:#x} at process virtual address {address:#x}"
    )


def test_madvise_of_an_address_that_cannot_be_had_does_nothing(failure: MemoryFailure) -> None:
    task, vma, _ = anonymous(failure.vm)
    with pytest.raises(SysError, match="EFAULT"):
        madvise(failure, task, vma.end)
    assert not failure.vm.log
    assert failure.vm.paths.current.task is None


def test_madvise_brings_a_page_in_and_hits_it(failure: MemoryFailure) -> None:
    vm = failure.vm
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    assert madvise(failure, task, vma.start) == 0
    assert load(task, vma.start) == "data:0:old"
    assert vm.counters.poisoned == 1


def test_madvise_twice_finds_no_page_the_second_time(failure: MemoryFailure) -> None:
    task, vma, _ = anonymous(failure.vm)
    task.sigbus = "handler"
    madvise(failure, task, vma.start)
    with pytest.raises(SysError, match="EFAULT"):
        madvise(failure, task, vma.start)


def test_madvise_of_a_page_that_is_filtered_is_success_and_lets_go_of_it(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure.vm)
    failure.vm.lru.add_drain_all()
    failure.filter.enabled, failure.filter.flags_mask = True, pg.ANON
    assert madvise(failure, task, vma.start) == 0
    assert page.refcount == 1
    assert not page.bad
    assert not page.flags & pg.HWPOISON
    assert load(task, vma.start) == "x"


def test_corrupt_pfn_says_so_and_hard_offline_does_not(failure: MemoryFailure) -> None:
    corrupt_pfn(failure, 200)
    assert failure.vm.log[0] == "Injecting memory failure at pfn 0xc8"
    failure.vm.log.clear()
    hard_offline_page(failure, 201)
    assert failure.vm.log == ["Memory failure: 0xc9: recovery action for free buddy page: Recovered"]


def test_corrupt_pfn_of_a_frame_that_does_not_exist(failure: MemoryFailure) -> None:
    assert corrupt_pfn(failure, 9999) == -Errno.ENXIO
    assert not failure.vm.log


def test_with_a_filter_corrupt_pfn_passes_over_what_is_neither_listed_nor_free(
    failure: MemoryFailure,
) -> None:
    failure.filter.enabled = True
    page = kernel_page(failure.vm, "vmalloc")
    assert corrupt_pfn(failure, page.pfn) == 0
    assert not failure.events
    assert not page.bad
    assert corrupt_pfn(failure, 200) == 0
    assert len(failure.events) == 1


def test_with_a_filter_corrupt_pfn_drains_the_batches_first(failure: MemoryFailure) -> None:
    _, _, page = anonymous(failure.vm)
    failure.filter.enabled, failure.filter.flags_mask, failure.filter.flags_value = True, pg.LRU, pg.LRU
    assert not page.flags & pg.LRU
    assert corrupt_pfn(failure, page.pfn) == 0
    assert page.flags & pg.HWPOISON


@pytest.mark.parametrize("way", [corrupt_pfn, hard_offline_page])
def test_a_filter_for_a_device_lets_only_its_files_be_struck(
    failure: MemoryFailure, way: Callable[[MemoryFailure, int], int]
) -> None:
    vm = failure.vm
    _, _, memory = anonymous(vm)
    pages = {}
    for fs in ("ext4", "xfs"):
        file = File(vm.create(fs, fs, 1), "fd")
        vm.read(file, 0)
        (pages[fs],) = file.inode.mapping.pages.values()
    failure.filter.enabled, failure.filter.fs = True, "xfs"
    for page in (memory, pages["ext4"], pages["xfs"]):
        assert way(failure, page.pfn) == 0
        assert bool(page.flags & pg.HWPOISON) == (page is pages["xfs"])


def test_with_a_filter_corrupt_pfn_passes_over_others_pages(failure: MemoryFailure) -> None:
    _, _, page = anonymous(failure.vm)
    failure.filter.enabled, failure.filter.flags_mask = True, pg.SWAPBACKED
    assert corrupt_pfn(failure, page.pfn) == 0
    assert not page.flags & pg.HWPOISON
    assert not failure.vm.log


def test_an_error_the_hardware_found_makes_the_bytes_unreadable(newest: MemoryFailure) -> None:
    _, _, page = anonymous(newest.vm)
    assert deferred(newest, page.pfn) == 0
    assert newest.vm.hardware
    assert page.bad


def test_a_filtered_injection_does_not_mend_what_was_really_struck(newest: MemoryFailure) -> None:
    _, _, page = anonymous(newest.vm)
    newest.vm.strike(page.pfn, hardware=True)
    newest.filter.enabled, newest.filter.flags_mask = True, pg.ANON
    hard_offline_page(newest, page.pfn)
    assert page.bad


def test_the_current_task_is_put_back_whatever_happens(newest: MemoryFailure) -> None:
    vm = newest.vm
    task, other = vm.new_task("app"), vm.new_task("other")
    path = vm.paths.current
    with running(vm, task):
        with pytest.raises(ZeroDivisionError), running(vm, other):
            raise ZeroDivisionError("in between")
        assert path.task is task
    assert path.task is None
