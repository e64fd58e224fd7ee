"""Other ways to bytes: none gives a signal, each has its own words for what it cannot have."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm import access
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import Vma, do_mmap
from hwpoison.mm.page import put_page
from hwpoison.mm.pte import PoisonPte, Pte
from hwpoison.mm.rmap import page_remove_rmap
from hwpoison.mm.task import Task


def two_pages(vm: Machine, *, bad: int | None = None) -> tuple[Task, Vma]:
    """Memory of two pages, of which one may be lost."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2)
    for number in range(2):
        store(task, vma.start + number, f"page{number}")
    if bad is not None:
        spoil(task, vma.start + bad)
    return task, vma


def spoil(task: Task, vpn: int) -> None:
    """As the handler leaves it: a poison entry in place of the page."""
    table = task.alive_mm().pte_alloc(vpn)
    entry = table.entries[vpn]
    vma = task.alive_mm().find_vma(vpn)
    assert vma is not None
    assert isinstance(entry, Pte)
    page = entry.page
    page_remove_rmap(page, vma)
    table.entries[vpn] = PoisonPte(page.pfn)
    put_page(page)


@pytest.mark.parametrize(("via", "errno"), list(access.REMOTE_ERRORS.items()))
def test_each_way_has_its_own_error_for_a_lost_page(vm: Machine, via: str, errno: Errno) -> None:
    task, vma = two_pages(vm, bad=0)
    for data in (None, "new"):
        with pytest.raises(SysError) as refusal:
            access.access_remote_vm(task, vma.start, via, data)
        assert refusal.value.errno is errno
    assert access.access_remote_vm(task, vma.start + 1, via) == "page1"


def test_another_task_can_write(vm: Machine) -> None:
    task, vma = two_pages(vm)
    access.access_remote_vm(task, vma.start, "process_vm", "theirs")
    assert load(task, vma.start) == "theirs"


def test_secret_memory_is_not_even_the_kernels_to_read(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=File(vm.create("key", "secret", 1), "fd"), shared=True)
    store(task, vma.start, "key")
    with pytest.raises(SysError) as refusal:
        access.access_remote_vm(task, vma.start, "process_vm")
    assert refusal.value.errno is Errno.EFAULT


@pytest.mark.parametrize(("bad", "come"), [(None, 2), (1, 1)])
def test_a_call_over_several_pages_ends_at_the_first_that_is_lost(
    vm: Machine, bad: int | None, come: int
) -> None:
    task, vma = two_pages(vm, bad=bad)
    file = File(vm.create("data", "ext4", 2), "fd")
    assert access.readv(file, 0, task, vma.start, 2) == come
    assert load(task, vma.start) == "data:0:old"
    assert access.writev(file, 0, task, vma.start, 2) == come


