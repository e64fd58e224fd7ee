"""Errors in large folios: the page is split off, or each kernel says in its own way that it could not be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import PAGE_SHIFT, Errno, McePolicy, SiCode
from hwpoison.failure.handler import MemoryFailure
from hwpoison.failure.inject import deferred, hard_offline_page, madvise
from hwpoison.failure.profiles import PROFILES, V6_1, V7_3, Profile
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import FILE_SYSTEMS, File
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.pte import HugePte, PoisonPte, Pte
from hwpoison.mm.task import Signalled, Task

PART = 5


@pytest.fixture(params=list(PROFILES.values()), ids=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> Profile:
    found: Profile = request.param
    return found


def handler(profile: Profile) -> MemoryFailure:
    return MemoryFailure(Machine(frames=2048, traits=profile.traits), profile)


def huge(failure: MemoryFailure) -> tuple[Task, Vma, Page]:
    """A process with a huge page, and the sixth page of it."""
    task = failure.vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 512, huge=True)
    store(task, vma.start + PART, "precious")
    entry = task.alive_mm().entry(vma.start + PART)
    assert isinstance(entry, HugePte)
    return task, vma, entry.page


def last(failure: MemoryFailure) -> tuple[PageType, MfResult]:
    return failure.events[-1].type, failure.events[-1].result


@pytest.mark.parametrize("part", [0, PART, 511])
def test_whichever_page_is_bad_only_that_one_is_lost(profile: Profile, part: int) -> None:
    failure = handler(profile)
    task, vma, page = huge(failure)
    bad = failure.vm.zone.page(page.head.pfn + part)
    assert deferred(failure, bad.pfn) == 0
    assert last(failure) == (PageType.DIRTY_LRU, MfResult.RECOVERED)
    assert isinstance(task.alive_mm().entry(vma.start + part), PoisonPte)
    with pytest.raises(Signalled):
        load(task, vma.start + part)
    other = (part + 1) % 512
    if not task.exited:
        assert load(task, vma.start + other) in ("zeros", "precious")
    assert failure.vm.check() == []


def test_one_that_is_pinned_is_left_as_it_was(profile: Profile) -> None:
    failure = handler(profile)
    task, vma, page = huge(failure)
    pinned = pin_user_page(task, vma.start)
    returned = hard_offline_page(failure, page.pfn)
    newer = profile.unsplit_thp is MfResult.FAILED
    assert returned == (-Errno.EHWPOISON if newer else -Errno.EBUSY)
    assert last(failure) == (PageType.UNSPLIT_THP, MfResult.FAILED if newer else MfResult.IGNORED)
    assert isinstance(task.alive_mm().entry(vma.start + PART), HugePte)
    assert page.flags & pg.HWPOISON and page.head.has_hwpoisoned
    unpin_user_page(pinned)
    assert page.head.refcount == 1, "the handler keeps nothing of it"
    assert failure.vm.check() == []


@pytest.mark.parametrize("wants", list(McePolicy))
def test_who_wants_to_know_early_hears_of_it_with_the_size_of_all_of_it(wants: McePolicy) -> None:
    failure = handler(V7_3)
    task, vma, page = huge(failure)
    task.prctl_mce_kill(wants)
    task.sigbus = "handler"
    pin_user_page(task, vma.start)
    hard_offline_page(failure, page.pfn)
    task.deliver()
    told = [(info.code, info.address, info.lsb) for info in task.received]
    expected = [(SiCode.BUS_MCEERR_AO, vma.start + PART << PAGE_SHIFT, 21)]
    assert told == (expected if wants is McePolicy.EARLY else [])


def test_on_older_kernels_nobody_is_told_whatever_he_wants() -> None:
    failure = handler(V6_1)
    task, vma, page = huge(failure)
    task.prctl_mce_kill(McePolicy.EARLY)
    pin_user_page(task, vma.start)
    hard_offline_page(failure, page.pfn)
    assert task.pending == [] and not task.exited


def test_the_task_that_consumed_the_error_is_told_even_if_it_does_not_ask() -> None:
    failure = handler(V7_3)
    task, vma, page = huge(failure)
    task.sigbus = "handler"
    pin_user_page(task, vma.start)
    assert madvise(failure, task, vma.start + PART) == -Errno.EHWPOISON
    task.deliver()
    assert [(info.code, info.lsb) for info in task.received] == [(SiCode.BUS_MCEERR_AR, 21)]
    assert page.head.order == 9


def test_the_next_error_after_the_pin_is_gone_splits_it_and_takes_its_own_page_only() -> None:
    failure = handler(V7_3)
    task, vma, page = huge(failure)
    pinned = pin_user_page(task, vma.start)
    hard_offline_page(failure, page.pfn)
    unpin_user_page(pinned)
    assert hard_offline_page(failure, page.pfn + 2) == 0
    assert page.head is page and page.flags & pg.HWPOISON
    entry = task.alive_mm().entry(vma.start + PART)
    assert type(entry) is Pte and entry.page is page, "it stays mapped as it is"
    assert isinstance(task.alive_mm().entry(vma.start + PART + 2), PoisonPte)


def test_a_bad_page_within_a_freed_block_goes_back_with_it() -> None:
    """Nobody looks at the parts of a block (free_pages_prepare()); 6.1 refuses to hand the block out."""
    for profile, refused in ((V7_3, False), (V6_1, True)):
        failure = handler(profile)
        task, vma, page = huge(failure)
        pinned = pin_user_page(task, vma.start)
        hard_offline_page(failure, page.pfn)
        unpin_user_page(pinned)
        task.exit()
        assert page.pfn in set(failure.vm.zone.free_pfns())
        taken: list[Page] = []
        with suppress(OutOfMemory):
            while True:
                taken.append(failure.vm.zone.alloc_pages(9))
        assert (page.pfn in failure.vm.zone.refused) == refused
        assert any(block.pfn <= page.pfn < block.pfn + 512 for block in taken) != refused


def test_a_file_that_wants_folios_of_a_size_is_split_that_far_and_no_further() -> None:
    failure = handler(V7_3)
    blocks = replace(FILE_SYSTEMS["xfs"], min_order=2)
    inode = failure.vm.create("data", blocks, 16)
    failure.vm.write(File(inode, "fd"), 0, "new", 16)
    page = inode.mapping.pages[PART]
    assert hard_offline_page(failure, page.pfn) == -Errno.EHWPOISON
    assert last(failure) == (PageType.UNSPLIT_THP, MfResult.FAILED)
    assert page.head.order == 2 and page.head.has_hwpoisoned
    assert inode.mapping.pages[0].head.order == 2 and not inode.mapping.pages[0].head.has_hwpoisoned


def test_a_clean_folio_of_a_file_loses_the_bad_page_and_nothing_else(profile: Profile) -> None:
    failure = handler(profile)
    task = failure.vm.new_task("app")
    inode = failure.vm.create("t", "tmpfs", 512)
    vma = do_mmap(task.alive_mm(), 512, file=File(inode, "fd"), shared=True, huge=True)
    store(task, vma.start + PART, "precious")
    bad = inode.mapping.pages[PART]
    assert bad.head.order == 9
    assert hard_offline_page(failure, bad.pfn) == 0
    assert last(failure) == (PageType.DIRTY_LRU, MfResult.RECOVERED)
    assert task.alive_mm().entry(vma.start + PART) is None, "splitting a file's folio has unmapped it"
    assert len(inode.mapping.pages) == 512 and inode.mapping.pages[PART] is bad
    assert load(task, vma.start + PART + 1) == "zeros"
    assert failure.vm.check() == []
