"""Compaction: pages move to the end of memory, but for those that somebody holds, and nobody minds a mark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.compaction import compact_memory
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.task import Task

from .conftest import mapped


def touched(task: Task, pages: int = 1) -> int:
    start = do_mmap(task.alive_mm(), pages).start
    for vpn in range(start, start + pages):
        store(task, vpn, f"data {vpn - start}")
    return start


def test_pages_move_to_the_end_and_keep_their_contents(vm: Machine, task: Task) -> None:
    start = touched(task, 3)
    compact_memory(vm)
    frames = [mapped(task, vpn).pfn for vpn in range(start, start + 3)]
    assert sorted(frames) == [253, 254, 255]
    assert [load(task, vpn) for vpn in range(start, start + 3)] == ["data 0", "data 1", "data 2"]


def test_what_is_at_the_end_stays_there(vm: Machine, task: Task) -> None:
    start = touched(task, 3)
    compact_memory(vm)
    frames = [mapped(task, vpn).pfn for vpn in range(start, start + 3)]
    compact_memory(vm)
    assert [mapped(task, vpn).pfn for vpn in range(start, start + 3)] == frames


def test_a_pinned_page_stays(vm: Machine, task: Task) -> None:
    start = touched(task)
    page = pin_user_page(task, start)
    compact_memory(vm)
    assert mapped(task, start) is page
    unpin_user_page(page)
    compact_memory(vm)
    assert mapped(task, start).pfn == 255


def test_a_page_of_a_file_moves_for_its_cache_and_for_who_maps_it(vm: Machine, task: Task) -> None:
    inode = vm.create("db", "ext4", 1)
    vma = do_mmap(task.alive_mm(), 1, file=File(inode, "fd"), shared=True)
    store(task, vma.start, "new")
    compact_memory(vm)
    page = mapped(task, vma.start)
    assert page.pfn == 255 and inode.mapping.pages[0] is page and page.flags & pg.DIRTY


def test_what_is_free_in_one_piece_is_not_taken_apart(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=2048)
    task = vm.new_task("app")
    start = touched(task)
    pfn = mapped(task, start).pfn
    compact_memory(vm)
    assert mapped(task, start).pfn < 512, "only the block of pages that it was in has room"
    assert mapped(task, start).pfn > pfn


def test_a_bad_frame_that_was_freed_within_a_block_is_given_out(vm: Machine, task: Task) -> None:
    start = touched(task)
    vm.zone.page(255).flags |= pg.HWPOISON
    with vm.zone.lock:
        vm.zone.bad_inside.add(255)
    compact_memory(vm)
    assert mapped(task, start).pfn == 255


@pytest.mark.parametrize(("moves", "frame"), [(True, 240), (False, 16)])
def test_a_large_folio_moves_since_compaction_looks_for_such(
    machine: Callable[..., Machine], moves: bool, frame: int
) -> None:
    vm = machine(traits=Traits(compacts_large_folios=moves))
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 16)
    vma.anon_order = 4
    store(task, vma.start, "data")
    assert mapped(task, vma.start).order == 4
    compact_memory(vm)
    assert mapped(task, vma.start).pfn == frame
