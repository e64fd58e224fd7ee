"""The page table entries of a process, from /proc/PID/pagemap (fs/proc/task_mmu.c).

The file has one 64-bit entry a page of the address space (hwpoison.abi.pagemap). Reading a hole costs
the kernel 4 ns a page, which is nothing for most processes but a second for each TiB reserved and not
used; there the PAGEMAP_SCAN ioctl (Linux 6.7) finds the ranges worth reading. Measured with 1 TiB
reserved and two pages used: 0.95 s without it, 0.0002 s with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Collection, Iterator

import numpy as np

from hwpoison.abi.pagemap import PFN_MASK
from hwpoison.abi.problems import NotPossible

from .proc import Host, fill
from .tally import Indexes, Words
from .vmas import Vma

WORD = 8  # bytes of an entry
Range = tuple[int, int]
"""Page numbers of an address space: first, and the one after the last."""

_BLOCK = 1 << 16  # entries read at once
_GAP = 512  # pages: reading over a hole this small is cheaper than reading twice
_SPARSE = 1 << 18  # pages (1 GiB): only in ranges longer than this are holes looked for

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT = struct.Struct("<12Q")
_WALK_END = 4  # the field that says where the kernel stopped
_IN_USE = 8 | 16  # PAGE_IS_PRESENT | PAGE_IS_SWAPPED: what is not a hole
_FOUND = 4096  # ranges one call may return


def entries(host: Host, pid: int | str, areas: Collection[Vma]) -> Iterator[tuple[int, Words]]:
    """The entries of these areas of a process in blocks: the number of the first page, and the entries.

    The areas are ordered by address. Holes may be left out, and pages between two areas be among them. A
    block is overwritten by the next one. Raises ProcessLookupError if the process has ended or replaced its
    memory, OSError.
    """
    if not areas:
        return  # kernel threads have no page table to open
    buffer = np.empty(_BLOCK, np.uint64)
    raw = buffer.view(np.uint8).data
    with host.open(f"proc/{pid}/pagemap") as table:
        for begin, end in _joined(areas, host.page_size):
            for first, stop in _in_use(table, begin, end, host.page_size):
                for page in range(first, stop, _BLOCK):
                    pages = min(_BLOCK, stop - page)
                    if fill(table, raw[: pages * WORD], page * WORD) < pages * WORD:
                        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                    yield page, buffer[:pages]


def present_frames(block: Words) -> tuple[Indexes, Indexes]:
    """Where in a block pages are present, and their frames. Raises NotPossible if the frames are hidden."""
    where = np.flatnonzero(block.view(np.int64) < 0)  # bit 63: present
    frames = (block[where] & np.uint64(PFN_MASK)).view(np.int64)
    if len(frames) and not frames.any():
        raise NotPossible(
            "/proc/PID/pagemap shows no frame numbers: it needs CAP_SYS_ADMIN in the initial user namespace "
            "(run as root, outside of containers)"
        )
    return where, frames


def _joined(areas: Collection[Vma], page_size: int) -> Iterator[Range]:
    """The ranges of the areas, those close together made one: a library is five areas, but one read."""
    ranges = [(area.start // page_size, area.end // page_size) for area in areas]
    begin, end = ranges[0]
    for first, stop in ranges[1:]:
        if first > end + _GAP:
            yield begin, end
            begin = first
        end = stop
    yield begin, end


def _in_use(table: int, begin: int, end: int, page_size: int) -> Iterator[Range]:
    """Ranges that hold all present and swapped pages of the given one: all of it where that is unknown."""
    found = np.empty((_FOUND, 3), np.uint64)  # struct page_region: start, end, categories
    while end - begin > _SPARSE:
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size, 0, begin * page_size, end * page_size, 0,
                found.ctypes.data, _FOUND, 0, 0, 0, _IN_USE, 0,
            )
        )  # fmt: skip
        try:
            ranges = found[: fcntl.ioctl(table, _PAGEMAP_SCAN, argument), :2] // np.uint64(page_size)
        except OSError:
            break  # an older kernel, or no pagemap of a kernel: the plain way says what is wrong, if anything
        walked = _ARGUMENT.unpack(argument)[_WALK_END] // page_size
        if len(ranges):
            apart = np.flatnonzero(ranges[1:, 0] > ranges[:-1, 1] + np.uint64(_GAP))
            firsts = ranges[np.append(0, apart + 1), 0].tolist()
            yield from zip(firsts, ranges[np.append(apart, -1), 1].tolist(), strict=True)
            # Linux 6.18 was seen to report a stop that lies before the end of the last range it returned.
            walked = max(walked, int(ranges[-1, 1]))
        if walked <= begin:
            break
        begin = walked
    if end > begin:
        yield begin, end
