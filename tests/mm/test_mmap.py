"""Memory of processes: areas, page tables, the copy at fork, the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.gup import pin_user_page, unpin_user_page
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap, map_driver, munmap
from hwpoison.mm.page import put_page
from hwpoison.mm.page_alloc import OutOfMemory
from hwpoison.mm.pte import PoisonPte
from hwpoison.mm.slab import kernel_page
from hwpoison.mm.task import Task
from hwpoison.mm.vmscan import reclaim_folio

from .conftest import mapped


def test_areas_do_not_touch_each_other(task: Task) -> None:
    first, second = do_mmap(task.alive_mm(), 3), do_mmap(task.alive_mm(), 1)
    assert second.start > first.end
    assert task.alive_mm().find_vma(first.end - 1) is first
    assert task.alive_mm().find_vma(first.end) is None


def test_a_page_table_is_made_for_512_pages_at_a_time(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 2 << task.alive_mm().table_shift)
    for vpn in (vma.start, vma.start + 1, vma.end - 1):
        store(task, vpn, "x")
    tables, shift = task.alive_mm().tables, task.alive_mm().table_shift
    assert len(tables) == len({vma.start >> shift, (vma.end - 1) >> shift})
    assert all(table.page.flags & pg.PGTABLE for table in tables.values())
    assert [vpn for vpn, _ in task.alive_mm().populated(vma.start, vma.end)] == [
        vma.start,
        vma.start + 1,
        vma.end - 1,
    ]


def test_munmap_gives_everything_back_but_the_page_tables(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = mapped(task, vma.start)
    munmap(task.alive_mm(), vma)
    vm.lru.add_drain_all()
    assert page.pfn in set(vm.zone.free_pfns())
    assert task.alive_mm().vmas == []


def test_the_end_of_the_last_user_gives_everything_back(vm: Machine) -> None:
    before = set(vm.zone.free_pfns())
    file = File(vm.create("data", "ext4", 1), "fd")
    task = vm.new_task("app")
    area, other = do_mmap(task.alive_mm(), 2), do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, area.start, "x")
    load(task, area.start + 1)
    store(task, other.start, "y")
    task.exit()
    vm.lru.add_drain_all()
    assert before - set(vm.zone.free_pfns()) == {file.inode.mapping.pages[0].pfn}
    assert file.inode.mapping.i_mmap == []
    assert vm.read(file, 0) == "y"


def test_an_entry_outside_every_area_is_found_at_the_end(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    table = task.alive_mm().pte_alloc(vma.start)
    table.entries[vma.end] = PoisonPte(9)
    with pytest.raises(KernelBug, match="has entries outside every area"):
        task.exit()


# fork


def test_a_child_has_the_same_areas_and_shares_the_pages(vm: Machine, task: Task) -> None:
    file = File(vm.create("data", "ext4", 2), "fd")
    area = do_mmap(task.alive_mm(), 1)
    shared = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    private = do_mmap(task.alive_mm(), 2, file=file)
    store(task, area.start, "a")
    store(task, shared.start, "s")
    store(task, private.start, "p")
    load(task, private.start + 1)
    child = task.fork("child")
    assert child.alive_mm().entry(shared.start) is None  # vma_needs_copy(): found again by a fault
    load(child, shared.start)
    for vpn in (area.start, shared.start, private.start, private.start + 1):
        assert mapped(child, vpn) is mapped(task, vpn)
        assert mapped(task, vpn).mapcount == 2
    assert [(v.start, v.end, v.shared, v.pgoff) for v in child.alive_mm().vmas] == [
        (v.start, v.end, v.shared, v.pgoff) for v in task.alive_mm().vmas
    ]
    store(child, shared.start, "s2")
    store(child, private.start, "p2")
    assert load(task, shared.start) == "s2"
    assert load(task, private.start) == "p"
    assert len(file.inode.mapping.i_mmap) == 4


def test_a_new_area_of_the_child_does_not_collide(task: Task) -> None:
    do_mmap(task.alive_mm(), 1)
    child = task.fork()
    assert do_mmap(child.alive_mm(), 1).start == do_mmap(task.alive_mm(), 1).start


def test_notes_are_inherited(vm: Machine, task: Task) -> None:
    vma = do_mmap(task.alive_mm(), 2)
    store(task, vma.start, "x")
    assert reclaim_folio(mapped(task, vma.start))
    task.alive_mm().pte_alloc(vma.start).entries[vma.start + 1] = PoisonPte(9)
    child = task.fork()
    assert vm.swap.count == {1: 2}
    assert load(child, vma.start) == "x"
    assert child.alive_mm().entry(vma.start + 1) == PoisonPte(9)


def test_a_pinned_page_stays_with_its_owner_and_the_child_gets_a_copy(vm: Machine, task: Task) -> None:
    """Or the device would end up with the child's page (copy_present_page())."""
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = pin_user_page(task, vma.start)
    child = task.fork()
    assert mapped(task, vma.start) is page
    assert mapped(child, vma.start) is not page
    assert load(child, vma.start) == "x"
    store(task, vma.start, "for the device")
    assert vm.device_reads(page) == "for the device"
    assert load(child, vma.start) == "x"
    unpin_user_page(page)


def test_a_pinned_page_of_a_file_is_shared_as_ever(vm: Machine, task: Task) -> None:
    file = File(vm.create("data", "ext4", 1), "fd")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    page = pin_user_page(task, vma.start)
    child = task.fork()
    load(child, vma.start)
    assert mapped(child, vma.start) is page
    unpin_user_page(page)


def test_a_fork_without_memory_leaves_no_half_made_child(machine: Callable[..., Machine]) -> None:
    vm = machine(frames=9)
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 4)
    pages = []
    for vpn in range(vma.start, vma.end):
        store(task, vpn, "x")
        pages.append(pin_user_page(task, vpn))
    with pytest.raises(OutOfMemory):
        task.fork()
    assert vm.paths.current.held == []
    assert [t for t in vm.tasks.values() if not t.exited] == [task]
    for page in pages:
        unpin_user_page(page)
    vm.lru.add_drain_all()
    assert len(set(vm.zone.free_pfns())) == 9 - 2 - 4 - 1


# Pages of drivers.


def test_a_driver_may_map_a_page_of_its_own(vm: Machine, task: Task) -> None:
    page = kernel_page(vm, "driver")
    vma = do_mmap(task.alive_mm(), 1)
    map_driver(vma, page)
    assert mapped(task, vma.start) is page
    assert (page.mapcount, page.refcount) == (1, 2)
    page.content = "the driver's"
    assert load(task, vma.start) == "the driver's"
    task.exit()
    assert (page.mapcount, page.refcount) == (0, 1)
    put_page(page)


def test_an_area_has_at_least_one_page(vm: Machine) -> None:
    with pytest.raises(SysError) as refusal:
        do_mmap(vm.new_task("app").alive_mm(), 0)
    assert refusal.value.errno is Errno.EINVAL
