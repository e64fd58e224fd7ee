"""Errors in huge pages: free, anonymous, of a file; a second error; what stands in the way of taking them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode, Signal
from hwpoison.failure import inject
from hwpoison.failure.flags import MF_SW_SIMULATED
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.profiles import NEWEST, Profile
from hwpoison.failure.unpoison import unpoison_memory
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.hugetlb import Hstate, is_huge, is_raw_hwpoison, state_of
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap, munmap
from hwpoison.mm.page import Page, put_page
from hwpoison.mm.pte import Pmd, Pte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import truncate

from .conftest import Interrupt

PAGES = 4  # base pages of a huge page here


@pytest.fixture
def failure(handlers: Callable[..., MemoryFailure], profile: Profile) -> MemoryFailure:
    return with_pool(handlers(profile, huge_order=2, gigantic_order=4))


@pytest.fixture
def newest(handlers: Callable[..., MemoryFailure]) -> MemoryFailure:
    return with_pool(handlers(NEWEST, huge_order=2, gigantic_order=4))


def with_pool(failure: MemoryFailure, pages: int = 2) -> MemoryFailure:
    failure.vm.hugetlb.set_max_huge_pages(pool(failure), pages)
    return failure


def pool(failure: MemoryFailure) -> Hstate:
    return failure.vm.hugetlb.hstates["2M"]


def counters(failure: MemoryFailure) -> tuple[int, int]:
    return pool(failure).nr, len(pool(failure).free_list)


def memory(failure: MemoryFailure, *, file: File | None = None) -> tuple[Task, Vma]:
    """A process with one huge page that it has written to."""
    task = failure.vm.new_task("A")
    task.sigbus = "handler"
    vma = do_mmap(task.alive_mm(), PAGES, file=file, shared=file is not None, hugetlb="2M")
    for index in range(PAGES):
        store(task, vma.start + index, f"{index}")
    return task, vma


def a_file(failure: MemoryFailure) -> File:
    return File(failure.vm.create("h", "hugetlbfs", PAGES), "fd")


def frame(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def last(failure: MemoryFailure) -> tuple[PageType, MfResult]:
    return failure.events[-1].type, failure.events[-1].result


def signals(task: Task) -> list[tuple[SiCode, int, int]]:
    """(code, page number, size) of every SIGBUS."""
    found = [*task.received, *task.pending]
    return [(s.code, (s.address or 0) >> PAGE_SHIFT, s.lsb) for s in found if s.signal is Signal.SIGBUS]


@pytest.mark.parametrize("index", range(PAGES))
def test_of_a_free_huge_page_only_the_bad_frame_is_lost(failure: MemoryFailure, index: int) -> None:
    head = pool(failure).free_list[0]
    bad = failure.vm.zone.page(head.pfn + index)
    assert inject.simulated(failure, bad.pfn) == 0
    assert last(failure) == (PageType.FREE_HUGE, MfResult.RECOVERED)
    assert counters(failure) == (1, 1)
    free = set(failure.vm.zone.free_pfns())
    assert {pfn in free for pfn in range(head.pfn, head.pfn + PAGES) if pfn != bad.pfn} == {True}
    assert bad.pfn not in free
    assert bad.flags & pg.HWPOISON
    assert not is_huge(head)


def test_a_free_huge_page_that_is_promised_stays_in_the_pool(failure: MemoryFailure) -> None:
    do_mmap(failure.vm.new_task("A").alive_mm(), 2 * PAGES, hugetlb="2M")
    assert inject.simulated(failure, pool(failure).free_list[0].pfn) == -Errno.EBUSY
    assert last(failure) == (PageType.FREE_HUGE, MfResult.FAILED)
    assert counters(failure) == (2, 2)


def test_anonymous_memory_is_taken_away_and_dissolved(failure: MemoryFailure) -> None:
    task, vma = memory(failure)
    bad = frame(task, vma.start + 2)
    assert inject.simulated(failure, bad.pfn) == 0
    assert last(failure) == (PageType.HUGE, MfResult.RECOVERED)
    assert counters(failure) == (1, 1)
    assert (bad.refcount, bool(bad.flags & pg.HWPOISON)) == (1, True)
    with pytest.raises(Signalled):
        load(task, vma.start)
    assert signals(task) == [(SiCode.BUS_MCEERR_AR, vma.start, 21)]


def test_who_asked_to_be_told_early_hears_the_address_and_the_size(failure: MemoryFailure) -> None:
    task, vma = memory(failure)
    task.prctl_mce_kill(McePolicy.EARLY)
    inject.simulated(failure, frame(task, vma.start + 2).pfn)
    told = vma.start if failure.profile.hugetlb_tells_head else vma.start + 2
    assert signals(task) == [(SiCode.BUS_MCEERR_AO, told, 21)]


def test_memory_that_was_only_read_counts_as_clean_and_nobody_is_told_early(failure: MemoryFailure) -> None:
    task = failure.vm.new_task("A")
    task.prctl_mce_kill(McePolicy.EARLY)
    vma = do_mmap(task.alive_mm(), PAGES, hugetlb="2M")
    load(task, vma.start)
    assert inject.simulated(failure, frame(task, vma.start).pfn) == 0
    assert signals(task) == []


def test_a_pinned_page_cannot_be_dissolved_and_ends_up_bad_in_the_pool(failure: MemoryFailure) -> None:
    task, vma = memory(failure)
    pin = pin_user_page(task, vma.start)
    assert inject.simulated(failure, pin.pfn) == -Errno.EBUSY
    assert last(failure) == (PageType.HUGE, MfResult.FAILED)
    unpin_user_page(pin)
    assert counters(failure) == (2, 2)
    assert pin.head.flags & pg.HWPOISON
    again = failure.vm.hugetlb.alloc(pool(failure), reserved=False)
    assert again is not pin.head
    assert failure.vm.hugetlb.alloc(pool(failure), reserved=False) is None
    if again is not None:
        put_page(again)


def test_a_page_of_a_file_is_kept_to_tell_its_readers(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    bad = frame(task, vma.start + 1)
    assert inject.simulated(failure, bad.pfn) == 0
    assert last(failure) == (PageType.HUGE, MfResult.RECOVERED)
    assert (is_raw_hwpoison(bad), is_raw_hwpoison(bad.head)) == (True, False)
    with pytest.raises(SysError) as refused:
        failure.vm.read(file, 1)
    assert refused.value.errno is Errno.EIO
    if not failure.vm.traits.hugetlb_read_refuses_all:
        assert failure.vm.read(file, 2) == "2"
    again = do_mmap(task.alive_mm(), PAGES, file=file, shared=True)
    with pytest.raises(Signalled):
        load(task, again.start + 3)
    assert signals(task)[-1] == (SiCode.BUS_MCEERR_AR, again.start + 3, 21)


def test_a_second_error_in_the_same_huge_page(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    frames = [frame(task, vma.start + index) for index in range(PAGES)]
    inject.simulated(failure, frames[1].pfn)
    said = len(failure.events)
    assert inject.simulated(failure, frames[1].pfn) == -Errno.EHWPOISON
    assert inject.simulated(failure, frames[3].pfn) == -Errno.EHWPOISON
    new = [(event.type, event.result) for event in failure.events[said:]]
    if failure.profile.reports_already_poisoned:
        assert new == [(PageType.ALREADY_POISONED, MfResult.FAILED), (PageType.HUGE, MfResult.FAILED)]
    else:
        assert new == []
    assert failure.vm.counters.poisoned == 2
    assert [is_raw_hwpoison(page) for page in frames] == [False, True, False, True]


def test_who_meets_a_bad_huge_page_again_is_told_where(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    bad = frame(task, vma.start + 2)
    inject.simulated(failure, bad.pfn)
    failure.machine_check(task, bad.pfn)
    told = vma.start + 2 if failure.profile.tells_bad_frame_again else vma.start
    assert signals(task) == [(SiCode.BUS_MCEERR_AR, told, 21)]


def test_without_memory_for_a_note_no_part_of_the_page_is_trusted(newest: MemoryFailure) -> None:
    file = a_file(newest)
    task, vma = memory(newest, file=file)
    newest.failing_allocations = 1
    inject.simulated(newest, frame(task, vma.start).pfn)
    with pytest.raises(SysError):
        newest.vm.read(file, 3)


def test_unpoison_makes_all_of_a_huge_page_good_again(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    frames = [frame(task, vma.start + index) for index in range(PAGES)]
    for bad in frames[1:3]:
        inject.simulated(failure, bad.pfn)
    assert unpoison_memory(failure, frames[0].pfn) == -Errno.EBUSY  # it is in its file
    munmap(task.alive_mm(), vma)
    truncate(file.inode, 0)
    assert counters(failure) == (2, 1)
    if not failure.profile.unpoison_takes_any_part:
        assert unpoison_memory(failure, frames[1].pfn) == -Errno.EBUSY
    assert unpoison_memory(failure, frames[0].pfn) == 0
    assert (counters(failure), failure.vm.counters.poisoned) == ((2, 2), 0)
    assert not any(page.bad or is_raw_hwpoison(page) for page in frames)


def test_unpoison_of_a_dissolved_huge_page_gives_the_one_frame_back(failure: MemoryFailure) -> None:
    bad = list(pool(failure).free_list[0].pages())[1]
    inject.simulated(failure, bad.pfn)
    assert unpoison_memory(failure, bad.pfn) == 0
    assert failure.vm.zone.is_free_buddy_page(bad.pfn)


def test_a_page_that_the_filter_spares_is_good_again(failure: MemoryFailure) -> None:
    task, vma = memory(failure)
    failure.filter.enabled = True
    failure.filter.flags_mask = failure.filter.flags_value = pg.SLAB
    assert inject.simulated(failure, frame(task, vma.start).pfn) == 0
    assert (failure.events, load(task, vma.start)) == ([], "0")


def test_the_lock_of_the_files_areas_is_only_tried(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    page = frame(task, vma.start)
    with file.inode.mapping.i_mmap_rwsem.read():
        path = failure.vm.paths.spawn("error", failure.memory_failure, page.pfn, MF_SW_SIMULATED)
        failure.vm.paths.join(path)
    assert path.result == -Errno.EBUSY
    assert last(failure) == (PageType.UNMAP_FAILED, failure.profile.unmap_failed)
    assert any("could not lock mapping for mapped hugetlb" in line for line in failure.vm.log)
    assert page.head.mapped


def test_an_area_whose_own_lock_is_taken_keeps_its_entry(failure: MemoryFailure) -> None:
    file = a_file(failure)
    task, vma = memory(failure, file=file)
    page = frame(task, vma.start)
    with vma.hugetlb_lock.read():
        path = failure.vm.paths.spawn("error", failure.memory_failure, page.pfn, MF_SW_SIMULATED)
        failure.vm.paths.join(path)
    assert last(failure) == (PageType.UNMAP_FAILED, failure.profile.unmap_failed)
    assert isinstance(task.alive_mm().hugetlb[vma.start], Pmd)


def test_a_page_on_its_way_into_memory_is_left_alone(failure: MemoryFailure) -> None:
    """B2: allocated and not yet set up: no reference may be taken."""
    vm = failure.vm
    page = vm.hugetlb.alloc(pool(failure), reserved=False)
    assert page is not None
    assert inject.simulated(failure, page.pfn) == -Errno.EBUSY
    assert last(failure) == (failure.profile.not_handlable, MfResult.IGNORED)
    assert page.refcount == 1


def test_a_demotion_in_the_middle_marks_the_right_page(newest: MemoryFailure) -> None:
    """B4: the page that is taken and the one that is marked are the same, whoever splits it meanwhile."""
    vm = newest.vm
    vm.hugetlb.set_max_huge_pages(pool(newest), 0)
    big = vm.hugetlb.hstates["1G"]
    vm.hugetlb.set_max_huge_pages(big, 1)
    bad = vm.zone.page(big.free_list[0].pfn + 6)
    path = vm.paths.spawn("demotion", vm.hugetlb.demote, 1)
    vm.paths.chooser = Interrupt(path, lambda running, _op, on: on is vm.hugetlb.lock and running is not path)
    assert newest.memory_failure(bad.pfn, MF_SW_SIMULATED) == 0
    vm.paths.finish()
    vm.paths.chooser = None
    assert (big.nr, counters(newest)) == (0, (3, 3))
    assert [pfn for pfn in range(bad.pfn - 6, bad.pfn + 10) if vm.zone.page(pfn).flags & pg.HWPOISON] == [
        bad.pfn
    ]


def test_a_task_that_gave_the_page_up_before_is_not_told(newest: MemoryFailure) -> None:
    file = a_file(newest)
    task, vma = memory(newest, file=file)
    page = frame(task, vma.start)
    munmap(task.alive_mm(), vma)
    assert inject.simulated(newest, page.pfn) == 0
    assert signals(task) == []


def test_two_processes_sharing_a_page_by_fork_are_both_told(failure: MemoryFailure) -> None:
    failure.vm.sysctls.memory_failure_early_kill = True
    task, vma = memory(failure)
    child = task.fork("B")
    inject.simulated(failure, frame(task, vma.start).pfn)
    assert signals(task) == signals(child) == [(SiCode.BUS_MCEERR_AO, vma.start, 21)]


def test_a_profile_may_keep_the_mark_migratable(handlers: Callable[..., MemoryFailure]) -> None:
    for stays in (True, False):
        failure = with_pool(
            handlers(replace(NEWEST, hugetlb_stays_put=stays), huge_order=2, gigantic_order=4)
        )
        task, vma = memory(failure, file=a_file(failure))
        page = frame(task, vma.start)
        inject.simulated(failure, page.pfn)
        assert state_of(page).migratable is not stays
