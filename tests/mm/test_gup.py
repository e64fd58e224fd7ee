"""The kernel's hold on user pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi.signals import Errno
from hwpoison.mm.gup import get_user_page, pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import put_page
from hwpoison.mm.pte import PoisonPte
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio


@pytest.fixture
def vma(task: Task) -> Vma:
    return do_mmap(task.alive_mm(), 2)


def test_a_page_is_given_with_a_reference_and_brought_in_if_it_must_be(
    vm: Machine, task: Task, vma: Vma
) -> None:
    store(task, vma.start, "x")
    page = get_user_page(task, vma.start)
    put_page(page)
    assert reclaim_folio(page)
    page = get_user_page(task, vma.start)
    assert page.content == "x"
    put_page(page)


def test_a_hold_for_writing_gets_the_processs_own_page(vm: Machine, task: Task, vma: Vma) -> None:
    store(task, vma.start, "x")
    child = task.fork()
    page = get_user_page(task, vma.start, write=True)
    vm.kernel_writes(page, "by the kernel")
    assert load(task, vma.start) == "by the kernel"
    assert load(child, vma.start) == "x"
    put_page(page)


def test_reading_memory_nobody_wrote_to_gives_the_page_of_zeros(vm: Machine, task: Task, vma: Vma) -> None:
    page = get_user_page(task, vma.start)
    assert page is vm.zero_page
    put_page(page)
    page = get_user_page(task, vma.start, write=True)
    assert page is not vm.zero_page
    put_page(page)


@pytest.mark.parametrize("what", ["no area", "read only", "past the end", "bad"])
def test_what_cannot_be_had_is_efault_and_no_signal(vm: Machine, task: Task, vma: Vma, what: str) -> None:
    file = File(vm.create("data", "ext4", 1), "fd")
    vpn = {
        "no area": vma.end,
        "read only": do_mmap(task.alive_mm(), 1, writable=False).start,
        "past the end": do_mmap(task.alive_mm(), 2, file=file).start + 1,
        "bad": vma.start,
    }[what]
    task.alive_mm().pte_alloc(vma.start).entries[vma.start] = PoisonPte(9)
    with pytest.raises(SysError) as error:
        get_user_page(task, vpn, write=what == "read only")
    assert error.value.errno is Errno.EFAULT
    assert not task.pending


def test_a_pin_shows_in_the_count_and_goes_whole(task: Task, vma: Vma) -> None:
    page = pin_user_page(task, vma.start)
    before = page.refcount
    again = pin_user_page(task, vma.start)
    assert again is page
    assert page.refcount == before + 1024
    assert page.maybe_dma_pinned
    unpin_user_page(page)
    assert page.maybe_dma_pinned
    unpin_user_page(page)
    assert not page.maybe_dma_pinned


def test_a_pin_outlives_the_mapping(machine: Callable[..., Machine]) -> None:
    vm = machine()
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    page = pin_user_page(task, vma.start)
    vm.kernel_writes(page, "x")
    task.exit()
    vm.lru.add_drain_all()
    assert page.pfn not in set(vm.zone.free_pfns())
    assert vm.device_reads(page) == "x"
    unpin_user_page(page)
    assert page.pfn in set(vm.zone.free_pfns())
