"""Reclaim of one page: what it takes, what it leaves alone."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import folio_lock, folio_unlock, get_page, put_page
from hwpoison.mm.pte import PoisonPte, SwapPte
from hwpoison.mm.rmap import try_to_unmap
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite

from .conftest import mapped


@pytest.fixture
def file(vm: Machine) -> File:
    return File(vm.create("data", "ext4", 1), "fd")


def test_a_clean_page_of_a_file_is_dropped_and_read_again(vm: Machine, file: File) -> None:
    vm.read(file, 0)
    page = file.inode.mapping.pages[0]
    assert reclaim_folio(page)
    assert page.pfn in set(vm.zone.free_pfns())
    assert vm.read(file, 0) == "data:0:old"


def test_a_mapped_one_is_unmapped_first(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    load(task, vma.start)
    assert reclaim_folio(file.inode.mapping.pages[0])
    assert task.alive_mm().entry(vma.start) is None
    assert load(task, vma.start) == "data:0:old"


def test_a_dirty_page_of_a_file_stays(vm: Machine, file: File) -> None:
    vm.write(file, 0, "x")
    assert not reclaim_folio(file.inode.mapping.pages[0])
    assert vm.read(file, 0) == "x"


def test_a_store_that_only_the_processor_knows_of_keeps_the_page(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "x")
    assert not reclaim_folio(file.inode.mapping.pages[0])
    assert load(task, vma.start) == "x"


@pytest.mark.parametrize("reason", ["writeback", "locked", "held"])
def test_a_page_in_use_stays_and_goes_back_to_its_list(vm: Machine, file: File, reason: str) -> None:
    vm.read(file, 0)
    page = file.inode.mapping.pages[0]
    if reason == "writeback":
        vm.write(file, 0, "x")
        vm.disk.held = True
        filemap_fdatawrite(file.inode.mapping)
    elif reason == "locked":
        folio_lock(page)
    else:
        get_page(page)
    assert not reclaim_folio(page)
    vm.lru.add_drain_all()
    assert page.flags & pg.LRU
    if reason == "locked":
        folio_unlock(page)
    elif reason == "held":
        put_page(page)
    vm.disk.release()


def test_a_free_page_is_nothing_to_reclaim(vm: Machine) -> None:
    assert not reclaim_folio(vm.zone.page(9))


def test_a_pinned_anonymous_page_is_left_alone(vm: Machine) -> None:
    """The device would go on with this page, the process with a copy (5.11)."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = pin_user_page(task, vma.start)
    assert not reclaim_folio(page)
    assert mapped(task, vma.start) is page
    assert not vm.swap.count
    store(task, vma.start, "y")
    assert vm.device_reads(page) == "y"
    unpin_user_page(page)
    assert reclaim_folio(page)
    assert load(task, vma.start) == "y"


def test_a_page_pinned_while_it_is_in_the_swap_cache_keeps_its_process(vm: Machine) -> None:
    """PG_anon_exclusive: an unshared page is never copied away from under a pin."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    assert not reclaim_folio(mapped(task, vma.start), drop=False)
    page = pin_user_page(task, vma.start)
    assert not reclaim_folio(page)
    load(task, vma.start)
    store(task, vma.start, "y")
    assert vm.device_reads(page) == "y"
    unpin_user_page(page)


def test_a_bad_page_that_is_still_mapped_is_taken_away_and_not_written_out(vm: Machine) -> None:
    """folio_contain_hwpoisoned_page(): its handler could do nothing at the time."""
    MemoryFailure(vm)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = mapped(task, vma.start)
    page.flags |= pg.HWPOISON
    assert not reclaim_folio(page)
    assert task.alive_mm().entry(vma.start) == PoisonPte(page.pfn)
    assert not vm.swap.contents


@pytest.mark.parametrize("drop", [True, False])
def test_dropping_may_be_put_off_until_the_next_time(vm: Machine, drop: bool) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = mapped(task, vma.start)
    assert reclaim_folio(page, drop=drop) == drop
    assert bool(vm.swap.cache) != drop
    if not drop:
        assert reclaim_folio(page)
    assert load(task, vma.start) == "x"


def test_shared_memory_is_unmapped_before_there_is_a_slot_for_it() -> None:
    vm = Machine(swap_slots=0)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, shared=True)
    store(task, vma.start, "precious")
    page = mapped(task, vma.start)
    assert not reclaim_folio(page)
    assert task.alive_mm().entry(vma.start) is None
    assert load(task, vma.start) == "precious"
    assert mapped(task, vma.start) is page


def test_a_page_of_shared_memory_that_was_only_read_needs_no_slot() -> None:
    vm = Machine(swap_slots=1)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, shared=True)
    load(task, vma.start)
    assert reclaim_folio(mapped(task, vma.start), drop=False)
    assert not vm.swap.count
    assert load(task, vma.start) == "zeros"


def test_a_pinned_page_that_is_back_from_swap_stays_mapped() -> None:
    vm = Machine(swap_slots=1)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "precious")
    reclaim_folio(mapped(task, vma.start))
    load(task, vma.start)
    page = pin_user_page(task, vma.start, write=False)
    try_to_unmap(page, 0)
    assert mapped(task, vma.start) is page
    unpin_user_page(page)
    try_to_unmap(page, 0)
    assert isinstance(task.alive_mm().entry(vma.start), SwapPte)
