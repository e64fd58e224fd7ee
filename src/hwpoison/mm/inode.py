"""Files: file systems, inodes, their address spaces, open files (include/linux/fs.h).

What a file system means for a bad page is three facts, one row of FILE_SYSTEMS each: what its
``error_remove_folio`` operation does, whether it writes dirty pages back to a disk, and whether it
hangs buffers on its pages. The rest of the model asks these, never a file system's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hwpoison.abi.signals import Errno

from .errseq import Errseq
from .locks import Lock, RwSem

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import Vma
    from .page import Page


class SysError(Exception):
    """A system call failed with this error number: an outcome that the caller sees."""

    def __init__(self, errno: Errno, text: str = "") -> None:
        super().__init__(f"{errno.name}: {text}" if text else errno.name)
        self.errno = errno


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One row of FILE_SYSTEMS."""

    name: str
    error_remove: Literal["truncate", "keep", None]  # generic_error_remove_folio(), a no-op, no operation
    can_writeback: bool
    buffers: bool = False  # PG_private with buffer heads on pages that were written
    grows_by_writing: bool = (
        False  # before a file gets longer, what was appended is written (xfs_setattr_size())
    )
    state: bool = False  # PG_private with the state of each block, on large folios not written whole
    swap_backed: bool = False
    userfault: bool = False  # its mappings can be asked to fault in user space (vma_can_userfault())
    huge: str = ""  # the size of its pages, if they are those of a pool (hugetlbfs)
    min_order: int = 0  # of its folios (mapping_set_folio_min_order()): its blocks are so large
    unevictable: bool = False  # its pages never leave memory (mapping_set_unevictable())
    punch_hole: bool = True  # fallocate(2) can make a hole
    punch_writes: bool = False  # and writes what is there first, which may tell of an earlier error
    iomap: bool = False  # O_DIRECT by fs/iomap/direct-io.c
    flushes_fallback: bool = False  # a direct write that went through the cache is written out at once
    flushed_at_close: bool = False  # nobody has it open any more: its pages are written, and go
    sparse: bool = True  # a file may grow without its pages; else they are filled with zeros
    hidden: bool = False  # not even the kernel may look at its pages (mm/secretmem.c)
    dax: bool = False  # on persistent memory, whose frames are mapped themselves (dax.py)
    character: bool = False  # no file system but the device itself, which can only be mapped (dax.py)
    finds_owner: bool = False  # it knows whose a frame of its device is (notify_failure, of xfs with rmapbt)


_XFS = FileSystem("xfs", "truncate", True, punch_writes=True, grows_by_writing=True, state=True, iomap=True)
FILE_SYSTEMS: dict[str, FileSystem] = {
    row.name: row
    for row in (
        FileSystem("ext4", "truncate", True, buffers=True, iomap=True, flushes_fallback=True),
        FileSystem("ext2", "truncate", True, buffers=True),
        _XFS,
        replace(_XFS, name="xfs-16k", min_order=2),
        FileSystem("btrfs", "truncate", True),
        FileSystem("bdev", None, True, buffers=True, flushed_at_close=True),
        FileSystem("vfat", None, True, buffers=True, punch_hole=False, sparse=False),
        FileSystem("f2fs", None, True),
        FileSystem("fuse", None, True),
        FileSystem("tmpfs", "keep", False, swap_backed=True, userfault=True),
        FileSystem("hugetlbfs", "keep", False, huge="2M"),
        FileSystem("hugetlbfs-1G", "keep", False, huge="1G"),
        FileSystem("ramfs", None, False, punch_hole=False, unevictable=True),
        FileSystem("sysv", "keep", False, swap_backed=True),
        FileSystem("memfd", "keep", False, swap_backed=True, userfault=True),
        FileSystem("ext4-dax", None, False, dax=True),
        FileSystem("xfs-dax", None, False, dax=True),
        FileSystem("xfs-dax-rmap", None, False, dax=True, finds_owner=True),
        FileSystem("devdax", None, False, dax=True, character=True),
        FileSystem("secret", None, False, punch_hole=False, unevictable=True, hidden=True),
    )
}
"""Source: the address_space_operations of each file system (6.12). Pages of block devices (bdev) have no
operation either: seen on 6.1, 6.12 and 7.3, where a clean one is Recovered and a dirty one Failed."""
HUGETLBFS = {row.huge: row.name for row in FILE_SYSTEMS.values() if row.huge}
"""The file system of each size of huge pages."""


