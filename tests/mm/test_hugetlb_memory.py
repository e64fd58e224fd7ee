"""Areas of huge pages: promises at mmap, faults, copy on write, fork, unmapping, notes about bad memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import PAGE_SHIFT, Errno, SiCode
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.hugetlb import Hstate
from hwpoison.mm.hugetlb_unmap import try_to_unmap_huge
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.khugepaged import madvise_collapse
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.madvise import madvise_free, uffd_poison
from hwpoison.mm.memory import load, store
from hwpoison.mm.migrate import move_page_of
from hwpoison.mm.mmap import Vma, discard, do_mmap, munmap
from hwpoison.mm.page import Page, get_page, locked, set_flags
from hwpoison.mm.proc import page_count, pagemap_entry, stable_page_flags
from hwpoison.mm.pte import Pmd, PoisonPte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import truncate

PAGES = 4  # base pages of a huge page here


@pytest.fixture
def vm(machine: Callable[..., Machine]) -> Machine:
    vm = machine(frames=256, huge_order=2, gigantic_order=4)
    vm.hugetlb.set_max_huge_pages(vm.hugetlb.hstates["2M"], 3)
    return vm


@pytest.fixture
def h(vm: Machine) -> Hstate:
    return vm.hugetlb.hstates["2M"]


@pytest.fixture
def task(vm: Machine) -> Task:
    return vm.new_task("A")


def area(task: Task, huge_pages: int = 1, *, file: File | None = None, shared: bool = False) -> Vma:
    return do_mmap(task.alive_mm(), huge_pages * PAGES, file=file, shared=shared, hugetlb="2M")


def mapped(vma: Vma, start: int) -> Page:
    entry = vma.mm.hugetlb[start]
    assert isinstance(entry, Pmd)
    return entry.page


def test_an_area_begins_where_a_huge_page_can_and_is_promised_its_pages(h: Hstate, task: Task) -> None:
    do_mmap(task.alive_mm(), 1)
    vma = area(task, 2)
    assert vma.start % PAGES == 0
    assert (h.reserved, len(h.free_list)) == (2, 3)
    munmap(task.alive_mm(), vma)
    assert h.reserved == 0


def test_mmap_fails_when_the_pool_cannot_promise_the_pages(h: Hstate, task: Task) -> None:
    with pytest.raises(SysError) as refused:
        area(task, 4)
    assert refused.value.errno is Errno.ENOMEM
    assert task.alive_mm().vmas == []
    assert h.reserved == 0


def test_one_touch_brings_in_the_whole_huge_page(h: Hstate, task: Task) -> None:
    vma = area(task)
    store(task, vma.start + 1, "one")
    assert (h.reserved, len(h.free_list)) == (0, 2)
    assert [load(task, vma.start + i) for i in range(PAGES)] == ["zeros", "one", "zeros", "zeros"]
    assert (len(h.free_list), mapped(vma, vma.start).entire_mapcount) == (2, 1)


def test_exit_gives_the_pages_back_to_the_pool(h: Hstate, task: Task) -> None:
    vma = area(task, 2)
    store(task, vma.start, "x")
    task.exit()
    assert (h.nr, len(h.free_list), h.reserved) == (3, 3, 0)


def test_a_page_comes_back_from_the_pool_full_of_zeros(task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "secret")
    munmap(task.alive_mm(), vma)
    again = area(task, 3)
    assert {load(task, vpn) for vpn in range(again.start, again.end)} == {"zeros"}


def test_what_proc_shows_of_a_huge_page(vm: Machine, task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "x")
    head = mapped(vma, vma.start)
    assert pg.names(stable_page_flags(vm, head.pfn)) == ["UPTODATE", "MMAP", "ANON", "COMPOUND_HEAD", "HUGE"]
    tail = vm.zone.page(head.pfn + 1)
    assert pg.names(stable_page_flags(vm, tail.pfn)) == ["UPTODATE", "MMAP", "ANON", "COMPOUND_TAIL", "HUGE"]
    assert page_count(tail) == 1
    assert pagemap_entry(task.alive_mm(), vma.start + 2) & (1 << 55) - 1 == head.pfn + 2


def test_fork_shares_the_page_until_one_side_writes(h: Hstate, task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "first")
    store(task, vma.start + 1, "second")
    child = task.fork("B")
    assert mapped(vma, vma.start).entire_mapcount == 2
    store(child, vma.start, "mine")
    assert [load(child, vma.start + i) for i in (0, 1)] == ["mine", "second"]
    assert [load(task, vma.start + i) for i in (0, 1)] == ["first", "second"]
    assert len(h.free_list) == 1


def test_who_is_left_alone_with_the_page_writes_in_place(h: Hstate, task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "first")
    task.fork("B").exit()
    store(task, vma.start, "again")
    assert len(h.free_list) == 2


def test_a_pinned_page_is_copied_at_fork_and_stays_its_owners(task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "first")
    pin = pin_user_page(task, vma.start)
    child = task.fork("B")
    assert mapped(child.alive_mm().vmas[0], vma.start) is not pin.head
    assert load(child, vma.start) == "first"
    store(task, vma.start, "second")
    assert pin.content == "second"
    unpin_user_page(pin)


def test_a_child_without_a_promise_gets_sigbus_when_the_pool_is_empty(h: Hstate, task: Task) -> None:
    vma = area(task, 3)
    for start in range(vma.start, vma.end, PAGES):
        store(task, start, "x")
    child = task.fork("B")
    with pytest.raises(Signalled) as hit:
        store(child, vma.start, "mine")
    assert hit.value.info.code is SiCode.BUS_ADRERR


def test_shared_anonymous_huge_memory_is_a_file_that_goes_with_its_last_mapping(
    vm: Machine, h: Hstate, task: Task
) -> None:
    vma = area(task, shared=True)
    store(task, vma.start, "x")
    child = task.fork("B")
    assert load(child, vma.start) == "x"
    store(child, vma.start, "y")
    assert load(task, vma.start) == "y"
    task.exit()
    child.exit()
    assert (len(h.free_list), vm.inodes) == (3, [])


def test_a_private_mapping_of_a_file_is_copied_when_it_is_written(vm: Machine, h: Hstate, task: Task) -> None:
    file = File(vm.create("h", "hugetlbfs", PAGES), "fd")
    shared, private = area(task, file=file, shared=True), area(task, file=file)
    store(task, shared.start, "file")
    assert load(task, private.start) == "file"
    store(task, private.start, "mine")
    assert (load(task, shared.start), vm.read(file, 0)) == ("file", "file")
    assert len(h.free_list) == 1


def test_a_touch_beyond_a_file_that_was_cut_is_a_bus_error(vm: Machine, task: Task) -> None:
    file = File(vm.create("h", "hugetlbfs", PAGES), "fd")
    vma = area(task, 2, file=file, shared=True)
    truncate(file.inode, PAGES)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start + PAGES)
    assert hit.value.info.code is SiCode.BUS_ADRERR


@pytest.mark.parametrize("shared", [True, False])
def test_a_note_about_bad_memory_stops_a_touch_of_any_part(vm: Machine, task: Task, shared: bool) -> None:
    vma = area(task, shared=shared)
    store(task, vma.start, "x")
    head = mapped(vma, vma.start)
    vm.hugetlb.set_hwpoison(vm.zone.page(head.pfn + 1), no_memory=False)
    get_page(head)  # the handler's
    with locked(head):
        try_to_unmap_huge(head)
    assert not head.mapped
    assert head.flags & pg.DIRTY
    assert isinstance(vma.mm.hugetlb[vma.start], PoisonPte)
    task.sigbus = "handler"
    for vpn in range(vma.start, vma.end):
        with pytest.raises(Signalled) as hit:
            load(task, vpn)
        info = hit.value.info
        assert (info.code, info.address, info.lsb) == (SiCode.BUS_MCEERR_AR, vpn << PAGE_SHIFT, 21)


def test_the_note_is_inherited_by_fork(vm: Machine, task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "x")
    head = mapped(vma, vma.start)
    vm.hugetlb.set_hwpoison(head, no_memory=False)
    get_page(head)  # the handler's
    with locked(head):
        try_to_unmap_huge(head)
    child = task.fork("B")
    assert isinstance(child.alive_mm().hugetlb[vma.start], PoisonPte)


def test_a_parent_without_memory_for_a_copy_takes_the_page_from_its_child(vm: Machine, task: Task) -> None:
    vm.hugetlb.set_max_huge_pages(vm.hugetlb.hstates["2M"], 1)
    vma = area(task)
    store(task, vma.start, "old")
    child = task.fork("B")
    store(task, vma.start, "new")
    assert load(task, vma.start) == "new"
    child.sigbus = "handler"
    with pytest.raises(Signalled) as hit:
        load(child, vma.start)
    assert hit.value.info.code is SiCode.BUS_ADRERR


def test_fork_fails_without_memory_for_the_copy_of_a_pinned_page(vm: Machine, task: Task) -> None:
    vm.hugetlb.set_max_huge_pages(vm.hugetlb.hstates["2M"], 1)
    vma = area(task)
    page = pin_user_page(task, vma.start)
    with pytest.raises(SysError) as refused:
        task.fork("B")
    assert refused.value.errno is Errno.ENOMEM
    unpin_user_page(page)
    assert (page.refcount, page.entire_mapcount) == (1, 1)
    assert vm.check() == []


@pytest.mark.parametrize(("traits", "reserved"), [(Traits(), 1), (Traits(unmapping_promises_anew=False), 0)])
def test_a_page_that_is_given_up_is_promised_anew(
    machine: Callable[..., Machine], traits: Traits, reserved: int
) -> None:
    vm = machine(frames=256, huge_order=2, gigantic_order=4, traits=traits)
    h, task = vm.hugetlb.hstates["2M"], vm.new_task("A")
    vm.hugetlb.set_max_huge_pages(h, 1)
    vma = area(task)
    store(task, vma.start, "x")
    discard(task.alive_mm(), vma, vma.start, vma.start + PAGES - 1)
    assert (h.reserved, len(h.free_list)) == (0, 0)
    discard(task.alive_mm(), vma, vma.start, vma.start + PAGES)
    assert (h.reserved, len(h.free_list)) == (reserved, 1)
    munmap(task.alive_mm(), vma)
    assert h.reserved == 0


def test_a_page_that_a_child_has_as_well_is_not_promised_anew(h: Hstate, task: Task) -> None:
    vma = area(task)
    store(task, vma.start, "x")
    child = task.fork("B")
    discard(task.alive_mm(), vma, vma.start, vma.start + PAGES)
    child.exit()
    assert (h.reserved, len(h.free_list)) == (0, 3)


def test_a_promise_whose_page_is_pinned_is_missing_until_the_pin_goes(h: Hstate, task: Task) -> None:
    vma = area(task)
    page = pin_user_page(task, vma.start)
    munmap(task.alive_mm(), vma)
    assert (h.reserved, len(h.free_list)) == (-1, 2)
    unpin_user_page(page)
    assert (h.reserved, len(h.free_list)) == (0, 3)


def test_areas_of_huge_pages_are_taken_whole(vm: Machine, task: Task) -> None:
    file = File(vm.create("h", "hugetlbfs", 2 * PAGES), "fd")
    mm, vma = task.alive_mm(), area(task)
    calls = [
        lambda: do_mmap(mm, PAGES, file=file, pgoff=1),
        lambda: munmap(mm, vma, 1),
        lambda: discard(mm, vma, vma.start + 1, vma.end),
        lambda: madvise_free(mm, vma.start),
        lambda: madvise_collapse(mm, vma.start),
        lambda: uffd_poison(mm, vma.start),
    ]
    for call in calls:
        with pytest.raises(SysError) as refused:
            call()
        assert refused.value.errno is Errno.EINVAL
    munmap(mm, vma, PAGES)
    assert mm.vmas == []


@pytest.mark.parametrize("shared", [True, False])
def test_nobody_gets_the_copy_of_a_page_with_a_mark(task: Task, shared: bool) -> None:
    vma = area(task, shared=shared)
    store(task, vma.start, "x")
    set_flags(mapped(vma, vma.start), pg.HWPOISON)
    assert move_page_of(task.alive_mm(), vma.start) == 0
    assert isinstance(vma.mm.hugetlb[vma.start], PoisonPte)


def test_what_is_freed_on_a_node_with_too_many_pages_leaves_the_pool(h: Hstate, task: Task) -> None:
    h.overcommit = 1
    vmas = [area(task) for _ in range(4)]
    for vma in vmas:
        store(task, vma.start, "x")
    assert h.surplus_at == [1, 0]
    assert move_page_of(task.alive_mm(), vmas[0].start) == 0
    assert h.surplus_at == [0, 1]
    munmap(task.alive_mm(), vmas[1])
    assert (h.nr, len(h.free_list)) == (4, 1)
    munmap(task.alive_mm(), vmas[0])
    assert (h.nr, len(h.free_list), h.surplus) == (3, 1, 0)
