"""Taking pages out of files: what goes, what stays, and what a process sees afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hwpoison.abi import pageflags as pg
from hwpoison.abi.results import MfResult
from hwpoison.abi.signals import Errno, SiCode, Signal
from hwpoison.mm.filemap import filemap_release_folio
from hwpoison.mm.inode import File, SysError
from hwpoison.mm.locks import Op, Path
from hwpoison.mm.machine import Machine, Traits
from hwpoison.mm.memory import load, store
from hwpoison.mm.mmap import do_mmap
from hwpoison.mm.page import Page, get_page, locked, put_page
from hwpoison.mm.pte import PoisonPte
from hwpoison.mm.task import Signalled
from hwpoison.mm.truncate import (
    give_up_clean_folio,
    give_up_dirty_folio,
    invalidate_mapping_pages,
    mapping_evict_folio,
    punch_hole,
    remove_mapping,
    truncate,
    truncate_inode_folio,
)
from hwpoison.mm.vmscan import reclaim_folio
from hwpoison.mm.writeback import filemap_fdatawrite, fsync

DISK_AND_MEMORY = ["ext4", "xfs", "f2fs", "tmpfs"]


@pytest.fixture(params=DISK_AND_MEMORY)
def file(vm: Machine, request: pytest.FixtureRequest) -> File:
    file = File(vm.create("data", request.param, 3), "fd")
    for index in range(3):
        vm.write(file, index, f"new {index}")
    return file


@pytest.fixture
def ext4(vm: Machine) -> File:
    return File(vm.create("data", "ext4", 3), "fd")


def test_truncation_takes_the_end_off_dirty_or_not(vm: Machine, file: File) -> None:
    truncate(file.inode, 1)
    assert list(file.inode.mapping.pages) == [0]
    assert [vm.read(file, index) for index in range(3)] == ["new 0", "", ""]
    truncate(file.inode, 3)
    assert [vm.read(file, index) for index in range(3)] == ["new 0", "zeros", "zeros"]


def test_a_hole_reads_as_zeros_and_the_size_stays(vm: Machine, file: File) -> None:
    punch_hole(file.inode, 1, 2)
    assert file.inode.size == 3
    assert [vm.read(file, index) for index in range(3)] == ["new 0", "zeros", "new 2"]
    if file.inode.fs.can_writeback:
        fsync(file)
        invalidate_mapping_pages(file.inode.mapping)
        assert vm.read(file, 1) == "zeros", "nothing was written over the hole"


def test_a_process_that_maps_the_end_gets_sigbus_and_the_hole_gives_zeros(vm: Machine, file: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 3, file=file, shared=True)
    assert [load(task, vma.start + index) for index in range(3)] == ["new 0", "new 1", "new 2"]
    punch_hole(file.inode, 0, 1)
    truncate(file.inode, 2)
    assert [load(task, vma.start + index) for index in range(2)] == ["zeros", "new 1"]
    with pytest.raises(Signalled) as hit:
        load(task, vma.start + 2)
    assert (hit.value.info.signal, hit.value.info.code) == (Signal.SIGBUS, SiCode.BUS_ADRERR)
    assert hit.value.info.address == (vma.start + 2) << 12


def test_truncation_takes_private_copies_along_and_a_hole_leaves_them(vm: Machine, file: File) -> None:
    """unmap_mapping_range(even_cows): 1 in truncate_pagecache(), 0 in truncate_pagecache_range()."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 2, file=file)
    store(task, vma.start, "mine")
    store(task, vma.start + 1, "mine too")
    punch_hole(file.inode, 0, 2)
    assert [load(task, vma.start), load(task, vma.start + 1)] == ["mine", "mine too"]
    truncate(file.inode, 1)
    truncate(file.inode, 2)
    assert [load(task, vma.start), load(task, vma.start + 1)] == ["mine", "zeros"]


def test_a_swapped_private_copy_survives_a_hole_and_not_a_truncation(vm: Machine, ext4: File) -> None:
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=ext4)
    store(task, vma.start, "mine")
    vm.lru.add_drain_all()
    copy = next(page for page in vm.lru.pages.values() if page.anon)
    assert reclaim_folio(copy)
    punch_hole(ext4.inode, 0, 1)
    assert load(task, vma.start) == "mine"
    truncate(ext4.inode, 0)
    assert vm.swap.count == {}
    assert task.alive_mm().entry(vma.start) is None


