"""Taking the page: what can be handled, tries and retries, and races with allocation (facts 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult, PageType
from hwpoison.abi.signals import Errno
from hwpoison.failure import grab as module
from hwpoison.failure.flags import MF_COUNT_INCREASED, MF_SW_SIMULATED
from hwpoison.failure.grab import Grab, get_hwpoison_page, handlable, shake_page
from hwpoison.failure.handler import MemoryFailure
from hwpoison.mm.inode import File
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.truncate import truncate

REFUSED = {"7.3": Grab.KERNEL, "7.2": Grab.UNHANDLABLE, "6.12": Grab.UNHANDLABLE, "6.1": Grab.UNHANDLABLE}


@pytest.fixture
def shaken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Page]]:
    """Each page that was shaken."""
    pages: list[Page] = []

    def shake(page: Page) -> None:
        pages.append(page)
        shake_page(page)

    monkeypatch.setattr(module, "shake_page", shake)
    yield pages


def of_file(vm: Machine) -> Page:
    file = File(vm.create("data", "ext4", 1), "fd")
    vm.read(file, 0)
    return file.inode.mapping.pages[0]


def test_a_page_on_a_list_is_taken_with_one_reference(failure: MemoryFailure, shaken: list[Page]) -> None:
    page = of_file(failure.vm)
    failure.vm.lru.add_drain_all()
    assert get_hwpoison_page(failure, page, counted=False) is Grab.TAKEN
    assert page.refcount == 2
    assert shaken == []
    put_page(page)


def test_a_page_in_a_batch_is_taken_at_the_second_try(failure: MemoryFailure, shaken: list[Page]) -> None:
    page = of_file(failure.vm)
    assert get_hwpoison_page(failure, page, counted=False) is Grab.TAKEN
    assert shaken == [page]
    put_page(page)


@pytest.mark.parametrize("where", ["block", "CPU list"])
def test_a_free_page_needs_no_reference(failure: MemoryFailure, where: str) -> None:
    """Pages of CPU lists are in blocks while the handler looks."""
    page = failure.vm.zone.alloc_pages()
    put_page(page)
    if where == "block":
        failure.vm.zone.drain_all_pages()
    assert get_hwpoison_page(failure, page, counted=False) is Grab.FREE
    assert page.refcount == 0


@pytest.mark.parametrize("kind", ["slab", "reserved"])
def test_pages_known_to_be_the_kernels_are_refused_at_once_or_after_all_tries(
    failure: MemoryFailure, shaken: list[Page], kind: str
) -> None:
    page = kernel_page(failure.vm, kind)
    assert get_hwpoison_page(failure, page, counted=False) is REFUSED[failure.profile.name]
    assert page.refcount == 1
    assert len(shaken) == (0 if failure.profile.name == "7.3" else 3)
    assert failure.vm.log == [f"Memory failure: {page.pfn:#x}: unhandlable page."]


@pytest.mark.parametrize("kind", ["vmalloc", "balloon"])
def test_pages_that_nobody_knows_are_tried_four_times(
    failure: MemoryFailure, shaken: list[Page], kind: str
) -> None:
    page = kernel_page(failure.vm, kind)
    assert get_hwpoison_page(failure, page, counted=False) is Grab.UNHANDLABLE
    assert shaken == [page] * 3
    assert failure.vm.log == [f"Memory failure: {page.pfn:#x}: unhandlable page."]


@pytest.mark.parametrize("kind", ["slab", "vmalloc"])
def test_a_reference_that_the_caller_brought_is_given_back_if_it_cannot_be_used(
    failure: MemoryFailure, kind: str
) -> None:
    page = kernel_page(failure.vm, kind)
    get_page(page)
    assert get_hwpoison_page(failure, page, counted=True) not in (Grab.TAKEN, Grab.FREE)
    assert page.refcount == 1


def test_a_reference_that_the_caller_brought_is_the_handlers(failure: MemoryFailure) -> None:
    page = of_file(failure.vm)
    failure.vm.lru.add_drain_all()
    get_page(page)
    assert get_hwpoison_page(failure, page, counted=True) is Grab.TAKEN
    assert page.refcount == 2
    put_page(page)


def test_a_slab_page_is_refused_although_it_is_on_a_list_except_by_6_1(failure: MemoryFailure) -> None:
    page = failure.vm.zone.page(9)
    page.flags = pg.SLAB | pg.LRU
    assert handlable(failure, page) == (failure.profile.name == "6.1")
    page.flags = 0


# Races. The other side is a path that acts at a chosen moment.


def marking(page: Page) -> Callable[[Path, Op, object], bool]:
    """When the page is about to be marked."""
    return lambda running, op, on: op is Op.RMW and on is page


def released(lock: object) -> Callable[[Path, Op, object], bool]:
    return lambda running, op, on: op is Op.RELEASE and on is lock


def acquired(lock: object) -> Callable[[Path, Op, object], bool]:
    return lambda running, op, on: op is Op.ACQUIRE and on is lock


def allocate_all(vm: Machine) -> Callable[[], None]:
    """Somebody takes every free page there is."""

    def work() -> None:
        for order in range(10, -1, -1):
            with suppress(OutOfMemory):
                while vm.zone.free_area[order]:
                    vm.held.add(vm.zone.alloc_pages(order).pfn)

    return work


def hit(failure: MemoryFailure, page: Page) -> Callable[[], int]:
    return lambda: failure.memory_failure(page.pfn, MF_SW_SIMULATED)


def test_a_page_allocated_before_it_is_looked_at_is_nobodys_the_handler_knows(
    failure: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """In use but on no list yet: not taken."""
    vm = failure.vm
    page = vm.zone.page(255)
    assert interrupted(vm, hit(failure, page), allocate_all(vm), marking(page)) == -Errno.EBUSY
    assert [(e.type, e.result) for e in failure.events] == [(failure.profile.not_handlable, MfResult.IGNORED)]


def test_a_page_allocated_after_it_was_found_free_is_a_high_order_kernel_page(
    failure: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """Facts 2.2 step 6: no reference, and the mark stays, on a page that somebody has just been given.

    Only 6.1 looks at what it hands out (R22): there the page is refused, and its block lost to everybody.
    """
    vm = failure.vm
    page = vm.zone.page(255)
    when = released(vm.zone.pcp_batch_high_lock)
    assert interrupted(vm, hit(failure, page), allocate_all(vm), when) == -Errno.EBUSY
    assert [(e.type, e.result) for e in failure.events] == [(PageType.KERNEL_HIGH_ORDER, MfResult.IGNORED)]
    assert page.flags & pg.HWPOISON
    assert (page.pfn in vm.zone.refused) == (failure.profile.name == "6.1")
    assert (page.head.refcount == 0) == (failure.profile.name == "6.1")


def test_a_page_allocated_just_before_it_is_taken_off_is_looked_at_once_more(
    handlers: Callable[..., MemoryFailure], interrupted: Callable[..., object]
) -> None:
    """The one retry: by then it belongs to somebody, and is handled as his."""
    failure = handlers()
    vm = failure.vm
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 300)
    page = vm.zone.page(255)

    def touch_everything() -> None:
        vpn = vma.start
        while vm.zone.is_free_buddy_page(page.pfn):
            store(task, vpn, "x")
            vpn += 1

    assert interrupted(vm, hit(failure, page), touch_everything, acquired(vm.zone.lock)) == 0
    assert [(e.type, e.result) for e in failure.events] == [(PageType.DIRTY_LRU, MfResult.RECOVERED)]
    assert not page.mapped


def test_a_page_lost_twice_is_a_failure(failure: MemoryFailure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry budget is one for each call; the mark is off only in between."""
    vm = failure.vm
    page = vm.zone.page(200)
    marked: list[bool] = []

    def lose(page: Page) -> bool:
        marked.append(bool(page.flags & pg.HWPOISON))
        return False

    monkeypatch.setattr(vm.zone, "take_page_off_buddy", lose)
    assert failure.memory_failure(page.pfn, MF_SW_SIMULATED) == -Errno.EBUSY
    assert marked == [True, True]
    assert [(e.type, e.result) for e in failure.events] == [(PageType.BUDDY, MfResult.FAILED)]
    assert page.refcount == 0
    assert vm.counters.poisoned == 1, "a retry is not counted"


