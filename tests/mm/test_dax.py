"""Files on persistent memory: what is mapped is the device's own frame, and there is no page cache."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm.inode import File, Inode, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mlock import mlock
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import Page
from hwpoison.mm.pte import Pte
from hwpoison.mm.task import Signalled, Task
from hwpoison.mm.truncate import punch_hole, truncate
from hwpoison.mm.writeback import fsync


@pytest.fixture
def inode(vm: Machine) -> Inode:
    return vm.create("db", "ext4-dax", 2)


def mapped(vm: Machine, inode: Inode, *, shared: bool = True) -> tuple[Task, Vma]:
    task = vm.new_task("app")
    return task, do_mmap(task.alive_mm(), inode.size, file=File(inode, "fd"), shared=shared)


def page_at(task: Task, vpn: int) -> Page:
    entry = task.alive_mm().entry(vpn)
    assert isinstance(entry, Pte)
    return entry.page


def test_a_load_and_a_store_use_the_frame_that_the_file_has(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode)
    assert load(task, vma.start) == "db:0:old"
    store(task, vma.start, "new")
    assert page_at(task, vma.start) is inode.frames[0]
    assert vm.read(File(inode, "other"), 0) == "new"
    assert (inode.mapping.pages, inode.mapping.dirty, vm.check()) == ({}, set(), [])


def test_a_frame_says_whose_it_is_once_it_was_mapped(vm: Machine, inode: Inode) -> None:
    vm.read(File(inode, "fd"), 1)
    assert inode.frames[1].mapping is None
    task, vma = mapped(vm, inode)
    load(task, vma.start + 1)
    assert (inode.frames[1].mapping, inode.frames[1].index) == (inode.mapping, 1)


def test_the_device_is_no_memory_of_the_allocator(vm: Machine, inode: Inode) -> None:
    frame = inode.frames[0].pfn
    assert not vm.zone.online(frame)
    assert vm.pmem.has_page(frame)
    device = vm.pmem.device(frame)
    assert device is not None
    assert not vm.pmem.has_page(device.first)


def test_a_private_store_takes_a_copy(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode, shared=False)
    assert load(task, vma.start) == "db:0:old"
    assert page_at(task, vma.start) is inode.frames[0]
    store(task, vma.start, "mine")
    assert page_at(task, vma.start).anon
    assert inode.frames[0].content == "db:0:old"
    assert vm.check() == []


def test_a_hole_is_the_page_of_zeros_until_somebody_stores_there(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode)
    punch_hole(inode, 0, 1)
    assert load(task, vma.start) == "zeros"
    assert page_at(task, vma.start) is vm.zero_page
    store(task, vma.start, "new")
    assert vm.read(File(inode, "other"), 0) == "new"


def test_truncation_takes_the_frame_away_from_everybody(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode)
    load(task, vma.start)
    frame = inode.frames[0]
    truncate(inode, 0)
    assert (frame.mapping, frame.mapped) == (None, False)
    with pytest.raises(Signalled):
        load(task, vma.start)


def test_a_new_file_gets_the_blocks_that_were_freed(vm: Machine, inode: Inode) -> None:
    frames = set(inode.frames.values())
    truncate(inode, 0)
    assert set(vm.create("next", "ext4-dax", 2).frames.values()) == frames


def test_a_full_device_refuses_more(vm: Machine, inode: Inode) -> None:
    with pytest.raises(SysError) as full:
        vm.create("large", "ext4-dax", 400)
    assert full.value.errno is Errno.ENOSPC


def test_an_area_of_a_device_is_never_locked(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode)
    mlock(task.alive_mm(), vma)
    assert (vma.locked, page_at(task, vma.start).flags & pg.MLOCKED) == (False, 0)


def test_read_tells_of_memory_that_is_really_bad(vm: Machine, inode: Inode) -> None:
    vm.strike(inode.frames[0].pfn, hardware=True)
    with pytest.raises(SysError) as refused:
        vm.read(File(inode, "fd"), 0)
    assert refused.value.errno is Errno.EIO


def test_a_child_finds_the_frames_by_its_own_faults(vm: Machine, inode: Inode) -> None:
    task, vma = mapped(vm, inode)
    store(task, vma.start, "new")
    child = task.fork("child")
    assert child.alive_mm().entry(vma.start) is None
    assert load(child, vma.start) == "new"


def test_a_device_without_a_file_system_can_only_be_mapped_shared_and_in_whole_pieces() -> None:
    vm = Machine(huge_order=2)
    inode = vm.create("dax0.0", "devdax", 8)
    task, file = vm.new_task("app"), File(inode, "fd")
    for call in (
        lambda: vm.read(file, 0),
        lambda: vm.write(file, 0, "x"),
        lambda: fsync(file),
        lambda: truncate(inode, 0),
        lambda: do_mmap(task.alive_mm(), 4, file=file),
        lambda: do_mmap(task.alive_mm(), 3, file=file, shared=True),
    ):
        with pytest.raises(SysError, match="EINVAL"):
            call()
    area = do_mmap(task.alive_mm(), 4, file=file, pgoff=4, shared=True)
    store(task, area.start + 1, "x")
    assert [task.alive_mm().entry(vpn) is not None for vpn in range(area.start, area.end)] == [True] * 4
    assert inode.frames[5].content == "x"
