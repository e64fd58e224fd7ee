"""Page frames: references, the folio lock, writeback."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.inode import File
from hwpoison.mm.locks import DeadlockError, KernelBug, Lock, LockOrderError, Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.page import (
    GUP_PIN_COUNTING_BIAS,
    Page,
    folio_end_writeback,
    folio_lock,
    folio_ref_freeze,
    folio_ref_unfreeze,
    folio_start_writeback,
    folio_try_get,
    folio_trylock,
    folio_unlock,
    folio_wait_writeback,
    get_page,
    locked,
    put_page,
)


@pytest.fixture
def page(vm: Machine) -> Page:
    return vm.zone.alloc_pages()


def test_the_last_reference_frees_the_page(vm: Machine, page: Page) -> None:
    get_page(page)
    put_page(page)
    assert page.pfn not in set(vm.zone.free_pfns())
    put_page(page)
    assert page.pfn in set(vm.zone.free_pfns())


def test_a_free_page_cannot_be_had_by_reference(vm: Machine, page: Page) -> None:
    put_page(page)
    assert not folio_try_get(page)
    with pytest.raises(KernelBug, match=r"get_page\(\) of the free page"):
        get_page(page)
    page.refcount = 0


def test_a_reference_given_back_once_too_often_is_a_bug(page: Page) -> None:
    put_page(page)
    with pytest.raises(KernelBug, match=r"refcount of page .* goes to -1"):
        put_page(page)


def test_a_frozen_page_is_free_to_everybody_else(page: Page) -> None:
    get_page(page)
    assert not folio_ref_freeze(page, 1), "somebody else holds it"
    assert folio_ref_freeze(page, 2)
    assert not folio_try_get(page)
    folio_ref_unfreeze(page, 2)
    assert page.refcount == 2


def test_a_page_with_a_pin_is_taken_for_pinned(page: Page) -> None:
    assert not page.maybe_dma_pinned
    page.refcount += GUP_PIN_COUNTING_BIAS
    assert page.maybe_dma_pinned
    page.refcount -= GUP_PIN_COUNTING_BIAS


def test_the_folio_lock_excludes_and_shows_in_the_flags(vm: Machine, page: Page) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(page):
            order.append("other")

    folio_lock(page)
    assert page.flags & pg.LOCKED
    assert not folio_trylock(page)
    path = vm.paths.spawn("other", other)
    vm.paths.spawn("nobody", lambda: None)
    order.append("main")
    folio_unlock(page)
    vm.paths.join(path)
    assert order == ["main", "other"]
    assert not page.flags & pg.LOCKED


def test_whoever_waits_for_the_folio_lock_gets_it(vm: Machine, page: Page) -> None:
    folio_lock(page)

    def other() -> None:
        with locked(page):
            pass

    path = vm.paths.spawn("other", other)
    with pytest.raises(
        DeadlockError, match=rf"other holds nothing and waits for folio_lock\({page.pfn:#x}\)"
    ):
        vm.paths.join(path)
    folio_unlock(page)


def test_the_folio_lock_has_its_place_in_the_order(vm: Machine, page: Page) -> None:
    with Lock(vm.paths, "ptl"), pytest.raises(LockOrderError, match="folio_lock"):
        folio_lock(page)
    folio_lock(page)
    with pytest.raises(KernelBug, match=r"main takes folio_lock\(.*\) twice"):
        folio_lock(page)
    with pytest.raises(LockOrderError):
        folio_lock(vm.zone.alloc_pages())
    folio_unlock(page)


def test_the_folio_lock_in_the_wrong_order_is_reported_even_where_it_would_have_to_wait(
    vm: Machine, page: Page
) -> None:
    """As with every other lock: a deadlock that was lucky this time is still a violation."""
    somebody = Path("somebody")
    page.flags |= pg.LOCKED
    page.lock_owner = somebody
    with Lock(vm.paths, "ptl"), pytest.raises(LockOrderError, match="folio_lock"):
        folio_lock(page)
    page.flags &= ~pg.LOCKED


def test_only_the_owner_unlocks(vm: Machine, page: Page) -> None:
    folio_lock(page)
    path = vm.paths.spawn("thief", folio_unlock, page)
    with pytest.raises(KernelBug, match=r"thief unlocks page .*, whose lock main holds"):
        vm.paths.join(path)
    folio_unlock(page)


def test_writeback_begins_under_the_folio_lock_and_once(page: Page) -> None:
    with pytest.raises(KernelBug, match="begins without its lock"):
        folio_start_writeback(page)
    with locked(page):
        folio_start_writeback(page)
        with pytest.raises(KernelBug, match="under writeback already"):
            folio_start_writeback(page)
    folio_end_writeback(page)
    with pytest.raises(KernelBug, match="not under writeback"):
        folio_end_writeback(page)


def test_waiting_for_writeback_lets_the_disk_answer(vm: Machine) -> None:
    """R11: whoever waits goes on only when the write has ended."""
    file = File(vm.create("data", "ext4", 1), "fd")
    vm.write(file, 0, "new")
    vm.disk.held = True
    page = file.inode.mapping.pages[0]

    from hwpoison.mm.writeback import filemap_fdatawrite

    filemap_fdatawrite(file.inode.mapping)
    assert page.flags & pg.WRITEBACK
    assert file.inode.blocks[0] == "data:0:old"
    folio_wait_writeback(page)
    assert not page.flags & pg.WRITEBACK
    assert file.inode.blocks[0] == "new"


def test_without_writeback_there_is_nothing_to_wait_for(page: Page) -> None:
    folio_wait_writeback(page)


def test_an_event_in_between_is_seen_by_who_waits_for_the_lock(vm: Machine, page: Page) -> None:
    """Points of the folio lock: each side may be interrupted before it acts, none in the middle."""
    seen: list[Op] = []

    class Listen:
        def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
            assert on is page
            seen.append(op)
            return running

    vm.paths.chooser = Listen()
    with locked(page):
        pass
    folio_trylock(page)
    folio_unlock(page)
    vm.paths.chooser = None
    assert seen == [Op.ACQUIRE, Op.RELEASE, Op.TRYLOCK, Op.RELEASE]