def test_poison_entries_survive_a_hole_and_not_a_truncation(vm: Machine, ext4: File) -> None:
    """zap_pte_range(): they go only with what they stand for."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=ext4, shared=True)
    load(task, vma.start)
    table = task.alive_mm().pte_alloc(vma.start)
    truncate(ext4.inode, 0)
    truncate(ext4.inode, 1)
    table.entries[vma.start] = PoisonPte(9, file=True)
    punch_hole(ext4.inode, 0, 1)
    assert isinstance(task.alive_mm().entry(vma.start), PoisonPte)
    truncate(ext4.inode, 0)
    assert task.alive_mm().entry(vma.start) is None


def test_truncation_waits_for_writeback(vm: Machine, ext4: File) -> None:
    """R11."""
    vm.write(ext4, 0, "x")
    vm.disk.held = True
    filemap_fdatawrite(ext4.inode.mapping)
    truncate(ext4.inode, 0)
    assert not vm.disk.under_way
    assert not ext4.inode.blocks


def test_a_page_that_left_the_file_is_not_removed_again(vm: Machine, ext4: File) -> None:
    vm.read(ext4, 0)
    page = ext4.inode.mapping.pages[0]
    get_page(page)
    truncate(ext4.inode, 0)
    with locked(page):
        assert truncate_inode_folio(ext4.inode.mapping, page) == -Errno.EIO
    put_page(page)


Until = Callable[[Op, object], bool]


class InTurns:
    """Each path in turn runs until it is about to do something, or must wait; then whoever can."""

    def __init__(self, *turns: tuple[Path, Until]) -> None:
        self.turns = list(turns)

    def choose(self, ready: Sequence[Path], running: Path, op: Op, on: object) -> Path:
        while self.turns:
            path, until = self.turns[0]
            if path in ready and not (running is path and until(op, on)):
                return path
            del self.turns[0]
        return running if running in ready else ready[0]


def does(op: Op, on: object) -> Until:
    return lambda now, what: now is op and what is on


def never(op: Op, on: object) -> bool:
    return False


def test_a_fault_that_waited_for_a_truncation_finds_the_end_of_the_file(vm: Machine, ext4: File) -> None:
    """filemap_fault() looks at the size again with the page locked."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 3, file=ext4, shared=True)
    mapping = ext4.inode.mapping
    other = vm.paths.spawn("truncate", truncate, ext4.inode, 0)
    vm.paths.chooser = InTurns(
        (vm.paths.main, does(Op.ACQUIRE_SHARED, mapping.invalidate_lock)),
        (other, never),
        (vm.paths.main, never),
    )
    with pytest.raises(Signalled) as hit:
        load(task, vma.start)
    vm.paths.chooser = None
    vm.paths.finish()
    assert hit.value.info.code is SiCode.BUS_ADRERR
    assert not mapping.pages


