"""Disks in memory whose writes can be held back or made to fail: a device-mapper table over a RAM disk.

As long as all is well the table is "linear" and a write is done when it was submitted. To hold writes
back it becomes "delay" (reads pass), to let them fail "flakey"; loading another table lets go what was
held back. Swap needs this layer anyway: a bare RAM disk is synchronous, and the kernel then leaves the
swap cache out.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hwpoison.abi.signals import PAGE_SIZE

from . import syscalls as nr
from .problems import CannotSetUp

MODULES = Path("/hwpoison/modules")  # lab/initramfs.py

SECTOR = 512
SWAP_SIZE = 64 << 20
RAM_DISK_KIB = 400_000  # memory is taken only where something is written
RAM_DISKS = 8
HOUR_MS = 3_600_000
TABLES = {
    "linear": "/dev/ram{n} 0",
    "delay": "/dev/ram{n} 0 0 /dev/ram{n} 0 " + str(HOUR_MS),
    "flakey": "/dev/ram{n} 0 0 3600 1 error_writes",
}
DEV_CREATE, DEV_SUSPEND, TABLE_LOAD = 3, 6, 9
SKIP_LOCKFS = 1 << 10  # do not freeze the file system: that would write its pages
HEADER = 312  # struct dm_ioctl


def _ioctl(number: int, name: str, flags: int = 0, payload: bytes = b"") -> bytes:
    """One request to the device mapper, as it came back (include/uapi/linux/dm-ioctl.h)."""
    size = HEADER + len(payload)
    head = struct.pack("<3I7IQ", 4, 0, 0, size, HEADER, bool(payload), 0, flags, 0, 0, 0)
    buffer = bytearray((head + name.encode()).ljust(HEADER, b"\0") + payload)
    with open("/dev/mapper/control", "rb", buffering=0) as control:
        fcntl.ioctl(control, 0xC000FD00 | HEADER << 16 | number, buffer)
    return bytes(buffer)


@dataclass(slots=True)
class Disk:
    """One disk; ``number`` is that of its RAM disk. ``sectors`` of 512 bytes."""

    number: int
    sectors: int
    state: str = "linear"
    minor: int = 0

    @property
    def path(self) -> str:
        return f"/dev/dm-{self.minor}"

    @property
    def name(self) -> str:
        return f"hwpoison{self.number}"

    def create(self) -> None:
        device = struct.unpack_from("<Q", _ioctl(DEV_CREATE, self.name), 40)[0]
        self.minor = device & 0xFF | device >> 12 & 0xFFF00
        self.load("linear")

    def load(self, state: str) -> None:
        """Switch to another table; writes that were held back go their way first."""
        parameters = TABLES[state].format(n=self.number).encode() + b"\0"
        parameters = parameters.ljust(len(parameters) + 7 & ~7, b"\0")
        target = struct.pack("<QQiI16s", 0, self.sectors, 0, 40 + len(parameters), state.encode())
        _ioctl(TABLE_LOAD, self.name, payload=target + parameters)
        _ioctl(DEV_SUSPEND, self.name, SKIP_LOCKFS)  # without DM_SUSPEND_FLAG: resume, with the new table
        # Whoever loads a table has also set the limits of the disk anew, readahead among them.
        Path(f"/sys/block/dm-{self.minor}/queue/read_ahead_kb").write_text("0")
        self.state = state

    def read(self, offset: int, count: int) -> bytes:
        """What is on the disk, past all caches."""
        return read_past_caches(f"/dev/ram{self.number}", offset, count)


def read_past_caches(device: str, offset: int, count: int) -> bytes:
    """Bytes of a block device."""
    buffer = mmap.mmap(-1, count)
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(descriptor, [buffer], offset)
        return buffer[:]
    finally:
        os.close(descriptor)
        buffer.close()


class Disks:
    """All disks of this boot; made when they are first wanted, and kept."""

    def __init__(self) -> None:
        self.by_name: dict[str, Disk] = {}
        self.state = "linear"

    def get(self, name: str) -> Disk:
        if name not in self.by_name:
            if not self.by_name:
                modules("brd", f"rd_nr={RAM_DISKS} rd_size={RAM_DISK_KIB}")
                modules("dm-mod")
            if len(self.by_name) == RAM_DISKS:
                raise CannotSetUp(f"there are {RAM_DISKS} disks in a guest, {name} would be one more")
            disk = Disk(len(self.by_name), RAM_DISK_KIB * 1024 // SECTOR)
            disk.create()
            self.by_name[name] = disk
        return self.by_name[name]

    def switch(self, state: str) -> None:
        """Every disk into this state."""
        if state != "linear":
            modules(f"dm-{state}")
        for disk in self.by_name.values():
            if disk.state != state:
                disk.load(state)
        self.state = state

    def answer(self) -> None:
        """What was held back is written; what comes later is held back again."""
        for disk in self.by_name.values():
            if disk.state == "delay":
                disk.load("delay")


@functools.cache
def modules(name: str, options: str = "") -> None:
    """Load a module that the guest came with, after those that it needs. CannotSetUp if it cannot be."""
    try:
        files = (MODULES / f"{name}.order").read_text().split()
    except FileNotFoundError:
        raise CannotSetUp(f"this kernel has no module {name}") from None
    for file in files:
        descriptor = os.open(MODULES / file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            nr.call(nr.FINIT_MODULE, descriptor, (options if file == files[-1] else "").encode() + b"\0", 0)
        except nr.CallFailed as error:
            if error.errno != errno.EEXIST:
                raise CannotSetUp(f"module {file}: {error.strerror}") from None
        finally:
            os.close(descriptor)


def make_swap(path: str) -> None:
    """mkswap: the header page of a swap area (union swap_header, version 1)."""
    pages = SWAP_SIZE // PAGE_SIZE
    header = bytearray(PAGE_SIZE)
    header[1024:1036] = b"".join(number.to_bytes(4, "little") for number in (1, pages - 1, 0))
    header[4086:] = b"SWAPSPACE2"
    with open(path, "r+b", buffering=0) as disk:
        disk.write(header)
        os.fsync(disk.fileno())
