"""Ways to bytes other than a task's own: by another task, by vectors, past the cache, in a core file.

Corresponds to mm/process_vm_access.c, access_remote_vm() (mm/memory.c), fs/read_write.c with lib/iov_iter.c,
fs/splice.c, fs/direct-io.c and iomap, and dump_user_range() (fs/coredump.c). Whole pages, as everywhere.
In none of these does a page that is known to be bad give a signal: the call ends, or ends early.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hwpoison.abi import pageflags as pg
from hwpoison.abi.signals import Errno

from .filemap import begin_write, folio_mark_dirty, read_mapping_folio
from .gup import get_user_page
from .inode import File, SysError
from .lost import forget_lost, read_lost
from .memory import copy_from_user, copy_to_user
from .page import ZEROS, Page, folio_page, folio_unlock, put_page, set_flags
from .shmem import shmem_begin_write
from .task import Task
from .truncate import invalidate_range
from .writeback import filemap_write_and_wait_range

REMOTE_ERRORS: dict[str, Errno] = {"process_vm": Errno.EFAULT, "proc-mem": Errno.EIO, "ptrace": Errno.EIO}
"""What each way says of memory that cannot be had, whatever the reason."""


def access_remote_vm(task: Task, vpn: int, via: str, data: str | None = None) -> str:
    """Another task reads (``data`` None) or writes a page of this one's memory. SysError if it cannot."""
    try:
        page = get_user_page(task, vpn, write=data is not None, pin=via == "process_vm")
    except SysError as error:
        raise SysError(REMOTE_ERRORS[via], str(error)) from None
    content = _use(page, data)
    set_flags(page.head, pg.REFERENCED)
    put_page(page)
    return content


def _use(page: Page, data: str | None) -> str:
    """The kernel reads or fills a page that it holds; filled ones of a file are dirty."""
    if data is None:
        return page.vm.kernel_reads(page)
    page.vm.kernel_writes(page, data)
    folio_mark_dirty(page.head)
    return data


def readv(file: File, index: int, task: Task, vpn: int, pages: int) -> int:
    """preadv(2) with a buffer for each page: how many pages came; SysError if not even the first."""
    if file.direct:
        return _read_direct(file, index, task, vpn, pages)
    return _as_far_as_it_goes(pages, lambda number: _read_buffered(file, index + number, task, vpn + number))


def writev(file: File, index: int, task: Task, vpn: int, pages: int) -> int:
    """pwritev(2) with a buffer for each page."""
    if file.inode.fs.huge:
        raise SysError(Errno.EINVAL, "hugetlbfs has no write(2)")
    if file.direct and _may_go_direct(file, index, pages):
        return _write_direct(file, index, task, vpn, pages)
    traits = file.inode.vm.traits
    if file.inode.fs.swap_backed and traits.write_looks_first and traits.writes_in_chunks:
        _touch(task, vpn, pages)
    count = _as_far_as_it_goes(
        pages, lambda number: _write_buffered(file, index + number, task, vpn + number)
    )
    _leave_nothing_behind(file, index, count)
    return count


def _touch(task: Task, vpn: int, pages: int) -> None:
    """fault_in_iov_iter_readable(): bring in all of the memory, as far as it can be had."""
    with contextlib.suppress(SysError):
        for number in range(pages):
            copy_from_user(task, vpn + number)


def pwrite(file: File, index: int, data: str, pages: int = 1) -> int:
    """pwrite(2) of whole pages, filled with the same, from memory that nobody looks at: how many."""
    inode = file.inode
    if file.direct and _may_go_direct(file, index, pages):
        with inode.i_rwsem.write():
            invalidate_range(inode.mapping, index, index + pages)
            for number in range(index, index + pages):
                _reaches_disk(file, number, data)
        return pages
    count = inode.vm.write(file, index, data, pages)
    _leave_nothing_behind(file, index, count)
    return count


def _leave_nothing_behind(file: File, index: int, pages: int) -> None:
    """A direct write that went through the cache: ext4 writes it out, and does not say that this failed.

    fs/ext4/file.c ext4_dio_write_iter(); xfs leaves it in the cache (seen on 7.3).
    """
    mapping = file.inode.mapping
    if file.direct and mapping.fs.flushes_fallback:
        with contextlib.suppress(SysError):
            filemap_write_and_wait_range(mapping, index, index + pages)
            invalidate_range(mapping, index, index + pages)


def _as_far_as_it_goes(pages: int, one: Callable[[int], bool]) -> int:
    """An error after the first page ends the call early, and is not told."""
    for number in range(pages):
        try:
            if not one(number):
                return number
        except SysError:
            if number == 0:
                raise
            return number
    return pages