class AddressSpace:
    """struct address_space: the pages of one file, and who maps it.

    ``i_pages_lock`` protects ``pages``, ``dirty`` and ``swap_entries``; ``i_mmap_rwsem`` protects
    ``i_mmap``; ``invalidate_lock`` keeps faults and reads out while pages are being removed.
    """

    is_anon = False

    def __init__(self, vm: Machine, inode: Inode) -> None:
        self.vm = vm
        self.paths = vm.paths
        self.host = inode
        self.fs = inode.fs
        self.pages: dict[int, Page] = {}
        self.dirty: set[int] = set()  # indices tagged dirty
        self.swap_entries: dict[int, int] = {}  # tmpfs: index → swap entry of pages that are out
        self.reserve_map: set[int] = set()  # hugetlbfs: indices of huge pages that are promised or there
        self.i_pages_lock = Lock(vm.paths, "i_pages", inode.name)
        self.invalidate_lock = RwSem(vm.paths, "invalidate_lock", inode.name)
        self.i_mmap: list[Vma] = []
        self.i_mmap_rwsem = RwSem(vm.paths, "i_mmap_rwsem", inode.name)
        self.wb_err = Errseq(vm.paths)
        self.lost: dict[int, int] = {}  # pages that were lost, and the how-manieth loss each was (lost.py)
        self.losses = 0
        self.eio = False  # AS_EIO: for calls that write and wait without an open file's cursor
        self.unevictable = inode.fs.unevictable  # AS_UNEVICTABLE; System V shared memory: SHM_LOCK

    @property
    def can_writeback(self) -> bool:
        """mapping_can_writeback(): its dirty pages reach a disk by writeback, so a clean page has a copy."""
        return self.fs.can_writeback

    def frame(self, index: int) -> Page | None:
        """The frame with this page of the file, as it is in the cache; of hugetlbfs a part of a huge page."""
        page = self.pages.get(index)
        if page is None and self.fs.huge:
            start = index & -self.vm.hugetlb.hstates[self.fs.huge].pages
            head = self.pages.get(start)
            page = None if head is None else self.vm.zone.page(head.pfn + index - start)
        return page

    def set_error(self, error: Errno) -> None:
        """mapping_set_error(): for everybody who has the file open, and for syncfs."""
        self.wb_err.set(error)
        self.eio = error is Errno.EIO  # a loss that is remembered need not be told by chance
        self.host.superblock_err.set(Errno.EIO)


class Inode:
    """A file. ``blocks`` is what is on the disk, by page index; a missing one reads as zeros."""

    def __init__(self, vm: Machine, name: str, fs: FileSystem, size: int, *, regular: bool = True) -> None:
        self.vm = vm
        self.name = name
        self.fs = fs
        self.size = size  # in pages
        self.disk_size = size  # as the disk has it: pages that were appended and not written yet do not count
        self.regular = regular
        self.blocks: dict[int, str] = {}
        self.frames: dict[int, Page] = {}  # on persistent memory; a missing page is a hole
        self.i_rwsem = RwSem(vm.paths, "i_rwsem", name)
        self.mapping = AddressSpace(vm, self)
        self.superblock_err = vm.superblock_err(fs.name)
        self.files: list[File] = []
        self.seals: set[str] = set()  # F_ADD_SEALS of a memfd: write, future-write, shrink, grow
        self.unnamed = False  # nobody can open it; it goes with its last mapping

    def __repr__(self) -> str:
        return f"{self.fs.name} file {self.name}"


class File:
    """struct file: one open file description."""

    def __init__(self, inode: Inode, name: str, *, direct: bool = False) -> None:
        self.inode = inode
        self.name = name
        self.direct = direct and not inode.fs.dax  # O_DIRECT: past the cache, where there is one
        self.acknowledged: dict[int, int] = {}  # lost pages that its owner knows of (lost.py)
        self.wb_err = inode.mapping.wb_err.sample()
        inode.files.append(self)

    def __repr__(self) -> str:
        return f"{self.name} of {self.inode.name}"

    def close(self) -> None:
        self.inode.files.remove(self)
