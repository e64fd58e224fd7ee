"""Soft offline: the frame goes out of use, its contents live on, nobody is hurt; or nothing happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.failure import soft_offline
from hwpoison.failure.flags import MF_COUNT_INCREASED
from hwpoison.failure.handler import Filter, MemoryFailure
from hwpoison.failure.inject import hard_offline_page
from hwpoison.failure.soft_offline import madvise, page_handle_poison, soft_offline_page
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page, get_page, put_page
from hwpoison.mm.page_alloc import MAGIC_HWPOISON, Zone
from hwpoison.mm.pte import Pte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio


def anonymous(failure: MemoryFailure) -> tuple[Task, Vma, Page]:
    task = failure.vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "precious")
    return task, vma, mapped(task, vma)


def mapped(task: Task, vma: Vma) -> Page:
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    return entry.page


def out_of_use(failure: MemoryFailure, page: Page) -> bool:
    """Marked, with the one reference of soft offline, and in nobody's hands."""
    free = page.pfn in set(failure.vm.zone.free_pfns())
    return bool(page.flags & pg.HWPOISON) and (page.refcount, page.mapcount, free) == (1, 0, False)


def counted(failure: MemoryFailure) -> tuple[int, int]:
    return failure.vm.counters.poisoned, sum(failure.vm.counters.results.values())


# What it does.


def test_memory_of_a_process_moves_and_nobody_hears_of_it(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure)
    failure.vm.sysctls.memory_failure_early_kill = True
    assert soft_offline_page(failure, page.pfn) == 0
    assert out_of_use(failure, page)
    assert load(task, vma.start) == "precious"
    failure.vm.deliver_signals()
    assert task.received == []
    assert counted(failure) == (1, 0)
    assert failure.events == []


def test_a_process_can_ask_for_its_own_page(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure)
    assert madvise(failure, task, vma.start) == 0
    assert out_of_use(failure, page)
    address = vma.start << 12
    asked = f"Soft offlining pfn {page.pfn:#x} at process virtual address {address:#x}"
    assert failure.vm.log == [asked]


def test_a_page_that_cannot_be_reached_is_no_answer_of_soft_offline(newest: MemoryFailure) -> None:
    task, vma, page = anonymous(newest)
    hard_offline_page(newest, page.pfn)
    with pytest.raises(SysError, match="EFAULT"):
        madvise(newest, task, vma.start)


def test_a_cached_page_that_nobody_maps_is_dropped(failure: MemoryFailure) -> None:
    vm = failure.vm
    file = File(vm.create("data", "ext4", 1), "fd")
    vm.read(file, 0)
    (page,) = file.inode.mapping.pages.values()
    assert soft_offline_page(failure, page.pfn) == 0
    assert out_of_use(failure, page)
    assert not file.inode.mapping.pages
    assert vm.read(file, 0) == "data:0:old"
    assert vm.log[-1].endswith(f"{page.pfn:#x}: invalidated")


def test_a_free_frame_leaves_the_free_lists_without_a_reference_of_anybody_s(failure: MemoryFailure) -> None:
    pfn = next(failure.vm.zone.free_pfns())
    assert soft_offline_page(failure, pfn) == 0
    page = failure.vm.zone.page(pfn)
    assert out_of_use(failure, page)
    assert page.private == MAGIC_HWPOISON


def test_it_waits_for_writeback(failure: MemoryFailure) -> None:
    """A swap write under way ends first; the page is moved when it has."""
    task, vma, page = anonymous(failure)
    failure.vm.disk.held = True
    reclaim_folio(page, drop=False)
    assert page.flags & pg.WRITEBACK
    assert soft_offline_page(failure, page.pfn) == 0
    failure.vm.disk.release()
    assert out_of_use(failure, page)
    assert load(task, vma.start) == "precious"


# What it leaves alone.