def _read_buffered(file: File, index: int, task: Task, vpn: int) -> bool:
    data = file.inode.vm.read(file, index)
    if not data:
        return False
    copy_to_user(task, vpn, data)
    return True


def _write_buffered(file: File, index: int, task: Task, vpn: int) -> bool:
    fs = file.inode.fs
    if not (fs.can_writeback or fs.dax or file.inode.vm.traits.write_looks_first):
        # What was begun is not taken back, whatever the buffer is.
        (shmem_begin_write if fs.swap_backed else begin_write)(file, index)
    file.inode.vm.write(file, index, copy_from_user(task, vpn))
    return True


def _read_direct(file: File, index: int, task: Task, vpn: int, pages: int) -> int:
    """Past the cache, which is written out first. After an error nobody hears how far it came."""
    inode = file.inode
    end = min(index + pages, inode.size)
    filemap_write_and_wait_range(inode.mapping, index, end)
    for number in range(index, end):
        known = read_lost(file, number)
        page = get_user_page(task, vpn + number - index, write=True)
        _use(page, inode.blocks.get(number, ZEROS) if known is None else known)
        put_page(page)
    if index < inode.size:  # beyond the end there is a hole, which fills the buffer (iomap_dio_hole_iter())
        for number in range(end - index, pages):
            copy_to_user(task, vpn + number, ZEROS)
    return max(0, end - index)


def pread_direct(file: File, index: int) -> str:
    """read(2) of one page past the cache, into memory that nobody looks at."""
    if index >= file.inode.size:
        return ""
    filemap_write_and_wait_range(file.inode.mapping, index, index + 1)
    known = read_lost(file, index)
    return file.inode.blocks.get(index, ZEROS) if known is None else known


def _may_go_direct(file: File, index: int, pages: int) -> bool:
    """An old error of the file: file systems on iomap write through the cache instead; others fail."""
    try:
        filemap_write_and_wait_range(file.inode.mapping, index, index + pages)
    except SysError:
        if not file.inode.fs.iomap or not file.inode.vm.traits.direct_write_falls_back:
            raise
        return False
    return True


def _write_direct(file: File, index: int, task: Task, vpn: int, pages: int) -> int:
    """Past the cache, emptied first: nobody is to read old data there afterwards."""
    inode = file.inode
    with inode.i_rwsem.write():
        invalidate_range(inode.mapping, index, index + pages)
        for number in range(pages):
            page = get_user_page(task, vpn + number)
            data = inode.vm.device_reads(page)
            put_page(page)
            _reaches_disk(file, index + number, data)
    return pages


def _reaches_disk(file: File, index: int, data: str) -> None:
    inode = file.inode
    if inode.vm.disk.failing:
        raise SysError(Errno.EIO, f"the disk does not take page {index} of {inode.name}")
    inode.blocks[index] = data
    inode.disk_size = max(inode.disk_size, index + 1)
    inode.size = max(inode.size, index + 1)
    forget_lost(inode.mapping, index, index + 1)


def splice(file: File, index: int) -> str:
    """splice(2) or sendfile(2) of one page to a pipe, and what the reader of the pipe gets."""
    inode = file.inode
    if index >= inode.size:
        return ""
    if inode.fs.swap_backed or inode.fs.dax:
        return inode.vm.read(file, index)
    if file.direct:
        return pread_direct(file, index)  # copy_splice_read()
    if (known := read_lost(file, index)) is not None:
        return known
    with inode.mapping.invalidate_lock.read():
        page = read_mapping_folio(inode.mapping, index)
        folio_unlock(page)
    data = inode.vm.kernel_reads(folio_page(page, index))
    set_flags(page.head, pg.REFERENCED)
    put_page(page)
    return data


def dump_core(task: Task, vpn: int) -> str:
    """A core file with all memory of the task: what it has of this page.

    Each page is brought in for it; what cannot be had is left out, which reads as zeros.
    """
    content = ZEROS
    for vma in list(task.alive_mm().vmas):
        for there in range(vma.start, vma.end):
            dumped = _dump_page(task, there)
            content = dumped if there == vpn else content
    return content


def _dump_page(task: Task, vpn: int) -> str:
    """get_dump_page() and dump_page_copy()."""
    mm = task.alive_mm()
    vma = mm.find_vma(vpn)
    if vma is None or (mm.entry(vpn) is None and vma.mapping is None):
        return ZEROS
    try:
        page = get_user_page(task, vpn)
    except SysError:
        return ZEROS
    content = page.vm.copy_mc(page)
    put_page(page)
    return ZEROS if content is None else content
