"""Files of a scenario on real file systems, and what is on their disks.

A file on a disk starts with ``NAME:PAGE:old`` in each page, written, clean and out of the page cache.
File systems are made when they are first wanted and kept for the boot. What is on the disk is found
by the file's own block map and read past all caches: reading the file with O_DIRECT would write its
dirty pages first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from . import huge, memfiles, pmem
from .disks import Disk, Disks, modules
from .problems import CannotSetUp
from .quiet import mount
from .syscalls import PAGE, libc, map_file, unmap

ROOT = Path("/run/hwpoison")
IMAGES = Path("/hwpoison/images")  # lab/images.py
FIEMAP, FIBMAP, FIGETBSZ = 0xC020660B, 1, 2  # ioctl numbers
ELF = b"\x7fELF"
NO_DRIVER = {
    "ext2": "these kernels leave it to ext4, which keeps directories elsewhere (CONFIG_EXT4_USE_FOR_EXT2)"
}
MNT_DETACH = 2
MOUNTED = "mounted"  # where the file system of a disk that is a file as well is mounted
NOT_ON_DISK = 0x2 | 0x4 | 0x800  # extents that are UNKNOWN, DELALLOC or UNWRITTEN


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file system is mounted, and whether it has a disk, with an image that the host has made."""

    on_disk: bool
    options: str = ""
    driver: str = ""  # if it is not called as the kind


OLD_ERRORS = 3  # that may wait for somebody to ask: of the file, of its disk, of both
BEHIND = 16  # pages of a whole disk that are empty behind those of a "file"
KINDS = {
    # Written and allocated only when a step asks for it: no journal timer, no flush on close or truncation.
    "ext4": Kind(True, "commit=3600,noauto_da_alloc,noinit_itable"),
    "xfs": Kind(True),
    "xfs-16k": Kind(True, "", "xfs"),  # its blocks are larger than a page
    "vfat": Kind(True),
    "f2fs": Kind(True, "background_gc=off"),
    # On persistent memory: there is no page cache, and the journal is as above.
    "ext4-dax": Kind(True, "dax=always,commit=3600,noinit_itable", "ext4"),
    "xfs-dax": Kind(True, "dax=always", "xfs"),
    "xfs-dax-rmap": Kind(True, "dax=always", "xfs"),
    "tmpfs": Kind(False, "huge=advise"),
    "ramfs": Kind(False),
    **{fs: Kind(False, f"pagesize={size}", "hugetlbfs") for fs, size in huge.FILE_SYSTEMS.items()},
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of a scenario. ``disk`` None: its contents are nowhere but in memory.

    ``mounted``: it is a disk with a file system that is in use, whose superblock is in the first page.
    """

    name: str
    fs: str
    path: Path
    disk: Disk | pmem.Device | None
    whole_disk: bool = False
    made: memfiles.Made | None = None
    """Of a file that no file system shows."""
    mounted: bool = False


class Files:
    """The file systems of this boot."""

    def __init__(self, disks: Disks) -> None:
        self.disks = disks
        self.mounted: set[str] = set()
        self.whole_disks = 0
        self.used: set[str] = set()  # devices of persistent memory that have had a file system

    def prepare(self, fs: str) -> None:
        """Have this file system ready. CannotSetUp if this guest cannot."""
        if fs in self.mounted or fs == "bdev" or fs in memfiles.KINDS:
            return
        if fs == pmem.CHARACTER:
            pmem.device(fs)
            return
        kind = KINDS.get(fs)
        if kind is None:
            raise CannotSetUp(f"{fs}: {NO_DRIVER.get(fs, 'the lab has no way to make one')}")
        if kind.on_disk:
            disk = self._disk(fs)
            if isinstance(disk, pmem.Device) and fs in self.used:
                disk.empty()
            self.used.add(fs)
            self._fill_disk(fs, disk, kind.driver or fs)
            try:
                mount(disk.path, ROOT / fs, kind.driver or fs, kind.options)
            except OSError as error:
                raise CannotSetUp(f"this kernel does not mount {fs}: {error.strerror}") from None
        else:
            mount("none", ROOT / fs, kind.driver or fs, kind.options)
        self.mounted.add(fs)

    def _disk(self, fs: str) -> Disk | pmem.Device:
        return pmem.device(fs) if fs in pmem.BLOCKS else self.disks.get(fs)

    def _fill_disk(self, fs: str, disk: Disk | pmem.Device, driver: str) -> None:
        """Put the image of a file system on a disk: runs of bytes after their offset and length."""
        try:
            image = memoryview((IMAGES / fs).read_bytes())
        except FileNotFoundError:
            raise CannotSetUp(f"{fs}: the program that makes one is not installed on the host") from None
        modules(driver)
        descriptor = os.open(disk.path, os.O_WRONLY)
        try:
            at = 0
            while at < len(image):
                offset, length = struct.unpack_from("<QQ", image, at)
                os.pwrite(descriptor, image[at + 16 : at + 16 + length], offset)
                at += 16 + length
            _write_out(descriptor)
        finally:
            os.close(descriptor)

    def device(self, fs: str) -> tuple[int, int]:
        """The device number of a file system, major and minor."""
        self.prepare(fs)
        if fs == "bdev" or fs in memfiles.KINDS:
            raise CannotSetUp(f"pages of {fs} belong to a file system of the kernel's own")
        device = os.stat(ROOT / fs).st_dev
        return os.major(device), os.minor(device)

    def create(self, name: str, fs: str, pages: int, *, busy: bool = False) -> File:
        """A file of that many pages. ``busy``: one where somebody will need the buffers of its pages."""
        self.prepare(fs)
        if fs in memfiles.KINDS:
            made = memfiles.make(fs, name, pages)
            return File(name, fs, made.path, None, made=made)
        if fs == pmem.CHARACTER:
            device = pmem.device(fs)
            device.clear(pages * PAGE)
            return File(name, fs, Path(device.path), device, whole_disk=True)
        if busy and fs == "bdev":
            return self._mounted_disk(name)
        if busy:
            raise CannotSetUp("no way is known to make the journal keep the buffers of a file's page")
        if fs == "bdev":
            disk = self.disks.get(f"bdev {self.whole_disks}")
            self.whole_disks += 1
            file = File(name, fs, Path(disk.path), disk, True)
        else:
            on_disk = KINDS[fs].on_disk
            file = File(name, fs, ROOT / fs / name, self._disk(fs) if on_disk else None)
        descriptor = os.open(file.path, os.O_RDWR | (0 if file.whole_disk else os.O_CREAT | os.O_EXCL))
        try:
            if file.disk is None:
                os.ftruncate(descriptor, pages * PAGE)
            for index in range(pages if file.disk is not None else 0):
                os.pwrite(descriptor, f"{name}:{index}:old".encode().ljust(PAGE, b"\0"), index * PAGE)
            if file.whole_disk:  # an earlier scenario may have written there
                os.pwrite(descriptor, bytes(BEHIND * PAGE), pages * PAGE)
            if file.disk is not None:
                _write_out(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        for index in range(pages if file.disk is not None else 0):
            if cached(file.path, index):
                raise CannotSetUp(f"page {index} of a new {fs} file stays in the page cache")
        return file

    def _mounted_disk(self, name: str) -> File:
        """A disk with a small ext4 that is mounted: it keeps the buffer of its superblock, in page 0."""
        disk = self.disks.get(f"bdev {self.whole_disks}")
        self.whole_disks += 1
        self._fill_disk("ext4", disk, "ext4")
        file = File(name, "bdev", Path(disk.path), disk, whole_disk=True, mounted=True)
        descriptor = os.open(file.path, os.O_RDWR)
        try:
            os.pwrite(descriptor, f"{name}:0:old\0".encode(), 0)
            _write_out(descriptor)
        finally:
            os.close(descriptor)
        mount(disk.path, ROOT / MOUNTED, "ext4", "ro,noload")
        return file

    def empty(self, *, check: bool) -> None:
        """Remove all files. A file system that does not work any more (``check``: try it) is given up."""
        libc.umount2(bytes(ROOT / MOUNTED), MNT_DETACH)  # where there is none, nothing happens
        for fs in list(self.mounted):
            try:
                for path in (ROOT / fs).iterdir():
                    if path.is_file():
                        path.unlink()
                if check:
                    _try(ROOT / fs / "probe")
            except OSError:
                libc.umount2(bytes(ROOT / fs), MNT_DETACH)
                self.mounted.remove(fs)


def _try(path: Path) -> None:
    """Write a file to the disk and remove it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, bytes(PAGE))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def _write_out(descriptor: int) -> None:
    """fsync(2); a disk that was a file before may have to tell errors of that time first, one each time."""
    for _ in range(OLD_ERRORS):
        with contextlib.suppress(OSError):
            return os.fsync(descriptor)
    os.fsync(descriptor)


