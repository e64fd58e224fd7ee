"""The page cache: reading, writing, finding, and the rules of taking a page out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno
from hwpoison.mm import filemap, truncate
from hwpoison.mm.filemap import (
    Buffers,
    file_check_and_advance_wb_err,
    filemap_add_folio,
    filemap_fdatawait,
    filemap_get_folio,
    filemap_lock_folio,
    filemap_release_folio,
    filemap_remove_folio,
    folio_cancel_dirty,
    folio_mark_dirty,
)
from hwpoison.mm.inode import File, Inode, SysError
from hwpoison.mm.locks import KernelBug, Op, Path
from hwpoison.mm.machine import Machine
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import Page, folio_lock, folio_unlock, locked, put_page
from hwpoison.mm.truncate import generic_error_remove_folio, invalidate_mapping_pages, punch_hole
from hwpoison.mm.writeback import filemap_fdatawrite, fsync


@pytest.fixture
def inode(vm: Machine) -> Inode:
    return vm.create("data", "ext4", 3)


@pytest.fixture
def file(inode: Inode) -> File:
    return File(inode, "fd")


# Reading and writing.


def test_a_read_brings_in_one_page_and_the_next_one_finds_it(vm: Machine, file: File) -> None:
    assert vm.read(file, 1) == "data:1:old"
    assert list(file.inode.mapping.pages) == [1], "readahead is off"
    file.inode.blocks[1] = "changed behind the cache"
    assert vm.read(file, 1) == "data:1:old"
    page = file.inode.mapping.pages[1]
    page.vm.lru.add_drain_all()
    assert page.refcount == 1
    assert page.flags == pg.UPTODATE | pg.LRU | pg.REFERENCED


def test_a_hole_reads_as_zeros_and_past_the_end_there_is_nothing(vm: Machine, file: File) -> None:
    del file.inode.blocks[0]
    assert vm.read(file, 0) == "zeros"
    assert vm.read(file, 3) == ""
    assert list(file.inode.mapping.pages) == [0]


def test_a_write_makes_the_page_dirty_and_the_file_longer(vm: Machine, file: File) -> None:
    vm.write(file, 5, "new")
    assert file.inode.size == 6
    assert file.inode.mapping.dirty == {5}
    assert file.inode.mapping.pages[5].flags & pg.DIRTY
    assert vm.read(file, 5) == "new"
    assert 5 not in file.inode.blocks, "not before it is written back"


@pytest.mark.parametrize(
    ("fs", "buffers"), [("ext4", True), ("vfat", True), ("xfs", False), ("btrfs", False)]
)
def test_some_file_systems_hang_buffers_on_what_is_written(vm: Machine, fs: str, buffers: bool) -> None:
    file = File(vm.create("other", fs, 1), "fd")
    vm.write(file, 0, "x")
    page = file.inode.mapping.pages[0]
    vm.lru.add_drain_all()
    assert bool(page.flags & pg.PRIVATE) == buffers
    assert page.refcount == 1 + buffers


def test_two_open_files_see_one_page(vm: Machine, file: File) -> None:
    other = File(file.inode, "other")
    vm.write(file, 0, "x")
    assert vm.read(other, 0) == "x"


# Finding.


def test_a_page_is_found_with_a_reference(vm: Machine, file: File) -> None:
    mapping = file.inode.mapping
    assert filemap_get_folio(mapping, 0) is None
    assert filemap_lock_folio(mapping, 0) is None
    vm.read(file, 0)
    vm.lru.add_drain_all()
    page = filemap_get_folio(mapping, 0)
    assert page is not None
    assert page.refcount == 2
    put_page(page)


def test_of_two_who_add_a_page_one_is_first(vm: Machine, inode: Inode) -> None:
    first, second = vm.zone.alloc_pages(), vm.zone.alloc_pages()
    assert filemap_add_folio(inode.mapping, first, 0)
    folio_unlock(first)
    assert not filemap_add_folio(inode.mapping, second, 0)
    assert not second.flags & pg.LOCKED
    assert second.mapping is None
    put_page(first)
    put_page(second)


def test_a_page_removed_while_one_waits_for_its_lock_is_not_taken_for_the_files(
    vm: Machine, file: File
) -> None:
    """Without the folio lock, being found in the cache means nothing."""
    vm.read(file, 0)
    page = file.inode.mapping.pages[0]
    folio_lock(page)
    found: list[Page | None] = []
    path = vm.paths.spawn("finder", lambda: found.append(filemap_lock_folio(file.inode.mapping, 0)))
    vm.paths.spawn("idle", lambda: None)

    class FinderFirst:
        def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
            return path if path in ready else ready[0]

    vm.paths.chooser = FinderFirst()
    vm.paths.point(Op.START, page)
    vm.paths.chooser = None
    assert path.waits_for is page
    filemap_remove_folio(page)
    folio_unlock(page)
    vm.paths.finish()
    assert found == [None]


# Taking out.


@pytest.fixture
def page(vm: Machine, file: File) -> Page:
    vm.write(file, 0, "x")
    return file.inode.mapping.pages[0]


def test_a_page_under_writeback_cannot_be_removed(vm: Machine, file: File, page: Page) -> None:
    """R11: the disk would write on, while a new page of the same place is written as well."""
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    with locked(page), pytest.raises(KernelBug, match="removed from ext4 file data under writeback"):
        filemap_remove_folio(page)
    vm.disk.release()


def test_a_mapped_page_cannot_be_removed(vm: Machine, file: File, page: Page) -> None:
    task = vm.new_task("app")
    load(task, do_mmap(task.alive_mm(), 1, file=file, shared=True).start)
    with locked(page), pytest.raises(KernelBug, match="while 1 entries map it"):
        filemap_remove_folio(page)


def test_a_page_is_removed_under_its_lock_only(page: Page) -> None:
    with pytest.raises(KernelBug, match="removed from ext4 file data without its lock"):
        filemap_remove_folio(page)


def test_a_page_of_no_file_cannot_be_removed(vm: Machine) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    page = vm.zone.page(next(iter(vm.lru.batches[0])).pfn)
    with locked(page), pytest.raises(KernelBug, match="is in no page cache"):
        filemap_remove_folio(page)


def test_removing_gives_back_the_reference_of_the_cache(vm: Machine, file: File) -> None:
    vm.read(file, 0)
    page = filemap_lock_folio(file.inode.mapping, 0)
    assert page is not None
    vm.lru.add_drain_all()
    filemap_remove_folio(page)
    assert page.refcount == 1
    assert page.mapping is None
    assert not file.inode.mapping.pages
    folio_unlock(page)
    put_page(page)


@pytest.mark.parametrize("way", ["punch", "truncate", "handler", "evict"])
def test_all_ways_out_of_the_cache_share_one_removal(
    vm: Machine, file: File, page: Page, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10, R12: one removal, safe against faults and writeback. Eviction has its own that counts first."""
    removed: list[Page] = []

    def remove(page: Page) -> None:
        removed.append(page)
        filemap.filemap_remove_folio(page)

    monkeypatch.setattr(truncate, "filemap_remove_folio", remove)
    if way == "punch":
        punch_hole(file.inode, 0, 1)
    elif way == "truncate":
        truncate.truncate(file.inode, 0)
    elif way == "handler":
        page.refcount += 1
        with locked(page):
            assert generic_error_remove_folio(file.inode.mapping, page) == 0
        put_page(page)
    else:
        fsync(file)
        invalidate_mapping_pages(file.inode.mapping)
    assert removed == ([] if way == "evict" else [page])
    assert not file.inode.mapping.pages


