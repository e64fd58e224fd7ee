"""Pools of huge pages: growing, shrinking, promises, surplus, dissolving, demotion, bad frames inside."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.hugetlb import Hstate, is_huge, is_raw_hwpoison, state_of
from hwpoison.mm.inode import SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import Page, put_page, set_flags


@pytest.fixture
def vm(machine: Callable[..., Machine]) -> Machine:
    """Huge pages of four base pages, gigantic ones of sixteen."""
    return machine(frames=256, huge_order=2, gigantic_order=4)


@pytest.fixture
def h(vm: Machine) -> Hstate:
    return vm.hugetlb.hstates["2M"]


def counters(h: Hstate) -> tuple[int, int, int, int]:
    return h.nr, len(h.free_list), h.reserved, h.surplus


def taken(vm: Machine, h: Hstate, *, reserved: bool = False) -> Page:
    page = vm.hugetlb.alloc(h, reserved=reserved)
    assert page is not None
    return page


def free_frames(vm: Machine) -> int:
    return sum(1 for _pfn in vm.zone.free_pfns())


def test_a_pool_takes_whole_blocks_from_the_allocator_and_gives_them_back(vm: Machine, h: Hstate) -> None:
    before = free_frames(vm)
    vm.hugetlb.set_max_huge_pages(h, 3)
    assert counters(h) == (3, 3, 0, 0)
    assert free_frames(vm) == before - 12
    vm.hugetlb.set_max_huge_pages(h, 0)
    assert counters(h) == (0, 0, 0, 0)
    assert free_frames(vm) == before


def test_a_pool_grows_as_far_as_memory_goes(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1000)
    assert 0 < h.nr < 1000
    assert h.nr == len(h.free_list)


def test_a_page_of_the_pool_has_no_reference_and_one_in_use_has_one(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    assert h.free_list[0].refcount == 0
    page = taken(vm, h)
    assert page.refcount == 1
    assert counters(h) == (1, 0, 0, 0)
    put_page(list(page.pages())[2])
    assert counters(h) == (1, 1, 0, 0)


def test_pages_in_use_turn_into_surplus_when_the_pool_is_made_smaller(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 2)
    page = taken(vm, h)
    vm.hugetlb.set_max_huge_pages(h, 0)
    assert counters(h) == (1, 0, 0, 1)
    put_page(page)
    assert counters(h) == (0, 0, 0, 0)
    assert not is_huge(page)


def test_surplus_pages_become_the_pools_own_when_it_grows(vm: Machine, h: Hstate) -> None:
    h.overcommit = 1
    page = taken(vm, h)
    assert counters(h) == (1, 0, 0, 1)
    vm.hugetlb.set_max_huge_pages(h, 1)
    put_page(page)
    assert counters(h) == (1, 1, 0, 0)


def test_what_is_promised_cannot_be_taken_by_others(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    vm.hugetlb.reserve(h, 1)
    assert vm.hugetlb.alloc(h, reserved=False) is None
    put_page(taken(vm, h, reserved=True))
    assert counters(h) == (1, 1, 0, 0)


def test_more_than_there_can_be_is_not_promised(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    h.overcommit = 1
    with pytest.raises(SysError) as refused:
        vm.hugetlb.reserve(h, 3)
    assert refused.value.errno is Errno.ENOMEM
    assert counters(h) == (1, 1, 0, 0)


def test_surplus_pages_made_for_a_promise_go_when_it_is_not_wanted_any_more(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    h.overcommit = 2
    vm.hugetlb.reserve(h, 3)
    assert counters(h) == (3, 3, 3, 2)
    vm.hugetlb.unreserve(h, 3)
    assert counters(h) == (1, 1, 0, 0)


def test_a_free_page_is_dissolved_into_ordinary_ones(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    page = h.free_list[0]
    assert vm.hugetlb.dissolve_free_huge_page(list(page.pages())[1]) == 0
    assert counters(h) == (0, 0, 0, 0)
    vm.zone.drain_all_pages()
    assert all(vm.zone.is_free_buddy_page(frame) for frame in range(page.pfn, page.pfn + 4))


def test_a_page_in_use_is_not_dissolved(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    page = taken(vm, h)
    assert vm.hugetlb.dissolve_free_huge_page(page) == -Errno.EBUSY
    put_page(page)


def test_a_free_page_that_is_promised_is_not_dissolved(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    vm.hugetlb.reserve(h, 1)
    assert vm.hugetlb.dissolve_free_huge_page(h.free_list[0]) == -Errno.EBUSY
    vm.hugetlb.unreserve(h, 1)


def test_dissolving_leaves_each_bad_frame_with_its_own_mark_and_keeps_the_one(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    head, one, two, _three = h.free_list[0].pages()
    for frame in (one, two):
        vm.hugetlb.set_hwpoison(frame, no_memory=False)
    assert [is_raw_hwpoison(frame) for frame in (head, one, two)] == [False, True, True]
    assert vm.hugetlb.page_handle_poison(one)
    assert [bool(frame.flags & pg.HWPOISON) for frame in (head, one, two)] == [False, True, True]
    free = set(vm.zone.free_pfns())
    assert one.pfn not in free
    assert {head.pfn, two.pfn} <= free  # the second bad frame is handed to the allocator


def test_where_nobody_knows_which_frames_are_bad_the_whole_page_is_given_up(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    page = h.free_list[0]
    vm.hugetlb.set_hwpoison(page, no_memory=True)
    assert state_of(page).raw_unreliable
    assert all(is_raw_hwpoison(frame) for frame in page.pages())
    assert not vm.hugetlb.page_handle_poison(page)
    assert counters(h) == (0, 0, 0, 0)
    assert page.pfn not in set(vm.zone.free_pfns())


def test_a_bad_page_in_the_pool_is_passed_over(vm: Machine, h: Hstate) -> None:
    vm.hugetlb.set_max_huge_pages(h, 2)
    bad, good = h.free_list
    vm.hugetlb.set_hwpoison(bad, no_memory=False)
    page = taken(vm, h)
    assert page is good
    assert vm.hugetlb.alloc(h, reserved=False) is None
    put_page(page)


@pytest.mark.parametrize(("again", "answer"), [(0, (True, False)), (1, (True, True))])
def test_a_second_error_is_the_same_frame_or_a_new_one(
    vm: Machine, h: Hstate, again: int, answer: tuple[bool, bool]
) -> None:
    vm.hugetlb.set_max_huge_pages(h, 1)
    frames = list(h.free_list[0].pages())
    assert vm.hugetlb.set_hwpoison(frames[0], no_memory=False) == (False, True)
    assert vm.hugetlb.set_hwpoison(frames[again], no_memory=False) == answer


def test_a_gigantic_page_is_demoted_into_huge_ones(vm: Machine, h: Hstate) -> None:
    big = vm.hugetlb.hstates["1G"]
    vm.hugetlb.set_max_huge_pages(big, 1)
    start = big.free_list[0].pfn
    assert vm.hugetlb.demote(2) == 1
    assert (counters(big), counters(h)) == ((0, 0, 0, 0), (4, 4, 0, 0))
    assert sorted(page.pfn for page in h.free_list) == list(range(start, start + 16, 4))
    vm.hugetlb.set_max_huge_pages(h, 0)
    vm.zone.drain_all_pages()
    assert vm.zone.free_block_of(start + 5) is not None


def test_a_bad_gigantic_page_is_not_demoted(vm: Machine) -> None:
    big = vm.hugetlb.hstates["1G"]
    vm.hugetlb.set_max_huge_pages(big, 1)
    vm.hugetlb.set_hwpoison(big.free_list[0], no_memory=False)
    assert vm.hugetlb.demote(1) == -Errno.EBUSY


def test_a_bad_folio_that_is_no_huge_page_of_a_pool_has_no_list_of_bad_frames(vm: Machine) -> None:
    folio = vm.zone.alloc_pages(2)
    set_flags(folio, pg.HWPOISON)
    assert not any(is_raw_hwpoison(frame) for frame in folio.pages())
