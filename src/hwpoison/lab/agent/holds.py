"""References that outlive the access: pages in a pipe, and pages pinned for a device.

A hold is a page in a pipe (vmsplice(2) of memory, splice(2) of a file); reading a copy of the pipe made with
tee(2) takes the bytes and leaves the reference. A pin is a buffer registered with io_uring, whose
pages the kernel pins as for a device (FOLL_PIN); writing from it to a pipe is the device reading memory.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from dataclasses import dataclass

from . import syscalls as nr
from .problems import CannotSetUp
from .remote import Remote
from .syscalls import PAGE

REGISTER_BUFFERS, UNREGISTER_BUFFERS, WRITE_FIXED, GETEVENTS = 0, 1, 5, 1


@dataclass(slots=True)
class Hold:
    """A page in a pipe. ``pfn`` is its frame."""

    pfn: int
    reader: int
    writer: int

    def take(self) -> bytes:
        """The bytes of the page; it stays in the pipe. Raises CallFailed."""
        reader, writer = os.pipe()
        try:
            nr.call(nr.TEE, self.reader, writer, PAGE, 0)
            return os.read(reader, PAGE)
        finally:
            os.close(reader)
            os.close(writer)

    def release(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def hold_memory(task: Remote, address: int, pfn: int) -> Hold:
    """Put a page of a task's memory into a pipe. Raises CallFailed."""
    reader, writer = os.pipe()
    there = task.take(writer)
    task.call(nr.VMSPLICE, there, task.shared.scratch(struct.pack("<QQ", address, PAGE)), 1, 0)
    task.call(nr.CLOSE, there)
    return Hold(pfn, reader, writer)


def hold_file(task: Remote, descriptor: int, index: int, pfn: int) -> Hold:
    """Put a page of a file into a pipe; ``descriptor`` is the task's. Raises CallFailed."""
    reader, writer = os.pipe()
    there = task.take(writer)
    offset = task.shared.scratch(struct.pack("<Q", index * PAGE))
    task.call(nr.SPLICE, descriptor, offset, there, 0, PAGE, 0)
    task.call(nr.CLOSE, there)
    return Hold(pfn, reader, writer)


@dataclass(slots=True)
class Pin:
    """A page registered with an io_uring. ``parameters`` are those that io_uring_setup(2) filled in."""

    pfn: int
    ring: int
    address: int
    parameters: bytes

    def take(self) -> bytes:
        """Let the device read the page: one write to a pipe. Raises CallFailed."""
        entries = struct.unpack_from("<I", self.parameters)[0]
        tail, array = (
            struct.unpack_from("<II", self.parameters, 44)[0],
            struct.unpack_from("<I", self.parameters, 64)[0],
        )
        reader, writer = os.pipe()
        with (
            mmap.mmap(self.ring, array + 4 * entries) as queue,
            mmap.mmap(self.ring, 64 * entries, offset=0x10000000) as slots,
        ):
            number = struct.unpack_from("<I", queue, tail)[0]
            request = struct.pack(
                "<BBHiQQIIQH", WRITE_FIXED, 0, 0, writer, (1 << 64) - 1, self.address, PAGE, 0, 0, 0
            )
            struct.pack_into("<64s", slots, 64 * (number % entries), request)
            struct.pack_into("<I", queue, array + 4 * (number % entries), number % entries)
            struct.pack_into("<I", queue, tail, number + 1)
            nr.call(nr.IO_URING_ENTER, self.ring, 1, 1, GETEVENTS, 0, 0)
        os.set_blocking(reader, False)
        try:
            return os.read(reader, PAGE)
        except BlockingIOError:
            raise CannotSetUp("io_uring has not written from the pinned page") from None
        finally:
            os.close(reader)
            os.close(writer)

    def release(self) -> None:
        nr.call(nr.IO_URING_REGISTER, self.ring, UNREGISTER_BUFFERS, 0, 0)
        os.close(self.ring)


def pin_memory(task: Remote, address: int, pfn: int) -> Pin:
    """Pin a page of a task's memory. Raises CallFailed (EFAULT: it cannot be had)."""
    empty = ctypes.create_string_buffer(120)
    ring = nr.call(nr.IO_URING_SETUP, 4, empty)
    there = task.take(ring)
    vector = task.shared.scratch(struct.pack("<QQ", address, PAGE))
    try:
        task.call(nr.IO_URING_REGISTER, there, REGISTER_BUFFERS, vector, 1)
    except nr.CallFailed as error:
        os.close(ring)
        if error.errno == errno.EOPNOTSUPP:
            raise CannotSetUp("this kernel does not pin pages of files for io_uring") from None
        raise
    finally:
        task.call(nr.CLOSE, there)
    return Pin(pfn, ring, address, empty.raw)
