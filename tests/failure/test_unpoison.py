"""Unpoison: a marked frame that nobody has is free again; any other stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import deferred, hard_offline_page
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm.inode import File
from hwpoison.mm.memory import store
from hwpoison.mm.mmap import do_mmap, map_driver
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.truncate import truncate
from hwpoison.mm.vmscan import reclaim_folio


def anonymous(failure: MemoryFailure) -> Page:
    task = failure.vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "precious")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return entry.page


def is_free(page: Page) -> bool:
    free = page.pfn in set(page.vm.zone.free_pfns())
    return free and (page.refcount, page.flags, page.private, page.bad) == (0, 0, None, False)


@pytest.mark.parametrize("way", [hard_offline_page, soft_offline_page])
def test_memory_of_a_process_becomes_free(
    failure: MemoryFailure, way: Callable[[MemoryFailure, int], int]
) -> None:
    page = anonymous(failure)
    assert way(failure, page.pfn) == 0
    assert unpoison_memory(failure, page.pfn) == 0
    assert is_free(page)
    assert failure.vm.counters.poisoned == 0


@pytest.mark.parametrize("way", [hard_offline_page, soft_offline_page])
def test_a_free_frame_goes_back_to_where_it_was_taken_from(
    failure: MemoryFailure, way: Callable[[MemoryFailure, int], int]
) -> None:
    zone = failure.vm.zone
    before = [set(area) for area in zone.free_area]
    pfn = sorted(zone.free_pfns())[37]
    assert way(failure, pfn) == 0
    assert unpoison_memory(failure, pfn) == 0
    assert is_free(zone.page(pfn))
    assert [set(area) for area in zone.free_area] == before
    assert way(failure, pfn) == 0  # and can be struck again


def test_the_poison_entry_of_the_old_owner_stays(newest: MemoryFailure) -> None:
    page = anonymous(newest)
    hard_offline_page(newest, page.pfn)
    unpoison_memory(newest, page.pfn)
    (task,) = newest.vm.tasks.values()
    (vma,) = task.alive_mm().vmas
    assert task.alive_mm().entry(vma.start) == PoisonPte(page.pfn)


def test_a_frame_that_its_owner_freed_while_it_was_bad_only_loses_the_mark(failure: MemoryFailure) -> None:
    page = kernel_page(failure.vm, "vmalloc")
    hard_offline_page(failure, page.pfn)
    put_page(page)
    assert unpoison_memory(failure, page.pfn) == 0
    assert (page.flags & pg.HWPOISON, page.refcount) == (0, 0)
    assert page.pfn not in set(failure.vm.zone.free_pfns())


# Refusals.


def test_a_frame_that_is_no_memory(failure: MemoryFailure) -> None:
    assert unpoison_memory(failure, 1 << 30) == -failure.profile.unpoison_no_page


def test_a_frame_that_is_not_marked(failure: MemoryFailure) -> None:
    page = anonymous(failure)
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    assert unpoison_memory(failure, next(failure.vm.zone.free_pfns())) == -Errno.EBUSY
    assert failure.unpoisoned == 0


def test_a_page_that_somebody_holds(failure: MemoryFailure) -> None:
    page = anonymous(failure)
    get_page(page)
    hard_offline_page(failure, page.pfn)
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    put_page(page)
    assert unpoison_memory(failure, page.pfn) == 0


@pytest.mark.parametrize("kind", ["slab", "reserved", "pagetable", "balloon"])
def test_pages_of_the_kernel_that_show_it(failure: MemoryFailure, kind: str) -> None:
    vm = failure.vm
    if kind == "pagetable":
        page = vm.new_task("app").alive_mm().pte_alloc(0).page
    else:
        page = vm.zone.page(1) if kind == "reserved" else kernel_page(vm, kind)
    hard_offline_page(failure, page.pfn)
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    assert page.flags & pg.HWPOISON


def test_a_driver_s_page_that_is_mapped(failure: MemoryFailure) -> None:
    """One reference, as its page table entry is made to have none of its own here: the map count refuses."""
    page = kernel_page(failure.vm, "driver")
    failure.vm.held.add(page.pfn)
    task = failure.vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, shared=True)
    map_driver(vma, page)
    put_page(page)
    hard_offline_page(failure, page.pfn)
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    get_page(page)


def test_a_page_that_its_file_keeps_to_tell_readers(failure: MemoryFailure) -> None:
    vm = failure.vm
    file = File(vm.create("t", "tmpfs", 1), "fd")
    vm.write(file, 0, "new")
    (page,) = file.inode.mapping.pages.values()
    hard_offline_page(failure, page.pfn)
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    truncate(file.inode, 0)
    assert unpoison_memory(failure, page.pfn) == 0
    assert is_free(page)


def test_a_page_that_is_kept_in_the_swap_cache(failure: MemoryFailure) -> None:
    page = anonymous(failure)
    failure.vm.disk.failing = True
    reclaim_folio(page, drop=False)
    hard_offline_page(failure, page.pfn)
    assert page.flags & pg.SWAPCACHE
    assert unpoison_memory(failure, page.pfn) == -Errno.EBUSY
    for task in failure.vm.tasks.values():
        task.exit()
    assert unpoison_memory(failure, page.pfn) == 0


def test_nothing_is_good_again_once_hardware_has_failed(failure: MemoryFailure) -> None:
    pages = [anonymous(failure), anonymous(failure)]
    hard_offline_page(failure, pages[0].pfn)
    deferred(failure, pages[1].pfn)
    for page in pages:
        assert unpoison_memory(failure, page.pfn) == -Errno.EOPNOTSUPP
        assert page.flags & pg.HWPOISON
