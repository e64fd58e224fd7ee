"""Files on persistent memory, without a page cache (fs/dax.c, mm/memremap.c, drivers/nvdimm/, drivers/dax/).

What such a file holds is in frames of the device, and a process maps these: there is no copy anywhere.
They have a struct page (ZONE_DEVICE), but belong to no zone, so pfn_to_online_page() does not know them, and
lie on no list. A frame says whose it is (``mapping``, ``index``) once somebody has mapped it there, which
makes an entry in the index of the file; that entry's lock (dax_lock_folio()) is the folio lock here.

A device can also be mapped without a file system (devdax, drivers/dax/device.c): shared, and in pieces as
large as a huge page, each by one entry. Here it is a file whose pages have been mapped before, and instead of
the entry of a piece there are as many as it has pages, which come and go together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwpoison.abi.signals import Errno

from .fault import Fault
from .inode import AddressSpace, File, FileSystem, Inode, SysError
from .page import ZEROS, Page, folio_lock, folio_unlock, get_page
from .pte import Pte
from .rmap import page_add_rmap

if TYPE_CHECKING:
    from .machine import Machine
    from .mmap import PageTable, Vma

GAP = 64  # frames behind the machine's memory where there is nothing
FRAMES = 256  # of a device
METADATA = 2  # the first ones hold what the device's driver notes for itself, its page map among that
SUPERBLOCK = 1  # and the next what the file system notes


class Device:
    """One device (struct dev_pagemap), and the blocks of the file system on it."""

    def __init__(self, vm: Machine, fs: FileSystem, first: int) -> None:
        self.vm = vm
        self.fs = fs
        self.piece = 1 << vm.pmd_order if fs.character else 1
        """Pages that are mapped at once."""
        self.first = -(-first // self.piece) * self.piece
        self.end = self.first + FRAMES * self.piece
        self.superblock = self.first + METADATA * self.piece
        self.spare = self.end - 1  # a block that belongs to no file
        self.next = self.superblock + (0 if fs.character else SUPERBLOCK)
        self.free: list[Page] = []
        self.shut_down = False  # the file system has stopped working (xfs_force_shutdown())

    def has_page(self, pfn: int) -> bool:
        """pgmap_pfn_valid(): is there a struct page, or are these the driver's notes?"""
        return pfn >= self.superblock

    def page(self, pfn: int) -> Page:
        """The struct page of one of its frames."""
        page = self.vm.zone.pages.get(pfn)
        if page is None:
            page = self.vm.zone.pages[pfn] = Page(self.vm, pfn)
            page.refcount = 1  # the device's own
        return page

    def alloc(self, content: str) -> Page:
        """A block for a file."""
        if self.free:
            page = self.free.pop()
        elif self.next < self.spare:
            page = self.page(self.next)
            self.next += 1
        else:
            raise SysError(Errno.ENOSPC, "the device is full")
        page.content = content
        return page

    def owner(self, page: Page) -> tuple[Inode, int] | None:
        """The file that a frame belongs to, and which page of it: what only some file systems can tell."""
        for inode in self.vm.inodes:
            for index, frame in inode.frames.items():
                if frame is page:
                    return inode, index
        return None


