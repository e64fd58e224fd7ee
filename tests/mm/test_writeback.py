"""Writing dirty pages to the disk, and what is said when that fails."""

from __future__ import annotations

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.locks import KernelBug
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap, map_driver, msync
from hwpoison.mm.page import locked
from hwpoison.mm.pte import Pte
from hwpoison.mm.truncate import invalidate_mapping_pages
from hwpoison.mm.writeback import filemap_fdatawrite, folio_clear_dirty_for_io, fsync, write_folio


@pytest.fixture
def file(vm: Machine) -> File:
    return File(vm.create("data", "ext4", 3), "fd")


def test_fsync_puts_every_dirty_page_on_the_disk(vm: Machine, file: File) -> None:
    vm.write(file, 0, "zero")
    vm.write(file, 2, "two")
    fsync(file)
    assert file.inode.blocks == {0: "zero", 1: "data:1:old", 2: "two"}
    assert not file.inode.mapping.dirty
    assert not file.inode.mapping.pages[0].flags & (pg.DIRTY | pg.WRITEBACK)


def test_what_is_clean_is_not_written(vm: Machine, file: File) -> None:
    vm.read(file, 0)
    file.inode.blocks[0] = "changed on the disk"
    fsync(file)
    assert file.inode.blocks[0] == "changed on the disk"


def test_a_failing_disk_is_reported_once_to_each_open_file(vm: Machine, file: File) -> None:
    other = File(file.inode, "other")
    vm.write(file, 0, "lost")
    vm.disk.failing = True
    for who in (other, file):
        with pytest.raises(SysError, match="EIO"):
            fsync(who)
        fsync(who)
    assert file.inode.blocks[0] == "data:0:old"
    fsync(File(file.inode, "late"))


def test_after_a_failed_write_the_page_counts_as_clean(vm: Machine, file: File) -> None:
    """Deviation unwritten-clean: the data is dropped although the disk never had it."""
    vm.write(file, 0, "lost")
    vm.disk.failing = True
    filemap_fdatawrite(file.inode.mapping)
    assert vm.read(file, 0) == "lost"
    invalidate_mapping_pages(file.inode.mapping)
    assert vm.read(file, 0) == "data:0:old"


def test_a_store_after_writeback_began_makes_the_page_dirty_again(vm: Machine, file: File) -> None:
    """The page tables are write-protected first, so no store gets by."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "one")
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    entry = task.alive_mm().entry(vma.start)
    assert isinstance(entry, Pte)
    assert not entry.writable
    assert not entry.dirty
    store(task, vma.start, "two")
    assert file.inode.mapping.dirty == {0}
    fsync(file)
    assert file.inode.blocks[0] == "two"


def test_a_store_through_a_page_table_reaches_the_disk(vm: Machine, file: File) -> None:
    task, other = vm.new_task("app"), vm.new_task("other")
    vma = do_mmap(task.alive_mm(), 1, file=file, shared=True)
    store(task, vma.start, "one")
    fsync(file)
    store(task, vma.start, "two")
    again = do_mmap(other.alive_mm(), 1, file=file, shared=True)
    assert load(other, again.start) == "two"
    fsync(file)
    assert file.inode.blocks[0] == "two"


def test_msync_writes_its_own_part_and_tells_of_any(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2, file=file, pgoff=1, shared=True)
    vm.write(file, 0, "zero")
    store(task, vma.start, "one")
    msync(vma)
    assert file.inode.blocks == {0: "data:0:old", 1: "one", 2: "data:2:old"}
    vm.disk.failing = True
    with pytest.raises(SysError, match="EIO"):
        fsync(file)
    store(task, vma.start, "more")
    with pytest.raises(SysError, match="EIO"):
        msync(vma)
    vm.disk.failing = False
    msync(vma)


def test_msync_of_a_private_mapping_does_nothing(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file)
    store(task, vma.start, "mine")
    vm.write(file, 0, "new")
    msync(vma)
    assert file.inode.blocks[0] == "data:0:old"


def test_msync_of_a_driver_s_memory_is_refused(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    page = vm.zone.alloc_pages()
    vm.held.add(page.pfn)
    map_driver(vma, page)
    with pytest.raises(SysError, match="EINVAL"):
        msync(vma)


def test_a_private_store_never_reaches_the_disk(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=file)
    load(task, vma.start)
    store(task, vma.start, "mine")
    fsync(file)
    task.exit()
    fsync(file)
    assert file.inode.blocks[0] == "data:0:old"
    assert vm.read(file, 0) == "data:0:old"


def test_a_second_write_waits_for_the_one_under_way(vm: Machine, file: File) -> None:
    vm.write(file, 0, "one")
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    vm.write(file, 0, "two")
    filemap_fdatawrite(file.inode.mapping)
    assert len(vm.disk.under_way) == 1, "the disk answered the first when everybody waited"
    assert file.inode.blocks[0] == "two", "contents are taken when the write ends"
    vm.disk.release()
    assert not file.inode.mapping.pages[0].flags & pg.WRITEBACK


def test_fsync_of_tmpfs_does_nothing(vm: Machine) -> None:
    file = File(vm.create("data", "tmpfs", 1), "fd")
    vm.write(file, 0, "x")
    fsync(file)
    assert file.inode.mapping.dirty == {0}
    assert not file.inode.blocks


def test_only_pages_of_files_are_written_here(vm: Machine) -> None:
    page = vm.zone.alloc_pages()
    with locked(page):
        for function in (folio_clear_dirty_for_io, write_folio):
            with pytest.raises(KernelBug, match="belongs to no file"):
                function(page)