def test_a_known_bad_frame_is_a_success_of_before(failure: MemoryFailure) -> None:
    _task, _vma, page = anonymous(failure)
    assert soft_offline_page(failure, page.pfn) == 0
    get_page(page)
    assert soft_offline_page(failure, page.pfn, MF_COUNT_INCREASED) == 0
    assert page.refcount == 1
    assert counted(failure) == (1, 0)
    assert failure.vm.log[-1].endswith("page already poisoned")


@pytest.mark.parametrize("kind", ["slab", "vmalloc", "reserved", "page of zeros"])
def test_pages_of_the_kernel_stay(failure: MemoryFailure, kind: str) -> None:
    vm = failure.vm
    page = {"reserved": vm.zone.page(1), "page of zeros": vm.zero_page}.get(kind) or kernel_page(vm, kind)
    before = page.refcount
    known = failure.profile.refuses_kernel_pages and kind != "vmalloc"
    expected = Errno.ENOTRECOVERABLE if known else Errno.EIO
    assert soft_offline_page(failure, page.pfn) == -expected
    get_page(page)
    assert soft_offline_page(failure, page.pfn, MF_COUNT_INCREASED) == -expected
    assert (page.refcount, page.flags & pg.HWPOISON) == (before, 0)
    assert counted(failure) == (0, 0)


def test_a_frame_that_does_not_exist(failure: MemoryFailure) -> None:
    assert soft_offline_page(failure, 1 << 30) == -Errno.ENXIO


def test_a_page_that_somebody_holds_stays_whole(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure)
    pin_user_page(task, vma.start)
    assert soft_offline_page(failure, page.pfn) == -Errno.EBUSY
    assert mapped(task, vma) is page
    assert not page.flags & pg.HWPOISON
    assert counted(failure) == (0, 0)
    assert failure.vm.log[-1].endswith("page migration failed 1")
    unpin_user_page(page)
    assert soft_offline_page(failure, page.pfn) == 0