class Pmem:
    """All persistent memory of a machine: a device for each file system that is in use on such."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.devices: dict[str, Device] = {}

    def of(self, fs: FileSystem) -> Device:
        """The device with this file system."""
        if fs.name not in self.devices:
            first = max((device.end for device in self.devices.values()), default=self.vm.zone.frames + GAP)
            self.devices[fs.name] = Device(self.vm, fs, first)
        return self.devices[fs.name]

    def device(self, pfn: int) -> Device | None:
        """get_dev_pagemap(): the device that this frame is one of."""
        found = (device for device in self.devices.values() if device.first <= pfn < device.end)
        return next(found, None) if self.devices else None

    def has_page(self, pfn: int) -> bool:
        """Is this a frame of a device, with a struct page?"""
        device = self.device(pfn)
        return device is not None and device.has_page(pfn)


def dax_create(inode: Inode, pages: int) -> None:
    """A new file with old data in each page; or the first pages of a device, which somebody has filled with
    zeros by mapping it.
    """
    device = inode.vm.pmem.of(inode.fs)
    if not inode.fs.character:
        inode.frames = {index: device.alloc(f"{inode.name}:{index}:old") for index in range(pages)}
        return
    for index in range(-(-pages // device.piece) * device.piece):
        page = inode.frames[index] = device.alloc(ZEROS)
        page.mapping, page.index = inode.mapping, index


def dax_content(inode: Inode, index: int) -> str:
    """dax_iomap_iter(): the bytes of a page of a file; SysError EIO if they cannot be had."""
    page = inode.frames.get(index)
    if page is None:
        return ZEROS
    if page.bad and inode.vm.hardware:
        raise SysError(Errno.EIO, f"{page} is bad memory")
    return inode.vm.kernel_reads(page)


def dax_read(file: File, index: int) -> str:
    """read(2) of one page, '' past the end. No mark is looked at: bytes that can be had are given."""
    inode = file.inode
    refuse_character(inode.fs)
    _works(inode)
    with inode.i_rwsem.read():
        return dax_content(inode, index) if index < inode.size else ""


def dax_write(file: File, index: int, data: str, pages: int) -> int:
    """write(2) of whole pages: at once where they stay. How many."""
    inode = file.inode
    refuse_character(inode.fs)
    _works(inode)
    with inode.i_rwsem.write():
        for number in range(index, index + pages):
            inode.vm.kernel_writes(_block(inode, number), data)
        inode.size = max(inode.size, index + pages)
    return pages


def _block(inode: Inode, index: int) -> Page:
    """The frame of a page of a file, which gets one if it was a hole."""
    if index not in inode.frames:
        inode.frames[index] = inode.vm.pmem.of(inode.fs).alloc(ZEROS)
    return inode.frames[index]


def refuse_character(fs: FileSystem, error: Errno = Errno.EINVAL) -> None:
    """Such a device has no operation but to be mapped."""
    if fs.character:
        raise SysError(error, "the device can only be mapped")


def check_device_area(inode: Inode, pages: int, *, shared: bool) -> None:
    """check_vma() of drivers/dax/device.c: shared, and whole pieces; EINVAL."""
    piece = inode.vm.pmem.of(inode.fs).piece
    if not shared or pages % piece:
        raise SysError(Errno.EINVAL, f"{inode} is mapped shared, and in pieces of {piece} pages")


def piece_of(mapping: AddressSpace, index: int) -> range:
    """The pages that are mapped and taken away together with this one."""
    size = mapping.vm.pmem.of(mapping.fs).piece
    first = index // size * size
    return range(first, first + size)


def _works(inode: Inode) -> None:
    if inode.vm.pmem.of(inode.fs).shut_down:
        raise SysError(Errno.EIO, f"the file system of {inode} has shut down")


def dax_fault(vma: Vma, vpn: int, mapping: AddressSpace, *, write: bool) -> Fault:
    """Map the frame itself, for loads also the page of zeros where the file has a hole.

    Nobody looks whether the frame is known to be bad.
    """
    inode, index = mapping.host, vma.index_of(vpn)
    table = vma.mm.pte_alloc(vpn)
    with mapping.invalidate_lock.read():
        if index >= inode.size or inode.vm.pmem.of(inode.fs).shut_down:
            return Fault.SIGBUS
        if index not in inode.frames and not write:
            with table.lock:
                table.entries.setdefault(vpn, Pte(inode.vm.zero_page, writable=False))
            return Fault.DONE
        faults = {
            there: _insert(vma, vpn + there - index, table, _block(inode, there), write=write)
            for there in piece_of(mapping, index)
        }
        return faults[index]


def _insert(vma: Vma, vpn: int, table: PageTable, page: Page, *, write: bool) -> Fault:
    """dax_insert_entry(), vmf_insert_mixed(): an entry in the file's index, and one in the page table."""
    folio_lock(page)
    page.mapping, page.index = vma.mapping, vma.index_of(vpn)
    with table.lock:
        old = table.entries.get(vpn)
        result = Fault.RETRY
        if old is None or (write and isinstance(old, Pte) and old.page is vma.mm.vm.zero_page):
            get_page(page)
            page_add_rmap(page, vma)
            table.entries[vpn] = Pte(page, writable=write, dirty=write)
            result = Fault.DONE
    folio_unlock(page)
    return result


def dax_pfn_mkwrite(vma: Vma, vpn: int, table: PageTable, entry: Pte) -> Fault:
    """A store through a shared entry that may only be read: the frame is the file's already."""
    mapping = vma.mapping
    if mapping is not None and entry.page is vma.mm.vm.zero_page:
        return dax_fault(vma, vpn, mapping, write=True)
    with table.lock:
        if table.entries.get(vpn) is entry:
            entry.writable = entry.dirty = True
    return Fault.DONE


def dax_truncate(inode: Inode, start: int, end: int) -> None:
    """Blocks start .. end-1 of a file go; nobody maps them any more. A frame then belongs to nobody."""
    for index in [i for i in inode.frames if start <= i < end]:
        page = inode.frames.pop(index)
        folio_lock(page)
        page.mapping = None
        folio_unlock(page)
        inode.vm.pmem.of(inode.fs).free.append(page)
