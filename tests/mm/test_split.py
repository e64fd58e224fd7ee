"""Splitting large folios: what it needs, what is left, and who gets the lock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, discard, do_mmap
from hwpoison.mm.page import Page, folio_lock, folio_unlock, get_page, put_page
from hwpoison.mm.pte import HugePte, Pte
from hwpoison.mm.split import split_folio, split_huge_page
from hwpoison.mm.task import Task
from hwpoison.mm.truncate import punch_hole, truncate
from hwpoison.mm.writeback import fsync

PAGES = 512


@pytest.fixture
def vm(machine: Callable[..., Machine]) -> Machine:
    return machine(frames=4096, swap_slots=8)


def huge_area(vm: Machine) -> tuple[Task, Vma, Page]:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), PAGES, huge=True)
    for vpn in range(vma.start, vma.end):
        store(task, vpn, "data")
    store(task, vma.start + 5, "five")
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, HugePte)
    return task, vma, entry.page


def written(vm: Machine, fs: str, pages: int = 16) -> tuple[File, Page]:
    """A file written in one call, and its folio."""
    file = File(vm.create("data", fs, pages), "fd")
    vm.write(file, 0, "new", pages)
    return file, file.inode.mapping.pages[0].head


def split(page: Page, order: int = 0, at: Page | None = None) -> int:
    """Split with lock and reference, and give both back."""
    get_page(page)
    folio_lock(page)
    error = split_folio(page, order, at=at)
    folio_unlock(page)
    put_page(page)
    return error


def test_every_page_of_a_huge_page_is_one_of_its_own_afterwards(vm: Machine) -> None:
    task, vma, folio = huge_area(vm)
    assert split(folio) == 0
    for number, page in enumerate(vm.zone.page(folio.pfn + n) for n in range(PAGES)):
        entry = task.alive_mm().entry(vma.start + number)
        assert type(entry) is Pte and entry.page is page and entry.dirty and entry.writable
        assert (page.head, page.order, page.refcount, page.mapcount) == (page, 0, 1, 1)
        assert page.exclusive and page.index == folio.index + number
        assert page.flags & (pg.LRU | pg.DIRTY | pg.UPTODATE | pg.SWAPBACKED) and not page.flags & pg.LOCKED
    assert load(task, vma.start + 5) == "five"
    assert load(task, vma.start + 6) == "data"


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("drops", [True, False])
def test_pages_of_zeros_are_given_up_by_newer_kernels_unless_they_are_locked(
    machine: Callable[..., Machine], drops: bool, locked: bool
) -> None:
    vm = machine(frames=4096, traits=Traits(split_drops_zeros=drops))
    task, vma, folio = huge_area(vm)
    store(task, vma.start + 6, "zeros")
    if locked:
        mlock(task.alive_mm(), vma)
    assert split(folio) == 0
    entry = task.alive_mm().entry(vma.start + 6)
    assert isinstance(entry, Pte)
    assert (entry.page is vm.zero_page) is (drops and not locked)
    assert (folio.pfn + 6 in set(vm.zone.free_pfns())) is (drops and not locked)
    store(task, vma.start + 6, "six")
    assert (load(task, vma.start + 5), load(task, vma.start + 6)) == ("five", "six")


def test_the_lock_passes_on_to_the_page_that_the_caller_works_on(vm: Machine) -> None:
    _task, _vma, folio = huge_area(vm)
    page = vm.zone.page(folio.pfn + 7)
    get_page(page)
    folio_lock(page)
    assert split_folio(page) == 0
    assert page.lock_owner is vm.paths.current and page.flags & pg.LOCKED and page.refcount == 2
    assert folio.lock_owner is None and not folio.flags & pg.LOCKED and folio.refcount == 1
    folio_unlock(page)
    put_page(page)
    assert vm.paths.current.held == []


def test_a_pin_or_any_other_reference_stops_it_and_nothing_has_changed(vm: Machine) -> None:
    task, vma, folio = huge_area(vm)
    pinned = pin_user_page(task, vma.start + 3)
    assert folio.pincount == 1 and pinned.maybe_dma_pinned
    assert split(folio) == -Errno.EAGAIN
    assert isinstance(task.alive_mm().entry(vma.start), HugePte)
    unpin_user_page(pinned)
    assert split(folio) == 0


def test_a_page_that_nobody_maps_any_more_is_freed_by_it(vm: Machine) -> None:
    task, vma, folio = huge_area(vm)
    discard(task.alive_mm(), vma, vma.start, vma.start + 4)
    assert folio.refcount == PAGES - 4 and folio.entire_mapcount == 0
    assert split(folio) == 0
    free = set(vm.zone.free_pfns())
    assert {folio.pfn + n for n in range(PAGES)} & free == {folio.pfn + n for n in range(4)}


@pytest.mark.parametrize("order", [1, 4, 8])
def test_the_parts_can_be_large_themselves(vm: Machine, order: int) -> None:
    task, vma, folio = huge_area(vm)
    assert split(folio, order) == 0
    page = vm.zone.page(folio.pfn + 300)
    head = page.head
    assert head.order == order and head.pfn % (1 << order) == 0
    assert head.large_mapcount == head.refcount == 1 << order
    assert head.flags & pg.COMPOUND_HEAD
    store(task, vma.start + 300, "again")
    assert page.content == "again"


def test_only_the_one_page_becomes_small_if_that_is_all_that_is_asked_for(vm: Machine) -> None:
    _task, _vma, folio = huge_area(vm)
    assert split(folio, at=vm.zone.page(folio.pfn + 100)) == 0
    orders = {
        n: vm.zone.page(folio.pfn + n).head.order for n in (0, 63, 64, 99, 100, 101, 102, 127, 128, 256)
    }
    assert orders == {0: 6, 63: 6, 64: 5, 99: 2, 100: 0, 101: 0, 102: 1, 127: 4, 128: 7, 256: 8}


def test_a_bad_page_keeps_its_mark_and_the_part_that_holds_it_is_marked(vm: Machine) -> None:
    _task, _vma, folio = huge_area(vm)
    bad = vm.zone.page(folio.pfn + 17)
    bad.flags |= pg.HWPOISON
    folio.has_hwpoisoned = True
    assert split(folio, 4) == 0
    marked = [n for n in range(0, PAGES, 16) if vm.zone.page(folio.pfn + n).has_hwpoisoned]
    assert marked == [16] and bad.flags & pg.HWPOISON and not folio.flags & pg.HWPOISON


def test_a_dirty_folio_of_ext4_cannot_be_split_and_a_clean_one_can(vm: Machine) -> None:
    file, folio = written(vm, "ext4")
    assert folio.order == 4 and split(folio) == -Errno.EBUSY
    fsync(file)
    assert split(folio) == 0 and not folio.flags & pg.PRIVATE
    assert {page.head.order for page in file.inode.mapping.pages.values()} == {0}


def test_a_folio_of_xfs_can_be_split_while_it_is_dirty_for_the_first_time_only(vm: Machine) -> None:
    file, folio = written(vm, "xfs")
    fsync(file)
    vm.write(file, 3, "again")
    assert split(folio) == -Errno.EBUSY
    fresh, dirty = written(vm, "xfs")
    assert split(dirty) == 0
    assert fresh.inode.mapping.dirty == set(range(16))


def test_pages_of_a_file_are_unmapped_by_it(vm: Machine) -> None:
    file, folio = written(vm, "xfs")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 16, file=file, shared=True)
    load(task, vma.start + 2)
    assert folio.large_mapcount == 16, "a fault maps all of the folio"
    assert split(folio) == 0
    assert task.alive_mm().entry(vma.start + 2) is None
    assert load(task, vma.start + 2) == "new"


def test_older_kernels_map_one_page_at_a_fault(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=1024, traits=Traits(maps_whole_folio=()))
    file, folio = written(vm, "xfs")
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 16, file=file, shared=True)
    load(task, vma.start + 2)
    assert folio.large_mapcount == 1


def test_a_small_write_or_an_aligned_part_makes_a_folio_that_fits(vm: Machine) -> None:
    file = File(vm.create("data", "ext4", 16), "fd")
    vm.write(file, 1, "new", 9)
    pages = file.inode.mapping.pages
    assert [pages[n].head.order for n in range(1, 10)] == [0, 1, 1, 2, 2, 2, 2, 1, 1]


def test_truncation_drops_parts_beyond_the_end(vm: Machine) -> None:
    file, folio = written(vm, "xfs")
    truncate(file.inode, 6)
    assert sorted(file.inode.mapping.pages) == list(range(6))
    assert folio.order == 2 and vm.read(file, 5) == "new"


def test_truncation_leaves_what_it_cannot_split_with_zeros_behind_the_end(vm: Machine) -> None:
    file, folio = written(vm, "ext4")
    truncate(file.inode, 6)
    assert folio.order == 4
    truncate(file.inode, 16)
    assert (vm.read(file, 5), vm.read(file, 6)) == ("new", "zeros")


def test_a_hole_within_a_clean_held_folio_drops_all_of_it(vm: Machine) -> None:
    """truncate_inode_partial_folio(): what cannot be split and is not dirty is read again when needed."""
    file, folio = written(vm, "ext4")
    fsync(file)
    get_page(folio)
    vm.held.add(folio.pfn)
    punch_hole(file.inode, 3, 5)
    assert folio.mapping is None and not file.inode.mapping.pages
    assert (vm.read(file, 2), vm.read(file, 3)) == ("new", "zeros")
    put_page(folio)


def test_somebody_who_asks_is_refused_while_the_folio_is_locked(vm: Machine) -> None:
    _task, _vma, folio = huge_area(vm)
    folio_lock(folio)
    assert split_huge_page(folio) == -Errno.EBUSY
    folio_unlock(folio)
    assert split_huge_page(folio) == 0


def test_a_folio_that_reaches_beyond_the_end_of_its_file_goes_with_it(vm: Machine) -> None:
    file, folio = written(vm, "ext4", 4)
    truncate(file.inode, 1)
    assert folio.order == 2 and sorted(file.inode.mapping.pages) == [0, 1, 2, 3]
    truncate(file.inode, 0)
    assert not file.inode.mapping.pages and folio.refcount == 0