def test_what_read_has_copied_to_memory_is_known_to_be_dirty_by_the_page_table_alone(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    access.readv(File(vm.create("data", "ext4", 1), "fd"), 0, task, vma.start, 1)
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    assert (entry.dirty, bool(entry.page.flags & pg.DIRTY)) == (True, False)


def test_a_direct_read_fills_the_buffer_with_zeros_beyond_the_end_of_the_file(vm: Machine) -> None:
    task, vma = two_pages(vm)
    file = File(vm.create("data", "ext4", 1), "fd", direct=True)
    assert access.readv(file, 0, task, vma.start, 2) == 1
    assert [load(task, vma.start + number) for number in range(2)] == ["data:0:old", "zeros"]
    with pytest.raises(SysError) as refusal:
        access.readv(file, 0, task, vma.start + 1, 2)
    assert refusal.value.errno is Errno.EFAULT


def test_a_call_that_can_move_nothing_says_so(vm: Machine) -> None:
    task, vma = two_pages(vm, bad=0)
    file = File(vm.create("data", "ext4", 2), "fd")
    for call in (access.readv, access.writev):
        with pytest.raises(SysError) as refusal:
            call(file, 0, task, vma.start, 2)
        assert refusal.value.errno is Errno.EFAULT


def test_a_read_stops_at_the_end_of_the_file(vm: Machine) -> None:
    task, vma = two_pages(vm)
    assert access.readv(File(vm.create("data", "ext4", 1), "fd"), 0, task, vma.start, 2) == 1
    assert access.readv(File(vm.create("raw", "ext4", 1), "fd", direct=True), 0, task, vma.start, 2) == 1


def test_a_direct_write_leaves_the_cache_empty(vm: Machine) -> None:
    task, vma = two_pages(vm)
    inode = vm.create("data", "ext4", 2)
    cached, direct = File(inode, "cached"), File(inode, "direct", direct=True)
    vm.write(cached, 0, "through the cache")
    assert access.writev(direct, 0, task, vma.start, 2) == 2
    assert inode.blocks == {0: "page0", 1: "page1"}
    assert inode.mapping.pages == {}
    assert vm.read(cached, 0) == "page0"


def test_a_direct_write_that_meets_a_lost_page_does_not_say_how_far_it_came(vm: Machine) -> None:
    task, vma = two_pages(vm, bad=1)
    inode = vm.create("data", "ext4", 2)
    with pytest.raises(SysError) as refusal:
        access.writev(File(inode, "fd", direct=True), 0, task, vma.start, 2)
    assert refusal.value.errno is Errno.EFAULT
    assert inode.blocks[0] == "page0"


def test_the_first_direct_read_after_an_error_hears_of_it(vm: Machine) -> None:
    """AS_EIO belongs to the file, not to whoever has it open: the second reader hears nothing."""
    task, vma = two_pages(vm)
    inode = vm.create("data", "ext4", 1)
    one, two = File(inode, "one", direct=True), File(inode, "two", direct=True)
    inode.mapping.set_error(Errno.EIO)
    with pytest.raises(SysError) as refusal:
        access.readv(one, 0, task, vma.start, 1)
    assert refusal.value.errno is Errno.EIO
    assert access.readv(two, 0, task, vma.start, 1) == 1


@pytest.mark.parametrize("fs", ["ext4", "vfat"])
def test_after_an_error_a_direct_write_goes_through_the_cache_or_fails(vm: Machine, fs: str) -> None:
    task, vma = two_pages(vm)
    inode = vm.create("data", fs, 1)
    file = File(inode, "fd", direct=True)
    inode.mapping.set_error(Errno.EIO)
    if fs == "ext4":
        assert access.writev(file, 0, task, vma.start, 1) == 1
        assert inode.blocks[0] == "page0"
    else:
        with pytest.raises(SysError):
            access.writev(file, 0, task, vma.start, 1)
    assert inode.mapping.pages == {}


def test_a_page_of_a_file_goes_through_a_pipe(vm: Machine) -> None:
    file = File(vm.create("data", "ext4", 1), "fd")
    assert access.splice(file, 0) == "data:0:old"
    assert access.splice(file, 1) == ""


def test_each_page_of_a_large_folio_goes_through_a_pipe_as_itself(vm: Machine) -> None:
    file = File(vm.create("data", "ext4", 2), "fd")
    vm.write(file, 0, "a", 2)
    vm.write(file, 1, "b")
    assert file.inode.mapping.pages[1].head is file.inode.mapping.pages[0]
    assert [access.splice(file, index) for index in range(2)] == ["a", "b"]


def test_a_bad_page_of_tmpfs_does_not(vm: Machine) -> None:
    file = File(vm.create("data", "tmpfs", 1), "fd")
    vm.write(file, 0, "x")
    file.inode.mapping.pages[0].flags |= pg.HWPOISON
    with pytest.raises(SysError) as refusal:
        access.splice(file, 0)
    assert refusal.value.errno is Errno.EIO
    file.inode.mapping.pages[0].flags &= ~pg.HWPOISON


def test_a_core_file_has_a_hole_for_what_is_lost(vm: Machine) -> None:
    task, vma = two_pages(vm, bad=0)
    assert [access.dump_core(task, vma.start + number) for number in range(2)] == ["zeros", "page1"]


def test_dumping_core_does_not_bring_untouched_memory_in(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    assert access.dump_core(task, vma.start) == "zeros"
    assert task.alive_mm().entry(vma.start) is None


def test_a_core_dump_survives_a_real_error(vm: Machine) -> None:
    """dump_core_copy(): a copy that can be given up (6.4); older kernels stop there."""
    task, vma = two_pages(vm)
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    vm.strike(entry.page.pfn, hardware=True)
    assert access.dump_core(task, vma.start) == "zeros"