def test_a_private_copy_made_in_the_middle_of_a_truncation_goes_as_well(vm: Machine, ext4: File) -> None:
    """truncate_pagecache() unmaps twice; the first time is only for speed."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1, file=ext4)
    vm.read(ext4, 0)
    page = ext4.inode.mapping.pages[0]
    other = vm.paths.spawn("store", store, task, vma.start, "mine")
    vm.paths.chooser = InTurns(
        (other, does(Op.RELEASE, page)), (vm.paths.main, does(Op.ACQUIRE, page)), (other, never)
    )
    truncate(ext4.inode, 0)
    vm.paths.chooser = None
    vm.paths.finish()
    assert task.alive_mm().entry(vma.start) is None


# Eviction of what nobody needs.


def test_dropping_caches_takes_clean_unused_pages_only(vm: Machine, ext4: File) -> None:
    task = vm.new_task("app")
    for index in range(3):
        vm.read(ext4, index)
    vm.write(ext4, 0, "dirty")
    load(task, do_mmap(task.alive_mm(), 1, file=ext4, pgoff=1).start)
    invalidate_mapping_pages(ext4.inode.mapping)
    assert set(ext4.inode.mapping.pages) == {0, 1}


@pytest.mark.parametrize("reason", ["dirty", "writeback", "held", "busy buffers", "another file"])
def test_a_page_that_somebody_needs_is_not_evicted(vm: Machine, ext4: File, reason: str) -> None:
    vm.write(ext4, 0, "x")
    page = ext4.inode.mapping.pages[0]
    fsync(ext4)
    vm.lru.add_drain_all()
    mapping = ext4.inode.mapping
    if reason == "dirty":
        vm.write(ext4, 0, "y")
    elif reason == "writeback":
        vm.write(ext4, 0, "y")
        vm.disk.held = True
        filemap_fdatawrite(mapping)
    elif reason == "held":
        get_page(page)
    elif reason == "busy buffers":
        page.private.busy = True  # type: ignore[union-attr]
    else:
        mapping = vm.create("other", "ext4", 1).mapping
    get_page(page)
    with locked(page):
        assert not mapping_evict_folio(mapping, page)
    assert ext4.inode.mapping.pages[0] is page
    assert page.flags & pg.PRIVATE, "its buffers stay with it"
    put_page(page)
    vm.disk.release()
    if reason == "held":
        put_page(page)


def test_a_page_made_dirty_at_the_last_moment_stays_and_gets_its_references_back(
    vm: Machine, ext4: File
) -> None:
    """__remove_mapping(): the dirty bit is looked at when nobody can find the page any more."""
    vm.write(ext4, 0, "x")
    page = ext4.inode.mapping.pages[0]
    fsync(ext4)
    vm.lru.add_drain_all()
    get_page(page)
    with locked(page):
        assert filemap_release_folio(page)
        page.flags |= pg.DIRTY
        ext4.inode.mapping.dirty.add(0)
        assert not remove_mapping(ext4.inode.mapping, page)
    assert ext4.inode.mapping.pages[0] is page
    assert page.refcount == 2
    put_page(page)


# The answer to a bad page (me_pagecache_clean(), me_pagecache_dirty()).


def bad(vm: Machine, file: File, index: int = 0) -> Page:
    """A page of the file as the handler holds it: marked, on its list, with a reference."""
    vm.read(file, index)
    vm.lru.add_drain_all()
    page = file.inode.mapping.pages[index]
    get_page(page)
    page.flags |= pg.HWPOISON
    return page


def answer(page: Page, *, dirty: bool = False) -> tuple[MfResult, int | None, str]:
    with locked(page):
        response = (give_up_dirty_folio if dirty else give_up_clean_folio)(page)
    return response.result, response.kept, response.reason


@pytest.mark.parametrize("fs", ["ext2", "ext4", "xfs", "btrfs", "vfat", "f2fs", "fuse", "bdev"])
def test_a_clean_page_of_a_disk_leaves_its_file_and_is_read_again(vm: Machine, fs: str) -> None:
    """R12, R23: a temporary hole, no block is freed."""
    file = File(vm.create("data", fs, 1), "fd")
    page = bad(vm, file)
    result, kept, _ = answer(page)
    assert (result, kept) == (MfResult.RECOVERED, 0)
    assert page.refcount == 1
    assert not page.flags & pg.LRU
    assert vm.read(file, 0) == "data:0:old"
    assert file.inode.mapping.pages[0] is not page


@pytest.mark.parametrize(("fs", "result"), [("ext4", MfResult.RECOVERED), ("vfat", MfResult.FAILED)])
def test_only_some_file_systems_can_drop_a_dirty_page(vm: Machine, fs: str, result: MfResult) -> None:
    file = File(vm.create("data", fs, 1), "fd")
    vm.write(file, 0, "precious")
    page = bad(vm, file)
    assert answer(page, dirty=True)[0] is result
    assert (file.inode.mapping.pages.get(0) is page) == (result is MfResult.FAILED)
    assert bool(page.flags & pg.DIRTY) == (result is MfResult.FAILED)
    if result is MfResult.FAILED:
        assert vm.log == [f"Memory failure: {page.pfn:#x}: Failed to invalidate"]
    assert file.inode.mapping.wb_err.check(file.wb_err) == Errno.EIO, "R13, whatever became of the page"


def test_a_page_of_a_directory_stays(vm: Machine) -> None:
    file = File(vm.create("dir", "ext4", 1, regular=False), "fd")
    page = bad(vm, file)
    assert answer(page)[0] is MfResult.FAILED
    assert file.inode.mapping.pages[0] is page
    assert vm.log == [f"Memory failure: {page.pfn:#x}: Failed to punch page: -5"]


def test_a_page_whose_buffers_the_journal_needs_leaves_the_file_but_failed(vm: Machine, ext4: File) -> None:
    vm.write(ext4, 0, "x")
    page = bad(vm, ext4)
    page.private.busy = True  # type: ignore[union-attr]
    assert answer(page, dirty=True)[0] is MfResult.FAILED
    assert 0 not in ext4.inode.mapping.pages
    assert vm.log == [f"Memory failure: {page.pfn:#x}: failed to release buffers"]
    page.private.busy = False  # type: ignore[union-attr]


@pytest.mark.parametrize("dirty", [True, False])
def test_tmpfs_keeps_the_page_to_tell_whoever_reads_it(vm: Machine, dirty: bool) -> None:
    file = File(vm.create("data", "tmpfs", 1), "fd")
    vm.write(file, 0, "precious")
    page = bad(vm, file)
    result, kept, _ = answer(page, dirty=dirty)
    assert (result, kept) == (MfResult.RECOVERED, 1)
    assert file.inode.mapping.pages[0] is page


def test_a_page_that_its_file_let_go_of_is_a_failure(vm: Machine, ext4: File) -> None:
    page = bad(vm, ext4)
    page.flags &= ~pg.HWPOISON
    truncate(ext4.inode, 0)
    assert answer(page)[:2] == (MfResult.FAILED, None)


def test_an_anonymous_page_is_recovered_without_counting(vm: Machine) -> None:
    """The weakness "pinned-anonymous" of kernels since 5.14."""
    task = vm.new_task("app")
    vma = do_mmap(task.alive_mm(), 1)
    store(task, vma.start, "x")
    vm.lru.add_drain_all()
    page = next(iter(vm.lru.pages.values()))
    get_page(page)
    assert answer(page)[:2] == (MfResult.RECOVERED, None)
    put_page(page)


@pytest.mark.parametrize("marks", [True, False])
def test_old_kernels_mark_the_page_of_a_lost_write(vm: Machine, ext4: File, marks: bool) -> None:
    vm.traits = Traits(marks_page_error=marks)
    vm.write(ext4, 0, "x")
    page = bad(vm, ext4)
    answer(page, dirty=True)
    assert bool(page.flags & pg.ERROR) == marks


@pytest.mark.parametrize("fs", ["vfat", "ramfs"])
def test_a_file_system_without_holes_refuses_to_make_one(vm: Machine, fs: str) -> None:
    file = File(vm.create("data", fs, 1), "fd")
    vm.write(file, 0, "kept")
    with pytest.raises(SysError, match="EOPNOTSUPP"):
        punch_hole(file.inode, 0, 1)
    assert vm.read(file, 0) == "kept"


def test_a_hole_on_xfs_is_told_of_an_earlier_error_instead_and_only_once(vm: Machine) -> None:
    """xfs_flush_unmap_range(): writes first, and asks for errors as callers without an open file do."""
    file = File(vm.create("data", "xfs", 2), "fd")
    vm.write(file, 1, "kept")
    file.inode.mapping.set_error(Errno.EIO)
    with pytest.raises(SysError, match="EIO"):
        punch_hole(file.inode, 1, 2)
    assert vm.read(file, 1) == file.inode.blocks[1] == "kept"
    punch_hole(file.inode, 1, 2)
    assert vm.read(file, 1) == "zeros"
    with pytest.raises(SysError, match="EIO"):
        fsync(file)


@pytest.mark.parametrize("size", [1, 2])
def test_old_kernels_write_on_xfs_before_a_truncation_and_may_be_told_instead(vm: Machine, size: int) -> None:
    vm.traits = Traits(truncate_writes=("xfs",))
    file = File(vm.create("data", "xfs", 2), "fd")
    file.inode.mapping.set_error(Errno.EIO)
    with pytest.raises(SysError, match="EIO"):
        truncate(file.inode, size)
    assert file.inode.size == 2
    truncate(file.inode, size)
    assert file.inode.size == size


def test_a_file_on_xfs_gets_longer_but_tells_of_an_error_if_something_was_appended(vm: Machine) -> None:
    file = File(vm.create("data", "xfs", 2), "fd")
    file.inode.mapping.set_error(Errno.EIO)
    truncate(file.inode, 3)
    vm.write(file, 3, "appended")
    with pytest.raises(SysError, match="EIO"):
        truncate(file.inode, 5)
    assert file.inode.size == 5
    truncate(file.inode, 6)


@pytest.mark.parametrize("dirty", [True, False])
def test_old_kernels_write_on_ext4_before_a_hole_if_anything_is_dirty(
    vm: Machine, ext4: File, dirty: bool
) -> None:
    vm.traits = Traits(punch_writes_if_dirty=("ext4",))
    if dirty:
        vm.write(ext4, 0, "new")
    ext4.inode.mapping.set_error(Errno.EIO)
    if dirty:
        with pytest.raises(SysError, match="EIO"):
            punch_hole(ext4.inode, 0, 1)
        assert ext4.inode.blocks[0] == "new"
    punch_hole(ext4.inode, 0, 1)
    assert vm.read(ext4, 0) == "zeros"
