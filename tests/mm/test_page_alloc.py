"""Free pages: nothing is lost, nothing is handed out twice, and a bad page does not come out (R22).

Kernels from 6.3 on look at pages that they hand out only if they were built or booted to check them
(``Traits.checks_new_pages``); what the handler takes off the lists never comes out of any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hwpoison.abi import pageflags as pg
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.page import Page, folio_try_get, put_page
from hwpoison.mm.page_alloc import MAX_PAGE_ORDER, PCP_HIGH, OutOfMemory

FRAMES = 100  # no power of two: blocks of many orders
RESERVED = 3

CHECKING = Traits(checks_new_pages=True)

OPERATIONS = st.one_of(
    st.tuples(st.just("alloc"), st.sampled_from([0, 0, 0, 0, 1, 2, 3])),
    st.tuples(st.just("free"), st.integers(0, 30)),
    st.tuples(st.just("poison"), st.integers(0, 30)),
    st.tuples(st.just("mark"), st.integers(0, FRAMES - 1)),
    st.tuples(st.just("take"), st.integers(0, FRAMES - 1)),
    st.tuples(st.just("cpu"), st.integers(0, 2)),
    st.tuples(st.just("drain"), st.just(0)),
)


class Ledger:
    """Where every frame of a zone is, kept apart from the zone's own lists."""

    def __init__(self) -> None:
        self.vm = Machine(frames=FRAMES, reserved=RESERVED, traits=CHECKING)
        self.zone = self.vm.zone
        self.held: list[Page] = []
        self.away: set[int] = set()  # taken off, freed bad, or lost with a bad one in their block

    def pages_held(self) -> list[int]:
        return [pfn for page in self.held for pfn in range(page.pfn, page.pfn + (1 << page.order))]

    def alloc(self, order: int) -> None:
        free = set(self.zone.free_pfns())
        try:
            page = self.zone.alloc_pages(order)
        except OutOfMemory:
            pass
        else:
            assert page.refcount == 1
            self.held.append(page)
            assert not any(
                self.zone.page(pfn).flags & pg.HWPOISON for pfn in self.pages_held()[-(1 << order) :]
            )
        self.away |= free - set(self.zone.free_pfns()) - set(self.pages_held())

    def free(self, number: int) -> None:
        if self.held:
            page = self.held.pop(number % len(self.held))
            if page.order == 0 and page.flags & pg.HWPOISON:
                self.away.add(page.pfn)
            put_page(page)

    def poison(self, number: int) -> None:
        single = [page for page in self.held if page.order == 0]
        if single:
            single[number % len(single)].flags |= pg.HWPOISON

    def mark(self, pfn: int) -> None:
        """A free page is found bad, and nobody takes it off."""
        if pfn in set(self.zone.free_pfns()):
            self.zone.page(pfn).flags |= pg.HWPOISON

    def take(self, pfn: int) -> None:
        was_free = self.zone.is_free_buddy_page(pfn)
        assert self.zone.take_page_off_buddy(self.zone.page(pfn)) == was_free
        if was_free:
            self.away.add(pfn)

    def cpu(self, number: int) -> None:
        self.vm.paths.current.cpu = number

    def drain(self, _: int) -> None:
        self.zone.drain_all_pages()
        assert not self.zone.pcp