def test_a_page_on_nobody_s_list_cannot_be_isolated(
    newest: MemoryFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reclaim took it between the grab and the isolation."""
    task, vma, page = anonymous(newest)
    monkeypatch.setattr(soft_offline, "isolate_folio", lambda _page: False)
    assert soft_offline_page(newest, page.pfn) == -Errno.EBUSY
    assert newest.vm.log[-1] == f"Soft offline: {page.pfn:#x}: page isolation failed, page count 2"
    assert mapped(task, vma) is page
    assert page.refcount == 1


def test_without_memory_to_move_to_it_fails(handlers: Callable[..., MemoryFailure]) -> None:
    failure = handlers(frames=8)
    task, vma, page = anonymous(failure)
    taken = [failure.vm.zone.alloc_pages() for _ in range(len(list(failure.vm.zone.free_pfns())))]
    assert soft_offline_page(failure, page.pfn) == -Errno.ENOMEM
    for other in taken:
        put_page(other)
    assert load(task, vma.start) == "precious"
    assert not page.flags & pg.HWPOISON


def huge_page(failure: MemoryFailure) -> tuple[Task, Vma, Page]:
    """A process with a huge page, and the sixth page of it."""
    task = failure.vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 512, huge=True)
    store(task, vma.start + 5, "precious")
    entry = task.alive_mm().entry(vma.start + 5)
    assert isinstance(entry, Pte) and entry.page.head.order == 9
    return task, vma, entry.page


def test_a_page_of_a_huge_page_is_split_off_and_moved() -> None:
    failure = MemoryFailure(Machine(frames=2048))
    task, vma, page = huge_page(failure)
    assert soft_offline_page(failure, page.pfn) == 0
    entry = task.alive_mm().entry(vma.start + 5)
    assert isinstance(entry, Pte) and entry.page is not page and page.flags & pg.HWPOISON
    assert load(task, vma.start + 5) == "precious"
    assert failure.vm.check() == []


def test_a_pinned_huge_page_stays_whole_and_in_use() -> None:
    failure = MemoryFailure(Machine(frames=2048))
    task, vma, page = huge_page(failure)
    pinned = pin_user_page(task, vma.start + 9)
    assert soft_offline_page(failure, page.pfn) == -Errno.EBUSY
    assert page.head.order == 9 and not page.flags & pg.HWPOISON
    assert any("thp split failed" in line for line in failure.vm.log)
    unpin_user_page(pinned)
    assert failure.vm.check() == []


# Switches.


def test_it_can_be_switched_off_since_6_12(failure: MemoryFailure) -> None:
    task, vma, page = anonymous(failure)
    failure.vm.lru.add_drain_all()
    failure.vm.sysctls.enable_soft_offline = False
    returned = madvise(failure, task, vma.start)
    assert returned == (-Errno.EOPNOTSUPP if failure.profile.name != "6.1" else 0)
    assert bool(page.flags & pg.HWPOISON) == (returned == 0)
    assert page.refcount == 1
    assert load(task, vma.start) == "precious"


@pytest.mark.parametrize("by_its_user", [True, False])
def test_the_filter_is_asked_too_and_gives_every_reference_back(
    failure: MemoryFailure, by_its_user: bool
) -> None:
    task, vma, page = anonymous(failure)
    failure.vm.lru.add_drain_all()
    failure.filter = Filter(enabled=True, flags_mask=pg.SLAB, flags_value=pg.SLAB)
    returned = madvise(failure, task, vma.start) if by_its_user else soft_offline_page(failure, page.pfn)
    assert returned == -Errno.EOPNOTSUPP
    assert (page.refcount, page.flags & pg.HWPOISON) == (1, 0)


# Races.


def test_a_free_frame_that_is_allocated_first_gets_a_second_try(
    newest: MemoryFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B21: the second try, which fails as well, is no success."""
    pfn = next(newest.vm.zone.free_pfns())
    tries = []

    def too_late(_zone: Zone, page: Page) -> bool:
        tries.append(page)
        return False

    monkeypatch.setattr(Zone, "take_page_off_buddy", too_late)
    assert soft_offline_page(newest, pfn) == -Errno.EBUSY
    assert len(tries) == 2
    assert not newest.vm.zone.page(pfn).flags & pg.HWPOISON


def test_an_error_that_strikes_while_soft_offline_waits_is_left_to_its_handler(
    newest: MemoryFailure, interrupted: Callable[..., object]
) -> None:
    """Marked between the grab and the lock, by a path that does not take mf_mutex: nothing is done twice."""
    task, vma, page = anonymous(newest)

    def strike() -> None:
        page.flags |= pg.HWPOISON

    def at_the_lock(_running: Path, op: Op, on: object) -> bool:
        return op is Op.ACQUIRE and on is page

    assert interrupted(newest.vm, lambda: soft_offline_page(newest, page.pfn), strike, at_the_lock) == 0
    assert mapped(task, vma) is page
    assert page.refcount == 1
    assert newest.soft_offlined == 0


def test_a_page_is_marked_only_when_it_is_out_of_use(newest: MemoryFailure) -> None:
    """B17: a mark set before would hit whoever gets the frame in between."""
    _task, _vma, page = anonymous(newest)
    newest.vm.lru.add_drain_all()

    class Watch:
        def choose(self, ready: list[Path], running: Path, op: Op, on: object) -> Path:
            assert not (page.flags & pg.HWPOISON and page.mapped)
            return running

    newest.vm.paths.chooser = Watch()  # type: ignore[assignment]
    assert soft_offline_page(newest, page.pfn) == 0
    newest.vm.paths.chooser = None


def test_handling_a_free_page_says_when_it_is_free_no_more(newest: MemoryFailure) -> None:
    page = newest.vm.zone.alloc_pages()
    assert not page_handle_poison(newest, page, free=True)
    put_page(page)
    assert newest.soft_offlined == 0
