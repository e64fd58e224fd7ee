"""File systems for the guests' RAM disks, made here: a guest would take seconds for each.

An image is its blocks that are not all zeros, each run of them as offset and length (two little-endian 64-bit
numbers) and the bytes. A new RAM disk is zeros.
"""

from __future__ import annotations

import os
import shlex
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import initramfs, tools
from .keep import kept, state

BLOCK = 4096
DISK_SIZE = 400_000 << 10  # of the guests' RAM disks (agent/disks.py)
SECONDS = 120.0
MAKE = {
    "ext4": "mkfs.ext4 -q -F -b 4096 -E nodiscard {disk} 64M",
    "xfs": "mkfs.xfs -q -f -K -d size=320m -l size=64m {disk}",
    "xfs-16k": "mkfs.xfs -q -f -K -b size=16k -d size=320m -l size=64m {disk}",
    "ext4-dax": "mkfs.ext4 -q -F -b 4096 -E nodiscard {disk} 64M",
    "xfs-dax": "mkfs.xfs -q -f -K -m rmapbt=0 -d size=320m {disk}",
    "xfs-dax-rmap": "mkfs.xfs -q -f -K -m rmapbt=1 -d size=320m {disk}",
    "vfat": "mkfs.vfat -F 16 -s 8 {disk} 65536",  # clusters of one page
    "f2fs": "mkfs.f2fs -q -f -t 0 {disk} 262144",
}


def images() -> Path:
    """An archive with an image of each file system that can be made on this machine."""
    programs = {command.split()[0]: tools.program(command.split()[0]) for command in MAKE.values()}
    states = [state(Path(place)) for place in programs.values() if place]
    return kept("images", [MAKE, DISK_SIZE, programs, states], _archive)


def _archive() -> bytes:
    files = []
    for name, command in MAKE.items():
        if tools.program(command.split()[0]) is not None:
            files.append((f"{initramfs.IMAGES}/{name}", _image(command)))
    return initramfs.archive(files, [initramfs.IMAGES])


def _image(command: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hwpoison-image-") as work:
        disk = Path(work, "disk")
        with disk.open("wb") as empty:
            empty.truncate(DISK_SIZE)
        tools.run(shlex.split(command.format(disk=disk)), seconds=SECONDS)
        with disk.open("rb") as made:
            return b"".join(struct.pack("<QQ", at, len(run)) + run for at, run in runs(made.fileno()))


def runs(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each run of blocks that are not all zeros; holes are not looked at."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    at = 0
    while at < end:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError:
            return  # nothing but a hole follows
        hole = os.lseek(descriptor, at, os.SEEK_HOLE)
        run = bytearray()
        for place in range(at, hole + BLOCK, BLOCK):
            block = os.pread(descriptor, BLOCK, place) if place < hole else b""
            if any(block):
                run += block
            elif run:
                yield place - len(run), bytes(run)
                run.clear()
        at = hole