@given(st.lists(OPERATIONS, max_size=60))
@example([("alloc", 0)] * 40 + [("free", 0)] * 40)
@example([("mark", 9), ("alloc", 3), ("alloc", 3)])
def test_every_frame_is_in_one_place_whatever_happens(operations: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for name, argument in operations:
        getattr(ledger, name)(argument)
        free = sorted(ledger.zone.free_pfns())
        places = free + ledger.pages_held() + sorted(ledger.away) + list(range(RESERVED))
        assert sorted(places) == list(range(FRAMES)), f"after {name} {argument}"
        assert ledger.vm.check() == []


@given(st.lists(st.sampled_from([0, 0, 1, 2, 3]), max_size=8), st.randoms(use_true_random=False))
def test_what_is_given_back_joins_into_the_blocks_there_were(orders: list[int], random: object) -> None:
    vm = Machine(frames=FRAMES, reserved=RESERVED)
    before = [dict(blocks) for blocks in vm.zone.free_area]
    pages = [vm.zone.alloc_pages(order) for order in orders]
    random.shuffle(pages)  # type: ignore[attr-defined]
    for page in pages:
        put_page(page)
    vm.zone.drain_all_pages()
    assert [set(blocks) for blocks in vm.zone.free_area] == [set(blocks) for blocks in before]


@pytest.mark.parametrize("order", range(MAX_PAGE_ORDER + 1))
def test_one_frame_is_taken_out_of_a_block_of_any_order(machine: Callable[..., Machine], order: int) -> None:
    start = 1 << MAX_PAGE_ORDER
    for pfn in {start, start + (1 << order) // 2, start + (1 << order) - 1}:
        vm = machine(frames=start + (1 << order), reserved=start)
        assert vm.zone.free_block_of(pfn) == (start, order)
        assert vm.zone.take_page_off_buddy(vm.zone.page(pfn))
        assert not vm.zone.is_free_buddy_page(pfn)
        assert set(vm.zone.free_pfns()) == set(range(start, start + (1 << order))) - {pfn}
        assert not vm.zone.take_page_off_buddy(vm.zone.page(pfn)), "it is there once"


def test_a_frame_taken_off_does_not_join_with_its_neighbour_again(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=16, reserved=2)
    neighbour = vm.zone.alloc_pages()
    vm.zone.take_page_off_buddy(vm.zone.page(neighbour.pfn ^ 1))
    put_page(neighbour)
    vm.zone.drain_all_pages()
    assert vm.zone.free_block_of(neighbour.pfn) == (neighbour.pfn, 0)


def test_a_bad_page_on_a_cpu_list_is_refused_like_one_in_a_block(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=8, traits=CHECKING)
    page = vm.zone.alloc_pages()
    put_page(page)
    assert page in vm.zone.pcp[0]
    page.flags |= pg.HWPOISON
    assert vm.zone.alloc_pages() is not page
    assert vm.zone.refused == [page.pfn]


def test_a_kernel_that_checks_nothing_hands_out_a_free_page_that_is_only_marked(vm: Machine) -> None:
    """Deviation bad-page-allocated: is_check_pages_enabled(), 6.3 and later. Taken off, it is safe."""
    page = vm.zone.alloc_pages()
    put_page(page)
    page.flags |= pg.HWPOISON
    assert vm.zone.alloc_pages() is page


def test_a_block_with_one_bad_page_is_lost_as_a_whole(machine: Callable[..., Machine]) -> None:
    """check_new_pages(): nothing is handed out, and nothing put back."""
    vm = machine(frames=16, reserved=8, traits=CHECKING)
    vm.zone.page(9).flags |= pg.HWPOISON
    with pytest.raises(OutOfMemory):
        vm.zone.alloc_pages(3)
    assert list(vm.zone.free_pfns()) == []


def test_a_bad_page_that_its_last_user_lets_go_stays_out(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    page.flags |= pg.HWPOISON
    put_page(page)
    assert page.pfn not in set(vm.zone.free_pfns())
    assert page.flags == pg.HWPOISON, "nothing else of it is left"


def test_the_lists_of_other_cpus_are_emptied_before_memory_runs_out(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=6)
    pages = [vm.zone.alloc_pages() for _ in range(4)]
    vm.paths.current.cpu = 1
    for page in pages:
        put_page(page)
    vm.paths.current.cpu = 0
    again = {vm.zone.alloc_pages().pfn for _ in range(4)}
    assert again == {page.pfn for page in pages}
    with pytest.raises(OutOfMemory, match="no free block of order 0 in 6 frames"):
        vm.zone.alloc_pages()


def test_a_cpu_list_that_grows_too_long_gives_half_back(vm: Machine) -> None:
    pages = [vm.zone.alloc_pages() for _ in range(PCP_HIGH + 1)]
    for page in pages:
        put_page(page)
    assert len(vm.zone.pcp[0]) == PCP_HIGH + 1 - PCP_HIGH // 2
    assert vm.zone.is_free_buddy_page(pages[0].pfn), "the oldest go first"


def test_while_cpu_lists_are_off_every_free_page_is_in_a_block(vm: Machine) -> None:
    early, late = vm.zone.alloc_pages(), vm.zone.alloc_pages()
    put_page(early)
    assert not vm.zone.is_free_buddy_page(early.pfn)
    with vm.zone.pcp_lists_disabled():
        put_page(late)
        assert vm.zone.is_free_buddy_page(early.pfn)
        assert vm.zone.is_free_buddy_page(late.pfn)
        assert vm.zone.alloc_pages()
        assert not vm.zone.pcp
    again = vm.zone.alloc_pages()
    put_page(again)
    assert again in vm.zone.pcp[0]


def test_reserved_frames_are_never_free(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=20, reserved=7)
    assert min(vm.zone.free_pfns()) == 7
    assert vm.zone.page(6).flags == pg.RESERVED


@pytest.mark.parametrize("flag", [pg.LRU, pg.LOCKED, pg.WRITEBACK, pg.SLAB, pg.UNEVICTABLE, pg.ACTIVE])
def test_a_page_that_is_still_in_use_cannot_be_freed(vm: Machine, flag: int) -> None:
    page = vm.zone.alloc_pages()
    page.flags |= flag
    with pytest.raises(KernelBug, match=f"freeing page .* with flags .*{pg.names(flag)[0]}"):
        vm.zone.free_pages(page)
    page.flags = 0


def test_a_mapped_page_cannot_be_freed(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    page.mapcount = 1
    with pytest.raises(KernelBug, match="mapcount 1"):
        put_page(page)
    page.mapcount = 0


def test_a_compound_page_is_its_head_and_comes_back_whole(vm: Machine) -> None:
    page = vm.zone.alloc_pages(2)
    tail = vm.zone.page(page.pfn + 3)
    assert tail.head is page
    assert page.flags & pg.COMPOUND_HEAD
    put_page(tail)
    vm.zone.drain_all_pages()
    assert vm.zone.free_block_of(tail.pfn) is not None
    assert tail.head is tail
    assert not page.flags


def test_a_block_that_was_freed_goes_to_who_asks_for_as_much_next(vm: Machine) -> None:
    block = vm.zone.alloc_pages(1)
    put_page(block)
    assert vm.zone.alloc_pages().pfn not in (block.pfn, block.pfn + 1)
    assert vm.zone.alloc_pages(1) is block


def test_a_block_with_a_bad_frame_in_it_is_the_last_that_is_handed_out(
    machine: Callable[..., Machine],
) -> None:
    vm = machine(frames=64, reserved=0, traits=Traits(checks_new_pages=False))
    block = vm.zone.alloc_pages(4)
    bad = vm.zone.page(block.pfn + 5)
    bad.flags |= pg.HWPOISON
    put_page(block)
    handed = [vm.zone.alloc_pages().pfn for _ in range(64)]
    assert handed.index(bad.pfn) >= 48
    vm.zone.page(bad.pfn).flags &= ~pg.HWPOISON


def test_a_frame_that_does_not_exist_has_no_page(vm: Machine) -> None:
    assert not vm.zone.online(256)
    assert not vm.zone.online(-1)
    with pytest.raises(KernelBug, match="pfn 0x100 has no struct page"):
        vm.zone.page(256)


def test_a_large_zone_costs_nothing_until_it_is_used(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=1 << 20)
    assert len(vm.zone.pages) == 1, "the zero page"
    assert vm.zone.is_free_buddy_page((1 << 20) - 1)


def test_of_a_frozen_block_nobody_can_take_a_reference(machine: Callable[..., Machine]) -> None:
    assert not folio_try_get(machine().zone.alloc_pages(2, frozen=True))