def test_a_page_lost_twice_is_not_said_to_be_given_up(
    newest: MemoryFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest.vm.zone, "take_page_off_buddy", lambda page: False)
    newest.memory_failure(200, MF_SW_SIMULATED)
    assert "for ever" not in newest.events[0].reason


def test_a_page_whose_last_user_lets_go_after_the_mark_is_contained_but_called_ignored(
    newest: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """free_pages_prepare() keeps it out of the free lists, so it is neither free nor anybody's."""
    vm = newest.vm
    page = of_file(vm)
    vm.lru.add_drain_all()
    inode = vm.inodes[0]
    when = acquired(vm.zone.pcp_batch_high_lock)
    assert interrupted(vm, hit(newest, page), lambda: truncate(inode, 0), when) == -Errno.EBUSY
    assert [(e.type, e.result) for e in newest.events] == [(PageType.GET_HWPOISON, MfResult.IGNORED)]
    assert page.refcount == 0
    assert page.pfn not in set(vm.zone.free_pfns())


def test_a_page_that_reaches_its_list_between_two_tries_is_taken(
    newest: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """Somebody else is just draining the batch; the handler waits for that with shake_page()."""
    vm = newest.vm
    page = of_file(vm)
    assert interrupted(vm, hit(newest, page), lambda: vm.lru.add_drain(0), marking(page)) == 0
    assert newest.events[0].type is PageType.CLEAN_LRU


def test_madvise_holds_the_page_so_that_nobody_else_can_get_it_meanwhile(
    failure: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """B7: with a pin there is no moment at which the page could become another's."""
    vm = failure.vm
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    child = task.fork("child")
    load(child, vma.start)
    page = next(iter(vm.lru.batches[0]))
    get_page(page)

    def let_go() -> None:
        task.exit()
        child.exit()
        vm.lru.add_drain_all()

    work = lambda: failure.memory_failure(page.pfn, MF_COUNT_INCREASED | MF_SW_SIMULATED)  # noqa: E731
    assert interrupted(vm, work, let_go, marking(page)) == 0
    assert failure.events[0].type in (PageType.CLEAN_LRU, PageType.DIRTY_LRU, PageType.BUDDY)
    assert page.refcount == 1
    assert page.flags & pg.HWPOISON
