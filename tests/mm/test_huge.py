"""Huge pages: when a fault maps one, and what splits the entry but not the folio."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.khugepaged import madvise_collapse
from hwpoison.mm.machine import Machine, Panic, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, discard, do_mmap, munmap
from hwpoison.mm.page import Page
from hwpoison.mm.pte import HugePte, PoisonPte, Pte, SwapPte
from hwpoison.mm.split import split_huge_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio

PAGES = 512


@pytest.fixture
def vm(machine: Callable[..., Machine]) -> Machine:
    return machine(frames=4096, swap_slots=8)


def area(vm: Machine, pages: int = PAGES, *, huge: bool = True) -> tuple[Task, Vma]:
    task = vm.new_task("app")
    return task, do_mmap(task.alive_mm(), pages, huge=huge)


def page_at(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def is_huge(task: Task, vpn: int) -> bool:
    return isinstance(task.alive_mm().entry(vpn), HugePte)


def test_a_store_to_a_marked_area_maps_512_pages_at_once(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    folio = page_at(task, vma.start)
    assert (folio.order, folio.entire_mapcount, folio.large_mapcount, folio.refcount) == (9, 1, 1, 1)
    assert page_at(task, vma.start + 5) is vm.zone.page(folio.pfn + 5)
    assert (load(task, vma.start + 5), load(task, vma.start + 6)) == ("five", "zeros")


@pytest.mark.parametrize(("pages", "huge"), [(511, True), (512, False)])
def test_an_area_without_the_mark_or_the_room_gets_small_pages(vm: Machine, pages: int, huge: bool) -> None:
    task, vma = area(vm, pages, huge=huge)
    store(task, vma.start, "small")
    assert page_at(task, vma.start).order == 0


def test_without_a_free_block_of_that_size_small_pages_do(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=400)
    task, vma = area(vm)
    store(task, vma.start, "small")
    assert page_at(task, vma.start).order == 0


@pytest.mark.parametrize("becomes_huge", [True, False])
def test_a_load_maps_the_huge_page_of_zeros_and_a_store_replaces_it(
    machine: Callable[..., Machine], becomes_huge: bool
) -> None:
    vm = machine(frames=4096, traits=Traits(huge_zero_becomes_huge=becomes_huge))
    task, vma = area(vm)
    assert load(task, vma.start + 5) == "zeros"
    assert page_at(task, vma.start) is vm.huge_zero_folio
    store(task, vma.start + 5, "five")
    assert is_huge(task, vma.start) == becomes_huge
    assert (load(task, vma.start + 5), load(task, vma.start + 4)) == ("five", "zeros")


def test_fork_shares_it_and_the_first_to_write_gets_one_page_of_his_own(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    folio = page_at(task, vma.start)
    child = task.fork()
    assert (folio.entire_mapcount, folio.refcount, folio.exclusive) == (2, 2, False)
    store(child, vma.start + 6, "six")
    assert is_huge(task, vma.start) and not is_huge(child, vma.start)
    assert page_at(child, vma.start + 6).order == 0 and page_at(child, vma.start + 5).head is folio
    assert (load(task, vma.start + 6), load(child, vma.start + 6)) == ("zeros", "six")


def test_the_last_user_writes_in_place(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start, "old")
    child = task.fork()
    folio = page_at(task, vma.start)
    task.exit()
    store(child, vma.start, "new")
    assert is_huge(child, vma.start) and page_at(child, vma.start) is folio


def test_a_pinned_one_is_copied_for_the_child_page_by_page(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    pinned = pin_user_page(task, vma.start + 5)
    child = task.fork()
    assert page_at(child, vma.start + 5) is not pinned and load(child, vma.start + 5) == "five"
    store(task, vma.start + 5, "device sees this")
    assert pinned.content == "device sees this"
    unpin_user_page(pinned)
    child.exit()


def test_giving_up_all_of_it_frees_it_and_the_next_touch_may_be_huge_again(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start, "old")
    pfn = page_at(task, vma.start).pfn
    discard(task.alive_mm(), vma, vma.start, vma.end)
    assert task.alive_mm().entry(vma.start) is None and pfn in set(vm.zone.free_pfns())
    store(task, vma.start, "new")
    assert is_huge(task, vma.start)


def test_giving_up_a_part_splits_the_entry_and_not_the_folio(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    folio = page_at(task, vma.start)
    discard(task.alive_mm(), vma, vma.start, vma.start + 2)
    assert task.alive_mm().entry(vma.start) is None
    assert (folio.order, folio.entire_mapcount, folio.large_mapcount) == (9, 0, PAGES - 2)
    assert load(task, vma.start + 5) == "five"
    munmap(task.alive_mm(), vma)
    assert folio.refcount == 0


def test_locking_marks_the_folio_once(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start, "x")
    folio = page_at(task, vma.start)
    mlock(task.alive_mm(), vma)
    assert folio.flags & pg.MLOCKED and folio.flags & pg.UNEVICTABLE and folio.refcount == 1
    mlock(task.alive_mm(), vma, on=False)
    assert not folio.flags & pg.MLOCKED


def test_one_page_goes_to_swap_after_a_split(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    assert reclaim_folio(page_at(task, vma.start + 5))
    assert isinstance(task.alive_mm().entry(vma.start + 5), SwapPte)
    assert page_at(task, vma.start + 6).order == 0
    assert load(task, vma.start + 5) == "five"


def test_one_that_two_processes_map_is_left_alone_by_reclaim_of_a_part(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start, "x")
    task.fork()
    assert not reclaim_folio(page_at(task, vma.start))
    assert is_huge(task, vma.start)


def test_tmpfs_maps_a_huge_page_whole_unless_one_of_its_pages_is_bad(vm: Machine) -> None:
    file = File(vm.create("t", "tmpfs", PAGES), "fd")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), PAGES, file=file, shared=True, huge=True)
    store(task, vma.start + 5, "five")
    assert is_huge(task, vma.start) and vm.read(file, 5) == "five"
    other = vm.new_task("other")
    folio = page_at(task, vma.start)
    folio.has_hwpoisoned = True
    second = do_mmap(other.alive_mm(), PAGES, file=file, shared=True, huge=True)
    assert load(other, second.start + 5) == "five"
    assert not is_huge(other, second.start) and folio.entire_mapcount == 1
    vm.inodes[0].unnamed = True  # it goes with its mappings


def test_small_pages_are_collapsed_with_their_contents(vm: Machine) -> None:
    task, vma = area(vm, huge=False)
    store(task, vma.start + 5, "five")
    load(task, vma.start + 6)
    old = page_at(task, vma.start + 5).pfn
    madvise_collapse(task.alive_mm(), vma.start)
    assert is_huge(task, vma.start) and old in set(vm.zone.free_pfns())
    assert (load(task, vma.start + 5), load(task, vma.start + 6)) == ("five", "zeros")
    madvise_collapse(task.alive_mm(), vma.start)


def test_a_poison_entry_ends_a_collapse(vm: Machine) -> None:
    task, vma = area(vm, huge=False)
    store(task, vma.start, "x")
    task.alive_mm().pte_alloc(vma.start).entries[vma.start + 1] = PoisonPte(17)
    with pytest.raises(SysError) as refused:
        madvise_collapse(task.alive_mm(), vma.start)
    assert refused.value.errno is Errno.EINVAL and not is_huge(task, vma.start)


def test_pages_in_swap_come_back_for_a_collapse(vm: Machine) -> None:
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    split_huge_page(page_at(task, vma.start))
    reclaim_folio(page_at(task, vma.start + 5), drop=True)
    assert isinstance(task.alive_mm().entry(vma.start + 5), SwapPte)
    madvise_collapse(task.alive_mm(), vma.start)
    assert is_huge(task, vma.start)
    assert load(task, vma.start + 5) == "five"


@pytest.mark.parametrize("survives", [True, False])
def test_a_real_error_met_by_a_collapse_leaves_all_as_it_was_or_stops_the_machine(survives: bool) -> None:
    vm = Machine(frames=4096, traits=Traits(collapse_survives_errors=survives))
    task, vma = area(vm)
    store(task, vma.start + 4, "four")
    store(task, vma.start + 5, "five")
    split_huge_page(page_at(task, vma.start))
    vm.strike(page_at(task, vma.start + 5).pfn, hardware=True)
    with pytest.raises(SysError if survives else Panic):
        madvise_collapse(task.alive_mm(), vma.start)
    if survives:
        assert load(task, vma.start + 4) == "four"
        assert not is_huge(task, vma.start)
        assert page_at(task, vma.start + 5).flags & pg.LRU
        assert vm.check() == []


@pytest.mark.parametrize("allowed", [True, False])
def test_memory_shared_since_a_fork_is_collapsed_by_newer_kernels(
    machine: Callable[..., Machine], allowed: bool
) -> None:
    vm = machine(frames=4096, traits=Traits(collapses_read_only=allowed))
    task, vma = area(vm)
    store(task, vma.start + 5, "five")
    split_huge_page(page_at(task, vma.start))
    child = task.fork("child")
    if allowed:
        madvise_collapse(task.alive_mm(), vma.start)
        assert page_at(task, vma.start + 5) is not page_at(child, vma.start + 5)
    else:
        with pytest.raises(SysError, match="EINVAL"):
            madvise_collapse(task.alive_mm(), vma.start)
    assert load(task, vma.start + 5) == load(child, vma.start + 5) == "five"


def test_a_page_that_somebody_holds_ends_a_collapse(vm: Machine) -> None:
    task, vma = area(vm, huge=False)
    store(task, vma.start, "x")
    pinned = pin_user_page(task, vma.start)
    with pytest.raises(SysError) as refused:
        madvise_collapse(task.alive_mm(), vma.start)
    assert refused.value.errno is Errno.EAGAIN
    unpin_user_page(pinned)