def cached(path: Path, index: int) -> bool:
    """Is this page in the page cache (mincore)? Asking does not bring it there."""
    descriptor = os.open(path, os.O_RDONLY)  # a sealed file is not to be mapped for writing
    try:
        if os.lseek(descriptor, 0, os.SEEK_END) <= index * PAGE:
            return False
        address = map_file(descriptor, 1, index * PAGE, writable=False)
    finally:
        os.close(descriptor)
    answer = ctypes.create_string_buffer(1)
    libc.mincore(address, PAGE, answer)
    unmap(address, 1)
    return bool(answer.raw[0] & 1)


def label(content: bytes) -> str:
    """What a page says: the word it starts with, "zeros" or "ELF"; "" for nothing, as beyond a file's end."""
    if not content:
        return ""
    if not any(content):
        return "zeros"
    if content.startswith(ELF):
        return "ELF"
    return content.partition(b"\0")[0].decode("utf-8", "replace") or "mixed"


def on_disk(file: File, index: int) -> str | None:
    """What the disk has of this page; None for a file without one."""
    if file.disk is None:
        return None
    place = index * PAGE if file.whole_disk else _place(file.path, index)
    return "zeros" if place is None else label(file.disk.read(place, PAGE))


def device_frame(file: File, index: int) -> int | None:
    """The frame of persistent memory that a page of a file is, without a touch; None if it is none."""
    if not isinstance(file.disk, pmem.Device):
        return None
    place = index * PAGE if file.whole_disk else _place(file.path, index)
    return None if place is None else file.disk.data + place // PAGE


def _place(path: Path, index: int) -> int | None:
    """The byte on the disk where this page of a file is, None if it has none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        request = bytearray(struct.pack("<QQIIII", index * PAGE, PAGE, 0, 0, 1, 0) + bytes(56))
        try:
            fcntl.ioctl(descriptor, FIEMAP, request)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
                raise
            return _block(descriptor, index)
        logical, physical = struct.unpack_from("<QQ", request, 32)
        found, flags = struct.unpack_from("<I", request, 20)[0], struct.unpack_from("<I", request, 72)[0]
        return physical + index * PAGE - logical if found and not flags & NOT_ON_DISK else None
    finally:
        os.close(descriptor)


def _block(descriptor: int, index: int) -> int | None:
    """The same for file systems that only answer FIBMAP."""
    size = struct.unpack("<i", fcntl.ioctl(descriptor, FIGETBSZ, bytes(4)))[0]
    block = struct.unpack("<i", fcntl.ioctl(descriptor, FIBMAP, struct.pack("<i", index * PAGE // size)))[0]
    return block * size or None
