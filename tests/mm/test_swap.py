"""Swap: slots and who names them, the swap cache, out and in, swapoff, and bad pages of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import SiCode
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, get_page, locked, put_page
from hwpoison.mm.pte import PoisonPte, Pte, SwapErrorPte, SwapPte
from hwpoison.mm.swap import SwapArea, give_up_clean_swapcache, give_up_dirty_swapcache
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import truncate
from hwpoison.mm.vmscan import reclaim_folio

from .conftest import mapped


@pytest.fixture
def vma(task: Task) -> Vma:
    vma = do_mmap(task.alive_mm(), 3)
    store(task, vma.start, "x")
    return vma


def swap_out(task: Task, vpn: int, *, drop: bool = True) -> Page:
    page = mapped(task, vpn)
    assert reclaim_folio(page, drop=drop) == drop
    assert isinstance(task.alive_mm().entry(vpn), SwapPte)
    return page


def cached(swap: SwapArea) -> Page:
    (page,) = swap.cache.values()
    return page


# Out and in.


def test_a_page_goes_to_the_device_and_its_frame_becomes_free(vm: Machine, task: Task, vma: Vma) -> None:
    page = swap_out(task, vma.start)
    assert vm.swap.contents == {1: "x"}
    assert vm.swap.count == {1: 1}
    assert not vm.swap.cache
    assert page.pfn in set(vm.zone.free_pfns())


def test_it_comes_back_with_its_contents(vm: Machine, task: Task, vma: Vma) -> None:
    swap_out(task, vma.start)
    assert load(task, vma.start) == "x"
    assert not mapped(task, vma.start).flags & pg.DIRTY
    assert vm.swap.count == {1: 0}, "the slot is kept while nobody changes the page"
    assert cached(vm.swap) is mapped(task, vma.start)


def test_a_store_that_brings_it_back_gives_the_slot_back(vm: Machine, task: Task, vma: Vma) -> None:
    swap_out(task, vma.start)
    store(task, vma.start, "y")
    assert not vm.swap.count
    assert not vm.swap.cache
    assert mapped(task, vma.start).flags & pg.DIRTY
    swap_out(task, vma.start)
    assert load(task, vma.start) == "y"


def test_a_store_to_a_page_that_was_read_back_leaves_old_contents_in_the_slot(
    vm: Machine, task: Task, vma: Vma
) -> None:
    """do_wp_page(): an exclusive page is written in place; only its entry knows that the slot is stale."""
    swap_out(task, vma.start)
    load(task, vma.start)
    store(task, vma.start, "y")
    assert vm.swap.contents == {1: "x"}
    assert not mapped(task, vma.start).flags & pg.DIRTY
    swap_out(task, vma.start)
    assert vm.swap.contents == {1: "y"}
    assert load(task, vma.start) == "y"


def test_an_unchanged_page_is_not_written_a_second_time(vm: Machine, task: Task, vma: Vma) -> None:
    swap_out(task, vma.start)
    load(task, vma.start)
    vm.disk.failing = True
    swap_out(task, vma.start)
    vm.disk.failing = False
    assert load(task, vma.start) == "x"


def test_a_page_still_in_the_cache_is_found_there(vm: Machine, task: Task, vma: Vma) -> None:
    page = swap_out(task, vma.start, drop=False)
    assert cached(vm.swap) is page
    load(task, vma.start)
    assert mapped(task, vma.start) is page


def test_relatives_share_the_slot_and_get_one_page_back(vm: Machine, task: Task, vma: Vma) -> None:
    child = task.fork()
    swap_out(task, vma.start)
    grandchild = child.fork()
    assert vm.swap.count == {1: 3}
    assert load(child, vma.start) == "x"
    assert load(task, vma.start) == "x"
    assert mapped(task, vma.start) is mapped(child, vma.start)
    assert mapped(task, vma.start).mapcount == 2
    assert vm.swap.count == {1: 1}
    store(child, vma.start, "the child's")
    assert load(grandchild, vma.start) == "x"
    assert load(task, vma.start) == "x"
    assert load(child, vma.start) == "the child's"


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_page_that_is_out_when_its_owner_forks_is_shared_like_any_other(
    vm: Machine, task: Task, vma: Vma, first: str
) -> None:
    """Its entry named the slot alone; now two do, and neither may write in place."""
    swap_out(task, vma.start)
    child = task.fork()
    writer, reader = (task, child) if first == "parent" else (child, task)
    load(writer, vma.start)
    load(reader, vma.start)
    store(writer, vma.start, "mine")
    assert load(reader, vma.start) == "x"
    assert load(writer, vma.start) == "mine"


def test_a_page_being_written_when_its_last_user_goes_leaves_when_it_is_written(
    vm: Machine, task: Task, vma: Vma
) -> None:
    """R17: nothing takes it out of the cache before; then reclaim does."""
    page = mapped(task, vma.start)
    vm.disk.held = True
    reclaim_folio(page)
    task.exit()
    assert cached(vm.swap) is page
    assert page.flags & pg.WRITEBACK
    vm.disk.release()
    assert reclaim_folio(page)
    assert not vm.swap.count
    assert page.pfn in set(vm.zone.free_pfns())


def test_the_cache_is_kept_while_a_relative_still_names_the_slot(vm: Machine, task: Task, vma: Vma) -> None:
    child = task.fork()
    swap_out(task, vma.start)
    store(task, vma.start, "y")
    assert vm.swap.count == {1: 1}
    assert load(task, vma.start) == "y"
    assert load(child, vma.start) == "x"


@pytest.mark.parametrize("way", ["exit", "munmap"])
@pytest.mark.parametrize("state", ["swapped", "in the cache", "mapped and in the cache"])
def test_slot_and_page_go_with_the_last_who_names_them(
    vm: Machine, task: Task, vma: Vma, way: str, state: str
) -> None:
    """free_pages_and_swap_cache(), free_swap_and_cache()."""
    swap_out(task, vma.start, drop=state == "swapped")
    if state.startswith("mapped"):
        load(task, vma.start)
    task.exit() if way == "exit" else munmap(task.alive_mm(), vma)
    assert not vm.swap.count
    assert not vm.swap.cache
    assert not vm.swap.contents


def test_a_page_under_writeback_is_waited_for_by_nobody_who_only_reads_it(
    vm: Machine, task: Task, vma: Vma
) -> None:
    vm.disk.held = True
    page = mapped(task, vma.start)
    assert not reclaim_folio(page)
    assert page.flags & pg.WRITEBACK
    assert load(task, vma.start) == "x"
    assert page.flags & pg.WRITEBACK
    vm.disk.release()
    assert vm.swap.contents[1] == "x"


def test_when_swap_is_full_the_page_stays(machine: Callable[..., Machine]) -> None:
    vm = machine(swap_slots=1)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "one")
    store(task, vma.start + 1, "two")
    swap_out(task, vma.start)
    assert not reclaim_folio(mapped(task, vma.start + 1))
    assert load(task, vma.start + 1) == "two"
    assert load(task, vma.start) == "one"


def test_without_swap_anonymous_pages_stay(machine: Callable[..., Machine]) -> None:
    vm = machine()
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    assert not reclaim_folio(mapped(task, vma.start))
    assert load(task, vma.start) == "x"


def test_a_failed_write_keeps_the_page_dirty_and_in_memory(vm: Machine, task: Task, vma: Vma) -> None:
    vm.disk.failing = True
    page = mapped(task, vma.start)
    assert not reclaim_folio(page)
    assert page.flags & pg.DIRTY
    vm.disk.failing = False
    assert load(task, vma.start) == "x"


def test_a_locked_area_takes_its_page_out_of_swap_for_good(vm: Machine, task: Task, vma: Vma) -> None:
    swap_out(task, vma.start)
    mlock(task.alive_mm(), vma)
    assert load(task, vma.start) == "x"
    assert not vm.swap.count


# Slots.


def test_a_slot_freed_more_often_than_used_is_a_bug(vm: Machine) -> None:
    slot = vm.swap.alloc_slots()
    assert slot is not None
    with pytest.raises(KernelBug, match="swap slot 1 is freed more often than used"):
        vm.swap.free_entry(slot)
    vm.swap.drop_slot(slot)


def test_a_page_that_is_not_in_the_cache_cannot_leave_it(vm: Machine, task: Task, vma: Vma) -> None:
    page = mapped(task, vma.start)
    with locked(page), pytest.raises(KernelBug, match="is not in the swap cache"):
        vm.swap.delete_from_cache(page)


def test_a_page_under_writeback_cannot_leave_the_cache(vm: Machine, task: Task, vma: Vma) -> None:
    """R11, R17."""
    vm.disk.held = True
    page = mapped(task, vma.start)
    reclaim_folio(page)
    with locked(page), pytest.raises(KernelBug, match="leaves the swap cache under writeback"):
        vm.swap.delete_from_cache(page)
    vm.disk.release()


def test_a_slot_that_nobody_uses_gives_no_page(vm: Machine) -> None:
    assert vm.swap.swapin(3) is None


# swapoff.


def test_swapoff_brings_everything_back_to_everybody(vm: Machine, task: Task, vma: Vma) -> None:
    store(task, vma.start + 1, "cached")
    child = task.fork()
    file = File(vm.create("data", "tmpfs", 1), "fd")
    vm.write(file, 0, "in a file")
    swap_out(task, vma.start)
    swap_out(task, vma.start + 1, drop=False)
    reclaim_folio(file.inode.mapping.pages[0])
    vm.swap.swapoff()
    assert not vm.swap.count
    assert not vm.swap.cache
    for member in (task, child):
        assert mapped(member, vma.start).mapcount == 2
        assert [load(member, vma.start), load(member, vma.start + 1)] == ["x", "cached"]
    assert vm.read(file, 0) == "in a file"
    assert not reclaim_folio(mapped(task, vma.start)), "there is nowhere to go"


def test_swapoff_waits_for_writeback(vm: Machine, task: Task, vma: Vma) -> None:
    vm.disk.held = True
    reclaim_folio(mapped(task, vma.start))
    vm.swap.swapoff()
    assert not vm.disk.under_way
    assert load(task, vma.start) == "x"


@pytest.mark.parametrize(("poison", "entry", "code"), [
    (True, PoisonPte, SiCode.BUS_MCEERR_AR),
    (False, SwapErrorPte, SiCode.BUS_ADRERR),
])  # fmt: skip
def test_swapoff_leaves_a_note_for_a_page_that_was_lost(
    machine: Callable[..., Machine], poison: bool, entry: type, code: SiCode
) -> None:
    vm = machine(swap_slots=4, traits=Traits(swapoff_leaves_poison_entry=poison))
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = swap_out(task, vma.start, drop=False)
    page.flags = (page.flags | pg.HWPOISON) & ~pg.UPTODATE
    get_page(page)
    vm.swap.swapoff()
    assert isinstance(task.alive_mm().entry(vma.start), entry)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    assert hit.value.info.code is code
    assert not vm.swap.count


def test_a_file_page_that_was_lost_stays_lost_after_swapoff(vm: Machine) -> None:
    file = File(vm.create("data", "tmpfs", 1), "fd")
    vm.write(file, 0, "x")
    reclaim_folio(file.inode.mapping.pages[0], drop=False)
    page = cached(vm.swap)
    page.flags = (page.flags | pg.HWPOISON) & ~pg.UPTODATE
    get_page(page)
    vm.swap.swapoff()
    with pytest.raises(SysError, match="EIO"):
        vm.read(file, 0)
    truncate(file.inode, 0)
    assert not vm.swap.count


# Bad pages of the swap cache (me_swapcache_dirty(), me_swapcache_clean()).


def bad_page(vm: Machine, task: Task, vma: Vma, *, dirty: bool) -> Page:
    """A page of the cache that nobody maps, as the handler holds it."""
    page = swap_out(task, vma.start, drop=False)
    vm.lru.add_drain_all()
    get_page(page)
    page.flags |= pg.HWPOISON | (pg.DIRTY if dirty else 0)
    return page


def test_a_clean_bad_page_goes_and_its_contents_come_from_the_device(
    vm: Machine, task: Task, vma: Vma
) -> None:
    """R23."""
    page = bad_page(vm, task, vma, dirty=False)
    with locked(page):
        response = give_up_clean_swapcache(page)
    assert (response.result, response.kept) == (MfResult.RECOVERED, 0)
    assert page.refcount == 1
    assert load(task, vma.start) == "x"
    assert mapped(task, vma.start) is not page


def test_a_dirty_bad_page_stays_to_stop_whoever_comes(vm: Machine, task: Task, vma: Vma) -> None:
    """R17: its slot has old contents or none."""
    page = bad_page(vm, task, vma, dirty=True)
    with locked(page):
        response = give_up_dirty_swapcache(page)
    assert (response.result, response.kept) == (MfResult.DELAYED, 1)
    assert page.refcount == 2
    assert not page.flags & (pg.DIRTY | pg.UPTODATE | pg.LRU)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    assert hit.value.info.code is SiCode.BUS_MCEERR_AR


@pytest.mark.parametrize("dirty", [True, False])
def test_a_page_off_the_lists_is_a_failure_of_either_kind(
    vm: Machine, task: Task, vma: Vma, dirty: bool
) -> None:
    page = bad_page(vm, task, vma, dirty=dirty)
    vm.lru.isolate(page)
    with locked(page):
        response = (give_up_dirty_swapcache if dirty else give_up_clean_swapcache)(page)
    assert (response.result, response.kept) == (MfResult.FAILED, 0)
    put_page(page)


@pytest.mark.parametrize("rule", ["alone", "owner", "never"])
def test_a_store_that_brings_a_page_back_gives_its_slot_back_or_not(
    rule: Literal["alone", "owner", "never"],
) -> None:
    vm = Machine(swap_slots=1, traits=Traits(store_gives_slot_back=rule))
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "old")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    assert reclaim_folio(entry.page)
    store(task, vma.start, "newer")
    assert bool(vm.swap.cache) == (rule == "never")
    assert load(task, vma.start) == "newer"