# Buffers and dirtiness.


def test_buffers_go_with_a_clean_page_and_stay_with_a_dirty_or_busy_one(
    vm: Machine, file: File, page: Page
) -> None:
    assert not filemap_release_folio(page), "dirty"
    fsync(file)
    assert isinstance(page.private, Buffers)
    page.private.busy = True
    assert not filemap_release_folio(page), "the journal needs them"
    page.private.busy = False
    count = page.refcount
    assert filemap_release_folio(page)
    assert page.refcount == count - 1
    assert filemap_release_folio(page), "there is nothing to release any more"


def test_the_dirty_mark_and_the_tag_of_the_file_go_together(page: Page) -> None:
    mapping = page.mapping
    folio_cancel_dirty(page)
    assert not page.flags & pg.DIRTY
    assert mapping.dirty == set()  # type: ignore[union-attr]
    folio_mark_dirty(page)
    assert page.flags & pg.DIRTY
    assert mapping.dirty == {0}  # type: ignore[union-attr]


# Errors.


def test_an_error_is_told_once_to_each_open_file(file: File) -> None:
    """R15: whoever asks first does not take it away from the others."""
    other = File(file.inode, "other")
    file.inode.mapping.set_error(Errno.EIO)
    late = File(file.inode, "opened before anybody heard")
    for who in (file, other, late):
        with pytest.raises(SysError, match=f"EIO: reported for {who.name} of data"):
            file_check_and_advance_wb_err(who)
        file_check_and_advance_wb_err(who)
    file_check_and_advance_wb_err(File(file.inode, "opened after"))


def test_an_error_is_recorded_for_the_file_system_too(vm: Machine, file: File) -> None:
    cursor = vm.superblock_err("ext4").sample()
    file.inode.mapping.set_error(Errno.EIO)
    assert vm.superblock_err("ext4").check(cursor) == Errno.EIO
    assert vm.superblock_err("xfs").check(0) == 0


def test_waiting_for_the_data_lets_the_disk_finish(vm: Machine, file: File, page: Page) -> None:
    vm.disk.held = True
    filemap_fdatawrite(file.inode.mapping)
    filemap_fdatawait(file.inode.mapping)
    assert file.inode.blocks[0] == "x"


def test_a_kernel_read_of_real_bad_memory_stops_the_machine(machine: Callable[..., Machine]) -> None:
    """The copy to user space has no way back for an error in its source."""
    from hwpoison.mm.machine import Panic

    vm = machine()
    file = File(vm.create("data", "ext4", 1), "fd")
    vm.read(file, 0)
    vm.strike(file.inode.mapping.pages[0].pfn, hardware=True)
    with pytest.raises(Panic, match="consumed by the kernel"):
        vm.read(file, 0)
    put_page(file.inode.mapping.pages[0])  # the reference of the copy that never ended
