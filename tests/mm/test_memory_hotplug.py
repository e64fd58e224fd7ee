"""Memory hot-remove: everything moves out of the way, bad pages are left behind, or nothing happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import corrupt_pfn, hard_offline_page
from hwpoison.failure.profiles import V6_1
from hwpoison.failure.soft_offline import soft_offline_page
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.memory_hotplug import offline_pages, online_pages
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.task import Task


def anonymous(task: Task) -> Vma:
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    return vma


def mapped(task: Task, vma: Vma) -> Page:
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return entry.page


def around(page: Page) -> tuple[int, int]:
    """The smallest range with just this page."""
    return page.pfn, page.pfn + 1


def test_free_frames_just_go_and_come_back(vm: Machine) -> None:
    free = set(vm.zone.free_pfns())
    assert offline_pages(vm, 128, 256) == 0
    assert set(vm.zone.free_pfns()) == {pfn for pfn in free if pfn < 128}
    assert not vm.zone.online(128)
    assert online_pages(vm, 128, 256) == 0
    assert set(vm.zone.free_pfns()) == free


def test_pages_in_use_move_out_of_the_range(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    file = File(vm.create("data", "ext4", 1), "fd")
    vm.write(file, 0, "new")
    (cached,) = file.inode.mapping.pages.values()
    for page in (mapped(task, vma), cached):
        assert offline_pages(vm, *around(page)) == 0
    assert load(task, vma.start) == "x"
    assert vm.read(file, 0) == "new"


def test_a_page_that_stays_ends_the_attempt_and_all_is_put_back(vm: Machine, task: Task) -> None:
    vma = anonymous(task)
    page = pin_user_page(task, vma.start)
    free = set(vm.zone.free_pfns())
    assert offline_pages(vm, page.pfn, 256) == -Errno.EBUSY
    assert set(vm.zone.free_pfns()) == free
    assert vm.zone.online(page.pfn)
    unpin_user_page(page)
    assert offline_pages(vm, *around(page)) == 0


def test_the_kernel_s_own_pages_end_it_too(vm: Machine, task: Task) -> None:
    table = task.alive_mm().pte_alloc(0).page
    assert offline_pages(vm, *around(table)) == -Errno.EBUSY


@pytest.mark.parametrize("way", [hard_offline_page, soft_offline_page])
def test_bad_frames_are_no_obstacle_but_stand_in_the_way_of_coming_back(
    vm: Machine, task: Task, way: Callable[[MemoryFailure, int], int]
) -> None:
    failure = MemoryFailure(vm)
    vma = anonymous(task)
    page = mapped(task, vma)
    assert way(failure, page.pfn) == 0
    assert way(failure, 200) == 0
    assert offline_pages(vm, *around(page)) == 0
    assert offline_pages(vm, 192, 208) == 0
    assert online_pages(vm, 192, 208) == -Errno.EHWPOISON


def test_older_kernels_forget_which_frames_are_bad(machine: Callable[..., Machine]) -> None:
    vm = machine(traits=Traits(blocks_count_bad_frames=False))
    failure = MemoryFailure(vm, V6_1)
    assert hard_offline_page(failure, 200) == 0
    assert offline_pages(vm, 192, 208) == 0
    assert online_pages(vm, 192, 208) == 0
    assert 200 in set(vm.zone.free_pfns())


def test_an_offline_frame_is_not_the_kernel_s_any_more(vm: Machine) -> None:
    failure = MemoryFailure(vm)
    assert offline_pages(vm, 192, 208) == 0
    assert hard_offline_page(failure, 200) == corrupt_pfn(failure, 200) == -Errno.ENXIO
    assert soft_offline_page(failure, 200) == unpoison_memory(failure, 200) == -Errno.EIO
    assert failure.events == []


def test_a_bad_page_that_is_still_mapped_is_taken_away(vm: Machine, task: Task) -> None:
    """Its handler could not deal with it at the time."""
    MemoryFailure(vm)
    vma = anonymous(task)
    page = mapped(task, vma)
    page.flags |= pg.HWPOISON
    assert offline_pages(vm, *around(page)) == 0
    assert task.alive_mm().entry(vma.start) == PoisonPte(page.pfn)
    assert not page.flags & pg.LRU


def test_a_frame_that_is_struck_while_its_block_is_isolated_does_not_come_back(vm: Machine) -> None:
    """An isolated frame is free, so the handler can take it, also from a removal that fails then."""
    handler = MemoryFailure(vm)
    vm.zone.isolate(128, 192)
    assert vm.zone.is_free_buddy_page(130)
    assert hard_offline_page(handler, 130) == 0
    vm.zone.unisolate(128, 192)
    assert 130 not in set(vm.zone.free_pfns())
    assert {129, 131} <= set(vm.zone.free_pfns())
    assert vm.check() == []


def test_nobody_gets_an_isolated_frame(vm: Machine) -> None:
    vm.zone.isolate(0, 256)
    with pytest.raises(OutOfMemory):
        vm.zone.alloc_pages()
