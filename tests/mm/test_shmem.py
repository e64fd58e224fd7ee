"""tmpfs: a page cache whose disk is swap, and which keeps bad pages to tell their readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno, SiCode
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import do_mmap, munmap
from hwpoison.mm.page import folio_unlock, put_page
from hwpoison.mm.shmem import shmem_get_folio
from hwpoison.mm.task import Signalled
from hwpoison.mm.truncate import punch_hole, truncate
from hwpoison.mm.vmscan import reclaim_folio


@pytest.fixture
def file(vm: Machine) -> File:
    return File(vm.create("data", "tmpfs", 3), "fd")


def swap_out(vm: Machine, file: File, index: int = 0, *, drop: bool = True) -> None:
    page = file.inode.mapping.pages[index]
    assert reclaim_folio(page, drop=drop) == drop
    assert index not in file.inode.mapping.pages
    assert index in file.inode.mapping.swap_entries


def test_a_hole_reads_as_zeros_without_getting_a_page(vm: Machine, file: File) -> None:
    assert vm.read(file, 0) == "zeros"
    assert vm.read(file, 3) == ""
    assert not file.inode.mapping.pages


def test_a_fault_on_a_hole_gets_a_page_of_zeros(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    assert load(task, do_mmap(task.alive_mm(), 1, file=file, shared=True).start) == "zeros"
    assert set(file.inode.mapping.pages) == {0}


def test_what_is_written_is_read_by_everybody(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2, file=file, shared=True)
    vm.write(file, 0, "by write")
    assert load(task, vma.start) == "by write"
    store(task, vma.start, "by store")
    assert vm.read(file, 0) == "by store"


def test_a_page_goes_to_swap_and_comes_back_by_any_way(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 3, file=file, shared=True)
    for index in range(3):
        vm.write(file, index, f"new {index}")
        swap_out(vm, file, index, drop=index != 1)
    assert vm.read(file, 0) == "new 0"
    assert load(task, vma.start + 1) == "new 1"
    vm.write(file, 2, "newer")
    assert vm.read(file, 2) == "newer"
    assert not file.inode.mapping.swap_entries
    assert not vm.swap.count
    assert not vm.swap.cache


def test_only_what_was_only_stored_to_is_kept_too(vm: Machine, file: File) -> None:
    """The processor alone knows of the store: the page becomes dirty when the entry goes."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    load(task, vma.start)
    store(task, vma.start, "x")
    page = file.inode.mapping.pages[0]
    assert not page.flags & pg.DIRTY
    munmap(task.alive_mm(), vma)
    assert page.flags & pg.DIRTY
    assert file.inode.mapping.dirty == {0}
    swap_out(vm, file)
    assert vm.read(file, 0) == "x"


def test_a_locked_page_does_not_go_to_swap_and_its_books_stay_straight(vm: Machine, file: File) -> None:
    one, two = vm.new_task("one"), vm.new_task("two")
    first = do_mmap(one.alive_mm(), 1, file=file, shared=True)
    second = do_mmap(two.alive_mm(), 1, file=file, shared=True)
    load(one, first.start)
    store(one, first.start, "x")
    mlock(two.alive_mm(), second)
    assert not reclaim_folio(file.inode.mapping.pages[0])
    assert not vm.swap.count
    assert load(two, second.start) == "x"


def test_without_a_slot_the_page_stays(machine: Callable[..., Machine]) -> None:
    vm = machine(swap_slots=1)
    file = File(vm.create("data", "tmpfs", 2), "fd")
    vm.write(file, 0, "zero")
    vm.write(file, 1, "one")
    swap_out(vm, file, 0)
    page = file.inode.mapping.pages[1]
    assert not reclaim_folio(page)
    assert vm.read(file, 1) == "one"
    assert vm.read(file, 0) == "zero"


def test_truncation_and_holes_give_slots_back(vm: Machine, file: File) -> None:
    for index in range(3):
        vm.write(file, index, "x")
        swap_out(vm, file, index, drop=index != 2)
    punch_hole(file.inode, 0, 1)
    assert vm.read(file, 0) == "zeros"
    truncate(file.inode, 1)
    assert not vm.swap.count
    assert not vm.swap.cache


def bad(file: File, index: int = 0) -> None:
    page = file.inode.mapping.pages[index]
    page.refcount += 1  # the handler's
    page.flags |= pg.HWPOISON


def test_a_bad_page_is_an_error_for_read_and_write_until_it_is_truncated(vm: Machine, file: File) -> None:
    """Its contents exist nowhere else, and a hole would read as zeros."""
    vm.write(file, 0, "lost")
    bad(file)
    for call in (lambda: vm.read(file, 0), lambda: vm.write(file, 0, "x")):
        with pytest.raises(SysError, match="EIO: page 0 of data is bad memory") as error:
            call()
        assert error.value.errno is Errno.EIO
    assert vm.read(file, 1) == "zeros", "the rest of the file is well"
    truncate(file.inode, 0)
    truncate(file.inode, 1)
    assert vm.read(file, 0) == "zeros"
    vm.write(file, 0, "new")
    assert vm.read(file, 0) == "new"


def test_a_hole_gets_rid_of_a_bad_page_as_well(vm: Machine, file: File) -> None:
    vm.write(file, 0, "lost")
    bad(file)
    punch_hole(file.inode, 0, 1)
    assert vm.read(file, 0) == "zeros"


def test_a_fault_on_a_bad_page_is_a_memory_error_not_zeros(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    vm.write(file, 0, "lost")
    bad(file)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    info = hit.value.info
    assert (info.code, info.address, info.lsb) == (SiCode.BUS_MCEERR_AR, vma.start << 12, 12)


def test_a_page_lost_in_swap_is_an_error_until_it_is_truncated(vm: Machine, file: File) -> None:
    """me_swapcache_dirty() takes away its uptodate mark."""
    vm.write(file, 0, "lost")
    swap_out(vm, file, drop=False)
    page = next(iter(vm.swap.cache.values()))
    page.flags &= ~pg.UPTODATE
    for call in (lambda: vm.read(file, 0), lambda: vm.write(file, 0, "x")):
        with pytest.raises(SysError, match="EIO: page 0 of data was lost in swap"):
            call()
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    assert hit.value.info.code is SiCode.BUS_ADRERR
    punch_hole(file.inode, 0, 1)
    assert vm.read(file, 0) == "zeros"


def test_a_page_is_given_locked_and_with_a_reference(vm: Machine, file: File) -> None:
    page = shmem_get_folio(file.inode.mapping, 0)
    assert page.lock_owner is vm.paths.current
    assert page.flags & pg.SWAPBACKED
    folio_unlock(page)
    put_page(page)
    vm.lru.add_drain_all()
    assert page.refcount == 1, "the file's"


def test_shared_anonymous_memory_goes_with_its_last_mapping(vm: Machine) -> None:
    vm.lru.add_drain_all()
    before = set(vm.zone.free_pfns())
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2, shared=True)
    store(task, vma.start, "x")
    store(task, vma.start + 1, "y")
    child = task.fork()
    task.exit()
    assert load(child, vma.start) == "x"
    assert reclaim_folio(vm.inodes[0].mapping.pages[1])
    child.exit()
    vm.lru.add_drain_all()
    assert set(vm.zone.free_pfns()) == before
    assert not vm.swap.count
    assert not vm.inodes
