"""Persistent memory of the guest: a device for each file system that is used on such (lab/boot.py, memmap=).

Each is a namespace in the mode "fsdax", as ndctl makes them: its driver keeps the map of its pages on the
device itself, in front. One more, the last, is in the mode "devdax": a character device that can only be
mapped. There is no ndctl in a guest: what it would write is written here.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from .disks import modules, read_past_caches
from .problems import CannotSetUp
from .quiet import write_once
from .syscalls import PAGE

BUS = Path("/sys/bus/nd")  # codespell:ignore
BLOCKS = {"ext4-dax": (64 << 20) // PAGE, "xfs-dax": (320 << 20) // PAGE, "xfs-dax-rmap": (320 << 20) // PAGE}
"""The file systems, and how large they are (lab/images.py); the devices are in this order."""
CHARACTER = "devdax"
PIECE = 2 << 20  # bytes of it that are mapped at once
AT_THE_END = 16  # blocks of a file system that are free as long as nobody fills it
CHUNK = 1 << 20
SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Device:
    """One device. ``first`` frame, with the driver's notes; from frame ``data`` on there are the blocks."""

    fs: str
    path: str
    first: int
    data: int

    def read(self, offset: int, count: int) -> bytes:
        """What is on the device."""
        if self.fs != CHARACTER:
            return read_past_caches(self.path, offset, count)
        with self._window(offset) as there:
            return there[offset % len(there) :][:count]

    def clear(self, count: int) -> None:
        """Zeros in the first bytes of a character device."""
        for offset in range(0, count, PIECE):
            with self._window(offset) as there:
                there[:] = bytes(len(there))

    def _window(self, offset: int) -> mmap.mmap:
        """The piece of a character device that has this byte, mapped."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            return mmap.mmap(descriptor, PIECE, offset=offset // PIECE * PIECE)
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Zeros everywhere: an image has only the blocks that are something else."""
        zeros = mmap.mmap(-1, CHUNK)
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            for at in range(0, BLOCKS[self.fs] * PAGE, CHUNK):
                os.pwrite(descriptor, zeros, at)
        finally:
            os.close(descriptor)

    def frame(self, kind: str) -> int:
        """A frame that no file has: a free block, the file system's own, or the driver's."""
        places = {"pmem-spare": self.data + BLOCKS[self.fs] - AT_THE_END, "pmem-superblock": self.data}
        return places.get(kind, self.first)


@functools.cache
def device(fs: str) -> Device:
    """The device of this file system, made ready. CannotSetUp if the guest has none."""
    for name in ("nd_e820", "nd_pmem", *(("dax_pmem", "device_dax") if fs == CHARACTER else ())):
        modules(name)
    number = [*BLOCKS, CHARACTER].index(fs)
    namespace, pages = f"namespace{number}.0", f"{'dax' if fs == CHARACTER else 'pfn'}{number}.0"
    devices, driver = BUS / "devices", BUS / "drivers" / "nd_pmem"
    bind = BUS / "drivers" / "dax_pmem" / "bind" if fs == CHARACTER else driver / "bind"
    deadline = time.monotonic() + SECONDS
    while not (driver / namespace).exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # the bus finds its devices when it has time
    try:
        first = int((devices / namespace / "resource").read_text(), 16)
        write_once(str(driver / "unbind"), namespace)
        for name, value in (
            ("mode", "pmem"),
            ("align", str(PIECE if fs == CHARACTER else PAGE)),
            ("uuid", str(uuid.uuid4())),
            ("namespace", namespace),
        ):
            write_once(str(devices / pages / name), value)
        write_once(str(bind), pages)
        data = int((devices / pages / "resource").read_text(), 16)
    except OSError as error:
        raise CannotSetUp(f"persistent memory: {error.filename}: {error.strerror}") from None
    path = f"/dev/{pages}" if fs == CHARACTER else f"/dev/pmem{number}"
    return Device(fs, path, first // PAGE, data // PAGE)
